package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/jobs"
)

// RefusedError says why a batch was left as it is.
type RefusedError struct {
	Job    Job
	Reason string
	hint   string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("job %d (batch %d of %s.%s.%s) %s", e.Job.ID, e.Job.BatchID, e.Job.Database, e.Job.Schema, e.Job.Table, e.Reason)
}

// Hint is the next thing to do.
func (e *RefusedError) Hint() string { return e.hint }

// Retry puts a batch that is not finished back into the queue, to be tried at
// once and with a full number of attempts, and takes its failed flag away, in one
// transaction. The job of a dead worker is returned as Reap does it. A job that
// is gone is inserted anew; the Job that is returned has the id that counts now.
// A *RefusedError says why nothing was changed.
func Retry(ctx context.Context, l *ledger.Ledger, client *river.Client[pgx.Tx], batchID int64) (Job, error) {
	var j Job
	err := l.InTx(ctx, func(tx pgx.Tx) (err error) {
		if j, err = lockJob(ctx, l, tx, batchID); err != nil {
			return err
		}
		switch j.State {
		case JobQueued:
			return nil
		case JobStuck:
			err = returnStuck(ctx, l, tx, j)
		case JobWaiting:
			err = requeue(ctx, client, tx, &j)
		case JobFailed, JobLost:
			err = revive(ctx, l, client, tx, &j)
		case JobRunning:
			return &RefusedError{Job: j, Reason: "is being worked on by " + j.Worker, hint: fmt.Sprintf("look again later: archiver jobs show %d", j.ID)}
		default:
			return &RefusedError{Job: j, Reason: "is " + string(j.State) + ", and that is final", hint: finalHint(j)}
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, l.SQL(`
			UPDATE {s}.batch SET job_id = $2, failed = false, last_error = NULL, last_hint = NULL, waiting_for = NULL, updated_at = now()
			WHERE id = $1`), j.BatchID, j.ID)
		return err
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23505" {
		return j, &RefusedError{Job: j, Reason: "has got another job in the queue meanwhile", hint: "nothing was changed; try again"}
	}
	return j, wrapChange(err, "retry", batchID)
}

// Cancel gives a batch up for good, together with its job, in one transaction:
// its rows stay in the table, and a verified object of it is set aside. Whoever
// works on it is told, and could no longer delete anything even if it were not:
// the ledger lets nobody start the delete of a cancelled batch. A *RefusedError
// says why nothing was changed.
func Cancel(ctx context.Context, l *ledger.Ledger, client *river.Client[pgx.Tx], batchID int64) (Job, error) {
	var j Job
	err := l.InTx(ctx, func(tx pgx.Tx) (err error) {
		if j, err = lockJob(ctx, l, tx, batchID); err != nil {
			return err
		}
		switch j.Stage {
		case ledger.Planned, ledger.Verified:
		case ledger.Deleting:
			return &RefusedError{
				Job: j, Reason: "is deleting: its delete was begun, and only looking at its rows tells whether it happened",
				hint: fmt.Sprintf("let a worker finish it; if it has failed: archiver jobs retry %d", j.ID),
			}
		default:
			return &RefusedError{Job: j, Reason: "is " + string(j.State) + ", and that is final", hint: finalHint(j)}
		}
		b := &ledger.Batch{ID: j.BatchID, Attempt: j.LedgerAttempt}
		if err := l.CancelAttempt(ctx, tx, b, "cancelled by an operator"); err != nil {
			return err
		}
		if _, err := client.JobCancelTx(ctx, tx, j.ID); err != nil && !errors.Is(err, rivertype.ErrNotFound) {
			return err
		}
		return nil
	})
	return j, wrapChange(err, "cancel", batchID)
}

// lockJob reads a batch and keeps others from changing it until tx ends: workers
// wait here before they start an attempt, a delete, or note a failure.
func lockJob(ctx context.Context, l *ledger.Ledger, tx pgx.Tx, batchID int64) (Job, error) {
	if _, err := tx.Exec(ctx, l.SQL(`SELECT FROM {s}.batch WHERE id = $1 FOR UPDATE`), batchID); err != nil {
		return Job{}, err
	}
	return findJob(ctx, l, tx, batchID)
}

// requeue makes a job that waits, or has ended, available now.
func requeue(ctx context.Context, client *river.Client[pgx.Tx], tx pgx.Tx, j *Job) error {
	row, err := client.JobRetryTx(ctx, tx, j.ID)
	if err != nil {
		return err
	}
	j.ID = row.ID
	return nil
}

// revive gives a batch that has no live job one again: one that was put into the
// queue for it by another way, else its old one, else a new one.
func revive(ctx context.Context, l *ledger.Ledger, client *river.Client[pgx.Tx], tx pgx.Tx, j *Job) error {
	var twin int64
	err := tx.QueryRow(ctx, l.SQL(`
		SELECT id FROM {s}.river_job WHERE kind = 'archive_batch' AND args @> jsonb_build_object('batch_id', $1::bigint) AND finalized_at IS NULL
		ORDER BY id LIMIT 1`), j.BatchID).Scan(&twin)
	switch {
	case err == nil:
		j.ID = twin
		return requeue(ctx, client, tx, j) // leaves a running one alone
	case !errors.Is(err, pgx.ErrNoRows):
		return err
	}
	err = requeue(ctx, client, tx, j)
	if errors.Is(err, rivertype.ErrNotFound) {
		return insertAgain(ctx, l, client, tx, j)
	}
	if err != nil {
		return err
	}
	// River itself allows one try more; a human who has mended something expects
	// what a new batch has.
	_, err = tx.Exec(ctx, l.SQL(`UPDATE {s}.river_job SET max_attempts = least(attempt + $2, 32767) WHERE id = $1`), j.ID, jobs.MaxAttempts)
	return err
}

func insertAgain(ctx context.Context, l *ledger.Ledger, client *river.Client[pgx.Tx], tx pgx.Tx, j *Job) error {
	b, err := l.Get(ctx, j.BatchID)
	if err != nil {
		return err
	}
	inserted, err := client.InsertTx(ctx, tx, jobs.BatchArgs{
		BatchID: b.ID, RunID: b.RunID, Database: b.Database, Table: b.Schema + "." + b.Table, Range: b.Range.String(),
	}, nil)
	if err != nil {
		return err
	}
	j.ID = inserted.Job.ID // of the live twin, if one came in between
	return nil
}

// returnStuck does for one job what Reap does for all: the dead worker's lease
// goes, so that it stops if it should only have been asleep, and the attempt is
// given back. If the worker has come back meanwhile, nothing is changed.
func returnStuck(ctx context.Context, l *ledger.Ledger, tx pgx.Tx, j Job) error {
	if _, err := tx.Exec(ctx, l.SQL(`DELETE FROM {s}.worker WHERE id = $1 AND lease_until <= now()`), j.Worker); err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, l.SQL(`
		UPDATE {s}.river_job SET state = 'available', scheduled_at = now(), attempt = greatest(attempt - 1, 0),
			errors = array_append(errors, jsonb_build_object('at', now(), 'attempt', attempt, 'error', 'worker lost: ' || $2::text, 'trace', ''))
		WHERE id = $1 AND state = 'running' AND attempted_by[array_upper(attempted_by, 1)] = $2
		  AND NOT EXISTS (SELECT FROM {s}.worker WHERE id = $2)`), j.ID, j.Worker)
	if err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return &RefusedError{Job: j, Reason: "is not stuck any more", hint: fmt.Sprintf("archiver jobs show %d", j.ID)}
	}
	return nil
}

func finalHint(j Job) string {
	if j.Stage == ledger.Archived {
		return fmt.Sprintf("see: archiver jobs show %d", j.ID)
	}
	return "rows that are still in the table are taken up by the next: archiver plan"
}

func wrapChange(err error, what string, batchID int64) error {
	var refused *RefusedError
	if err == nil || errors.As(err, &refused) || errors.Is(err, ledger.ErrNotFound) {
		return err
	}
	return fmt.Errorf("%s batch %d: %w", what, batchID, err)
}
