package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// listenAt gives the site's workers an address, which is free at the moment.
func (s *site) listenAt(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	addr := l.Addr().String()
	s.worker = fmt.Sprintf("lease: 20s, shutdown_timeout: 5s, listen: %q", addr)
	s.configure(t)
	return addr
}

type healthReport struct {
	OK     bool
	Checks []struct {
		Name, Error string
		OK          bool
	}
}

func (r result) health(t *testing.T) (report healthReport, failing []string) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(r.out), &report), r.out)
	for _, c := range report.Checks {
		if !c.OK {
			failing = append(failing, c.Name)
		}
	}
	return report, failing
}

func TestHealth(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	u, err := url.Parse(s.db.DSN)
	require.NoError(t, err)
	proxy := testkit.NewProxy(t, u.Host)
	u.Host = proxy.Addr
	u.User = url.UserPassword(u.User.Username(), "the-password")
	s.controlURL = u.String()
	s.listenAt(t)
	s.run(t, "health").expect(t, unreachable, "ask the worker", "hint: ")

	w := s.start(t, "work")
	testkit.Eventually(t, 30*time.Second, func() bool { return s.run(t, "health", "--ready").code == done }, "the worker is ready")
	report, _ := s.run(t, "health").health(t)
	require.True(t, report.OK)
	require.Len(t, report.Checks, 2)
	report, _ = s.run(t, "health", "--ready").health(t)
	require.Len(t, report.Checks, 5, "worker, lease, control database, schema, storage")

	// Without its control database it is not ready, and alive until its lease is lost.
	proxy.Set(testkit.Fault{Refuse: true})
	proxy.Sever()
	var away result
	testkit.Eventually(t, 15*time.Second, func() bool { away = s.run(t, "health", "--ready"); return away.code == failed }, "the worker is not ready")
	_, failing := away.health(t)
	require.Contains(t, failing, "control_database")
	away.expect(t, failed, "not ready (HTTP 503)")
	require.NotContains(t, away.out+away.err, "the-password")
	s.run(t, "health").expect(t, done)
	proxy.Set(testkit.Fault{})
	testkit.Eventually(t, 15*time.Second, func() bool { return s.run(t, "health", "--ready").code == done }, "the worker is ready again")

	w.signal(t, syscall.SIGTERM)
	w.wait(t).expect(t, done, "serving health")
	s.run(t, "health").expect(t, unreachable)

	s.worker = `listen: ""`
	s.configure(t)
	s.run(t, "health").expect(t, badUsage, "worker.listen is empty")
}

func TestListenAddressTaken(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	addr := s.listenAt(t)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
	require.NoError(t, err)
	defer l.Close()
	s.run(t, "plan").expect(t, done)
	s.run(t, "work", "--drain").expect(t, badUsage, "worker.listen", "nothing was archived or deleted", "hint: ")
	require.EqualValues(t, 5, s.db.Int(t, openBatches))

	// The default one is that of every replica on this host: reason to warn, not to fail.
	s.worker = "lease: 20s"
	s.configure(t)
	testkit.EventuallyNoError(t, 30*time.Second, func() error {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", config.DefaultWorkerListen)
		if err != nil && !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		if err != nil { // another test's worker, which may end at any moment
			return fmt.Errorf("wait for the address: %w", err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return nil
	}, "the default address is taken")
	s.run(t, "work", "--drain").expect(t, done, "the default worker.listen is taken")
	require.Zero(t, s.db.Int(t, openBatches))
}
