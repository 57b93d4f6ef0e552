package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ok tells which of the checks pass.
func ok(results []result) map[string]bool {
	out := map[string]bool{}
	for _, r := range results {
		out[r.Name] = r.OK
	}
	return out
}

func TestHealthFollowsTheReplica(t *testing.T) {
	t.Parallel()
	h := NewHealth(zaptest.NewLogger(t))
	require.Equal(t, map[string]bool{"process": true}, ok(h.live()), "starting")
	require.Equal(t, map[string]bool{"worker": false}, ok(h.ready()), "starting")

	var lost error
	h.Joined(func() error { return lost })
	require.Equal(t, map[string]bool{"process": true, "lease": true}, ok(h.live()))
	require.Equal(t, map[string]bool{"worker": true, "lease": true}, ok(h.ready()))

	h.Stopping()
	require.Equal(t, map[string]bool{"process": true, "lease": true}, ok(h.live()), "alive until its lease is given back")
	require.Equal(t, map[string]bool{"worker": false, "lease": true}, ok(h.ready()))

	lost = errors.New("not renewed\nfor 12s")
	require.Equal(t, map[string]bool{"process": true, "lease": false}, ok(h.live()))
	require.Equal(t, "not renewed for 12s", h.live()[1].Error, "on one line")

	var nobody *Health
	nobody.Joined(nil)
	nobody.Stopping()
}

func TestHealthLooksInTheBackground(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logged := observer.New(zap.InfoLevel)
		h := NewHealth(zap.New(core))
		h.Joined(func() error { return nil })
		var asked atomic.Int64
		var away atomic.Pointer[error]
		h.Watch("storage", time.Minute, func(ctx context.Context) error {
			asked.Add(1)
			_, bounded := ctx.Deadline()
			require.True(t, bounded)
			if err := away.Load(); err != nil {
				return *err
			}
			return nil
		})
		h.Watch("hangs", time.Minute, func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) })
		require.False(t, ok(h.ready())["storage"], "nobody has looked yet")

		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); h.Run(ctx) }()
		time.Sleep(time.Second)
		require.True(t, ok(h.ready())["storage"])
		for range 100 {
			h.ready()
		}
		require.EqualValues(t, 1, asked.Load(), "however often it is asked")
		require.False(t, ok(h.ready())["hangs"])

		away.Store(new(errors.New("403")))
		time.Sleep(time.Minute)
		require.False(t, ok(h.ready())["storage"])
		require.InDelta(t, 1, *h.ready()[2].Age, 0.01, "seconds since it was looked at")
		time.Sleep(30 * time.Second)
		require.EqualValues(t, 4, asked.Load(), "more often while it fails")
		away.Store(nil)
		time.Sleep(time.Minute / 4)
		require.True(t, ok(h.ready())["storage"])
		require.Len(t, logged.FilterField(zap.String("check", "storage")).All(), 2, "once when it went and once when it came back")
		require.False(t, ok(h.ready())["hangs"], "a check that never answers fails")

		cancel()
		<-ended
	})
}

func TestServer(t *testing.T) {
	t.Parallel()
	h := NewHealth(zaptest.NewLogger(t))
	h.Joined(func() error { return nil })
	mux := http.NewServeMux()
	h.Handle(mux)
	Build{Version: "v1.2.3", Go: "go1.26"}.Handle(mux)
	s, err := Serve(t.Context(), "127.0.0.1:0", mux, zaptest.NewLogger(t))
	require.NoError(t, err)

	code, body := ask(t, http.MethodGet, s, "/readyz")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, []string{`{"ok":true,"checks":[`, `{"name":"worker","ok":true},`, `{"name":"lease","ok":true}`, `]}`, ``}, strings.Split(body, "\n"))
	h.Stopping()
	code, body = ask(t, http.MethodGet, s, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	var report struct {
		OK     bool
		Checks []result
	}
	require.NoError(t, json.Unmarshal([]byte(body), &report))
	require.False(t, report.OK)
	require.Equal(t, "stopping: takes no more jobs", report.Checks[0].Error)
	code, _ = ask(t, http.MethodHead, s, "/healthz")
	require.Equal(t, http.StatusOK, code)
	code, _ = ask(t, http.MethodPost, s, "/healthz")
	require.Equal(t, http.StatusMethodNotAllowed, code)
	_, body = ask(t, http.MethodGet, s, "/version")
	require.Contains(t, body, `"version":"v1.2.3"`)

	_, err = Serve(t.Context(), s.Addr, mux, zaptest.NewLogger(t))
	require.ErrorIs(t, err, syscall.EADDRINUSE)

	// A client that sends nothing does not keep it from ending.
	idle, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Addr)
	require.NoError(t, err)
	defer idle.Close()
	began := time.Now()
	_ = s.Close() // that connection may count as one under way
	require.Less(t, time.Since(began), 10*time.Second)
	_, err = (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Addr)
	require.Error(t, err)
}

func ask(t *testing.T, method string, s *Server, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr+path, nil)
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.True(t, method == http.MethodPost || strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json"))
	return resp.StatusCode, string(body)
}
