package fleet_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/fleet"
)

func TestAdmitKeepsToTheSeats(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "t", 10)
	require.EqualValues(t, 10, q.count("pending"))
	require.Zero(t, q.admit().Admitted, "nobody is there to work on it")

	q.replica("one", 3, map[string]int{"a": 2})
	require.Equal(t, 2, q.admit().Admitted)
	require.Zero(t, q.admit().Admitted, "available counts")
	q.take("one")
	require.Zero(t, q.admit().Admitted, "running counts")
	q.finish("a", 1)
	require.Equal(t, 1, q.admit().Admitted)
	require.Equal(t, "3", q.db.Text(t, `SELECT args->>'batch_id' FROM archiver.river_job WHERE state = 'available'`), "the oldest rows first")
}

// TestAdmitStrictestReplica has replicas that differ, and limits that change while
// batches run.
func TestAdmitStrictestReplica(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "t", 10)
	q.replica("generous", 3, map[string]int{"a": 4})
	require.Equal(t, 4, q.admit().Admitted)
	q.replica("strict", 3, map[string]int{"a": 1})
	require.Equal(t, 3, q.admit().Parked)
	require.Len(t, q.available(), 1)
	q.replica("elsewhere", 3, map[string]int{"b": 9}) // says nothing of a
	require.Zero(t, q.admit().Admitted)
	q.db.Exec(t, `DELETE FROM archiver.worker WHERE id = 'strict'`)
	require.Equal(t, 3, q.admit().Admitted)
	q.db.Exec(t, `UPDATE archiver.worker SET lease_until = now() - interval '1 ms'`)
	require.Equal(t, 4, q.admit().Parked, "without a live replica a database holds no place")
}

func TestAdmitDatabasesAtATime(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	seats := map[string]int{"a": 2, "b": 2, "c": 2}
	for d := range seats {
		q.plan(d, "t", 6)
	}
	q.replica("one", 2, seats)
	require.Equal(t, 4, q.admit().Admitted)
	require.Equal(t, []string{"a.t", "a.t", "b.t", "b.t"}, q.sorted())
	q.take("one")

	// While c waits, the turn of a ends: it finishes what it has and gets nothing new.
	q.db.Exec(t, `UPDATE archiver.database_turn SET began = now() - interval '2 minutes' WHERE database = 'a'`)
	q.finish("a", 1)
	require.Zero(t, q.admit().Admitted)
	q.finish("b", 1)
	require.Equal(t, 1, q.admit().Admitted, "b has its turn still")
	require.Equal(t, []string{"b.t"}, q.available())
	q.finish("a", 1)
	require.Equal(t, 2, q.admit().Admitted)
	require.Equal(t, []string{"b.t", "c.t", "c.t"}, q.sorted())
	q.take("one")

	// When nobody waits, no turn ends.
	q.db.Exec(t, `UPDATE archiver.batch SET state = 'cancelled' WHERE table_id = (SELECT id FROM archiver.archive_table WHERE database = 'a') AND state = 'planned'`)
	q.db.Exec(t, `UPDATE archiver.database_turn SET began = now() - interval '2 minutes'`)
	q.finish("c", 1)
	require.Equal(t, 1, q.admit().Admitted)
	require.Equal(t, []string{"c.t"}, q.available())
}

// sorted is available by name.
func (q *queue) sorted() []string {
	return q.list(`SELECT args->>'database' || '.' || substr(args->>'table', 8) FROM archiver.river_job WHERE state = 'available' ORDER BY 1`)
}

func TestAdmitTablesTakeTurns(t *testing.T) {
	t.Parallel()
	for _, seats := range []int{1, 2} {
		t.Run(fmt.Sprint(seats), func(t *testing.T) {
			t.Parallel()
			q := newQueue(t)
			q.plan("a", "big", 50)
			q.plan("a", "small", 4)
			q.plan("a", "tiny", 1)
			q.replica("one", 1, map[string]int{"a": seats})
			var got []string
			for len(got) < 12 {
				q.admit()
				next := q.available()
				require.Len(t, next, seats)
				got = append(got, next...)
				q.take("one")
				q.finish("a", seats)
			}
			count := map[string]int{}
			for _, n := range got[:6] {
				count[n]++
			}
			require.Equal(t, 1, count["a.tiny"], "%v", got)
			require.GreaterOrEqual(t, count["a.small"], 2, "%v", got)
		})
	}
}

