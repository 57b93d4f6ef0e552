package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/throttle"
)

// mayBegin is asked before a batch is claimed, so that one that has to wait has cost the
// source nothing and counts no attempt: while storage is away or the throttle says no,
// no row is read.
func (w *Worker) mayBegin(ctx context.Context, a *attempt) error {
	if open := w.Store.Breaker(); open != nil {
		return &waitError{kind: WaitStorage, reason: open.Error(), after: time.Second} // for another replica; this one fetches no more
	}
	if !w.throttled(a.job.Args.Database) {
		return nil
	}
	b, err := w.Ledger.Get(ctx, a.job.Args.BatchID)
	if err != nil {
		return err
	}
	table, db, ok := w.configured(b)
	if !ok || b.State.Final() || b.State == ledger.Deleting {
		return nil // claim sees to it; a delete that was begun is found out about in any case
	}
	a.batch, a.table, a.db = b, table, db
	if err := w.mayGoOn(ctx, a); err != nil {
		return err
	}
	return w.pay(ctx, a)
}

// throttled says whether a table of the database has anything to be asked about.
func (w *Worker) throttled(database string) bool {
	return slices.ContainsFunc(w.Config.Databases, func(d config.Database) bool {
		return d.Name == database && slices.ContainsFunc(d.Tables, func(t config.Table) bool { return t.Throttle.Any() })
	})
}

// mayGoOn asks the throttle of the batch's table. What it answers holds for every batch
// of the table: none of them is admitted until it is time to look again.
func (w *Worker) mayGoOn(ctx context.Context, a *attempt) error {
	wait, err := w.gate.Check(ctx, a.table, a.db)
	if err != nil || wait == nil {
		return err
	}
	return w.hold(ctx, a, wait)
}

func (w *Worker) hold(ctx context.Context, a *attempt, wait *throttle.Wait) error {
	if err := w.Ledger.Hold(ctx, a.batch.TableID, wait.Reason, wait.After); err != nil {
		return err
	}
	return &waitError{kind: WaitThrottle, reason: wait.Reason, after: wait.After}
}

// How often a read that goes on asks whether its table still may, and how long the answer
// may take: longer where the pool has no second connection, which is no reason to stop.
const (
	brakeEvery    = 2 * time.Second
	brakePatience = 2 * time.Second
)

// brakedError says that the throttle has stopped a read half way.
type brakedError struct {
	wait *throttle.Wait
	rows int64 // that were read by then
}

func (e *brakedError) Error() string {
	return fmt.Sprintf("the read was given up after %d rows: %s", e.rows, e.wait.Reason)
}

// underBrake returns a context for a read, which ends when the table may not go on. The
// read is given up and not held up: a transaction that pauses keeps vacuum from all that
// was deleted since it began, in all tables.
func (w *Worker) underBrake(ctx context.Context, a *attempt) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	if !a.table.Throttle.Any() {
		return ctx, func() { cancel(nil) }
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(brakeEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			asking, end := context.WithTimeout(ctx, brakePatience)
			wait, err := w.gate.Check(asking, a.table, a.db)
			end()
			if err == nil && wait != nil {
				cancel(&brakedError{wait: wait})
				return
			}
		}
	}()
	return ctx, func() { cancel(nil); <-done }
}

// brakedBy is the brakedError that ended a read under a brake, or else the read's own.
func brakedBy(ctx context.Context, err error, rows int64) error {
	var braked *brakedError
	if !errors.As(context.Cause(ctx), &braked) {
		return err
	}
	return &brakedError{wait: braked.wait, rows: rows}
}

// letGo has the batch wait whose read was stopped. What was read is read again; so that
// this ends before anybody is asked again, the batch becomes half of that, and the rest a
// batch of its own.
func (w *Worker) letGo(ctx context.Context, a *attempt, from *source.DB, braked *brakedError) error {
	a.log.Info("read given up", zap.Int64("rows", braked.rows), zap.String("reason", braked.wait.Reason))
	if half := braked.rows / 2; half > 0 {
		cut, err := from.KeyAt(ctx, a.table, a.batch.Range, half)
		switch {
		case err != nil: // then all of it is tried again
			a.log.Warn("the batch was not split", zap.Error(err))
		case cut != nil:
			if err := w.split(ctx, a, cut, half, max(a.batch.RowsPlanned-half, 1)); err != nil {
				return err
			}
		}
	}
	return w.hold(ctx, a, braked.wait)
}

// pay takes the batch's rows out of what its table may archive a second. Every attempt
// pays: what was paid for and then not archived makes the table slower, never faster.
func (w *Worker) pay(ctx context.Context, a *attempt) error {
	rate := a.table.Throttle.MaxRowsPerSecond
	if rate == 0 {
		return nil
	}
	rows := a.batch.RowsPlanned
	if a.batch.Object != nil {
		rows = a.batch.Object.Rows
	}
	paid, wait, err := w.Ledger.Pay(ctx, a.batch.TableID, rows, rate)
	if err != nil {
		return err
	}
	if !paid {
		return w.hold(ctx, a, &throttle.Wait{
			Reason: fmt.Sprintf("throttle: %s rows a second are reached (max_rows_per_second)", humanize.Comma(int64(rate))),
			After:  min(wait, throttle.HoldAtMost),
		})
	}
	a.paid = rows
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settle corrects the payment once the rows are counted: late arrivals are in no plan.
func (w *Worker) settle(ctx context.Context, a *attempt, rows int64) error {
	if a.table.Throttle.MaxRowsPerSecond == 0 || a.paid == rows {
		return nil
	}
	err := w.Ledger.PayMore(ctx, a.batch.TableID, rows-a.paid)
	a.paid = rows
	return err
}

// storageEvery is how often a replica looks at its breaker.
const storageEvery = time.Second

// watchStorage keeps this replica from taking batches while its breaker is open, tells
// the fleet, and finds out when storage is back: by one request and not by a batch, whose
// rows would be read for nothing.
func (w *Worker) watchStorage(ctx context.Context) {
	tick := time.NewTicker(storageEvery)
	defer tick.Stop()
	var told string
	for {
		reason := ""
		open := w.Store.Recover(ctx)
		if open != nil {
			reason = open.Error()
		}
		if reason != told && ctx.Err() == nil {
			if err := fleet.SetHeld(ctx, w.Ledger, w.ID, reason); err != nil {
				w.Log.Warn("the fleet was not told about the breaker", zap.Error(err)) // in a second again
			} else {
				w.logBreaker(ctx, open)
				told = reason
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *Worker) logBreaker(ctx context.Context, open *objstore.OpenError) {
	if open == nil {
		w.Log.Info("storage answers again: batches go on")
		bounded(ctx, func(ctx context.Context) { w.admitted(fleet.Admit(ctx, w.Ledger)) })
		return
	}
	w.Log.Warn("breaker open: this worker takes no batches", zap.Int("failures", open.Failures), zap.Time("until", open.Until), zap.String("last", open.Last))
}
