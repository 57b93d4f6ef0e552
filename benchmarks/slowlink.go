package main

import (
	"context"
	"net"
	"sync"
	"time"
)

// slowLink forwards TCP connections to a target as a slow network would: everything
// arrives late, and all connections share so many bytes a second in each direction.
type slowLink struct {
	addr     string
	listener net.Listener
	delay    time.Duration // one way
	up, down *meter
}

// meter hands out the time at which the next bytes have passed.
type meter struct {
	perSecond float64 // bytes; 0 is without limit

	mu   sync.Mutex
	next time.Time
}

func (m *meter) passed(n int) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); m.next.Before(now) {
		m.next = now
	}
	if m.perSecond > 0 {
		m.next = m.next.Add(time.Duration(float64(n) / m.perSecond * float64(time.Second)))
	}
	return m.next
}

// newSlowLink starts a link with the given round trip; close ends it.
func newSlowLink(ctx context.Context, target string, roundTrip time.Duration, perSecond float64) (*slowLink, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &slowLink{addr: l.Addr().String(), listener: l, delay: roundTrip / 2, up: &meter{perSecond: perSecond}, down: &meter{perSecond: perSecond}}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := (&net.Dialer{}).DialContext(ctx, "tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			go s.forward(server, client, s.up)
			go s.forward(client, server, s.down)
		}
	}()
	return s, nil
}

func (s *slowLink) close() { _ = s.listener.Close() }

type piece struct {
	data []byte
	due  time.Time
}

func (s *slowLink) forward(to, from net.Conn, m *meter) {
	// What is under way on a link of 20 MB/s and 50 ms is a megabyte: 64 pieces.
	pieces := make(chan piece, 64)
	go func() {
		defer close(pieces)
		for {
			buf := make([]byte, 16<<10)
			n, err := from.Read(buf)
			if n > 0 {
				due := m.passed(n)
				time.Sleep(time.Until(due)) // the sender feels the rate
				pieces <- piece{buf[:n], due.Add(s.delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	_ = to.Close()
	_ = from.Close()
	for p := range pieces { // until the reader has seen it
		_ = p
	}
}