// TestOnlyAdmissionAdmits goes all the ways on which River makes jobs available.
func TestOnlyAdmissionAdmits(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "t", 5)
	q.replica("one", 1, map[string]int{"a": 1})
	for i := range 5 {
		_, err := q.client.JobRetry(t.Context(), int64(i+1))
		require.NoError(t, err)
	}
	require.EqualValues(t, 5, q.count("pending"))
	q.db.Exec(t, `UPDATE archiver.river_job SET state = 'retryable', scheduled_at = now() + interval '1 hour' WHERE id = 1`)
	q.db.Exec(t, `UPDATE archiver.river_job SET state = 'scheduled' WHERE id = 2`)
	require.EqualValues(t, 5, q.count("pending"))
	q.admit()
	require.Equal(t, []string{"2"}, q.list(`SELECT id::text FROM archiver.river_job WHERE state = 'available'`), "the first has to wait for its hour")
}

// TestJobOfAFinishedBatch is put back by hand, and by the end of its worker: it must not
// wait in the queue for ever.
func TestJobOfAFinishedBatch(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "t", 2)
	q.replica("one", 1, map[string]int{"a": 2})
	q.admit()
	q.take("gone")
	q.finish("a", 1)
	_, err := q.client.JobRetry(t.Context(), 1)
	require.NoError(t, err)
	q.db.Exec(t, `UPDATE archiver.batch SET state = 'cancelled' WHERE id = 2`)
	lost, err := fleet.Bury(t.Context(), q.Ledger)
	require.NoError(t, err)
	_, err = fleet.Return(t.Context(), q.Ledger, lost)
	require.NoError(t, err)
	require.EqualValues(t, 2, q.count("completed"))
}

// TestRefill fills the seats of databases at work, and leaves places to Admit.
func TestRefill(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "t", 9)
	q.plan("b", "t", 5)
	q.replica("one", 2, map[string]int{"a": 1})
	q.admit()
	q.take("one")
	q.replica("two", 2, map[string]int{"b": 1})
	refill := func(ended ...string) int {
		a, err := fleet.Refill(t.Context(), q.Ledger, ended)
		require.NoError(t, err)
		return a.Admitted
	}
	require.Zero(t, refill("a"), "its seat is taken")
	q.finish("a", 1)
	require.Zero(t, refill(), "b waits for a look at everything")
	require.Equal(t, 1, refill("a"), "its last batch has ended, its turn has not")
	require.Equal(t, []string{"a.t"}, q.available())
	q.take("one")
	q.finish("a", 1)
	began := q.db.Text(t, `SELECT began::text FROM archiver.database_turn WHERE database = 'a'`)
	require.Equal(t, 1, refill("a"))
	require.Equal(t, began, q.db.Text(t, `SELECT began::text FROM archiver.database_turn WHERE database = 'a'`), "it is the same turn")
	q.take("one")
	q.finish("a", 1)
	q.db.Exec(t, `UPDATE archiver.database_turn SET began = now() - interval '2 minutes'`)
	require.Zero(t, refill("a"), "its turn is over")
	require.Equal(t, 2, q.admit().Admitted)
	// While it had none at work its place was given away.
	q.db.Exec(t, `UPDATE archiver.worker SET limits = jsonb_set(limits, '{databases}', '1')`)
	q.take("one")
	q.finish("a", 1)
	require.Zero(t, refill("a"))
	q.db.Exec(t, `UPDATE archiver.worker SET limits = jsonb_set(limits, '{databases}', '2')`)
	require.Equal(t, 1, q.admit().Admitted)
	q.db.Exec(t, `UPDATE archiver.worker SET limits = jsonb_set(limits, '{seats,a}', '2') WHERE id = 'one'`)
	q.take("one")
	require.Equal(t, 1, refill())
	require.Equal(t, []string{"a.t"}, q.available())

	due := 0
	for range 5 {
		ok, err := fleet.LookDue(t.Context(), q.Ledger)
		require.NoError(t, err)
		if ok {
			due++
		}
	}
	require.LessOrEqual(t, due, 2, "one look for all")
	require.Positive(t, due)
}

