package cli

import (
	"fmt"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// fleetStatus is what these tests read of status --json.
type fleetStatus struct {
	Tables []struct {
		Database, Table string
		Paused          bool
		Waiting         *string `json:"waiting_for"`
		Batches         map[string]int64
	}
	Workers []struct {
		ID      string
		HeldFor *string `json:"held_for"`
		Running int
		Batches []struct {
			JobID int64 `json:"job_id"`
			Table string
			Stage string
		}
	}
	Limits struct {
		Databases int            `json:"max_parallel_databases"`
		Seats     map[string]int `json:"concurrency"`
		Taken     map[string]int
		Disagree  []string
	}
	StuckJobs []struct{ Worker, Why string } `json:"stuck_jobs"`
}

func (s *site) fleet(t *testing.T) fleetStatus {
	t.Helper()
	var out fleetStatus
	s.json(t, &out, "status").expect(t, done)
	return out
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.run(t, "plan").expect(t, done)
	s.run(t, "pause", "--table", "audit_logs").expect(t, done, "main.public.audit_logs: paused: no new batch begins")
	s.run(t, "pause", "--table", "audit_logs").expect(t, done, "was paused already")
	s.run(t, "pause", "--table", "audit_log").expect(t, badUsage, "no configured table matches")
	s.run(t, "pause", "--database", "mian").expect(t, badUsage, "configured are: main.public.audit_logs")

	// It outlasts replicas that come and go.
	s.run(t, "work", "--drain").expect(t, partly, "what is left is paused", "5 batches left", "one reason: paused: main.public.audit_logs")
	status := s.fleet(t)
	require.True(t, status.Tables[0].Paused)
	require.Contains(t, *status.Tables[0].Waiting, "paused: main.public.audit_logs, since 20")
	require.Zero(t, status.Tables[0].Batches["archived"])

	s.run(t, "pause").expect(t, done, "everything: paused")
	s.run(t, "resume", "--database", "main").expect(t, failed, "everything is paused", "run: archiver resume")
	s.run(t, "resume", "--database", "").expect(t, badUsage, "must not be empty")
	s.run(t, "pause", "--table", "").expect(t, badUsage, "must not be empty")
	var r struct {
		Scope           string
		Paused, Changed bool
		StillPaused     []string `json:"still_paused"`
	}
	s.json(t, &r, "resume").expect(t, done)
	require.Equal(t, "everything", r.Scope)
	require.True(t, r.Changed)
	require.Equal(t, []string{"main.public.audit_logs"}, r.StillPaused)
	s.run(t, "resume").expect(t, done, "everything: resumed main.public.audit_logs")
	s.run(t, "resume").expect(t, done, "everything: was not paused")
	s.run(t, "work", "--drain").expect(t, done)
	s.requireEachRowOnce(t)
}

// TestPauseUnderWork pauses while a batch is at work: that one finishes.
func TestPauseUnderWork(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.defaults += ", concurrency: 1"
	s.configure(t)
	s.run(t, "plan").expect(t, done)
	release := s.block(t)
	p := s.start(t, "work")
	s.waitForRunningJob(t)

	status := s.fleet(t)
	require.Equal(t, 1, status.Workers[0].Running)
	require.Equal(t, "public.audit_logs", status.Workers[0].Batches[0].Table)
	require.Contains(t, *status.Tables[0].Waiting, "limit reached: 1 of 1 seat of database main taken (concurrency)")
	s.run(t, "status").expect(t, done, "1: job ", "seats taken: main 1 of 1; 1 of 3 databases at a time")

	s.run(t, "pause", "--database", "main").expect(t, done)
	release()
	archived := func() int64 { return s.db.Int(t, `SELECT count(*) FROM archiver.batch WHERE state = 'archived'`) }
	testkit.Eventually(t, 20*time.Second, func() bool { return archived() == 1 }, "the batch at work finishes")
	ticks := s.db.Int(t, `SELECT count(*) FROM archiver.worker`) // a look of admission later
	require.EqualValues(t, 1, ticks)
	s.run(t, "status").expect(t, done, "paused: database main")
	require.EqualValues(t, 1, archived())
	require.Equal(t, "db_main", s.db.Text(t, `SELECT string_agg(name, ' ') FROM archiver.river_queue WHERE paused_at IS NOT NULL`), "River UI shows it")

	s.run(t, "resume", "--database", "main").expect(t, done, "database main: resumed")
	testkit.Eventually(t, 20*time.Second, func() bool { return archived() == 5 }, "it goes on at once")
	p.signal(t, syscall.SIGTERM)
	p.wait(t).expect(t, done)
	s.requireEachRowOnce(t)
}

// TestReplicasDisagree has two replicas with different limits.
func TestReplicasDisagree(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.worker += `, listen: ""`
	s.configure(t)
	generous := s.start(t, "work")
	testkit.Eventually(t, 20*time.Second, func() bool { return s.db.Int(t, `SELECT count(*) FROM archiver.worker`) == 1 }, "the first replica")
	s.defaults += ", concurrency: 1, parallel_databases: false"
	s.configure(t)
	strict := s.start(t, "work")
	testkit.Eventually(t, 20*time.Second, func() bool { return s.db.Int(t, `SELECT count(*) FROM archiver.worker`) == 2 }, "the second replica")
	status := s.fleet(t)
	require.Equal(t, map[string]int{"main": 1}, status.Limits.Seats)
	require.Equal(t, 1, status.Limits.Databases)
	require.Len(t, status.Limits.Disagree, 2)
	s.run(t, "status").expect(t, done, "replicas disagree on concurrency of main: 2 (", "the smallest counts", "replicas disagree on max_parallel_databases: 3 (")
	strict.signal(t, syscall.SIGTERM)
	strict.wait(t).expect(t, done)
	require.Equal(t, map[string]int{"main": 2}, s.fleet(t).Limits.Seats)
	generous.signal(t, syscall.SIGTERM)
	generous.wait(t).expect(t, done)
}

func TestStatusNamesStuckJobs(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.defaults = "retention: 30d, batch_size: 1000, partition_by: none"
	s.configure(t)
	s.run(t, "plan").expect(t, done)
	s.crash(t, "verify:recorded")
	status := s.fleet(t)
	require.Len(t, status.StuckJobs, 1)
	require.NotEmpty(t, status.StuckJobs[0].Worker)
	s.run(t, "status").expect(t, done, "stuck: job 1 (batch 1 of main.public.audit_logs): its worker ", "does not renew its lease any more", "archiver jobs retry --stuck")
	s.run(t, "jobs", "retry", "--stuck").expect(t, done)
	require.Empty(t, s.fleet(t).StuckJobs)
	s.run(t, "work", "--drain").expect(t, done)
	s.requireEachRowOnce(t)
}

// held waits until status has the reason why the site's table does not go on, in both of
// its forms.
func (s *site) held(t *testing.T, reason string) {
	t.Helper()
	testkit.EventuallyNoError(t, 30*time.Second, func() error {
		waiting := ""
		if w := s.fleet(t).Tables[0].Waiting; w != nil {
			waiting = *w
		}
		if !strings.Contains(waiting, reason) {
			return fmt.Errorf("status --json has no %q but %q", reason, waiting)
		}
		text := s.run(t, "status")
		text.expect(t, done)
		if !strings.Contains(text.out, "main.public.audit_logs: "+reason) {
			return fmt.Errorf("status has no %q: %s", reason, text.out)
		}
		return nil
	}, reason)
}

// TestStatusOfAThrottle: a rule that holds the table is named with what it saw, and no
// more once it lets go.
func TestStatusOfAThrottle(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.tables = `- {name: audit_logs, throttle: {query: "SELECT n FROM brake"}}`
	s.db.Exec(t, `CREATE TABLE brake AS SELECT 3 AS n`)
	addr := s.listenAt(t)
	s.run(t, "plan").expect(t, done)
	w := s.start(t, "work")
	s.held(t, "throttle: the query says 3 (query) (looked at again at 20")
	require.Zero(t, s.fleet(t).Tables[0].Batches["archived"])
	testkit.Eventually(t, 30*time.Second, func() bool {
		m := scrape(t, addr)
		return m[ofTable("archiver_fleet_throttled", "")] == 1 && m[`archiver_waits_total{database="main",reason="throttle",table="public.audit_logs"}`] >= 1
	}, "the metrics have it, too")

	s.db.Exec(t, `UPDATE brake SET n = 0`)
	testkit.Eventually(t, 30*time.Second, func() bool { return s.db.Int(t, openBatches) == 0 }, "it goes on")
	require.Nil(t, s.fleet(t).Tables[0].Waiting)
	w.signal(t, syscall.SIGTERM)
	w.wait(t).expect(t, done)
}

// TestStatusOfABreaker: the only replica loses its way to storage. Status says so, also
// when another has come and done the work, until the way is found again.
func TestStatusOfABreaker(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	u, err := url.Parse(s.bucket.Endpoint)
	require.NoError(t, err)
	proxy := testkit.NewProxy(t, u.Host)
	s.endpoint = "http://" + proxy.Addr
	addr := s.listenAt(t)
	s.run(t, "plan").expect(t, done)
	s.run(t, "pause").expect(t, done)
	w := s.startCommand(t, "env", "ARCHIVER_S3_CIRCUIT_BREAKER_FAILURE_THRESHOLD=1", s.program, "work")
	testkit.Eventually(t, 30*time.Second, func() bool { return s.run(t, "health", "--ready").code == done }, "the worker is ready")
	proxy.Set(testkit.Fault{Refuse: true})
	proxy.Sever()
	s.run(t, "resume").expect(t, done)
	s.held(t, "breaker open: storage failed ")
	require.InDelta(t, 1, scrape(t, addr)["archiver_breaker_open"], 0.01)
	require.Zero(t, s.fleet(t).Tables[0].Batches["archived"])

	other := s.startCommand(t, "env", "ARCHIVER_S3_ENDPOINT="+s.bucket.Endpoint, "ARCHIVER_WORKER_LISTEN=127.0.0.1:0", s.program, "work")
	testkit.Eventually(t, 40*time.Second, func() bool { return s.db.Int(t, openBatches) == 0 }, "the other does the work")
	status := s.fleet(t)
	require.Nil(t, status.Tables[0].Waiting)
	require.Len(t, status.Workers, 2)
	require.NotNil(t, status.Workers[0].HeldFor)
	require.Contains(t, *status.Workers[0].HeldFor, "breaker open: storage failed ")
	require.Nil(t, status.Workers[1].HeldFor)
	s.run(t, "status").expect(t, done, "worker "+status.Workers[0].ID+" takes no batches: breaker open: storage failed ")

	proxy.Set(testkit.Fault{})
	testkit.Eventually(t, 90*time.Second, func() bool { return s.fleet(t).Workers[0].HeldFor == nil }, "it has found its way")
	require.NotContains(t, s.run(t, "status").out, "takes no batches")
	require.Zero(t, scrape(t, addr)["archiver_breaker_open"])
	other.signal(t, syscall.SIGTERM)
	other.wait(t).expect(t, done)
	w.signal(t, syscall.SIGTERM)
	w.wait(t).expect(t, done)
	s.requireEachRowOnce(t)
}

func TestStatusWatch(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.run(t, "plan").expect(t, done)
	s.run(t, "status", "--watch", "--interval", "1ms").expect(t, badUsage, "--interval must be 100ms or more")
	p := s.start(t, "status", "--watch", "--interval", "100ms")
	looks := func() int64 {
		return s.db.Int(t, `SELECT calls FROM (SELECT count(*) AS calls FROM pg_stat_activity WHERE application_name = 'archiver control' AND datname = current_database()) s`)
	}
	testkit.Eventually(t, 20*time.Second, func() bool { return looks() > 0 }, "it looks")
	s.run(t, "work", "--drain").expect(t, done)
	p.signal(t, syscall.SIGINT)
	r := p.wait(t)
	r.expect(t, interrupted, "TABLE", "every 100ms")
	require.Greater(t, strings.Count(r.out, "main.public.audit_logs"), 2, "again and again")
	require.Contains(t, r.out, "no worker is running")
	require.NotContains(t, r.out, "\x1b", "no terminal, no control sequences")
}
