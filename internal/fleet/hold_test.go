package fleet_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/fleet"
)

func (q *queue) why(table string) string {
	q.t.Helper()
	s, err := fleet.ReadStanding(q.t.Context(), q.Ledger, q.db.Pool)
	require.NoError(q.t, err)
	return s.Why("a", "public", table)
}

// TestHeldTable: a table that its throttle holds gives its seats to others, also those
// that it had been given.
func TestHeldTable(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "busy", 5)
	q.plan("a", "calm", 5)
	q.replica("one", 1, map[string]int{"a": 2})
	require.Equal(t, 2, q.admit().Admitted)
	require.Equal(t, []string{"a.busy", "a.calm"}, q.sorted())

	id := q.db.Int(t, `SELECT id FROM archiver.archive_table WHERE name = 'busy'`)
	require.NoError(t, q.Hold(t.Context(), id, "throttle: 57 sessions are active (max_active_sessions 40)", time.Minute))
	require.Equal(t, fleet.Admission{Admitted: 1, Parked: 1}, q.admit())
	require.Equal(t, []string{"a.calm", "a.calm"}, q.available())
	require.Contains(t, q.why("busy"), "throttle: 57 sessions are active (max_active_sessions 40) (looked at again at ")
	require.Contains(t, q.why("calm"), "limit reached")

	q.db.Exec(t, `UPDATE archiver.table_throttle SET held_until = now() - interval '1 ms'`)
	q.take("one")
	q.finish("a", 1)
	require.Equal(t, 1, q.admit().Admitted)
	require.Equal(t, []string{"a.busy"}, q.available())
	require.Contains(t, q.why("busy"), "limit reached")
}

// TestHeldReplicas: batches are admitted while one replica takes any.
func TestHeldReplicas(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "t", 5)
	q.replica("one", 1, map[string]int{"a": 2})
	q.replica("two", 1, map[string]int{"a": 2})
	held := func(worker, reason string) {
		require.NoError(t, fleet.SetHeld(t.Context(), q.Ledger, worker, reason))
	}
	held("one", "breaker open: first")
	require.Equal(t, 2, q.admit().Admitted)
	require.NotContains(t, q.why("t"), "breaker")
	held("two", "breaker open: second")
	require.Equal(t, fleet.Admission{Admitted: 0, Parked: 2}, q.admit())
	require.Contains(t, q.why("t"), "breaker open: first")
	held("two", "")
	require.Equal(t, 2, q.admit().Admitted)
	held("two", "breaker open: again")
	q.db.Exec(t, `UPDATE archiver.worker SET lease_until = now() - interval '1 ms' WHERE id = 'one'`)
	require.Equal(t, 2, q.admit().Parked, "the dead do not count")
	require.Contains(t, q.why("t"), "breaker open: again")
}
