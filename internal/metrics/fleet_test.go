package metrics

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/migrations"
)

// unreachable is a ledger in a database that is not there.
func unreachable(t *testing.T) *ledger.Ledger {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none?connect_timeout=1")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return ledger.New(pool, "archiver")
}

func newLedger(t *testing.T) (*testkit.DB, *ledger.Ledger) {
	t.Helper()
	db := testkit.Postgres(t)
	_, _, err := migrations.Up(t.Context(), db.Pool, "archiver", nil)
	require.NoError(t, err)
	db.Exec(t, `INSERT INTO archiver.archive_table (database, schema, name) VALUES ('d', 'public', 't')`)
	return db, ledger.New(db.Pool, "archiver")
}

// addBatch inserts a batch that ends at a timestamp, and returns nothing: ids count up.
func addBatch(t *testing.T, db *testkit.DB, to, state string, failed bool) {
	t.Helper()
	db.Exec(t, `INSERT INTO archiver.batch (run_id, table_id, job_id, to_key, partition, rows_planned, state, failed)
		SELECT max(r.id), max(r.table_id), 0, ARRAY[$1, '1'], '', 10, $2, $3 FROM archiver.run r`, to, state, failed)
}

// TestOldestRow: the instant is right whatever the type of the column and the zone that
// a timestamp without one is in.
func TestOldestRow(t *testing.T) {
	t.Parallel()
	noon := time.Date(2024, 1, 15, 12, 0, 0, 0, time.UTC)
	cutoff := time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		cutoffValue, first, second string
		want                       time.Time
	}{
		"timestamptz":                {"2024-06-01 00:00:00+00", "2024-01-15 12:00:00+00", "2024-01-16 12:00:00+00", noon},
		"timestamp in another zone":  {"2024-06-01 02:00:00", "2024-01-15 14:00:00", "2024-01-16 12:00:00", noon},
		"date":                       {"2024-06-01", "2024-01-15", "2024-01-16", noon.Add(-12 * time.Hour)},
		"infinite ones are left out": {"2024-06-01 00:00:00+00", "-infinity", "2024-01-15 12:00:00+00", noon},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, l := newLedger(t)
			oldest := func() []fleet.OldestRow {
				rows, err := fleet.OldestRows(t.Context(), l, l.Pool)
				require.NoError(t, err)
				return rows
			}
			require.Empty(t, oldest())
			db.Exec(t, `INSERT INTO archiver.run (table_id, cutoff, cutoff_value, key_columns) SELECT id, $1, $2, '{created_at,id}' FROM archiver.archive_table`, cutoff, c.cutoffValue)
			addBatch(t, db, "2020-01-01", "archived", false)
			addBatch(t, db, c.first, "planned", true)
			addBatch(t, db, c.second, "planned", false)
			if c.first == "-infinity" {
				require.Empty(t, oldest())
				db.Exec(t, `UPDATE archiver.batch SET state = 'archived', failed = false WHERE to_key[1] = '-infinity'`)
			}
			got := oldest()
			require.Len(t, got, 1)
			require.InDelta(t, c.want.Unix(), got[0].At, 0.001)
		})
	}
}

// TestLastArchived: asked for a while, only jobs that were finished in it are looked at;
// asked for ever, all batches are.
func TestLastArchived(t *testing.T) {
	t.Parallel()
	db, l := newLedger(t)
	ask := func(within time.Duration) map[ledger.TableName]time.Time {
		m, err := l.LastArchived(t.Context(), l.Pool, within)
		require.NoError(t, err)
		return m
	}
	db.Exec(t, `INSERT INTO archiver.run (table_id, cutoff, cutoff_value, key_columns) SELECT id, now(), '', '{}' FROM archiver.archive_table`)
	addBatch(t, db, "2024-01-01", "planned", false)
	require.Empty(t, ask(0))
	addBatch(t, db, "2024-01-02", "archived", false)
	db.Exec(t, `UPDATE archiver.batch SET archived_at = now() - interval '2 hours' WHERE state = 'archived'`)
	name := ledger.TableName{Database: "d", Schema: "public", Name: "t"}
	require.InDelta(t, time.Now().Add(-2*time.Hour).Unix(), ask(0)[name].Unix(), 60)
	require.Empty(t, ask(time.Hour))
	db.Exec(t, `INSERT INTO archiver.river_job (id, state, finalized_at, kind, args, max_attempts, queue) VALUES (7, 'completed', now() - interval '10 minutes', 'archive_batch', '{}', 1, 'db_d');
		UPDATE archiver.batch SET job_id = 7, archived_at = now() - interval '10 minutes' WHERE state = 'archived'`)
	require.InDelta(t, time.Now().Add(-10*time.Minute).Unix(), ask(time.Hour)[name].Unix(), 60)
	require.Empty(t, ask(5*time.Minute))
}

