package crash

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// busy is a site with replicas and mutators at work on it, none of which is killed.
type busy struct {
	*site
	fleet    *fleet
	mutators []*mutator
	began    time.Time
	end      func(t *testing.T) // replicas and mutators
}

// keepBusy starts two replicas and two mutators, which reach the source at dsn.
func (s *site) keepBusy(t *testing.T, dsn string) *busy {
	t.Helper()
	b := &busy{site: s, began: time.Now()}
	seed := seed(t)
	s.fill(t, "audit_logs", 20*batchSize)
	s.fill(t, "parted", 20*batchSize)
	s.run(t, "plan")
	stopHurry := s.hurry(t)
	var stopMutators func()
	b.mutators, stopMutators = mutate(t, seed, 2, dsn)
	ctx, cancel := context.WithCancel(t.Context())
	b.fleet = s.launch(ctx, seed, 2, 0)
	ended := false
	b.end = func(t *testing.T) {
		t.Helper()
		if ended {
			return
		}
		ended = true
		stopMutators()
		cancel()
		require.NoError(t, b.fleet.wait())
		stopHurry()
	}
	t.Cleanup(func() { b.end(t) })
	return b
}

// progress has the oracle watch until n more batches were archived.
func (b *busy) progress(t *testing.T, n int64) {
	t.Helper()
	archived := func() int64 {
		return b.control.Int(t, `SELECT count(*) FROM archiver.batch WHERE state = 'archived'`)
	}
	want := archived() + n
	limit := time.Now().Add(time.Minute)
	for archived() < want {
		require.True(t, time.Now().Before(limit), "no progress; the last trouble of a mutator: %v", b.mutators[0].trouble())
		b.oracle.check(t)
		pause(t.Context(), 50*time.Millisecond)
	}
}

// settle ends everything and drains.
func (b *busy) settle(t *testing.T) figures {
	t.Helper()
	b.end(t)
	at := b.drain(t)
	b.report(t, b.began, b.fleet, b.mutators, at)
	require.Positive(t, at.rows)
	return at
}

// crash ends a server without warning, and starts it again after a while.
func crash(t *testing.T, db *testkit.DB, down time.Duration) {
	t.Helper()
	require.NoError(t, db.Server.Crash())
	pause(t.Context(), down)
	require.NoError(t, db.Server.Restart(t.Context()))
	db.Pool.Reset()
}

// TestDatabasesCrash crashes the source and the control database, by turns, at any
// moment of whatever the replicas are doing.
func TestDatabasesCrash(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{
		source:  testkit.Database(t, testkit.Cluster(t, localserver.PostgresOptions{})),
		control: testkit.Database(t, testkit.Cluster(t, localserver.PostgresOptions{})),
	})
	b := s.keepBusy(t, s.source.DSN)
	for i := range 3 {
		b.progress(t, 3)
		crash(t, s.source, time.Duration(i)*300*time.Millisecond)
		b.progress(t, 3)
		// The last time it stays away for longer than a lease lives.
		crash(t, s.control, time.Duration(i)*lease/2)
	}
	b.progress(t, 3)
	b.settle(t)
}

// TestFailover promotes a standby that lacks the last commits: deletes of archived
// rows, and changes by the application. Rows that the archiver had deleted are back,
// and only those may be archived once more.
func TestFailover(t *testing.T) {
	t.Parallel()
	primary := testkit.Cluster(t, localserver.PostgresOptions{})
	old := testkit.Database(t, primary)
	standby := testkit.Replica(t, primary)
	proxy := testkit.NewProxy(t, address(primary))
	s := newSite(t, options{source: old, sourceAddr: proxy.Addr})
	b := s.keepBusy(t, s.url(t, proxy.Addr))
	b.progress(t, 5)

	stopFollowing(t, standby)
	b.progress(t, 10)

	// Cut off from everybody, the primary shows what its last state was.
	proxy.Set(testkit.Fault{Refuse: true})
	testkit.Eventually(t, 20*time.Second, func() bool {
		proxy.Sever()
		return old.Int(t, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`) == 0
	}, "nobody is connected to the old primary")
	before := takeSnapshot(t, old)
	require.NoError(t, primary.Crash())
	require.NoError(t, standby.Promote(t.Context()))
	s.source = connect(t, standby, old.Name)
	s.oracle.failedOver(before, takeSnapshot(t, s.source))
	require.NotEmpty(t, s.oracle.again, "no delete was lost")
	require.NotEmpty(t, s.oracle.undone, "no change was lost")

	proxy.Target(address(standby))
	proxy.Set(testkit.Fault{})
	b.progress(t, 10)
	at := b.settle(t)
	t.Logf("%d rows came back, of which %d were archived again; %d changes were undone", len(s.oracle.again), at.twice, len(s.oracle.undone))
	require.Positive(t, at.twice)
}

// failedOver notes what a failover did, from the last state of the old primary and
// the first of the new one. What is in the new table, has left the old one, and was
// not removed by its owner, had been deleted by the archiver.
func (o *oracle) failedOver(before, after snapshot) {
	for v := range after.rows {
		if before.truth[v] && !before.rows[v] {
			o.again[v] = true
		}
	}
	for v := range before.truth {
		if !after.truth[v] {
			o.undone[v] = true
		}
	}
}

// stopFollowing has a standby receive nothing more.
func stopFollowing(t *testing.T, standby *localserver.Postgres) {
	t.Helper()
	db := connect(t, standby, "postgres")
	db.Exec(t, `ALTER SYSTEM SET primary_conninfo = ''`)
	db.Exec(t, `SELECT pg_reload_conf()`)
	testkit.Eventually(t, 20*time.Second, func() bool { return db.Int(t, `SELECT count(*) FROM pg_stat_wal_receiver`) == 0 }, "the standby still follows")
}

// connect opens a database that is there already.
func connect(t *testing.T, server *localserver.Postgres, name string) *testkit.DB {
	t.Helper()
	db := &testkit.DB{DSN: server.DSN(name), Name: name, Server: server}
	var err error
	db.Pool, err = pgxpool.New(context.WithoutCancel(t.Context()), db.DSN)
	require.NoError(t, err)
	t.Cleanup(db.Pool.Close)
	return db
}

func address(p *localserver.Postgres) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Port))
}
