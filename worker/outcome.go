package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/jobs"
)

// waitError says that a batch cannot go on just now, through no fault of its own.
// It costs no attempt.
type waitError struct {
	kind   WaitKind // for counting; empty: other
	reason string   // for people
	after  time.Duration
}

func (e *waitError) Error() string { return "waiting: " + e.reason }

// permanentError says that trying again is useless before a human has acted.
type permanentError struct {
	err  error
	hint string
}

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// Hint is the next thing to do.
func (e *permanentError) Hint() string { return e.hint }

// timeoutError says that an attempt took longer than it may.
type timeoutError struct {
	limit time.Duration
	err   error
}

func (e *timeoutError) Error() string {
	return fmt.Sprintf("not done within worker.batch_timeout (%s): %v", e.limit, e.err)
}

func (e *timeoutError) Unwrap() error { return e.err }

// Hint is what can be changed.
func (e *timeoutError) Hint() string {
	return "raise worker.batch_timeout, or lower batch_size for this table"
}

// outageWait is how long a batch waits when a service is out of reach. The
// clients have retried for some seconds by then.
const outageWait = 10 * time.Second

// staleWait leaves a job alone that another attempt has taken over.
const staleWait = 15 * time.Second

// outcome turns the error of an attempt into what River does with the job: the
// only place where that is decided.
//
//	taken over, shutdown, outage, open
//	breaker, throttle, locks             -> snooze: costs no attempt
//	rights, schema, refusals, 403, 404   -> cancel: a human must act
//	anything else                        -> retry, a few times
func (w *Worker) outcome(ctx context.Context, a *attempt, err error) error {
	a.progress.stop()
	if err == nil {
		a.report(ctx, string(a.state()), "")
		w.ended(a, a.result(), "")
		return nil
	}
	// What is written about the attempt must be written even though its time is up.
	note, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()

	var wait *waitError
	var spool *SpoolError
	var open *objstore.OpenError
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, rivertype.ErrJobCancelledRemotely):
		return w.cancelled(note, a, err)
	case cause != nil && !errors.Is(cause, context.DeadlineExceeded):
		a.log.Info("stopped before the batch was done", zap.String("state", string(a.state())))
		a.report(ctx, endStopped, "")
		w.ended(a, ResultStopped, "")
		return river.JobSnooze(0)
	case errors.Is(err, ledger.ErrStale):
		a.log.Info("another attempt has taken over")
		w.ended(a, ResultOvertaken, "")
		w.yield(ctx, a)
		return river.JobSnooze(staleWait)
	case errors.As(err, &wait):
	case errors.As(err, &spool):
		wait = &waitError{kind: WaitSpool, reason: spool.Error() + " (hint: " + spool.Hint() + ")", after: outageWait}
	case cause != nil: // before isOutage: a service that is cut off in mid-sentence looks like one that is away
		err = &timeoutError{limit: w.Config.Worker.BatchTimeout, err: err}
	case errors.As(err, &open):
		wait = &waitError{kind: WaitStorage, reason: open.Error(), after: min(max(time.Until(open.Until), time.Second), time.Minute)}
	case isOutage(err):
		wait = &waitError{kind: outageKind(err), reason: err.Error(), after: outageWait}
	case source.Classify(err) == source.Busy:
		wait = &waitError{kind: WaitLocked, reason: "a lock on the table was not to be had: " + err.Error(), after: outageWait}
	}
	if wait != nil {
		a.log.Info("batch waits", zap.String("reason", wait.reason), zap.Duration("for", wait.after))
		if a.batch != nil {
			if err := w.Ledger.Waiting(note, a.batch, wait.reason); err != nil {
				a.log.Warn("the reason for waiting was not recorded", zap.Error(err))
			}
		}
		a.report(ctx, endWaits, wait.reason)
		w.ended(a, ResultWaiting, cmp.Or(wait.kind, WaitOther))
		return river.JobSnooze(wait.after)
	}

	final := isPermanent(err)
	described := a.describe(err)
	hint := hintOf(err)
	last := final || a.job.Attempt >= a.job.MaxAttempts
	if a.batch != nil {
		if err := w.Ledger.Failed(note, a.batch.ID, a.batch.Attempt, described.Error(), hint, last); err != nil {
			a.log.Warn("the failure was not recorded", zap.Error(err))
		}
	}
	if hint != "" {
		described = fmt.Errorf("%w (hint: %s)", described, hint)
	}
	if last {
		a.report(ctx, endFailed+" "+a.progress.where(), "")
		a.log.Error("batch failed", zap.Error(described))
		w.ended(a, ResultFailed, "")
	} else {
		a.report(ctx, endRetry+" "+a.progress.where(), "")
		a.log.Warn("batch failed; it will be tried again", zap.Error(described), zap.Duration("in", jobs.RetryDelay(a.job.Attempt)))
		w.ended(a, ResultRetried, "")
	}
	if final {
		return river.JobCancel(described)
	}
	return described
}

