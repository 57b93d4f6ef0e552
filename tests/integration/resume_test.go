//go:build failpoint

package integration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/planner"
)

// boundaries are all points that an attempt at a batch passes, in order.
var boundaries = []string{
	"state:planned", "extract:locked", "extract:copied", "upload:done", "verify:done", "verify:recorded", "state:verified",
	"delete:begun", "delete:table-locked", "delete:fenced", "delete:locked", "delete:before-commit", "delete:after-commit",
	"state:deleting", "record:manifest", "record:done",
}

// TestResumeAfterError fails an attempt at each boundary; a fresh replica goes on.
func TestResumeAfterError(t *testing.T) {
	t.Parallel()
	const batches = 45 // an interrupted run archives at most two more on its way out
	tr := newTrial(t, 10*batches, "")
	for _, point := range boundaries {
		tr.interrupt(point)
		tr.exactlyOnceUnlessDeleting()
	}
	tr.finish(nil)
	tr.archived(batches)
	require.Zero(t, tr.rowsLeft())
	require.Zero(t, tr.objectsIn("discarded")+tr.objectsIn("superseded"), "no row changed")
	require.Len(t, tr.bucket.Keys(t), 2*batches, "what was uploaded twice is the same object")
}

// TestResumeAfterShutdown stops the replica at each boundary. The job goes back
// without having spent an attempt.
func TestResumeAfterShutdown(t *testing.T) {
	t.Parallel()
	const batches = 45
	tr := newTrial(t, 10*batches, "")
	for _, point := range boundaries[:len(boundaries)-1] { // after record:done nothing is left to be given back
		tr.shutDown(point)
		require.Zero(t, tr.attemptsSpent(), point)
		require.Zero(t, tr.count(`SELECT count(*) FROM {s}.worker`), "%s: the lease was not given back", point)
		require.Zero(t, tr.count(`SELECT count(*) FROM {s}.river_job WHERE state NOT IN ('available', 'pending', 'completed')`), "%s: the job is not back in the queue", point)
		tr.exactlyOnceUnlessDeleting()
	}
	tr.finish(nil)
	tr.archived(batches)
	require.Zero(t, tr.attemptsSpent())
	require.EqualValues(t, 1, tr.count(`SELECT max(attempt) FROM {s}.river_job`))
	require.Len(t, tr.bucket.Keys(t), 2*batches)
}

// exactlyOnceUnlessDeleting is exactlyOnce for the moment after an interruption:
// the rows of a batch that is `deleting` may be in an object without a manifest.
func (tr *trial) exactlyOnceUnlessDeleting() {
	tr.t.Helper()
	if tr.states(tr.t)["deleting"] == 0 {
		tr.exactlyOnce()
	}
}

// TestResumeOfResume dies again and again while it recovers from a death.
func TestResumeOfResume(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	for _, point := range []string{
		"upload:done", "upload:done", "verify:recorded", "delete:locked", "delete:after-commit",
		"state:deleting", "resolve:locked", "resolve:decided", "record:manifest", "resolve:decided", "record:manifest",
	} {
		tr.interrupt(point)
		// Each one is an error of the batch, and after five it would be given up.
		_, err := tr.ledger.Pool.Exec(t.Context(), tr.ledger.SQL(`UPDATE {s}.river_job SET attempt = 0, state = 'available', scheduled_at = now()`))
		require.NoError(t, err)
	}
	tr.finish(nil)
	tr.archived(1)
	require.Len(t, tr.bucket.Keys(t), 2)
}

// TestResumeInPlace fails every boundary once and leaves the replica running, with
// the content guard and another compression.
func TestResumeInPlace(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 60, ", delete_guard: content, compression: zstd")
	// All at a time: the oldest come first, and two of them would meet all the errors.
	tr.cfg.Databases[0].Concurrency, tr.cfg.Worker.Concurrency = 6, 6
	fail := atEach(boundaries, func(context.Context) error { return errHere })
	tr.finish(fail.handle)
	fail.allReached(t)
	tr.archived(6)
}

