package testkit

import (
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Proxy forwards TCP connections to a target and misbehaves as it is told. A fault
// holds for the connections that are open, and for those that come, until the next
// one is set.
type Proxy struct {
	Addr string // 127.0.0.1:port

	listener net.Listener
	mu       sync.Mutex
	target   string
	fault    Fault
	passed   int64 // bytes or messages since the fault was set, both ways
	faults   int   // times that a connection was cut or held since then
	conns    map[*proxied]struct{}
	ended    sync.WaitGroup
}

// Fault is what a Proxy does wrong. The zero value forwards everything.
type Fault struct {
	// Cut ends the connection over which the Cut-th byte would pass, counted over all
	// connections and both ways from 1; 0 cuts nothing. It is the last thing that
	// happens: later connections work.
	Cut int64
	// Messages counts messages of the PostgreSQL protocol in the place of bytes.
	Messages bool
	Reset    bool // cut with RST and not with FIN
	// Hold keeps the connection open and swallows everything from Cut on, both ways.
	Hold     bool
	Way      Way           // what is counted and cut; the zero value is both ways
	Refuse   bool          // accept and close at once
	Delay    time.Duration // before each piece that is forwarded
	Throttle int           // bytes in a piece that is forwarded; 0 does not
}

// Way is a direction.
type Way int

// Directions.
const (
	BothWays Way = iota
	ToServer
	ToClient
)

// NewProxy starts a proxy. It ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &Proxy{Addr: l.Addr().String(), listener: l, target: target, conns: map[*proxied]struct{}{}}
	p.ended.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.Sever()
		p.ended.Wait()
	})
	return p
}

// Set replaces the fault and starts to count anew.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.passed, p.faults = f, 0, 0
}

// Passed is how many bytes, or messages, were to be forwarded since Set.
func (p *Proxy) Passed() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed
}

// Struck says whether the cut of the fault has happened.
func (p *Proxy) Struck() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults > 0
}

// Target has connections that come from now on go elsewhere.
func (p *Proxy) Target(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = addr
}

// Sever ends all connections that are open.
func (p *Proxy) Sever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.end(false)
	}
}

// Silence has all connections that are open swallow everything from now on, both ways.
func (p *Proxy) Silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.hold()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		target, refuse := p.target, p.fault.Refuse
		p.mu.Unlock()
		if refuse {
			_ = client.Close()
			continue
		}
		p.ended.Go(func() { p.serve(client, target) })
	}
}

func (p *Proxy) serve(client net.Conn, target string) {
	server, err := net.DialTimeout("tcp", target, 5*time.Second) //nolint:noctx // bounded, and it outlives no test
	if err != nil {
		_ = client.Close()
		return
	}
	c := &proxied{client: client, server: server}
	p.mu.Lock()
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	var ways sync.WaitGroup
	ways.Go(func() { p.forward(c, ToServer, client, server) })
	ways.Go(func() { p.forward(c, ToClient, server, client) })
	ways.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	c.end(false)
}

// forward copies one way until the connection ends.
func (p *Proxy) forward(c *proxied, way Way, from, to net.Conn) {
	units := splitter{startup: way == ToServer}
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			piece, cut, f := p.next(way, &units, rest)
			if len(piece) > 0 && !c.isHeld() {
				time.Sleep(f.Delay)
				if _, err := to.Write(piece); err != nil {
					c.end(false)
					return
				}
			}
			rest = rest[len(piece):]
			if cut && f.Hold {
				c.hold()
				break
			}
			if cut {
				c.end(f.Reset)
				return
			}
		}
		if err != nil {
			c.end(false)
			return
		}
	}
}

// next takes from data what is to be forwarded before something else happens, and
// says whether the connection is cut behind it.
func (p *Proxy) next(way Way, units *splitter, data []byte) (piece []byte, cut bool, f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f = p.fault
	n := len(data)
	if f.Throttle > 0 {
		n = min(n, f.Throttle)
	}
	counts := f.Way == BothWays || f.Way == way
	if !f.Messages {
		if counts && f.Cut > 0 && p.faults == 0 && p.passed+int64(n) >= f.Cut {
			n, cut = int(f.Cut-p.passed-1), true
			p.faults++
		}
		if counts {
			p.passed += int64(n)
		}
		units.skip(data[:n])
		return data[:n], cut, f
	}
	// Up to where the next message starts; at a start, count it first.
	if units.atStart() {
		if counts {
			p.passed++
			if f.Cut > 0 && p.faults == 0 && p.passed >= f.Cut {
				p.faults++
				return nil, true, f
			}
		}
	}
	n = min(n, units.left(data))
	units.skip(data[:n])
	return data[:n], false, f
}

// proxied is one connection.
type proxied struct {
	client, server net.Conn
	mu             sync.Mutex
	held           bool
}

func (c *proxied) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = true
}

func (c *proxied) isHeld() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held
}

func (c *proxied) end(reset bool) {
	for _, conn := range []net.Conn{c.client, c.server} {
		if tcp, ok := conn.(*net.TCPConn); ok && reset {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}

// splitter finds where messages of the PostgreSQL protocol start: a type of one byte
// and a length, but for the client's first one, which has no type.
type splitter struct {
	startup bool
	head    []byte // what was seen of a head that is not whole yet
	body    int    // bytes until the message ends, once the head is whole
}

func (s *splitter) headLen() int {
	if s.startup {
		return 4
	}
	return 5
}

func (s *splitter) atStart() bool { return len(s.head) == 0 && s.body == 0 }

// left is how many bytes of data belong to the message at its front.
func (s *splitter) left(data []byte) int {
	if s.body > 0 {
		return s.body
	}
	missing := s.headLen() - len(s.head)
	if len(data) < missing {
		return len(data)
	}
	head := append(append([]byte{}, s.head...), data[:missing]...)
	return missing + s.bodyOf(head)
}

func (s *splitter) bodyOf(head []byte) int {
	return max(int(binary.BigEndian.Uint32(head[len(head)-4:]))-4, 0)
}

// skip notes that data has passed.
func (s *splitter) skip(data []byte) {
	for len(data) > 0 {
		if s.body > 0 {
			n := min(s.body, len(data))
			s.body, data = s.body-n, data[n:]
			continue
		}
		n := min(s.headLen()-len(s.head), len(data))
		s.head, data = append(s.head, data[:n]...), data[n:]
		if len(s.head) == s.headLen() {
			s.body, s.head, s.startup = s.bodyOf(s.head), s.head[:0], false
		}
	}
}
