package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// cuts is how many cuts a sweep makes; ARCHIVER_TEST_CUTS=0 makes one at every place.
func cuts(t *testing.T, places int64, usual int64) (step int64) {
	t.Helper()
	n := usual
	if text := os.Getenv("ARCHIVER_TEST_CUTS"); text != "" {
		var err error
		n, err = strconv.ParseInt(text, 10, 64)
		require.NoError(t, err)
	}
	if n == 0 {
		return 1
	}
	return max(1, places/n)
}

// sweep works one batch a round while a proxy cuts a connection at another place in
// each, from the beginning of the conversation to its end.
func (s *site) sweep(p *testkit.Proxy, f testkit.Fault, usual int64) {
	t := s.t
	rounds := 0
	const table = "audit_logs"
	const rows = 5
	next := 1
	batch := func() {
		s.fill(table, rows, next)
		next += rows
		s.plan(table)
		s.settle(table)
	}
	batch() // connections and caches are warm now
	p.Set(testkit.Fault{Messages: f.Messages, Way: f.Way})
	batch()
	places := p.Passed()
	require.Greater(t, places, int64(20))
	step := cuts(t, places, usual)
	for at := 1 + rand.Int64N(step); at <= places; at += step {
		f.Cut, f.Reset = at, rounds%2 == 1
		p.Set(f)
		batch()
		rounds++
		require.Zero(t, s.count(table, `b.failed`), "cut at %d of %d: %s", at, places, s.trouble(table))
	}
	p.Set(testkit.Fault{})
	s.archived(table)
	t.Logf("%d cuts over %d places, %d attempts spent", rounds, places, s.attempts(table))
}

// TestSourceCut cuts the source's connection at the messages of a whole batch.
func TestSourceCut(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", "audit_logs")
	p := testkit.NewProxy(t, address(t, s.source.DSN))
	s.work(ways{source: p})
	s.sweep(p, testkit.Fault{Messages: true}, 20)
	require.Zero(t, s.attempts("audit_logs"), "a lost connection is no error of the batch")
}

// TestControlCut does so to the control database, over which the queue, the lease and
// the ledger go at the same time.
func TestControlCut(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", "audit_logs")
	s.cfg.Worker.Lease = 3 * time.Second
	p := testkit.NewProxy(t, address(t, s.control.DSN))
	s.work(ways{control: p})
	s.sweep(p, testkit.Fault{Messages: true}, 16)
}

// TestLostFetch has a job be fetched for a replica that never hears of it: the one
// answer whose loss nothing else would notice while the replica lives.
func TestLostFetch(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", "audit_logs")
	s.work(ways{})
	s.fill("audit_logs", 10, 1)
	s.plan("audit_logs")
	s.settle("audit_logs")
	id := s.control.Int(t, s.ledger.SQL(`INSERT INTO {s}.river_job (state, args, attempt, attempted_at, attempted_by, kind, max_attempts, metadata, priority, queue, scheduled_at)
		SELECT 'running', args, 1, now() - interval '1 minute', ARRAY[(SELECT id FROM {s}.worker)], kind, max_attempts, metadata, priority, queue, scheduled_at FROM {s}.river_job WHERE kind = 'archive_batch' RETURNING id`))
	testkit.Eventually(t, 20*time.Second, func() bool {
		return s.control.Int(t, s.ledger.SQL(`SELECT count(*) FROM {s}.river_job WHERE id = $1 AND state = 'completed'`), id) == 1
	}, "the job is worked after all")
	require.EqualValues(t, 1, s.control.Int(t, s.ledger.SQL(`SELECT count(*) FROM {s}.river_job, unnest(errors) e WHERE e->>'error' LIKE 'never reached worker %'`)))
	s.archived("audit_logs")
}

// TestStorageCut cuts the connection to storage at bytes of a whole batch.
func TestStorageCut(t *testing.T) {
	t.Parallel()
	for name, way := range map[string]testkit.Way{"to the server": testkit.ToServer, "to the client": testkit.ToClient} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "", "audit_logs")
			p := testkit.NewProxy(t, s.bucket.Endpoint[len("http://"):])
			s.work(ways{store: func(c *objstore.Config) { c.Endpoint = "http://" + p.Addr }})
			s.sweep(p, testkit.Fault{Way: way}, 8)
			require.Zero(t, s.attempts("audit_logs"), "a lost connection is no error of the batch")
		})
	}
}