// TestEnqueueIsWholePages dies between two pages of a plan.
func TestEnqueueIsWholePages(t *testing.T) {
	t.Parallel()
	s := newSite(t, `- {name: audit_logs, batch_size: 1}`)
	s.db.Exec(t, trialTable)
	s.db.Exec(t, fmt.Sprintf(trialRows, 1100))
	enqueue := func(at failpoint.Handler) (*planner.Plan, error) {
		p, err := planner.Make(t.Context(), s.src, s.ledger, s.cfg.Databases[0].Tables[0], planner.Options{})
		require.NoError(t, err)
		return p, p.Enqueue(failpoint.With(t.Context(), at), s.ledger, s.client(t))
	}
	pages := 0
	_, err := enqueue(func(_ context.Context, name string) error {
		if pages++; name == "enqueue:page" && pages == 2 {
			return errHere
		}
		return nil
	})
	require.ErrorIs(t, err, errHere)
	tr := &trial{site: s, t: t}
	require.EqualValues(t, 1000, tr.count(`SELECT count(*) FROM {s}.batch`))
	require.EqualValues(t, 1000, tr.count(`SELECT count(*) FROM {s}.river_job`))

	p, err := enqueue(func(context.Context, string) error { return nil })
	require.NoError(t, err)
	require.EqualValues(t, 100, p.Rows, "the next plan goes on behind the last page")
	require.EqualValues(t, 1100, tr.count(`SELECT count(DISTINCT to_key[2]) FROM {s}.batch`))
	require.EqualValues(t, 1100, tr.count(`SELECT count(*) FROM {s}.batch b JOIN {s}.river_job j ON j.id = b.job_id AND (j.args->>'batch_id')::bigint = b.id`))
}

// deleting leaves the first batch in `deleting` with its rows in the table, as a
// death right after StartDelete does, and the others archived.
func (tr *trial) deleting() {
	tr.t.Helper()
	tr.interrupt("verify:recorded")
	_, err := tr.ledger.Pool.Exec(tr.t.Context(), tr.ledger.SQL(`UPDATE {s}.batch SET state = 'deleting' WHERE state = 'verified'`))
	require.NoError(tr.t, err)
}

func TestResolve(t *testing.T) {
	t.Parallel()
	t.Run("rows are there", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		tr.deleting()
		tr.finish(nil)
		tr.archived(1)
		require.Zero(t, tr.objectsIn("discarded")+tr.objectsIn("superseded"))
	})
	t.Run("rows are gone", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		tr.interrupt("delete:after-commit")
		require.Zero(t, tr.rowsLeft())
		require.EqualValues(t, 1, tr.states(t)["deleting"])
		tr.finish(func(_ context.Context, name string) error {
			if strings.HasPrefix(name, "extract:") || strings.HasPrefix(name, "delete:") {
				t.Errorf("%s was reached, and there is nothing left to do there", name)
			}
			return nil
		})
		tr.archived(1)
		require.EqualValues(t, 1, tr.count(`SELECT count(*) FROM {s}.object`))
	})
	t.Run("some rows were changed by another hand", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		tr.deleting()
		tr.both(t.Context(), `UPDATE %s SET actor = 'changed' WHERE id = 3`)
		tr.both(t.Context(), `DELETE FROM %s WHERE id = 4`)
		tr.finish(nil)
		tr.archived(1)
		require.EqualValues(t, 1, tr.objectsIn("superseded"))
		require.EqualValues(t, 9, tr.count(`SELECT rows FROM {s}.batch`))
	})
	// What a reader sees whose snapshot is older than the lock that it holds: the
	// twin's commit became visible in between.
	t.Run("twin commits just before the lock is had", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		tr.deleting()
		tr.finish(changing("resolve:locked", func(ctx context.Context) { tr.sql(ctx, `DELETE FROM audit_logs`) }))
		tr.archived(1)
		require.Zero(t, tr.objectsIn("discarded"), "an object that holds the only copy was set aside")
	})
	// The delete was committed, its manifest written, and then the rows came back:
	// a failover to a standby that lacked the delete, or a restore by hand.
	t.Run("rows came back", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		tr.interrupt("record:manifest")
		require.Zero(t, tr.rowsLeft())
		tr.sql(t.Context(), `INSERT INTO audit_logs SELECT * FROM truth`)
		tr.finish(nil)
		tr.archived(1)
		require.Zero(t, tr.rowsLeft())
		require.EqualValues(t, 1, tr.objectsIn("superseded"))
		require.Len(t, tr.bucket.Keys(t), 2, "same rows, same object")
	})
	t.Run("empty twin", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		tr.sql(t.Context(), `DELETE FROM audit_logs; DELETE FROM truth`)
		tr.finish(nil)
		tr.settledIn(map[string]int64{"empty": 1})
		require.Empty(t, tr.bucket.Keys(t))
	})
}

