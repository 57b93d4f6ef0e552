package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// reconcileSlice is how many open batches one look compares with the queue: some tens
// of milliseconds, so that a backlog of a million costs no more than one of ten
// thousand, only takes longer to go through.
const reconcileSlice = 10_000

// Reconciled is what Reconcile mended.
type Reconciled struct {
	Reinserted []int64 // batches whose job was deleted, or ended without them
	Cancelled  []int64 // batches whose job was cancelled by hand
	Failed     []int64 // batches whose job was given up without a word in the ledger
	Revived    []int64 // failed batches whose job was put back by hand
}

// Any says whether anything was amiss.
func (r Reconciled) Any() bool {
	return len(r.Reinserted)+len(r.Cancelled)+len(r.Failed)+len(r.Revived) > 0
}

// Reconciler compares the ledger with the queue, where jobs can be cancelled, deleted
// and retried behind our back: River UI knows nothing of batches. The ledger decides.
type Reconciler struct {
	Ledger *ledger.Ledger
	Client *river.Client[pgx.Tx]
	after  int64 // the batch that the last look ended at
}

// astray are open batches that have no live job, and have not failed.
const astray = `
	SELECT b.id, coalesce(j.state::text, ''), coalesce(j.metadata ? 'cancel_attempted_at', false), coalesce(j.errors[array_upper(j.errors, 1)]->>'error', '')
	FROM (SELECT id, job_id, failed FROM {s}.batch WHERE id > $1 AND id <= $2 AND state IN ('planned', 'verified', 'deleting')) b
	LEFT JOIN {s}.river_job j ON j.id = b.job_id
	WHERE NOT b.failed AND (j.id IS NULL OR j.finalized_at IS NOT NULL)`

// Reconcile looks at the next slice of open batches. One replica at a time does:
// another that comes meanwhile does nothing.
func (r *Reconciler) Reconcile(ctx context.Context) (Reconciled, error) {
	var done Reconciled
	var last, seen int64
	err := r.Ledger.InTx(ctx, func(tx pgx.Tx) error {
		done, last, seen = Reconciled{}, 0, 0
		var mine bool
		if err := tx.QueryRow(ctx, r.Ledger.SQL(named(tryLockReconcile, r.Ledger))).Scan(&mine); err != nil || !mine {
			return err
		}
		if err := tx.QueryRow(ctx, r.Ledger.SQL(`
			SELECT coalesce(max(id), 0), count(*) FROM (SELECT id FROM {s}.batch WHERE id > $1 AND state IN ('planned', 'verified', 'deleting') ORDER BY id LIMIT $2) s`),
			r.after, reconcileSlice).Scan(&last, &seen); err != nil {
			return err
		}
		if err := r.revive(ctx, tx, &done); err != nil {
			return err
		}
		return r.mend(ctx, tx, last, &done)
	})
	if err != nil {
		return Reconciled{}, fmt.Errorf("compare the ledger with the queue: %w", err)
	}
	if r.after = last; seen < reconcileSlice {
		r.after = 0 // that was the end
	}
	return done, nil
}

const tryLockReconcile = `SELECT pg_try_advisory_xact_lock(hashtextextended('archiver reconcile {name}', 0))`

// revive takes the failed flag from batches that somebody put back into the queue.
func (r *Reconciler) revive(ctx context.Context, tx pgx.Tx, done *Reconciled) error {
	rows, err := tx.Query(ctx, r.Ledger.SQL(`
		UPDATE {s}.batch b SET failed = false, waiting_for = NULL, updated_at = now()
		FROM {s}.river_job j WHERE j.id = b.job_id AND b.failed AND b.state IN ('planned', 'verified', 'deleting') AND j.finalized_at IS NULL AND j.state <> 'running'
		RETURNING b.id`))
	if err != nil {
		return err
	}
	done.Revived, err = pgx.CollectRows(rows, pgx.RowTo[int64])
	return err
}

func (r *Reconciler) mend(ctx context.Context, tx pgx.Tx, last int64, done *Reconciled) error {
	type stray struct {
		ID       int64
		JobState string
		ByHand   bool
		Error    string
	}
	rows, err := tx.Query(ctx, r.Ledger.SQL(astray), r.after, last)
	if err != nil {
		return err
	}
	strays, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stray])
	if err != nil {
		return err
	}
	for _, s := range strays {
		j, err := lockJob(ctx, r.Ledger, tx, s.ID)
		if err != nil {
			return err
		}
		// Looked at again under the lock: a worker may have ended it meanwhile.
		if j.State != JobLost {
			continue
		}
		switch {
		case s.JobState == "cancelled" && s.ByHand && j.Stage != ledger.Deleting:
			err = r.Ledger.CancelAttempt(ctx, tx, &ledger.Batch{ID: j.BatchID, Attempt: j.LedgerAttempt}, "cancelled in the queue by an operator")
			done.Cancelled = append(done.Cancelled, j.BatchID)
		case (s.JobState == "cancelled" && !s.ByHand) || s.JobState == "discarded":
			_, err = tx.Exec(ctx, r.Ledger.SQL(`UPDATE {s}.batch SET failed = true, last_error = coalesce(nullif($2, ''), last_error, 'the queue gave it up'), updated_at = now() WHERE id = $1`), j.BatchID, s.Error)
			done.Failed = append(done.Failed, j.BatchID)
		default: // deleted, cancelled while its outcome is unknown, or completed without the ledger
			if err = insertAgain(ctx, r.Ledger, r.Client, tx, &j); err == nil {
				_, err = tx.Exec(ctx, r.Ledger.SQL(`UPDATE {s}.batch SET job_id = $2, waiting_for = NULL, updated_at = now() WHERE id = $1`), j.BatchID, j.ID)
			}
			done.Reinserted = append(done.Reinserted, j.BatchID)
		}
		if err != nil && !errors.Is(err, ledger.ErrStale) {
			return err
		}
	}
	return nil
}
