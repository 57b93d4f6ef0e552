package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// reconcileSlice is how many open batches, and jobs, one look compares: some tens of
// milliseconds, so that a backlog of a million costs no more than one of ten thousand,
// only takes longer to go through. mendAtMost is how many one look puts right.
const (
	reconcileSlice = 10_000
	mendAtMost     = 500
)

// Reconciled is what Reconcile mended.
type Reconciled struct {
	Reinserted []int64 // batches whose job was deleted, or ended without them
	Cancelled  []int64 // batches whose job was cancelled by hand
	Failed     []int64 // batches whose job was given up without a word in the ledger
	Revived    []int64 // failed batches whose job was put back by hand
	Closed     []int64 // jobs that nobody would take up: of a finished batch, or not its job any more
}

// Any says whether anything was amiss.
func (r Reconciled) Any() bool {
	return len(r.Reinserted)+len(r.Cancelled)+len(r.Failed)+len(r.Revived)+len(r.Closed) > 0
}

// Reconciler compares the ledger with the queue, where jobs can be cancelled, deleted
// and retried behind our back: River UI knows nothing of batches. The ledger decides.
type Reconciler struct {
	Ledger *ledger.Ledger
	Client *river.Client[pgx.Tx]
	Every  time.Duration // no look comes sooner after the last one of any replica
}

// position is how far the fleet has got.
type position struct{ batch, job int64 }

// Reconcile looks at the next slice of open batches and of jobs, unless some replica did
// so a moment ago or does it just now.
func (r *Reconciler) Reconcile(ctx context.Context) (Reconciled, error) {
	var done Reconciled
	err := r.Ledger.InTx(ctx, func(tx pgx.Tx) error {
		done = Reconciled{}
		var from position
		err := tx.QueryRow(ctx, r.Ledger.SQL(`
			SELECT batch, job FROM {s}.reconciled WHERE looked_at <= now() - $1::interval FOR UPDATE SKIP LOCKED`), interval(r.Every)).Scan(&from.batch, &from.job)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.revive(ctx, tx, &done); err != nil {
			return err
		}
		to := position{}
		if to.batch, err = r.batches(ctx, tx, from.batch, &done); err != nil {
			return err
		}
		if to.job, err = r.jobs(ctx, tx, from.job, &done); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, r.Ledger.SQL(`UPDATE {s}.reconciled SET batch = $1, job = $2, looked_at = now()`), to.batch, to.job)
		return err
	})
	if err != nil {
		return Reconciled{}, fmt.Errorf("compare the ledger with the queue: %w", err)
	}
	return done, nil
}

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

// astray are open batches of a slice that have no live job, and have not failed.
const astray = `
	WITH slice AS MATERIALIZED (
		SELECT id, job_id, failed FROM {s}.batch WHERE id > $1 AND state IN ('planned', 'verified', 'deleting') ORDER BY id LIMIT $2
	)
	SELECT b.id, coalesce(j.state::text, ''), coalesce(j.metadata ? 'cancel_attempted_at', false), coalesce(j.errors[array_upper(j.errors, 1)]->>'error', '')
	FROM slice b LEFT JOIN {s}.river_job j ON j.id = b.job_id
	WHERE NOT b.failed AND (j.id IS NULL OR j.finalized_at IS NOT NULL)
	ORDER BY b.id LIMIT $3`

// lastOf is where a slice ends: 0, the beginning, after the last one.
const lastOf = `SELECT CASE WHEN count(*) = $2 THEN max(id) ELSE 0 END FROM (SELECT id FROM %s ORDER BY id LIMIT $2) s`

func (r *Reconciler) batches(ctx context.Context, tx pgx.Tx, after int64, done *Reconciled) (int64, error) {
	type stray struct {
		ID       int64
		JobState string
		ByHand   bool
		Error    string
	}
	rows, err := tx.Query(ctx, r.Ledger.SQL(astray), after, reconcileSlice, mendAtMost)
	if err != nil {
		return 0, err
	}
	strays, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stray])
	if err != nil {
		return 0, err
	}
	for _, s := range strays {
		j, err := lockJob(ctx, r.Ledger, tx, s.ID)
		if err != nil {
			return 0, err
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
			return 0, err
		}
	}
	if len(strays) == mendAtMost {
		return strays[len(strays)-1].ID, nil
	}
	var last int64
	err = tx.QueryRow(ctx, r.Ledger.SQL(fmt.Sprintf(lastOf, `{s}.batch WHERE id > $1 AND state IN ('planned', 'verified', 'deleting')`)), after, reconcileSlice).Scan(&last)
	return last, err
}

// jobs goes the other way: a job that waits beside a finished batch, or that is not its
// batch's job, would wait for ever, and every drain with it. An older job of a batch that
// was put back by hand becomes the batch's own if the batch has no live one.
func (r *Reconciler) jobs(ctx context.Context, tx pgx.Tx, after int64, done *Reconciled) (int64, error) {
	rows, err := tx.Query(ctx, r.Ledger.SQL(`
		WITH slice AS MATERIALIZED (
			SELECT id, args, state FROM {s}.river_job WHERE id > $1 AND state = 'pending' AND kind = 'archive_batch' ORDER BY id LIMIT $2
		), lone AS (
			SELECT s.id, b.id AS batch, b.state IN ('planned', 'verified', 'deleting') AND own.id IS NULL AS wanted
			FROM slice s
			LEFT JOIN {s}.batch b ON b.id = (s.args->>'batch_id')::bigint
			LEFT JOIN {s}.river_job own ON own.id = b.job_id AND own.finalized_at IS NULL AND own.id <> s.id
			WHERE b.id IS NULL OR b.job_id <> s.id OR b.state NOT IN ('planned', 'verified', 'deleting') LIMIT $3
		), adopted AS (
			UPDATE {s}.batch b SET job_id = l.id, failed = false, updated_at = now() FROM lone l WHERE l.wanted AND b.id = l.batch RETURNING l.id
		)
		UPDATE {s}.river_job j SET state = 'cancelled', finalized_at = now() FROM lone l
		WHERE j.id = l.id AND l.wanted IS NOT TRUE AND j.state = 'pending' RETURNING j.id`), after, reconcileSlice, mendAtMost)
	if err != nil {
		return 0, err
	}
	if done.Closed, err = pgx.CollectRows(rows, pgx.RowTo[int64]); err != nil {
		return 0, err
	}
	var last int64
	err = tx.QueryRow(ctx, r.Ledger.SQL(fmt.Sprintf(lastOf, `{s}.river_job WHERE id > $1 AND state = 'pending' AND kind = 'archive_batch'`)), after, reconcileSlice).Scan(&last)
	return last, err
}