// TestObjectLost takes the object away, or damages it, in each state.
func TestObjectLost(t *testing.T) {
	t.Parallel()
	t.Run("verified and missing", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		tr.interrupt("verify:recorded")
		tr.takeAway()
		tr.finish(nil)
		tr.archived(1)
		require.EqualValues(t, 1, tr.objectsIn("discarded"))
	})
	t.Run("verified and damaged", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		tr.interrupt("verify:recorded")
		tr.damage()
		tr.finish(nil)
		tr.exactlyOnce()
		require.EqualValues(t, 10, tr.rowsLeft(), "nothing was deleted")
		message, hint := tr.lastError()
		require.Contains(t, message, "nothing was deleted")
		require.Contains(t, hint, "jobs retry --failed")

		tr.takeAway() // what the hint asks for
		tr.retry()
		tr.finish(nil)
		tr.archived(1)
	})
	for _, gone := range []bool{true, false} {
		for _, how := range []string{"missing", "damaged"} {
			t.Run(fmt.Sprintf("deleting, rows gone %t, %s", gone, how), func(t *testing.T) {
				t.Parallel()
				tr := newTrial(t, 10, "")
				if gone {
					tr.interrupt("delete:after-commit")
				} else {
					tr.deleting()
				}
				restore := tr.takeAway
				if how == "damaged" {
					restore = tr.damage
				}
				back := restore()
				left := tr.rowsLeft()
				tr.finish(nil)
				require.Equal(t, left, tr.rowsLeft(), "the object cannot be seen whole, so no row may go")
				require.Equal(t, map[string]int64{"deleting": 1}, tr.states(t))
				require.EqualValues(t, 1, tr.count(`SELECT count(*) FROM {s}.batch WHERE failed`))
				message, hint := tr.lastError()
				require.Contains(t, message, "may have happened")
				require.Contains(t, hint, "restore pre/main/public/audit_logs/")

				back()
				tr.retry()
				tr.finish(nil)
				tr.archived(1)
			})
		}
	}
}

// TestConfigurationChanged claims batches under a configuration that no longer
// wants them.
func TestConfigurationChanged(t *testing.T) {
	t.Parallel()
	table := func(tr *trial) *string { return &tr.cfg.Databases[0].Tables[0].Name }
	changes := []struct {
		name           string
		change         func(tr *trial)
		undo           func(tr *trial)
		says           string
		keptIfDeleting bool
	}{
		{"retention raised", func(tr *trial) { tr.cfg.Databases[0].Tables[0].Retention *= 20 }, nil, "within the retention", false},
		{"table removed", func(tr *trial) { *table(tr) = "another" }, func(tr *trial) { *table(tr) = "audit_logs" }, "no longer in the configuration", true},
		{
			"key changed", func(tr *trial) {
				tr.sql(tr.t.Context(), `ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_pkey, ADD PRIMARY KEY (actor)`)
			}, func(tr *trial) {
				tr.sql(tr.t.Context(), `ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_pkey, ADD PRIMARY KEY (id)`)
			}, "the key of main.public.audit_logs was", true,
		},
	}
	for _, c := range changes {
		t.Run(c.name+", planned", func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 10, "")
			c.change(tr)
			tr.finish(nil)
			tr.settledIn(map[string]int64{"cancelled": 1})
			require.EqualValues(t, 10, tr.rowsLeft())
			message, _ := tr.lastError()
			require.Contains(t, message, c.says)
		})
		t.Run(c.name+", verified", func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 10, "")
			tr.interrupt("verify:recorded")
			c.change(tr)
			tr.finish(nil)
			tr.settledIn(map[string]int64{"cancelled": 1})
			require.EqualValues(t, 10, tr.rowsLeft())
			require.EqualValues(t, 1, tr.objectsIn("discarded"))
		})
		t.Run(c.name+", deleting", func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 10, "")
			tr.deleting()
			c.change(tr)
			tr.finish(nil)
			require.EqualValues(t, 10, tr.rowsLeft())
			message, hint := tr.lastError()
			require.Contains(t, message, c.says)
			if !c.keptIfDeleting { // its outcome was found out first
				tr.settledIn(map[string]int64{"cancelled": 1})
				return
			}
			require.Equal(t, map[string]int64{"deleting": 1}, tr.states(t))
			require.Contains(t, hint, "archiver jobs retry")
			c.undo(tr)
			tr.retry()
			tr.finish(nil)
			tr.archived(1)
		})
	}
}

