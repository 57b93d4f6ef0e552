package source

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// openAs opens a database as a role of its DSN.
func openAs(t *testing.T, dsn, session string) *DB {
	t.Helper()
	d, err := Open(t.Context(), config.Database{Name: "main", Primary: config.Secret(dsn), PoolSize: 4}, session)
	require.NoError(t, err)
	t.Cleanup(d.Close)
	return d
}

// TestStandbyLag has a standby that stops to replay, and one that is gone.
func TestStandbyLag(t *testing.T) {
	t.Parallel()
	primary := testkit.Cluster(t, localserver.PostgresOptions{})
	db := testkit.Database(t, primary)
	role, dsn := db.Role(t)
	d := openAs(t, dsn, "archiver test")
	lag, err := d.StandbyLag(t.Context())
	require.NoError(t, err)
	require.Equal(t, Lag{Bytes: -1}, lag, "there is none")

	standby := testkit.Open(t, testkit.Replica(t, primary), db.Name)
	var hidden *HiddenError
	testkit.Eventually(t, 30*time.Second, func() bool { _, err = d.StandbyLag(t.Context()); return err != nil }, "the standby is connected")
	require.ErrorAs(t, err, &hidden)
	require.Equal(t, `GRANT pg_monitor TO "`+role+`"`, hidden.Hint())
	db.Exec(t, strings.ReplaceAll(hidden.Hint(), `"`, ""))

	standby.Exec(t, `SELECT pg_wal_replay_pause()`)
	testkit.Eventually(t, 30*time.Second, func() bool {
		return standby.Text(t, `SELECT pg_get_wal_replay_pause_state()`) == "paused"
	}, "replay is paused")
	db.Exec(t, `CREATE TABLE big AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 6000) i`) // 4 MB of WAL
	lag, err = d.StandbyLag(t.Context())
	require.NoError(t, err)
	require.Equal(t, "replica", lag.Name)
	require.Greater(t, lag.Bytes, int64(3<<20))
	standby.Exec(t, `SELECT pg_wal_replay_resume()`)
	testkit.Eventually(t, 20*time.Second, func() bool {
		lag, err = d.StandbyLag(t.Context())
		return err == nil && lag.Bytes >= 0 && lag.Bytes < 1<<20
	}, "the standby has caught up")
}

func TestSlotLag(t *testing.T) {
	t.Parallel()
	db := testkit.Database(t, testkit.Cluster(t, localserver.PostgresOptions{}))
	_, dsn := db.Role(t)
	d := openAs(t, dsn, "archiver test")
	lag, err := d.SlotLag(t.Context())
	require.NoError(t, err)
	require.Equal(t, Lag{Bytes: -1}, lag)
	db.Exec(t, `SELECT pg_create_physical_replication_slot('idle')`) // holds back nothing yet
	lag, err = d.SlotLag(t.Context())
	require.NoError(t, err)
	require.Equal(t, Lag{Bytes: -1}, lag)
	db.Exec(t, `SELECT pg_create_physical_replication_slot('forgotten', true)`)
	db.Exec(t, `CREATE TABLE big AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 6000) i`)
	db.Exec(t, `SELECT pg_create_physical_replication_slot('fresh', true)`)
	lag, err = d.SlotLag(t.Context())
	require.NoError(t, err)
	require.Equal(t, "forgotten", lag.Name)
	require.Greater(t, lag.Bytes, int64(3<<20))
}

func TestActiveSessions(t *testing.T) {
	t.Parallel()
	db := testkit.Database(t, testkit.Cluster(t, localserver.PostgresOptions{}))
	role, dsn := db.Role(t)
	d := openAs(t, dsn, "archiver worker x")
	ours := openAs(t, db.DSN, "archiver worker y")
	sleep := func(on *DB) {
		go func() { _, _ = on.Pool.Exec(t.Context(), `SELECT pg_sleep(60)`) }() // ended with the test
	}
	others := openAs(t, db.DSN, "shop")
	for range 3 {
		sleep(others)
	}
	sleep(ours) // not counted
	testkit.Eventually(t, 30*time.Second, func() bool {
		return db.Int(t, `SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'`) == 4
	}, "all are at work")
	_, err := d.ActiveSessions(t.Context())
	var hidden *HiddenError
	require.ErrorAs(t, err, &hidden)
	db.Exec(t, `GRANT pg_monitor TO `+role)
	n, err := d.ActiveSessions(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, n, "the idle ones, and our own, do not count")
	db.Exec(t, `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'`)
	testkit.Eventually(t, 30*time.Second, func() bool { n, err = d.ActiveSessions(t.Context()); return err == nil && n == 0 }, "all are done")
}

func TestAsk(t *testing.T) {
	t.Parallel()
	db := testkit.Postgres(t)
	db.Exec(t, `CREATE SCHEMA ops; CREATE TABLE ops.flag (n int); INSERT INTO ops.flag VALUES (2); CREATE TABLE public.seen (n int)`)
	role, dsn := db.Role(t)
	db.Exec(t, `GRANT USAGE ON SCHEMA ops TO `+role+`; GRANT ALL ON ops.flag, public.seen TO `+role+
		`; ALTER ROLE `+role+` SET search_path = ops, public; ALTER ROLE `+role+` SET TimeZone = 'Asia/Tokyo'`)
	d := openAs(t, dsn, "archiver test")
	for query, want := range map[string]struct {
		positive bool
		answer   string
		err      string
	}{
		`SELECT true`:                              {positive: true, answer: "t"},
		`SELECT false`:                             {answer: "f"},
		`SELECT n FROM flag; `:                     {positive: true, answer: "2"}, // by the role's own search_path
		`SELECT 0`:                                 {answer: "0"},
		`SELECT -1.5`:                              {answer: "-1.5"},
		`SELECT 0.001`:                             {positive: true, answer: "0.001"},
		`SELECT 'Infinity'::float8`:                {positive: true, answer: "Infinity"},
		`SELECT 10::numeric ^ 400`:                 {positive: true, answer: "1" + strings.Repeat("0", 400) + ".0000000000000000"},
		`SELECT NULL::int`:                         {},
		`SELECT 1 WHERE false`:                     {},
		`SELECT 1, 2 UNION SELECT 0, 0 ORDER BY 1`: {answer: "0"},
		`SELECT current_setting('TimeZone') = 'Asia/Tokyo'`: {positive: true, answer: "t"},
		`SELECT 'yes'`:                            {err: `its first value is "yes", neither a number nor a boolean`},
		`SELECT 'NaN'::float8`:                    {err: "neither a number"},
		`SELECT n FROM nowhere`:                   {err: "nowhere"},
		`SELECT 1; SELECT 0`:                      {err: "multiple commands"},
		`INSERT INTO seen VALUES (1) RETURNING 0`: {err: "read-only"},
		`SELECT pg_sleep(30)::text::int`:          {err: "statement timeout"},
	} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			positive, answer, err := d.Ask(t.Context(), query)
			if want.err != "" {
				require.ErrorContains(t, err, want.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, want.positive, positive)
			require.Equal(t, want.answer, answer)
		})
	}
}
