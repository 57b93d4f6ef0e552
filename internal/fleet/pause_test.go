package fleet_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/fleet"
)

func (q *queue) pause(s fleet.Scope) bool {
	q.t.Helper()
	changed, err := fleet.Pause(q.t.Context(), q.Ledger, s)
	require.NoError(q.t, err)
	return changed
}

// resume returns the names of what it lifted.
func (q *queue) resume(s fleet.Scope) ([]string, error) {
	q.t.Helper()
	lifted, err := fleet.Resume(q.t.Context(), q.Ledger, q.client, s)
	var names []string
	for _, p := range lifted {
		names = append(names, p.String())
	}
	return names, err
}

func (q *queue) pauses() []string {
	q.t.Helper()
	var out []string
	require.NoError(q.t, q.InTx(q.t.Context(), func(tx pgx.Tx) error {
		pauses, err := fleet.Pauses(q.t.Context(), q.Ledger, tx)
		for _, p := range pauses {
			out = append(out, p.String())
		}
		return err
	}))
	return out
}

// producer has River know a queue, as a replica that works it does.
func (q *queue) producer(database string) {
	q.t.Helper()
	q.db.Exec(q.t, `INSERT INTO archiver.river_queue (name, created_at, updated_at) VALUES ('db_' || $1, clock_timestamp(), clock_timestamp())`, database)
}

// pausedQueues lists the databases whose queue River UI shows as paused.
func (q *queue) pausedQueues() []string {
	q.t.Helper()
	return q.list(`SELECT substr(name, 4) FROM archiver.river_queue WHERE paused_at IS NOT NULL ORDER BY 1`)
}

func TestPauseScopes(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	for _, d := range []string{"a", "b"} {
		q.plan(d, "t", 9)
		q.plan(d, "u", 9)
		q.producer(d)
	}
	q.replica("one", 2, map[string]int{"a": 2, "b": 2})
	q.admit()
	require.Equal(t, []string{"a.t", "a.u", "b.t", "b.u"}, q.sorted())

	tableT, a, all := fleet.Scope{Database: "a", Schema: "public", Table: "t"}, fleet.Scope{Database: "a"}, fleet.Scope{}
	require.True(t, q.pause(tableT))
	require.False(t, q.pause(tableT), "twice changes nothing")
	q.admit()
	require.Equal(t, []string{"a.u", "a.u", "b.t", "b.u"}, q.sorted(), "what nobody had taken yet goes back")
	require.Empty(t, q.pausedQueues())

	q.pause(a)
	q.admit()
	require.Equal(t, []string{"b.t", "b.u"}, q.sorted())
	require.Equal(t, []string{"a"}, q.pausedQueues())

	q.take("one")
	q.pause(all)
	q.finish("b", 1)
	q.admit()
	require.Empty(t, q.available())
	require.EqualValues(t, 1, q.count("running"), "what runs may finish")
	require.Equal(t, []string{"a", "b"}, q.pausedQueues())
	require.Equal(t, []string{"everything", "database a", "a.public.t"}, q.pauses())

	var held *fleet.HeldError
	_, err := q.resume(a)
	require.ErrorAs(t, err, &held)
	require.Equal(t, "database a cannot be resumed by itself: everything is paused", err.Error())
	require.Equal(t, "run: archiver resume", held.Hint())
	lifted, err := q.resume(all)
	require.NoError(t, err)
	require.Equal(t, []string{"everything"}, lifted, "the narrower ones were set for a reason of their own")
	require.Equal(t, []string{"database a", "a.public.t"}, q.pauses())
	require.Equal(t, []string{"a"}, q.pausedQueues())
	lifted, err = q.resume(all)
	require.NoError(t, err)
	require.Equal(t, []string{"database a", "a.public.t"}, lifted, "there is no pause of everything")
	require.Empty(t, q.pauses())
	require.Empty(t, q.pausedQueues())
	lifted, err = q.resume(all)
	require.NoError(t, err)
	require.Empty(t, lifted)

	q.pause(a)
	_, err = q.resume(tableT)
	require.ErrorAs(t, err, &held)
	require.Equal(t, "run: archiver resume --database a", held.Hint())
	lifted, err = q.resume(a)
	require.NoError(t, err)
	require.Equal(t, []string{"database a"}, lifted)
}

