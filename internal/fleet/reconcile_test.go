package fleet_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/fleet"
)

// TestReconcile does to jobs what River UI can do to them.
func TestReconcile(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	ctx := t.Context()
	q.plan("a", "t", 8)
	q.replica("one", 1, map[string]int{"a": 9})
	r := &fleet.Reconciler{Ledger: q.Ledger, Client: q.client}
	reconcile := func() fleet.Reconciled {
		done, err := r.Reconcile(ctx)
		require.NoError(t, err)
		return done
	}
	require.False(t, reconcile().Any())

	_, err := q.client.JobDelete(ctx, 1)
	require.NoError(t, err)
	_, err = q.client.JobCancel(ctx, 2)
	require.NoError(t, err)
	q.db.Exec(t, `UPDATE archiver.batch SET state = 'deleting' WHERE id = 3`)
	_, err = q.client.JobCancel(ctx, 3)
	require.NoError(t, err)
	q.db.Exec(t, `UPDATE archiver.river_job SET state = 'discarded', finalized_at = now(), errors = ARRAY['{"error": "gave up"}'::jsonb] WHERE id = 4`)
	// Given up by its worker, as it ought to be, and put back by hand.
	q.db.Exec(t, `UPDATE archiver.river_job SET state = 'discarded', finalized_at = now() WHERE id IN (5, 6)`)
	q.db.Exec(t, `UPDATE archiver.batch SET failed = true WHERE id IN (5, 6)`)
	_, err = q.client.JobRetry(ctx, 6)
	require.NoError(t, err)
	q.db.Exec(t, `UPDATE archiver.river_job SET state = 'completed', finalized_at = now() WHERE id = 7`)

	require.Equal(t, fleet.Reconciled{Reinserted: []int64{1, 3, 7}, Cancelled: []int64{2}, Failed: []int64{4}, Revived: []int64{6}, Closed: []int64{}}, reconcile())
	require.Equal(t, []string{"1 planned", "2 cancelled", "3 deleting", "4 planned failed", "5 planned failed", "6 planned", "7 planned", "8 planned"},
		q.list(`SELECT concat_ws(' ', id, state, CASE WHEN failed THEN 'failed' END) FROM archiver.batch ORDER BY id`))
	require.Equal(t, "gave up", q.db.Text(t, `SELECT last_error FROM archiver.batch WHERE id = 4`))
	q.admit()
	require.Equal(t, []string{"1", "3", "6", "7", "8"}, q.list(`SELECT args->>'batch_id' FROM archiver.river_job j WHERE state = 'available' ORDER BY 1`))
	require.False(t, reconcile().Any(), "there is nothing left to mend")
	require.False(t, reconcile().Any())
}

// TestReconcileSeveral has two replicas look by turns at a backlog of several slices: one
// goes on where the other ended.
func TestReconcileSeveral(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "t", 1)
	q.db.Exec(t, `INSERT INTO archiver.batch (run_id, table_id, job_id, to_key, partition, rows_planned)
		SELECT run_id, table_id, job_id, to_key, partition, 1 FROM archiver.batch, generate_series(1, 20500)`)
	q.plan("a", "t", 1)
	last := q.db.Int(t, `SELECT max(id) FROM archiver.river_job`)
	_, err := q.client.JobDelete(t.Context(), last)
	require.NoError(t, err)
	var found []int64
	for i := range 6 {
		r := &fleet.Reconciler{Ledger: q.Ledger, Client: q.client}
		if i%2 == 1 { // another replica has it just now
			r.Every = time.Hour
		}
		done, err := r.Reconcile(t.Context())
		require.NoError(t, err)
		found = append(found, done.Reinserted...)
	}
	require.Len(t, found, 1)
}

// TestReconcileJobs has jobs that nobody would take up.
func TestReconcileJobs(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	ctx := t.Context()
	q.plan("a", "t", 3)
	r := &fleet.Reconciler{Ledger: q.Ledger, Client: q.client}
	// The batch ended while its job was on its way back to the queue.
	q.db.Exec(t, `UPDATE archiver.batch SET state = 'archived' WHERE id = 1`)
	// Each of two got a new job, and the old one was put back by hand; of one the new job
	// is dead.
	for _, id := range []int64{2, 3} {
		_, err := q.client.JobCancel(ctx, id)
		require.NoError(t, err)
		q.db.Exec(t, `UPDATE archiver.batch SET failed = true WHERE id = $1`, id)
	}
	q.db.Exec(t, `INSERT INTO archiver.river_job (id, kind, args, max_attempts, queue) SELECT id + 10, kind, args, 5, queue FROM archiver.river_job WHERE id IN (2, 3)`)
	q.db.Exec(t, `UPDATE archiver.batch SET job_id = id + 10 WHERE id IN (2, 3)`)
	q.db.Exec(t, `UPDATE archiver.river_job SET state = 'cancelled', finalized_at = now() WHERE id = 13`)
	q.db.Exec(t, `UPDATE archiver.river_job SET state = 'pending', finalized_at = NULL WHERE id IN (2, 3)`)
	done, err := r.Reconcile(ctx)
	require.NoError(t, err)
	require.ElementsMatch(t, []int64{1, 2}, done.Closed)
	require.Equal(t, []string{"1 1", "12 2", "3 3"}, q.list(`SELECT concat_ws(' ', job_id, id) FROM archiver.batch ORDER BY id`))
	require.Equal(t, []string{"12", "3"}, q.list(`SELECT id::text FROM archiver.river_job WHERE finalized_at IS NULL ORDER BY id::text`))
}
