package fleet_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// TestGuard asks about jobs that were made to run past admission.
func TestGuard(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "t", 3) // batches 1 to 3
	q.plan("b", "t", 1) // batch 4
	at := time.Now().Truncate(time.Millisecond)
	run := func(id int) {
		q.db.Exec(t, `UPDATE archiver.river_job SET state = 'running', attempted_at = $2 WHERE id = $1`, id, at)
	}
	guard := func(database string, batch int64) string { // job and batch ids are the same here
		why, err := fleet.Guard(t.Context(), q.Ledger, fleet.Claim{JobID: batch, BatchID: batch, Database: database, At: &at})
		require.NoError(t, err)
		return why
	}
	run(1)
	require.Equal(t, "limit reached: 1 of 0 seats", guard("a", 1), "no live replica says that it may")
	q.replica("generous", 2, map[string]int{"a": 9, "b": 9})
	q.replica("strict", 2, map[string]int{"a": 2})
	require.Empty(t, guard("a", 1))
	run(2)
	require.Empty(t, guard("a", 2))
	run(3)
	require.Equal(t, "limit reached: 3 of 2 seats", guard("a", 3))
	run(4)
	require.Empty(t, guard("b", 4))
	q.db.Exec(t, `UPDATE archiver.worker SET limits = jsonb_set(limits, '{databases}', '1') WHERE id = 'strict'`)
	require.Equal(t, "limit reached: 1 database at a time", guard("b", 4))
	q.pause(fleet.Scope{Database: "b", Schema: "public", Table: "t"})
	require.Equal(t, "paused", guard("b", 4))
	q.pause(fleet.Scope{})
	require.Equal(t, "paused", guard("a", 1))
	earlier := at.Add(-time.Second)
	_, err := fleet.Guard(t.Context(), q.Ledger, fleet.Claim{JobID: 1, BatchID: 1, Database: "a", At: &earlier})
	require.ErrorIs(t, err, ledger.ErrStale, "the job was taken away and given again")
}
