package fleet_test

import (
	"testing"

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

	require.Equal(t, fleet.Reconciled{Reinserted: []int64{1, 3, 7}, Cancelled: []int64{2}, Failed: []int64{4}, Revived: []int64{6}}, reconcile())
	require.Equal(t, []string{"1 planned", "2 cancelled", "3 deleting", "4 planned failed", "5 planned failed", "6 planned", "7 planned", "8 planned"},
		q.list(`SELECT concat_ws(' ', id, state, CASE WHEN failed THEN 'failed' END) FROM archiver.batch ORDER BY id`))
	require.Equal(t, "gave up", q.db.Text(t, `SELECT last_error FROM archiver.batch WHERE id = 4`))
	q.admit()
	require.Equal(t, []string{"1", "3", "6", "7", "8"}, q.list(`SELECT args->>'batch_id' FROM archiver.river_job j WHERE state = 'available' ORDER BY 1`))
	require.False(t, reconcile().Any(), "there is nothing left to mend")
	require.False(t, reconcile().Any())
}