// TestResolveOfReplacedTable has the table renamed and a new one made under its name,
// as when logs are rotated, while it is not known whether rows were deleted.
func TestResolveOfReplacedTable(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	tr.deleting()
	tr.sql(t.Context(), `ALTER TABLE audit_logs RENAME TO audit_logs_2023; CREATE TABLE audit_logs (LIKE audit_logs_2023 INCLUDING ALL)`)
	tr.finish(nil)
	require.Equal(t, map[string]int64{"deleting": 1}, tr.states(t), "no key of the object is in the new table, and still nothing was deleted")
	message, hint := tr.lastError()
	require.Contains(t, message, "called public.audit_logs_2023")
	require.Contains(t, hint, "back")
	tr.sql(t.Context(), `DROP TABLE audit_logs; ALTER TABLE audit_logs_2023 RENAME TO audit_logs`)
	tr.retry()
	tr.finish(nil)
	tr.archived(1)
}

// TestResolveOfRemovedTable has the table dropped under a delete of unknown outcome.
func TestResolveOfRemovedTable(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	tr.deleting()
	tr.sql(t.Context(), `DROP TABLE audit_logs`)
	tr.finish(nil)
	require.Equal(t, map[string]int64{"deleting": 1}, tr.states(t))
	message, _ := tr.lastError()
	require.Contains(t, message, "not known yet")
}

// TestResolveOnAnotherServer has the configuration lead to a server that never had
// the rows: that they are not there must not pass for "deleted".
func TestResolveOnAnotherServer(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	tr.deleting()
	tr.sql(t.Context(), `TRUNCATE audit_logs`)
	_, err := tr.ledger.Pool.Exec(t.Context(), tr.ledger.SQL(`UPDATE {s}.object SET system_identifier = '7'`))
	require.NoError(t, err)
	tr.finish(nil)
	require.Equal(t, map[string]int64{"deleting": 1}, tr.states(t))
	message, hint := tr.lastError()
	require.Contains(t, message, "another server")
	require.Contains(t, hint, "databases[]")
}

// TestOvertakenAttemptDoesNotDecide has an attempt overtaken before it looks at the
// rows: it must not take what the newer one did for its own commit, and write the
// manifest of an object that was set aside. The model in docs/model found this.
func TestOvertakenAttemptDoesNotDecide(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	tr.deleting()
	var mu sync.Mutex
	var passed []string
	tr.finish(func(ctx context.Context, name string) error {
		mu.Lock()
		defer mu.Unlock()
		if name == "state:deleting" && len(passed) == 0 {
			if _, err := tr.ledger.Claim(ctx, tr.count(`SELECT id FROM {s}.batch`)); err != nil {
				return err
			}
		}
		passed = append(passed, name)
		return nil
	})
	require.Equal(t, "state:deleting", passed[0])
	require.Equal(t, "state:deleting", passed[1], "the overtaken attempt went on to %s", passed[1])
	require.Contains(t, passed, "resolve:decided", "the next one decided")
	tr.archived(1)
}