// TestOpenRows: rows of windows that are not planned yet are backlog like those of batches.
func TestOpenRows(t *testing.T) {
	t.Parallel()
	db, l := newLedger(t)
	db.Exec(t, `INSERT INTO archiver.run (table_id, cutoff, cutoff_value, key_columns, more, rows_left) SELECT id, now(), '2024-06-01', '{created_at,id}', true, 500 FROM archiver.archive_table`)
	m := newMetrics(t, Config{Ledger: l})
	require.Equal(t, map[string]float64{"d public.t": 500}, shown(t, m, "archiver_fleet_open_rows"), "between two windows")
	addBatch(t, db, "2024-01-01", "planned", false)
	m = newMetrics(t, Config{Ledger: l})
	require.Equal(t, map[string]float64{"d public.t": 510}, shown(t, m, "archiver_fleet_open_rows"))
}

// TestPaceAndHold: batch sizes and query times are the ledger's, a query that was not yet
// timed is no 0, and a hold that is over is none.
func TestPaceAndHold(t *testing.T) {
	t.Parallel()
	db, l := newLedger(t)
	look := func(name string) map[string]float64 { return shown(t, newMetrics(t, Config{Ledger: l}), name) }
	require.Equal(t, map[string]float64{"d public.t": 70}, look("archiver_fleet_batch_size_rows"), "as configured")
	require.Empty(t, look("archiver_fleet_batch_query_seconds"))
	require.Equal(t, map[string]float64{"d public.t": 0}, look("archiver_fleet_throttled"))

	db.Exec(t, `UPDATE archiver.archive_table SET batch_size = 4000, batch_size_from = 70, last_query_seconds = 1.25`)
	require.NoError(t, l.Hold(t.Context(), db.Int(t, `SELECT id FROM archiver.archive_table`), "throttle: the query says 3 (query)", time.Minute))
	require.Equal(t, map[string]float64{"d public.t": 4000}, look("archiver_fleet_batch_size_rows"))
	require.Equal(t, map[string]float64{"d public.t": 1.25}, look("archiver_fleet_batch_query_seconds"))
	require.Equal(t, map[string]float64{"d public.t": 1}, look("archiver_fleet_throttled"))

	db.Exec(t, `UPDATE archiver.table_throttle SET held_until = now() - interval '1 second'`)
	require.Equal(t, map[string]float64{"d public.t": 0}, look("archiver_fleet_throttled"))
}

// TestFleetIsReadSeldom: scrapes within 15 seconds are answered from memory.
func TestFleetIsReadSeldom(t *testing.T) {
	t.Parallel()
	db, l := newLedger(t)
	m := newMetrics(t, Config{Ledger: l})
	require.Equal(t, map[string]float64{"": 0}, shown(t, m, "archiver_fleet_workers"))
	require.Equal(t, map[string]float64{"": 1}, shown(t, m, "archiver_fleet_read_success"))
	_, err := fleet.Join(t.Context(), l, fleet.Worker{ID: "w", Limits: fleet.Limits{Seats: map[string]int{"d": 3}, Databases: 1}}, time.Minute)
	require.NoError(t, err)
	before := db.Int(t, `SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()`)
	for range 20 {
		require.Equal(t, map[string]float64{"": 0}, shown(t, m, "archiver_fleet_workers"))
	}
	require.Less(t, db.Int(t, `SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()`), before+10)

	f := newFleet(Config{Ledger: l})
	snap, err := f.look(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, snap.standing.Limits.Live)
	require.Equal(t, 3, snap.standing.Limits.Seats["d"])

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = f.look(gone)
	require.ErrorIs(t, err, context.Canceled)
}