// TestRefillWhileAnotherLooks: it gives up soon, without an error and without wearing out
// a connection, and the look at everything makes up for it.
func TestRefillWhileAnotherLooks(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "t", 3)
	q.replica("one", 1, map[string]int{"a": 1})
	q.admit()
	q.take("one")
	q.finish("a", 1)
	other, err := q.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = other.Exec(t.Context(), `SELECT pg_advisory_xact_lock(hashtextextended('archiver admission archiver', 0))`)
	require.NoError(t, err)
	before := q.Ledger.Pool.Stat().NewConnsCount()
	for range 4 {
		a, err := fleet.Refill(t.Context(), q.Ledger, []string{"a"})
		require.NoError(t, err)
		require.Zero(t, a)
	}
	require.LessOrEqual(t, q.Ledger.Pool.Stat().NewConnsCount(), before+1)
	require.NoError(t, other.Rollback(t.Context()))
	require.Empty(t, q.available())
	require.Equal(t, 1, q.admit().Admitted)
}

// TestLockedRowsArePassedOver has sessions that somebody has forgotten hold rows of the
// queue: what they hold waits, and nothing else does.
func TestLockedRowsArePassedOver(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "t", 5)
	q.plan("b", "t", 5)
	q.producer("a")
	q.replica("one", 2, map[string]int{"a": 1, "b": 1})
	q.admit()
	q.take("gone") // batches 1 and 6, by a replica that is dead
	q.finish("b", 1)
	lock, err := q.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, lock.Rollback(t.Context())) }()
	_, err = lock.Exec(t.Context(), `SELECT FROM archiver.river_job WHERE id IN (1, 7) FOR UPDATE`)
	require.NoError(t, err)
	_, err = lock.Exec(t.Context(), `SELECT FROM archiver.river_queue FOR UPDATE`)
	require.NoError(t, err)

	q.admit()
	require.Equal(t, []string{"8"}, q.list(`SELECT id::text FROM archiver.river_job WHERE state = 'available'`), "the next one that is free")
	lost, err := fleet.Bury(t.Context(), q.Ledger)
	require.NoError(t, err)
	require.Len(t, lost, 1)
	n, err := fleet.Return(t.Context(), q.Ledger, lost)
	require.NoError(t, err)
	require.Zero(t, n, "it is returned by a later look")
	q.pause(fleet.Scope{Database: "b"})
	q.admit()
	require.Empty(t, q.available())
}

// TestUntakenJobsOfATurnThatIsOver go back, so that their place is free.
func TestUntakenJobsOfATurnThatIsOver(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "t", 5)
	q.plan("b", "t", 5)
	q.replica("one", 1, map[string]int{"a": 2, "b": 2})
	q.admit()
	require.Equal(t, []string{"a.t", "a.t"}, q.available())
	q.db.Exec(t, `UPDATE archiver.database_turn SET began = now() - interval '2 minutes'`)
	q.admit()
	q.admit()
	require.Equal(t, []string{"b.t", "b.t"}, q.available())
}

// TestQueueGoesByTheServersClock inserts jobs from a machine whose clock is an hour off.
func TestQueueGoesByTheServersClock(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.plan("a", "t", 1)
	q.db.Exec(t, `INSERT INTO archiver.river_job (kind, args, max_attempts, queue, scheduled_at) VALUES ('archive_batch', '{"batch_id": 99}', 1, 'db_a', now() + interval '1 hour')`)
	require.Zero(t, q.db.Int(t, `SELECT count(*) FROM archiver.river_job WHERE scheduled_at > now()`))
	q.db.Exec(t, `UPDATE archiver.river_job SET state = 'retryable', scheduled_at = now() + interval '1 hour'`)
	require.Zero(t, q.db.Int(t, `SELECT count(*) FROM archiver.river_job WHERE scheduled_at > now() + interval '10 minutes'`))
}

