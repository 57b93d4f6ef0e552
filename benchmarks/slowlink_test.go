package main

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSlowLink sends through a link and back again, and looks at when it arrives.
func TestSlowLink(t *testing.T) {
	t.Parallel()
	echo, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer echo.Close()
	go func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	link, err := newSlowLink(t.Context(), echo.Addr().String(), 40*time.Millisecond, 1e6)
	require.NoError(t, err)
	defer link.close()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", link.addr)
	require.NoError(t, err)
	defer conn.Close()

	send := func(n int) time.Duration {
		began := time.Now()
		go func() { _, _ = conn.Write(make([]byte, n)) }()
		_, err := io.ReadFull(conn, make([]byte, n))
		require.NoError(t, err)
		return time.Since(began)
	}
	require.GreaterOrEqual(t, send(1), 40*time.Millisecond, "the round trip")
	require.GreaterOrEqual(t, send(200_000), 230*time.Millisecond, "0.2 s at 1 MB/s, and the round trip")
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, s := range shapes() {
		got, err := shapeNamed(s.name)
		require.NoError(t, err)
		require.Equal(t, s.sql, got.sql)
	}
	_, err := shapeNamed("round")
	require.ErrorContains(t, err, "narrow")
}