// TestPausedDatabaseFreesItsPlace has two databases, of which one at a time may run.
func TestPausedDatabaseFreesItsPlace(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "t", 5)
	q.plan("b", "t", 5)
	q.replica("one", 1, map[string]int{"a": 2, "b": 2})
	q.admit()
	require.Equal(t, []string{"a.t", "a.t"}, q.available())
	q.pause(fleet.Scope{Database: "a"})
	q.admit()
	require.Equal(t, []string{"b.t", "b.t"}, q.available())
}

// TestPauseInRiverUI sets and lifts pauses at River's queues.
func TestPauseInRiverUI(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	for _, d := range []string{"a", "b", "c"} {
		q.plan(d, "t", 3)
		q.producer(d)
	}
	q.replica("one", 3, map[string]int{"a": 1, "b": 1, "c": 1})
	require.NoError(t, q.client.QueuePause(t.Context(), "db_a", &river.QueuePauseOpts{}))
	q.admit()
	require.Equal(t, []string{"b.t", "c.t"}, q.sorted())
	require.Equal(t, []string{"database a"}, q.pauses())

	// Nobody works the queue for a day, River forgets it; the pause holds.
	q.db.Exec(t, `DELETE FROM archiver.river_queue WHERE name = 'db_a'`)
	q.admit()
	q.producer("a")
	q.admit()
	require.Equal(t, []string{"a"}, q.pausedQueues())
	require.Equal(t, []string{"b.t", "c.t"}, q.sorted())

	require.NoError(t, q.client.QueueResume(t.Context(), "db_a", &river.QueuePauseOpts{}))
	q.admit()
	require.Empty(t, q.pauses())
	q.admit()
	require.Equal(t, []string{"a.t", "b.t", "c.t"}, q.sorted())

	// Everything is paused, and one database is resumed there: the others stay paused.
	q.pause(fleet.Scope{})
	q.admit()
	require.Empty(t, q.available())
	require.NoError(t, q.client.QueueResume(t.Context(), "db_b", &river.QueuePauseOpts{}))
	q.admit()
	require.Equal(t, []string{"everything"}, q.pauses())
	require.Equal(t, []string{"b.t"}, q.available())
	require.Equal(t, []string{"a", "c"}, q.pausedQueues())
	q.plan("later", "t", 1) // a database that nobody knew then
	q.replica("two", 4, map[string]int{"later": 1})
	q.admit()
	require.Equal(t, []string{"b.t"}, q.available())
	require.True(t, q.pause(fleet.Scope{Database: "b"}), "the exception ends")
	q.admit()
	require.Empty(t, q.available())
	_, err := q.resume(fleet.Scope{})
	require.NoError(t, err)
	require.Equal(t, []string{"database b"}, q.pauses())
	q.admit()
	require.Equal(t, []string{"a.t", "c.t", "later.t"}, q.sorted())
	q.pause(fleet.Scope{Database: "c"})
	q.pause(fleet.Scope{Database: "a"})
	_, err = q.resume(fleet.Scope{Database: "b"})
	require.NoError(t, err)

	// Paused before any replica ever worked the queue.
	q.pause(fleet.Scope{Database: "new"})
	q.producer("new")
	q.admit()
	require.Equal(t, []string{"a", "c", "new"}, q.pausedQueues())
	q.admit()
	require.Equal(t, []string{"database a", "database c", "database new"}, q.pauses())
}

// TestPauseOutlastsANewQueue has a replica register its queue just while everything is
// paused: its row is older than the pause, and is seen only after it.
func TestPauseOutlastsANewQueue(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "t", 3)
	q.replica("one", 1, map[string]int{"a": 1})
	tx, err := q.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `INSERT INTO archiver.river_queue (name, created_at, updated_at) VALUES ('db_a', now(), now())`)
	require.NoError(t, err)
	q.pause(fleet.Scope{})
	q.admit()
	require.NoError(t, tx.Commit(t.Context()))
	for range 3 {
		q.admit()
		require.Empty(t, q.available())
		require.Equal(t, []string{"everything"}, q.pauses())
	}
	require.Equal(t, []string{"a"}, q.pausedQueues())
}
