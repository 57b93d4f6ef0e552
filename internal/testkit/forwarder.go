package testkit

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Forwarder passes TCP connections on to a target that can be changed, for tests
// that fail over, cut or silence a server which clients know by one address. Its
// methods may be called at any time.
type Forwarder struct {
	Addr string // host:port to connect to

	listener net.Listener
	work     sync.WaitGroup

	mu         sync.Mutex
	target     string
	left       int64 // bytes to pass on before the next cut; negative: no limit
	silent     bool
	unsilenced chan struct{} // closed when silence ends
	open       map[net.Conn]struct{}
}

// Forward starts a forwarder to target, host:port. It ends with the test.
func Forward(t testing.TB, target string) *Forwarder {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &Forwarder{
		Addr: listener.Addr().String(), listener: listener,
		target: target, left: -1, unsilenced: make(chan struct{}), open: map[net.Conn]struct{}{},
	}
	f.work.Go(f.accept)
	t.Cleanup(func() {
		_ = listener.Close() // which ends accept
		f.To("")
		f.work.Wait()
	})
	return f
}

// To cuts all connections and passes new ones on to target. With "" it refuses
// them: the server is away. It ends the effect of Silence and CutAfter.
func (f *Forwarder) To(target string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.target, f.left = target, -1
	if f.silent {
		f.silent = false
		close(f.unsilenced)
		f.unsilenced = make(chan struct{})
	}
	f.cut()
}

// Cut cuts all connections, and lets new ones through.
func (f *Forwarder) Cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut()
}

// CutAfter passes n more bytes on, counted over all connections and both ways,
// then cuts all connections once.
func (f *Forwarder) CutAfter(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = n
}

// Silence passes nothing on any more, and cuts nothing, until To is called.
func (f *Forwarder) Silence() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent = true
}

// cut needs the lock.
func (f *Forwarder) cut() {
	for c := range f.open {
		_ = c.Close() // whoever copies from it ends
	}
	clear(f.open)
}

func (f *Forwarder) accept() {
	for {
		client, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.work.Go(func() { f.serve(client) })
	}
}

func (f *Forwarder) serve(client net.Conn) {
	defer client.Close() //nolint:errcheck // it was cut, or the peer has closed it
	f.mu.Lock()
	target := f.target
	f.mu.Unlock()
	if target == "" {
		return
	}
	server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", target)
	if err != nil {
		return
	}
	defer server.Close() //nolint:errcheck // as above
	if !f.register(target, client, server) {
		return
	}
	defer f.forget(client, server)
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		both.Go(func() {
			_, _ = io.Copy(forwarded{f, way[1]}, way[0])
			// A connection that ends in one direction is of no use to a database.
			_ = client.Close()
			_ = server.Close()
		})
	}
	both.Wait()
}

// register is false if the target was changed while it was dialled.
func (f *Forwarder) register(target string, conns ...net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		f.open[c] = struct{}{}
	}
	return target == f.target
}

func (f *Forwarder) forget(conns ...net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		delete(f.open, c)
	}
}

// forwarded is one direction of a connection.
type forwarded struct {
	*Forwarder
	to net.Conn
}

func (w forwarded) Write(p []byte) (int, error) {
	w.mu.Lock()
	for w.silent {
		resumed := w.unsilenced
		w.mu.Unlock()
		<-resumed
		w.mu.Lock()
	}
	pass, last := p, false
	if w.left >= 0 {
		pass = p[:min(int64(len(p)), w.left)]
		w.left -= int64(len(pass))
		last = w.left == 0
	}
	w.mu.Unlock()
	n, err := w.to.Write(pass)
	if last {
		w.mu.Lock()
		w.left = -1
		w.cut()
		w.mu.Unlock()
	}
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}