// TestAdmitAtRandom works a fleet in random order and looks at the limits at each step.
func TestAdmitAtRandom(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	q := newQueue(t)
	names := []string{"a", "b", "c", "d"}
	const seats, databases = 3, 2
	limits := map[string]int{}
	for _, d := range names {
		limits[d] = seats
		for i := range 3 {
			q.plan(d, fmt.Sprint("t", i), r.IntN(20))
		}
	}
	q.replica("one", databases, limits)
	scope := func() fleet.Scope {
		s := fleet.Scope{Database: names[r.IntN(len(names))]}
		if r.IntN(2) == 0 {
			s.Schema, s.Table = "public", fmt.Sprint("t", r.IntN(3))
		}
		return s
	}
	idle := 0
	for steps := 0; idle < 3; steps++ {
		require.Less(t, steps, 3000, "it comes to an end")
		if steps < 300 {
			switch r.IntN(8) {
			case 0:
				_, err := fleet.Pause(t.Context(), q.Ledger, scope())
				require.NoError(t, err)
			case 1, 2:
				_, err := fleet.Resume(t.Context(), q.Ledger, q.client, fleet.Scope{})
				require.NoError(t, err)
			case 3:
				q.db.Exec(t, `UPDATE archiver.database_turn SET began = now() - interval '2 minutes' WHERE database = $1`, names[r.IntN(len(names))])
			case 4: // an operator in River UI
				q.db.Exec(t, `UPDATE archiver.river_job SET state = 'available' WHERE state = 'pending' AND random() < 0.3`)
			case 5: // a batch that waits for a while
				q.db.Exec(t, `UPDATE archiver.river_job SET state = 'retryable', scheduled_at = now() + interval '200 ms'
					WHERE id = (SELECT id FROM archiver.river_job WHERE state = 'running' ORDER BY random() LIMIT 1)`)
			}
		} else if steps == 300 {
			_, err := fleet.Resume(t.Context(), q.Ledger, q.client, fleet.Scope{})
			require.NoError(t, err)
		}
		if r.IntN(3) > 0 { // a replica that is late with what has ended, and names whatever
			var ended []string
			for _, d := range names {
				if r.IntN(2) == 0 {
					ended = append(ended, d)
				}
			}
			_, err := fleet.Refill(t.Context(), q.Ledger, ended)
			require.NoError(t, err)
		} else {
			q.admit()
		}
		held := q.list(`SELECT queue || ' ' || count(*) FROM archiver.river_job WHERE state IN ('available', 'running') GROUP BY queue`)
		require.LessOrEqual(t, len(held), databases, "%v", held)
		for _, d := range names {
			require.LessOrEqual(t, q.db.Int(t, `SELECT count(*) FROM archiver.river_job WHERE state IN ('available', 'running') AND queue = 'db_' || $1`, d), int64(seats))
		}
		paused := q.list(`SELECT t.database || '.' || t.name FROM archiver.river_job j JOIN archiver.batch b ON b.job_id = j.id JOIN archiver.archive_table t ON t.id = b.table_id
			JOIN archiver.pause p ON p.database IN ('', t.database) AND (p.name = '' OR p.name = t.name) WHERE j.state = 'available'`)
		require.Empty(t, paused)
		if r.IntN(3) > 0 {
			q.take("one")
		}
		q.finish(names[r.IntN(len(names))], r.IntN(seats+1))
		if q.count("running")+q.count("available")+q.count("pending") == 0 {
			idle++
		}
	}
	require.Zero(t, q.db.Int(t, `SELECT count(*) FROM archiver.batch WHERE state <> 'archived'`))
}
