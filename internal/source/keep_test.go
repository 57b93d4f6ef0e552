package source

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

func openTest(t *testing.T, dsn string, size int) *DB {
	t.Helper()
	db, err := Open(t.Context(), config.Database{Name: "main", Primary: config.Secret(dsn), PoolSize: size}, WorkerSession("replica-1"))
	require.NoError(t, err)
	t.Cleanup(db.Close)
	return db
}

// backend runs a transaction and says which session it was in.
func backend(ctx context.Context, t *testing.T, db *DB) (pid uint32) {
	t.Helper()
	require.NoError(t, db.inTx(ctx, readOnly, "", func(tx *tx) error { pid = tx.conn.PgConn().PID(); return nil }))
	return pid
}

// TestWithSession has two batches take turns: each goes on in the session that it was in,
// which is not what the pool would give it.
func TestWithSession(t *testing.T) {
	t.Parallel()
	db := openTest(t, testkit.Postgres(t).DSN, 3)
	a, endA := WithSession(t.Context())
	b, endB := WithSession(t.Context())
	first, second := backend(a, t, db), backend(b, t, db)
	require.NotEqual(t, first, second, "the first is kept")
	for range 3 {
		require.Equal(t, first, backend(a, t, db))
		require.Equal(t, second, backend(b, t, db))
	}
	require.EqualValues(t, 2, db.Pool.Stat().AcquiredConns())
	// The last place of the pool is not kept from others.
	c, endC := WithSession(t.Context())
	backend(c, t, db)
	require.EqualValues(t, 2, db.Pool.Stat().AcquiredConns())
	endC()
	endA()
	require.EqualValues(t, 1, db.Pool.Stat().AcquiredConns())
	backend(a, t, db)
	require.EqualValues(t, 1, db.Pool.Stat().AcquiredConns(), "kept after its end")
	// Nor is any other one for long.
	testkit.Eventually(t, 30*time.Second, func() bool { return db.Pool.Stat().AcquiredConns() == 0 }, "it is given back")
	backend(b, t, db)
	endB()
	require.Zero(t, db.Pool.Stat().AcquiredConns())
}

// TestKeptForWhoWaits: a batch that comes back for its connection does not overtake somebody
// who waits for one, since the others of the pool are taken by now.
func TestKeptForWhoWaits(t *testing.T) {
	t.Parallel()
	db := openTest(t, testkit.Postgres(t).DSN, 2)
	ctx, end := WithSession(t.Context())
	defer end()
	kept := backend(ctx, t, db)
	other, err := db.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer other.Release()
	served := make(chan uint32, 1)
	go func() {
		waiting, err := db.Pool.Acquire(t.Context())
		if err != nil {
			t.Error(err)
			close(served)
			return
		}
		served <- waiting.Conn().PgConn().PID()
		waiting.Release()
	}()
	// What acquire asks first. Whether it then has to wait itself is the pool's matter.
	s, _ := ctx.Value(sessionKey{}).(*session)
	if c := s.take(db.Pool); c != nil {
		c.Release()
		t.Error("it overtakes")
	}
	require.Equal(t, kept, <-served)
	require.Equal(t, kept, backend(ctx, t, db), "it goes on once that one has ended")
}

// TestTransactionsAtOnce: what a batch does at the same time has connections of its own,
// of which one is kept.
func TestTransactionsAtOnce(t *testing.T) {
	t.Parallel()
	db := openTest(t, testkit.Postgres(t).DSN, 3)
	ctx, end := WithSession(t.Context())
	defer end()
	require.NoError(t, db.inTx(ctx, readOnly, "", func(outer *tx) error {
		require.NotEqual(t, outer.conn.PgConn().PID(), backend(ctx, t, db))
		return nil
	}))
	require.EqualValues(t, 1, db.Pool.Stat().AcquiredConns())
}

// TestTakeApart gives a vacuum a session that the pool has had, unless it would have other
// settings in a new one. The server is its own, as ALTER ROLE ALL means every database.
func TestTakeApart(t *testing.T) {
	t.Parallel()
	server := testkit.Database(t, testkit.Cluster(t, localserver.PostgresOptions{}))
	db := openTest(t, server.DSN, 1)
	var warned []string
	take := func() (pid uint32, name string) {
		conn, err := db.takeApart(t.Context(), func(n *pgconn.Notice) { warned = append(warned, n.Message) })
		require.NoError(t, err)
		defer closeApart(t.Context(), conn)
		require.NotEqual(t, conn.PgConn().PID(), backend(t.Context(), t, db), "it is none of the pool's")
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()`).Scan(&name))
		_, err = conn.Exec(t.Context(), `DO $$BEGIN RAISE WARNING 'heard'; END$$`)
		require.NoError(t, err)
		return conn.PgConn().PID(), name
	}
	_, name := take() // none is idle
	require.Equal(t, "archiver vacuum replica-1", name)
	idle := backend(t.Context(), t, db)
	pid, name := take()
	require.Equal(t, idle, pid)
	require.Equal(t, "archiver vacuum replica-1", name)
	require.Equal(t, []string{"heard", "heard"}, warned)
	for _, setting := range []string{"ALTER DATABASE " + server.Name, "ALTER ROLE CURRENT_USER IN DATABASE " + server.Name, "ALTER ROLE CURRENT_USER", "ALTER ROLE ALL"} {
		idle = backend(t.Context(), t, db)
		server.Exec(t, setting+` SET vacuum_cost_delay = 5`)
		pid, _ = take()
		require.NotEqual(t, idle, pid, "%s: it is set by now", setting)
		db.Pool.Reset()
		idle = backend(t.Context(), t, db)
		server.Exec(t, setting+` RESET vacuum_cost_delay`)
		pid, _ = take()
		require.NotEqual(t, idle, pid, "%s: it was set then", setting)
		db.Pool.Reset()
	}
}

// TestCancelled ends a statement with its context, and hears the server say so.
func TestCancelled(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t)
	db := openTest(t, server.DSN, 1)
	conn, err := db.connectApart(t.Context(), nil)
	require.NoError(t, err)
	defer closeApart(t.Context(), conn)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		testkit.Eventually(t, 30*time.Second, func() bool {
			return server.Int(t, `SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()`) == 1
		}, "it is at work")
		cancel()
	}()
	err = cancelled(ctx, conn, func(ctx context.Context) error {
		_, err := conn.Exec(ctx, `SELECT pg_sleep(60)`)
		return err
	})
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg)
	require.Equal(t, "57014", pg.Code)
	require.False(t, conn.IsClosed())
}
