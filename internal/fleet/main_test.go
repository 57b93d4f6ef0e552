package fleet_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/keyrange"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/jobs"
	"github.com/audit-table-archiver/archiver/migrations"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// queue is a ledger and a River queue that the test itself works like a replica would.
type queue struct {
	*ledger.Ledger
	t      *testing.T
	db     *testkit.DB
	client *river.Client[pgx.Tx]
}

func newQueue(t *testing.T) *queue {
	t.Helper()
	q := &queue{t: t, db: testkit.Postgres(t)}
	_, _, err := migrations.Up(t.Context(), q.db.Pool, "archiver", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	q.Ledger = ledger.New(q.db.Pool, "archiver")
	q.client, err = river.NewClient(riverpgxv5.New(q.db.Pool), &river.Config{Schema: "archiver"})
	require.NoError(t, err)
	return q
}

// replica joins with limits: databases at a time, and seats by database.
func (q *queue) replica(id string, databases int, seats map[string]int) {
	q.t.Helper()
	_, err := fleet.Join(q.t.Context(), q.Ledger, fleet.Worker{ID: id, Host: "host", PID: 1, Version: "test", Limits: fleet.Limits{Seats: seats, Databases: databases}}, time.Minute)
	require.NoError(q.t, err)
}

// plan enqueues n batches of a table.
func (q *queue) plan(database, table string, n int) {
	q.t.Helper()
	err := q.InTx(q.t.Context(), func(tx pgx.Tx) error { return q.planTx(q.t.Context(), tx, database, table, n) })
	require.NoError(q.t, err)
}

func (q *queue) planTx(ctx context.Context, tx pgx.Tx, database, table string, n int) error {
	tableID, err := q.EnsureTable(ctx, tx, database, "public", table)
	if err != nil {
		return err
	}
	run, err := q.CreateRun(ctx, tx, tableID, time.Unix(1_700_000_000, 0), "2023-11-14 22:13:20+00", []string{"created_at", "id"})
	if err != nil {
		return err
	}
	ids, err := q.BatchIDs(ctx, tx, n)
	if err != nil {
		return err
	}
	var batches []ledger.NewBatch
	for i, id := range ids {
		job, err := q.client.InsertTx(ctx, tx, jobs.BatchArgs{BatchID: id, RunID: run, Database: database, Table: "public." + table, Range: fmt.Sprint(i)}, nil)
		if err != nil {
			return err
		}
		batches = append(batches, ledger.NewBatch{ID: id, JobID: job.Job.ID, Range: keyrange.Range{To: []string{"2023-01-02 00:00:00+00", fmt.Sprint(i)}}, Rows: 1})
	}
	return q.InsertBatches(ctx, tx, run, tableID, batches)
}

func (q *queue) admit() fleet.Admission {
	q.t.Helper()
	a, err := fleet.Admit(q.t.Context(), q.Ledger)
	require.NoError(q.t, err)
	return a
}

// available lists what workers may take now, as database.table of each job, oldest first.
func (q *queue) available() []string {
	q.t.Helper()
	return q.list(`SELECT args->>'database' || '.' || substr(args->>'table', 8) FROM archiver.river_job WHERE state = 'available' ORDER BY id`)
}

func (q *queue) list(sql string) []string {
	q.t.Helper()
	rows, err := q.db.Pool.Query(q.t.Context(), sql)
	require.NoError(q.t, err)
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(q.t, err)
	return out
}

// take has a replica fetch all that is available, as River's own statement does.
func (q *queue) take(replica string) {
	q.t.Helper()
	q.db.Exec(q.t, `UPDATE archiver.river_job SET state = 'running', attempt = attempt + 1, attempted_at = now() - interval '5 seconds', attempted_by = array_append(attempted_by, $1)
		WHERE state = 'available'`, replica)
}

// finish ends n running batches of a database, oldest first.
func (q *queue) finish(database string, n int) {
	q.t.Helper()
	q.db.Exec(q.t, `
		WITH ended AS (
			UPDATE archiver.river_job SET state = 'completed', finalized_at = now()
			WHERE id IN (SELECT id FROM archiver.river_job WHERE state = 'running' AND queue = 'db_' || $1 ORDER BY id LIMIT $2) RETURNING id)
		UPDATE archiver.batch SET state = 'archived' WHERE job_id IN (SELECT id FROM ended)`, database, n)
}

func (q *queue) count(state string) int64 {
	q.t.Helper()
	return q.db.Int(q.t, `SELECT count(*) FROM archiver.river_job WHERE state::text = $1`, state)
}