// TestBlackHole has connections go silent in the middle and stay open, which nothing
// but a time limit shows.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", "audit_logs")
	p := testkit.NewProxy(t, s.bucket.Endpoint[len("http://"):])
	s.work(ways{store: func(c *objstore.Config) { c.Endpoint, c.Timeout = "http://"+p.Addr, 300*time.Millisecond }})
	s.sweep(p, testkit.Fault{Hold: true}, 5)
	require.Zero(t, s.attempts("audit_logs"))

	t.Run("slow", func(t *testing.T) { // slower than the limit in all, but never still for so long
		p.Set(testkit.Fault{Throttle: 40, Delay: 5 * time.Millisecond})
		s.fill("audit_logs", 5, 10_001)
		s.plan("audit_logs")
		s.settle("audit_logs")
		s.archived("audit_logs")
		require.Zero(t, s.attempts("audit_logs"))
	})
	t.Run("refused", func(t *testing.T) {
		p.Set(testkit.Fault{Refuse: true})
		p.Sever()
		s.fill("audit_logs", 5, 20_001)
		s.plan("audit_logs")
		testkit.Eventually(t, 30*time.Second, func() bool { return s.count("audit_logs", `b.waiting_for LIKE '%object%'`) > 0 }, "the batch waits")
		p.Set(testkit.Fault{})
		s.settle("audit_logs")
		s.archived("audit_logs")
		require.Zero(t, s.attempts("audit_logs"))
	})
}

// TestSourceBlackHole holds the source's connection in the middle of a batch. The
// attempt ends with its time, and the next one finds out where the batch stands.
func TestSourceBlackHole(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", "audit_logs")
	s.cfg.Worker.BatchTimeout = 2 * time.Second
	p := testkit.NewProxy(t, address(t, s.source.DSN))
	s.work(ways{source: p})
	s.sweep(p, testkit.Fault{Messages: true, Hold: true}, 2)
}

// TestStatementTimeout has the delete take longer than a batch may, by a trigger that
// is allowed and slow: it fails with nothing deleted, and goes on once it is faster.
func TestStatementTimeout(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", "audit_logs")
	s.fill("audit_logs", 10, 1)
	s.cfg.Worker.BatchTimeout = time.Second
	s.plan("audit_logs")
	// Each row of the delete takes a tenth of a second more than the batch may.
	s.source.Exec(t, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.2); RETURN OLD; END $$;
		CREATE TRIGGER slow BEFORE DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION slow()`)
	s.cfg.Databases[0].Tables[0].Allow = []string{"delete_trigger"}
	s.work(ways{})
	s.settle("audit_logs")
	s.untouched("audit_logs")
	require.Contains(t, s.trouble("audit_logs"), "worker.batch_timeout")
	s.source.Exec(t, `CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$`)
	s.retry("audit_logs")
	s.settle("audit_logs")
	s.archived("audit_logs")
}

// TestLockedTable has another session hold the table.
func TestLockedTable(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", "audit_logs")
	s.fill("audit_logs", 10, 1)
	s.plan("audit_logs")
	tx, err := s.source.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE audit_logs IN SHARE ROW EXCLUSIVE MODE`) // readers pass, the delete does not
	require.NoError(t, err)
	s.work(ways{})
	testkit.Eventually(t, 30*time.Second, func() bool { return s.count("audit_logs", `b.waiting_for LIKE '%lock on the table%'`) > 0 }, "the batch waits for the lock")
	s.exactlyOnce("audit_logs")
	require.NoError(t, tx.Rollback(context.WithoutCancel(t.Context())))
	s.settle("audit_logs")
	s.archived("audit_logs")
	require.Zero(t, s.attempts("audit_logs"))
}