// yield waits while another worker runs this attempt's job. What River is told about a
// job it records, whoever runs that job now: a snooze from here would put it back into
// the queue under the one that has taken over, a third attempt would then overtake that
// one, and so on, for as long as batches take longer than the snooze.
func (w *Worker) yield(ctx context.Context, a *attempt) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		var theirs bool
		err := w.Ledger.Pool.QueryRow(ctx, w.Ledger.SQL(`
			SELECT EXISTS (SELECT FROM {s}.river_job WHERE id = $1 AND state = 'running' AND attempted_at IS DISTINCT FROM $2)`),
			a.job.ID, a.job.AttemptedAt).Scan(&theirs)
		if err == nil && !theirs {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// cancelled lets go of a batch that an operator cancelled while it ran. One whose
// delete was begun is not let go: the next attempt finds out what happened.
func (w *Worker) cancelled(ctx context.Context, a *attempt, err error) error {
	if a.batch == nil || a.batch.State == ledger.Deleting {
		w.ended(a, ResultStopped, "")
		return river.JobSnooze(0)
	}
	cancelErr := w.Ledger.InTx(ctx, func(tx pgx.Tx) error {
		return w.Ledger.CancelAttempt(ctx, tx, a.batch, "cancelled by an operator")
	})
	if cancelErr != nil && !errors.Is(cancelErr, ledger.ErrStale) { // stale: whoever cancelled has recorded it
		a.log.Warn("the cancellation was not recorded", zap.Error(cancelErr))
	}
	a.report(ctx, string(ledger.Cancelled), "by an operator; nothing was deleted")
	w.ended(a, ResultCancelled, "")
	return river.JobCancel(fmt.Errorf("cancelled by an operator; nothing was deleted: %w", err))
}

func (a *attempt) state() ledger.State {
	if a.batch == nil {
		return ""
	}
	return a.batch.State
}

// describe says what failed, on which rows, and what became of them.
func (a *attempt) describe(err error) error {
	if a.batch == nil {
		return fmt.Errorf("batch %d: %w; nothing was deleted", a.job.Args.BatchID, err)
	}
	fate := "nothing was deleted"
	if a.batch.State == ledger.Deleting {
		fate = "it is not known yet whether its rows were deleted; the next attempt looks at them"
		if a.deleted {
			fate = "its rows are deleted and in " + a.batch.Object.Key
		}
	}
	return fmt.Errorf("%s.%s.%s %s: %w; %s", a.batch.Database, a.batch.Schema, a.batch.Table, a.batch.Range, err, fate)
}

func isOutage(err error) bool {
	return source.Classify(err) == source.Unavailable || objstore.IsUnavailable(err)
}

// outageKind tells which service is away: a broken connection looks alike everywhere,
// but every error of the store is marked as its own.
func outageKind(err error) WaitKind {
	var store *objstore.Error
	if errors.As(err, &store) {
		return WaitStorage
	}
	return WaitDatabase
}

func isPermanent(err error) bool {
	var permanent *permanentError
	var refused *source.RefusedError
	var missing *source.NotFoundError
	return errors.As(err, &permanent) || errors.As(err, &refused) || errors.As(err, &missing) ||
		objstore.IsPermanent(err) || source.Classify(err) == source.Refused
}

// hintOf finds the next thing to do in an error.
func hintOf(err error) string {
	var hinted interface{ Hint() string }
	var store *objstore.Error
	switch {
	case errors.As(err, &hinted):
		return hinted.Hint()
	case errors.As(err, &store) && store.Hint != "":
		return store.Hint
	case isDamage(err):
		return damageHint
	case source.Classify(err) == source.Refused:
		return "run: archiver check"
	}
	return ""
}
