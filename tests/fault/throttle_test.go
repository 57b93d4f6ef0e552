package fault

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/worker"
)

// held waits until the table audit_logs waits for the reason, and looks that nothing was done to it.
func (s *site) held(reason string) {
	s.t.Helper()
	const name = "audit_logs"
	testkit.EventuallyNoError(s.t, 20*time.Second, func() error {
		if why := s.why(); !strings.Contains(why, reason) {
			return fmt.Errorf("status says %q", why)
		}
		if trouble := s.trouble(name); !strings.Contains(trouble, reason) {
			return fmt.Errorf("the ledger says %q", trouble)
		}
		return nil
	}, name+" is held: "+reason)
	testkit.Eventually(s.t, 20*time.Second, func() bool {
		return s.control.Int(s.t, `SELECT count(*) FROM archiver.river_job WHERE state IN ('available', 'running')`) == 0
	}, "no batch holds a seat")
	require.Zero(s.t, s.attempts(name))
	require.Zero(s.t, s.count(name, `b.state NOT IN ('planned', 'verified')`))
	require.Equal(s.t, s.source.Int(s.t, `SELECT count(*) FROM truth_`+name), s.source.Int(s.t, `SELECT count(*) FROM `+name))
}

// unread looks that the table was not even read.
func (s *site) unread() {
	s.t.Helper()
	require.Zero(s.t, s.count("audit_logs", `b.state <> 'planned' OR b.attempt > 0`), "a batch was begun")
	require.Empty(s.t, s.bucket.Keys(s.t))
}

func (s *site) goesOn() {
	s.t.Helper()
	s.settle("audit_logs")
	s.archived("audit_logs")
	require.Zero(s.t, s.attempts("audit_logs"), "waiting spends no attempt")
}

// throttled is a site on a cluster of its own, with a table of 60 rows and a plan.
func throttled(t *testing.T, limits string) (*site, *localserver.Postgres) {
	t.Helper()
	cluster := testkit.Cluster(t, localserver.PostgresOptions{})
	s := newSiteOn(t, testkit.Database(t, cluster), testkit.Postgres(t), ", throttle: {"+limits+"}", "audit_logs")
	s.fill("audit_logs", 60, 1)
	s.plan("audit_logs")
	return s, cluster
}

// wal has the source write a few megabytes of it.
func (s *site) wal() {
	s.t.Helper()
	s.source.Exec(s.t, `CREATE TABLE ballast AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 6000) i`)
}

func TestThrottleStandbyLag(t *testing.T) {
	t.Parallel()
	s, primary := throttled(t, "max_standby_lag_mb: 1")
	standby := testkit.Open(t, testkit.Replica(t, primary), s.source.Name)
	standby.Exec(t, `SELECT pg_wal_replay_pause()`)
	testkit.Eventually(t, 30*time.Second, func() bool {
		return standby.Text(t, `SELECT pg_get_wal_replay_pause_state()`) == "paused" &&
			s.source.Int(t, `SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'`) == 1
	}, "the standby streams and does not replay")
	s.wal()
	s.work(ways{})
	s.held("throttle: standby replica is ")
	require.Contains(t, s.why(), " MB behind (max_standby_lag_mb 1)")
	s.unread()
	standby.Exec(t, `SELECT pg_wal_replay_resume()`)
	s.goesOn()
}

func TestThrottleSlotLag(t *testing.T) {
	t.Parallel()
	s, _ := throttled(t, "max_slot_lag_mb: 2")
	s.source.Exec(t, `SELECT pg_create_physical_replication_slot('forgotten', true)`)
	s.wal()
	s.work(ways{})
	s.held("throttle: replication slot forgotten holds back ")
	s.unread()
	s.source.Exec(t, `SELECT pg_drop_replication_slot('forgotten')`)
	s.goesOn()
}

func TestThrottleActiveSessions(t *testing.T) {
	t.Parallel()
	s, _ := throttled(t, "max_active_sessions: 2")
	for range 3 {
		go func() { _, _ = s.source.Pool.Exec(t.Context(), `SELECT pg_sleep(300)`) }() // ended below
	}
	testkit.Eventually(t, 30*time.Second, func() bool {
		return s.source.Int(t, `SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(300)'`) == 3
	}, "three are at work")
	s.work(ways{})
	s.held("throttle: 3 sessions are active (max_active_sessions 2)")
	s.unread()
	s.source.Exec(t, `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(300)'`)
	s.goesOn()
}