// TestReadOnlyPrimary has the source refuse to write: a demoted primary, a full disk.
func TestReadOnlyPrimary(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", "audit_logs")
	s.fill("audit_logs", 10, 1)
	s.plan("audit_logs")
	cluster := testkit.Cluster(t, localserver.PostgresOptions{})
	replica := s.moveTo(cluster)
	p := testkit.NewProxy(t, "127.0.0.1:"+strconv.Itoa(replica.Port))
	s.work(ways{source: p})
	testkit.Eventually(t, 30*time.Second, func() bool { return s.count("audit_logs", `b.waiting_for IS NOT NULL OR b.failed`) > 0 }, "the batch waits: the primary is a standby now")
	t.Log(s.trouble("audit_logs"))
	require.Zero(t, s.attempts("audit_logs"))
	s.exactlyOnce("audit_logs")
	// The role's default makes no difference: our transactions say what they are.
	s.source.Exec(t, `ALTER DATABASE `+s.source.Name+` SET default_transaction_read_only = on`)
	p.Target("127.0.0.1:" + strconv.Itoa(cluster.Port))
	p.Sever()
	s.settle("audit_logs")
	s.source.Exec(t, `ALTER DATABASE `+s.source.Name+` RESET default_transaction_read_only`)
	s.archived("audit_logs")
	require.Zero(t, s.attempts("audit_logs"))
}

// moveTo makes a database of another cluster the source, with the same table in it,
// and a standby beside that cluster.
func (s *site) moveTo(cluster *localserver.Postgres) *localserver.Postgres {
	s.t.Helper()
	old := s.source
	s.source = testkit.Database(s.t, cluster)
	s.cfg.Databases[0].Primary = config.Secret(s.source.DSN)
	src, err := source.Open(s.t.Context(), s.cfg.Databases[0], "test")
	require.NoError(s.t, err)
	s.t.Cleanup(src.Close)
	s.src = src
	s.fill("audit_logs", int(old.Int(s.t, `SELECT count(*) FROM audit_logs`)), 1)
	return testkit.Replica(s.t, cluster)
}

// TestPromotion promotes the standby between the read and the delete of batches, and
// leads the old name to it: everything is read again on the new timeline.
func TestPromotion(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", "audit_logs")
	s.fill("audit_logs", 100, 1)
	s.plan("audit_logs")
	cluster := testkit.Cluster(t, localserver.PostgresOptions{})
	replica := s.moveTo(cluster)
	p := testkit.NewProxy(t, "127.0.0.1:"+strconv.Itoa(cluster.Port))
	s.cfg.Worker.Concurrency = 2
	s.work(ways{source: p})
	testkit.Eventually(t, 30*time.Second, func() bool { return s.count("audit_logs", `b.state = 'archived'`) > 0 }, "a first batch is done")
	// What the old primary committed must be on the new one: an asynchronous failover
	// that loses commits brings rows back, see docs/SAFETY.md.
	p.Set(testkit.Fault{Refuse: true})
	p.Sever()
	lsn := s.source.Text(t, `SELECT pg_current_wal_lsn()::text`)
	name := s.source.Name
	there := testkit.Open(t, replica, name)
	testkit.Eventually(t, 20*time.Second, func() bool {
		return there.Int(t, `SELECT (pg_last_wal_replay_lsn() >= $1::text::pg_lsn)::int`, lsn) == 1
	}, "the standby has caught up")
	require.NoError(t, cluster.Crash())
	require.NoError(t, replica.Promote(t.Context()))
	p.Target("127.0.0.1:" + strconv.Itoa(replica.Port))
	p.Set(testkit.Fault{})
	s.settle("audit_logs")
	s.source = there
	s.archived("audit_logs")
	require.Zero(t, s.attempts("audit_logs"))
}

// TestNoConnectionLeft has the source give out no connection for a while.
func TestNoConnectionLeft(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", "audit_logs")
	s.fill("audit_logs", 20, 1)
	s.plan("audit_logs")
	// A superuser is let in beyond a database's limit, so the archiver is none here.
	role, dsn := s.source.Role(t)
	s.source.Exec(t, fmt.Sprintf(`GRANT SELECT, UPDATE, DELETE ON audit_logs TO %[1]s; GRANT pg_read_all_settings, pg_monitor TO %[1]s;
		GRANT EXECUTE ON FUNCTION pg_control_system() TO %[1]s; ALTER DATABASE %[2]s CONNECTION LIMIT 0`, role, s.source.Name))
	s.cfg.Databases[0].Primary = config.Secret(dsn)
	s.work(ways{})
	testkit.Eventually(t, 30*time.Second, func() bool { return s.count("audit_logs", `b.waiting_for LIKE '%too many connections%'`) > 0 }, "the batches wait")
	require.Zero(t, s.attempts("audit_logs"))
	s.exactlyOnce("audit_logs")
	s.source.Exec(t, `ALTER DATABASE `+s.source.Name+` CONNECTION LIMIT -1`)
	s.settle("audit_logs")
	s.archived("audit_logs")
}
