package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// TestRollingRestart replaces the replicas of a busy fleet one after the other, as an
// upgrade does. Each says that it is not ready before it ends, and stays alive until
// then; nobody loses a row or an attempt by it.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	source := testkit.Postgres(t)
	// A slow network, so that batches take long enough to be met at work.
	proxy := testkit.NewProxy(t, address(source.Server))
	proxy.Set(testkit.Fault{Delay: 15 * time.Millisecond})
	s := newSite(t, options{source: source, sourceAddr: proxy.Addr})
	const rows = 140 * batchSize
	s.fill(t, "audit_logs", rows/2)
	s.fill(t, "parted", rows/2)
	s.run(t, "plan")

	fleet := []*served{s.served(t, 0), s.served(t, 1)}
	for _, r := range fleet {
		r.becomes(t, "/readyz", http.StatusOK)
	}
	for round := range 4 {
		old := fleet[round%2]
		next := s.served(t, 2+round)
		next.becomes(t, "/readyz", http.StatusOK) // as maxSurge has it
		testkit.Eventually(t, 30*time.Second, func() bool { return s.atWork(t, old) > 0 }, "the old replica has batches")
		require.Equal(t, http.StatusOK, old.ask(t, "/healthz"))

		old.signal(syscall.SIGTERM)
		old.becomes(t, "/readyz", http.StatusServiceUnavailable)
		require.Equal(t, http.StatusOK, old.ask(t, "/healthz"), "alive while its batches end")
		old.wait(t, 40*time.Second)
		require.Zero(t, old.cmd.ProcessState.ExitCode(), old.log())
		fleet[round%2] = next
	}
	require.Positive(t, s.control.Int(t, `SELECT count(*) FROM archiver.batch WHERE state = 'planned'`), "the fleet was busy all the time")
	proxy.Set(testkit.Fault{})
	testkit.Eventually(t, 2*time.Minute, func() bool {
		return s.control.Int(t, `SELECT count(*) FROM archiver.river_job WHERE finalized_at IS NULL`) == 0
	}, "the backlog is done")
	for _, r := range fleet {
		r.signal(syscall.SIGTERM)
		r.wait(t, 40*time.Second)
		require.Zero(t, r.cmd.ProcessState.ExitCode(), r.log())
	}

	at := s.oracle.settled(t)
	require.EqualValues(t, rows, at.rows)
	require.Empty(t, s.control.Text(t, `SELECT coalesce(string_agg(errors::text, ' '), '') FROM archiver.river_job WHERE cardinality(errors) > 0`), "no attempt was spent")
	require.Zero(t, s.control.Int(t, `SELECT count(*) FROM archiver.river_job WHERE attempt > 1`))
	require.Zero(t, s.control.Int(t, `SELECT count(*) FROM archiver.worker`), "every lease was given back")
}

// served is a replica with an address of its own.
type served struct {
	*process
	addr string
}

func (s *site) served(t *testing.T, n int) *served {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	text, err := os.ReadFile(s.file)
	require.NoError(t, err)
	mine := *s
	mine.file = filepath.Join(s.dir, fmt.Sprintf("archiver-%d.yaml", n))
	yaml := strings.Replace(string(text), "shutdown_timeout: 2s", fmt.Sprintf("shutdown_timeout: 30s, listen: %q", addr), 1)
	require.Contains(t, yaml, addr)
	require.NoError(t, os.WriteFile(mine.file, []byte(yaml), 0o600))
	return &served{process: mine.replica(t, ""), addr: addr}
}

// atWork counts the batches that a replica has.
func (s *site) atWork(t *testing.T, r *served) int64 {
	t.Helper()
	return s.control.Int(t, `SELECT count(*) FROM archiver.river_job j JOIN archiver.worker w ON w.id = j.attempted_by[array_upper(j.attempted_by, 1)]
		WHERE j.state = 'running' AND w.pid = $1`, r.cmd.Process.Pid)
}

// becomes waits for an answer. That none comes at all is an error once the replica
// has ended.
func (r *served) becomes(t *testing.T, path string, code int) {
	t.Helper()
	testkit.Eventually(t, 30*time.Second, func() bool {
		select {
		case <-r.ended:
			require.Fail(t, "the replica has ended", "before %s gave %d:\n%s", path, code, r.log())
		default:
		}
		return r.ask(t, path) == code
	}, fmt.Sprintf("%s gives %d", path, code))
}

// ask returns the status that a path has, or 0 when nobody answers.
func (r *served) ask(t *testing.T, path string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.addr+path, nil)
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var report struct {
		OK     bool
		Checks []struct{ Name string }
	}
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&report))
	require.Equal(t, resp.StatusCode == http.StatusOK, report.OK)
	require.NotEmpty(t, report.Checks)
	return resp.StatusCode
}