// TestThrottleQuery: a number that is positive pauses, and so does an error.
func TestThrottleQuery(t *testing.T) {
	t.Parallel()
	s, _ := throttled(t, `query: "SELECT n FROM brake"`)
	s.source.Exec(t, `CREATE TABLE brake AS SELECT 3 AS n`)
	s.work(ways{})
	s.held("throttle: the query says 3 (query)")
	s.unread()
	s.source.Exec(t, `ALTER TABLE brake RENAME TO gone`)
	s.held(`throttle: nothing is archived while query cannot be looked at: `)
	require.Contains(t, s.why(), `relation "brake" does not exist`)
	s.unread()
	s.source.Exec(t, `UPDATE gone SET n = 0; ALTER TABLE gone RENAME TO brake`)
	s.goesOn()
}

// TestThrottleWindows: outside of its windows a table rests. One that a new configuration
// lets go on does so within a minute, whatever the old one said about when.
func TestThrottleWindows(t *testing.T) {
	t.Parallel()
	later := time.Now().UTC().Add(3 * time.Hour)
	window := later.Format("15:04") + "-" + later.Add(time.Hour).Format("15:04")
	s, _ := throttled(t, `windows: ["`+window+`"]`)
	d := s.deps(ways{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := s.run(ctx, d)
	s.held("throttle: outside of windows " + window + ", until " + later.Truncate(time.Minute).Format(time.RFC3339))
	s.unread()
	until := s.control.Int(t, `SELECT extract(epoch FROM held_until - now())::bigint FROM archiver.table_throttle`)
	require.LessOrEqual(t, until, int64(60))
	cancel()
	<-ended

	s.cfg.Databases[0].Tables[0].Throttle.Windows = nil
	s.control.Exec(t, `UPDATE archiver.table_throttle SET held_until = now()`) // the minute is over
	s.work(ways{})
	s.goesOn()
}

// TestThrottledBeforeTheDelete: what was read and stored stays verified while its delete
// has to wait, and is not read from the table again.
func TestThrottledBeforeTheDelete(t *testing.T) {
	t.Parallel()
	s, _ := throttled(t, `query: "SELECT n FROM brake"`)
	s.source.Exec(t, `CREATE TABLE brake AS SELECT 0 AS n`)
	s.cfg.Worker.Concurrency = 1 // or others may be past the gate by then
	var pulled atomic.Bool
	s.work(ways{store: func(c *objstore.Config) {
		c.Transport = func(next http.RoundTripper) http.RoundTripper {
			return &injector{next: next, hits: map[string]int{}, rules: map[string]*rule{"audit_logs": {get, 1, before(func(*http.Request) error {
				s.source.Exec(t, `UPDATE brake SET n = 1`)
				pulled.Store(true)
				wait(t.Context(), 1200*time.Millisecond) // for what the gate has heard before is good for a second
				return nil
			})}}}
		}
	}})
	testkit.Eventually(t, 20*time.Second, func() bool { return s.count("audit_logs", `b.state = 'verified'`) > 0 }, "an object is verified")
	require.True(t, pulled.Load())
	s.held("throttle: the query says 1 (query)")
	verified := s.count("audit_logs", `b.state = 'verified'`)
	objects := s.control.Int(t, `SELECT count(*) FROM archiver.object WHERE state = 'verified'`)
	require.Equal(t, verified, objects)
	s.source.Exec(t, `UPDATE brake SET n = 0`)
	s.goesOn()
	require.Zero(t, s.control.Int(t, `SELECT count(*) FROM archiver.object WHERE state <> 'committed'`), "each was stored once")
}

// TestRateOfTheFleet: a table gets the rows a second that it is allowed, no matter how
// many replicas there are and how fast they could be.
func TestRateOfTheFleet(t *testing.T) {
	t.Parallel()
	const rate = 20 // two batches a second, which is little even for a machine that is busy otherwise
	s := newSite(t, fmt.Sprintf(", throttle: {max_rows_per_second: %d}", rate), "audit_logs", "other")
	s.cfg.Databases[0].Tables[1].Throttle.MaxRowsPerSecond = 0
	s.fill("audit_logs", 700, 1)
	s.fill("other", 200, 1)
	s.plan("audit_logs")
	s.plan("other")
	s.work(ways{})
	s.work(ways{})
	testkit.Eventually(t, 20*time.Second, func() bool {
		return strings.HasPrefix(s.why(), "throttle: 20 rows a second are reached (max_rows_per_second)")
	}, "status says why it is no faster")
	// The first seconds have what was saved up. The rest by the control database's clock.
	const warm, span = 4, 15
	testkit.Eventually(t, time.Minute, func() bool {
		return s.control.Int(t, `SELECT coalesce(extract(epoch FROM now() - min(archived_at)), 0)::bigint FROM archiver.batch WHERE table_id = (SELECT id FROM archiver.archive_table WHERE name = 'audit_logs')`) > warm+span
	}, "the time is over")
	rows := s.control.Int(t, fmt.Sprintf(`
		WITH mine AS (SELECT b.rows, b.archived_at - min(b.archived_at) OVER () AS at FROM archiver.batch b JOIN archiver.archive_table a ON a.id = b.table_id WHERE a.name = 'audit_logs' AND b.state = 'archived')
		SELECT coalesce(sum(rows), 0)::bigint FROM mine WHERE at >= interval '%d s' AND at < interval '%d s'`, warm, warm+span))
	t.Logf("%d rows in %d seconds: %.1f a second of %d", rows, span, float64(rows)/span, rate)
	require.InEpsilon(t, rate*span, rows, 0.2)
	s.archived("other") // which has no limit
}

// TestBlindThrottle: a role that may not see the lag archives nothing, and the GRANT that
// the reason names is enough.
func TestBlindThrottle(t *testing.T) {
	t.Parallel()
	s, primary := throttled(t, "max_standby_lag_mb: 64")
	testkit.Replica(t, primary)
	testkit.Eventually(t, 30*time.Second, func() bool { return s.source.Int(t, `SELECT count(*) FROM pg_stat_replication`) == 1 }, "it is connected")
	role, dsn := s.source.Role(t)
	s.source.Exec(t, `GRANT SELECT, DELETE, UPDATE (id) ON audit_logs TO `+role)
	d := s.deps(ways{})
	db := s.cfg.Databases[0]
	db.Primary = config.Secret(dsn)
	src, err := source.Open(t.Context(), db, "test")
	require.NoError(t, err)
	t.Cleanup(src.Close)
	d.Sources["main"] = src
	s.workAs(d)
	s.held("throttle: nothing is archived while max_standby_lag_mb cannot be looked at: ")
	grant := `GRANT pg_monitor TO "` + role + `"`
	require.Contains(t, s.why(), "(hint: "+grant+")")
	s.unread()
	s.source.Exec(t, grant)
	s.goesOn()
}

// TestDrainUnderAThrottle: a drain gives up when nothing goes on for its patience, however
// many batches could begin but for the throttle, or for storage that is down.
func TestDrainUnderAThrottle(t *testing.T) {
	t.Parallel()
	drain := func(t *testing.T, s *site, d worker.Deps, why string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		require.NoError(t, worker.Run(ctx, d, worker.RunOptions{Drain: true, Patience: 2 * time.Second}))
		require.NoError(t, ctx.Err(), "the drain did not end by itself")
		require.Contains(t, s.trouble("audit_logs"), why)
		require.EqualValues(t, 30, s.count("audit_logs", `b.state = 'planned' AND NOT b.failed`))
	}
	planned := func(t *testing.T, options string) *site {
		t.Helper()
		s := newSite(t, options, "audit_logs")
		s.cfg.Databases[0].Concurrency = 2 // the others are due, and nobody tries them
		s.fill("audit_logs", 300, 1)
		require.EqualValues(t, 30, s.plan("audit_logs"))
		return s
	}
	t.Run("windows", func(t *testing.T) {
		t.Parallel()
		later := time.Now().UTC().Add(3 * time.Hour)
		s := planned(t, `, throttle: {windows: ["`+later.Format("15:04")+"-"+later.Add(time.Hour).Format("15:04")+`"]}`)
		drain(t, s, s.deps(ways{}), "throttle: outside of windows")
	})
	t.Run("query", func(t *testing.T) { // looked at again every 5 s
		t.Parallel()
		s := planned(t, `, throttle: {query: "SELECT true"}`)
		drain(t, s, s.deps(ways{}), "throttle: the query says t")
	})
	t.Run("breaker", func(t *testing.T) {
		t.Parallel()
		s := planned(t, "")
		s.cfg.S3.CircuitBreaker.RecoveryTimeout = time.Hour
		d := s.deps(ways{store: func(c *objstore.Config) {
			c.Transport = func(http.RoundTripper) http.RoundTripper { return down{} }
		}})
		drain(t, s, d, "")
	})
}

// down is a way to storage on which nothing gets through.
type down struct{}

func (down) RoundTrip(*http.Request) (*http.Response, error) { return nil, errReset }
