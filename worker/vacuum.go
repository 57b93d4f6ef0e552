package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/jobs"
)

const (
	// vacuumTimeout ends a vacuum that hangs. A job without a limit is never rescued.
	vacuumTimeout = 24 * time.Hour
	// Waits of a vacuum: for another one on the database, for a lock, for the end of a pause.
	vacuumTurn  = 5 * time.Second
	vacuumLock  = 30 * time.Second
	vacuumPause = 5 * time.Second
)

// vacuumWanted says whether the table is to be vacuumed when a run of it has ended.
func vacuumWanted(t config.Table) bool {
	return t.VacuumAfterArchival && t.VacuumMode != config.VacuumModeNone
}

// closeRun is called in the transaction that ends a batch. With the last batch of a run
// it enqueues the vacuum of the table, in that same transaction: once in the whole fleet,
// and not at all if it does not commit.
func (w *Worker) closeRun(ctx context.Context, tx pgx.Tx, client *river.Client[pgx.Tx], r ledger.OpenRun, t config.Table, archived bool) error {
	queued, err := w.Ledger.CloseRun(ctx, tx, r.ID, r.TableID, vacuumWanted(t), archived)
	if err != nil || !queued {
		return err
	}
	job, err := client.InsertTx(ctx, tx, jobs.VacuumArgs{RunID: r.ID, Database: r.Name.Database, Table: r.Name.Schema + "." + r.Name.Name}, nil)
	if err != nil {
		return fmt.Errorf("enqueue the vacuum of run %d: %w", r.ID, err)
	}
	if err := w.Ledger.VacuumJob(ctx, tx, r.ID, job.Job.ID); err != nil {
		return err
	}
	return failpoint.Hit(ctx, "vacuum:queued")
}

// batchEnded is closeRun for the batch of an attempt.
func (w *Worker) batchEnded(ctx context.Context, tx pgx.Tx, a *attempt, archived bool) error {
	client, err := river.ClientFromContextSafely[pgx.Tx](ctx)
	if err != nil {
		return fmt.Errorf("enqueue the vacuum: %w", err)
	}
	b := a.batch
	run := ledger.OpenRun{ID: b.RunID, TableID: b.TableID, Name: ledger.TableName{Database: b.Database, Schema: b.Schema, Name: b.Table}}
	return w.closeRun(ctx, tx, client, run, a.table, archived)
}

// closeRuns closes the runs whose last batch ended outside of an attempt, as when an
// operator has cancelled it, and gives up vacuums that were thrown out of the queue.
func (w *Worker) closeRuns(ctx context.Context, client *river.Client[pgx.Tx]) error {
	runs, err := w.Ledger.DrainedRuns(ctx)
	if err != nil {
		return err
	}
	for _, r := range runs {
		t, _, ok := w.table(r.Name)
		if !ok { // another replica may have it in its configuration
			continue
		}
		if err := w.Ledger.InTx(ctx, func(tx pgx.Tx) error { return w.closeRun(ctx, tx, client, r, t, false) }); err != nil {
			return err
		}
	}
	abandoned, err := w.Ledger.AbandonVacuums(ctx)
	if len(abandoned) > 0 {
		w.Log.Warn("vacuums were cancelled or deleted in the queue", zap.Int64s("run_ids", abandoned))
	}
	return err
}

// vacuumWorker works vacuum jobs; River calls it.
type vacuumWorker struct {
	river.WorkerDefaults[jobs.VacuumArgs]
	*Worker
}

// Timeout implements river.Worker.
func (v *vacuumWorker) Timeout(*river.Job[jobs.VacuumArgs]) time.Duration { return vacuumTimeout }

// NextRetry implements river.Worker.
func (v *vacuumWorker) NextRetry(job *river.Job[jobs.VacuumArgs]) time.Time {
	return time.Now().Add(15 * jobs.RetryDelay(job.Attempt))
}

// Work implements river.Worker. It may be killed and run again at any point: a vacuum
// that is run twice does no harm.
func (v *vacuumWorker) Work(ctx context.Context, job *river.Job[jobs.VacuumArgs]) error {
	defer v.jobEnded()
	v.vacuuming.start(job.ID)
	defer v.vacuuming.end(job.ID)
	log := withJobLog(ctx, v.Log.With(zap.String("database", job.Args.Database), zap.String("table", job.Args.Table), zap.Int64("run_id", job.Args.RunID), zap.Int64("job_id", job.ID)))
	return v.outcome(ctx, job, log, v.vacuum(ctx, job, log))
}

func (v *vacuumWorker) vacuum(ctx context.Context, job *river.Job[jobs.VacuumArgs], log *zap.Logger) error {
	reason, err := fleet.PausedRun(ctx, v.Ledger, job.Args.RunID)
	if err != nil {
		return err
	}
	if reason != "" {
		return &waitError{reason: reason, after: vacuumPause}
	}
	run, err := v.Ledger.StartVacuum(ctx, job.Args.RunID)
	if err != nil {
		return err
	}
	if run.State.Final() {
		return nil // by an attempt that did not live to tell
	}
	t, db, ok := v.table(run.Name)
	if !ok {
		elsewhere, err := fleet.SomebodyHas(ctx, v.Ledger, run.Name.Database, run.Name.Schema, run.Name.Name)
		if err != nil {
			return err
		}
		if elsewhere {
			return &waitError{reason: "this replica's configuration does not have the table, another's does", after: 15 * time.Second}
		}
		return v.skip(ctx, job, log, "the table is no longer in the configuration", "")
	}
	if !vacuumWanted(t) {
		return v.skip(ctx, job, log, "it was switched off after the run had ended", "")
	}
	if hold, err := v.gate.Check(ctx, t, db); err != nil {
		return err
	} else if hold != nil {
		return &waitError{reason: hold.Reason, after: hold.After}
	}
	full := t.VacuumMode == config.VacuumModeFull
	if full {
		log.Warn("vacuum begins: FULL locks the table against reading and writing until it is rewritten, and needs room for a copy of it")
	} else {
		log.Info("vacuum begins")
	}
	if err := failpoint.Hit(ctx, "vacuum:begin"); err != nil {
		return err
	}
	began := time.Now()
	report, err := db.Vacuum(ctx, source.VacuumRequest{Table: t, Cutoff: run.Cutoff, Full: full, Progress: func(p source.VacuumProgress) {
		log.Debug("vacuum at work", zap.String("phase", p.Phase), zap.String("relation", p.Relation), zap.Float64("percent", p.Percent))
		if err := v.Ledger.NoteVacuum(ctx, run.RunID, ledger.VacuumRunning, p.String(), ""); err != nil {
			log.Debug("progress was not recorded", zap.Error(err))
		}
	}})
	seconds := time.Since(began).Seconds()
	var notOwner *source.NotOwnerError
	var missing *source.NotFoundError
	switch {
	case errors.As(err, &notOwner):
		return v.skip(ctx, job, log, notOwner.Error(), notOwner.Hint())
	case errors.As(err, &missing):
		return v.skip(ctx, job, log, missing.Error(), "")
	case err != nil:
		return err
	}
	if err := failpoint.Hit(ctx, "vacuum:vacuumed"); err != nil {
		return err
	}
	result := ledger.VacuumResult{
		Mode: t.VacuumMode, Seconds: seconds, Relations: report.Relations, BytesBefore: report.BytesBefore, BytesAfter: report.BytesAfter,
		DeadBefore: report.DeadBefore, DeadAfter: report.DeadAfter, LiveAfter: report.LiveAfter,
		BloatBefore: report.BloatBefore, BloatAfter: report.BloatAfter,
	}
	note := ""
	if report.Skipped > 0 {
		note = fmt.Sprintf("%d partitions were skipped: the role may not vacuum them", report.Skipped)
	}
	if err := v.end(ctx, job, ledger.VacuumDone, note, "", &result); err != nil {
		return err
	}
	log.Info("vacuum done", zap.String("mode", result.Mode), zap.Float64("seconds", result.Seconds), zap.Int("relations", result.Relations),
		zap.Int64("bytes_before", result.BytesBefore), zap.Int64("bytes_after", result.BytesAfter),
		zap.Int64("dead_rows_before", result.DeadBefore), zap.Int64("dead_rows_after", result.DeadAfter),
		zap.Int64p("bloat_bytes_before", result.BloatBefore), zap.Int64p("bloat_bytes_after", result.BloatAfter), zap.Int("skipped", report.Skipped))
	v.tell(ctx, log, "done: "+result.String())
	v.vacuumed(job, ledger.VacuumDone, result)
	return nil
}

// end records what became of a vacuum and completes its job, in one transaction: a drain
// that waits for the job need not wait until River has written it, too. Where the job cannot
// be completed, as when a forgotten session has it locked, the result is recorded without:
// the vacuum is not run again for that.
func (v *vacuumWorker) end(ctx context.Context, job *river.Job[jobs.VacuumArgs], state ledger.VacuumState, note, hint string, result *ledger.VacuumResult) error {
	record := func(tx pgx.Tx) error { return v.Ledger.EndVacuum(ctx, tx, job.Args.RunID, state, note, hint, result) }
	err := v.Ledger.InTx(ctx, func(tx pgx.Tx) error {
		if err := record(tx); err != nil {
			return err
		}
		return endJob(ctx, v.Ledger, tx, job)
	})
	if err == nil {
		return nil
	}
	return v.Ledger.InTx(ctx, record) // River completes the job, now or with the next attempt
}

// skip ends a vacuum that cannot, or need not, be done.
func (v *vacuumWorker) skip(ctx context.Context, job *river.Job[jobs.VacuumArgs], log *zap.Logger, why, hint string) error {
	if err := v.end(ctx, job, ledger.VacuumSkipped, why, hint, nil); err != nil {
		return err
	}
	log.Warn("vacuum skipped", zap.String("reason", why), zap.String("hint", hint))
	v.tell(ctx, log, "skipped: "+why)
	v.vacuumed(job, ledger.VacuumSkipped, ledger.VacuumResult{})
	return nil
}

// outcome turns the error of a vacuum into what River does next. Nothing of it touches
// a batch: their rows are archived, and autovacuum comes in any case.
func (v *vacuumWorker) outcome(ctx context.Context, job *river.Job[jobs.VacuumArgs], log *zap.Logger, err error) error {
	if err == nil {
		return nil
	}
	// What is written must be written even though the job's time is up.
	note, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	record := func(state ledger.VacuumState, text string) {
		if err := v.Ledger.NoteVacuum(note, job.Args.RunID, state, text, ""); err != nil {
			log.Warn("the state of the vacuum was not recorded", zap.Error(err))
		}
	}
	var wait *waitError
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, rivertype.ErrJobCancelledRemotely):
		record(ledger.VacuumFailed, "cancelled by an operator")
		v.vacuumed(job, ledger.VacuumFailed, ledger.VacuumResult{})
		return river.JobCancel(errors.New("cancelled by an operator"))
	case cause != nil && !errors.Is(cause, context.DeadlineExceeded):
		log.Info("vacuum stopped; it is begun again by another replica, or after the restart")
		record(ledger.VacuumQueued, "stopped by a shutdown")
		return river.JobSnooze(0)
	case errors.As(err, &wait):
	case errors.Is(err, source.ErrVacuumAtWork):
		wait = &waitError{reason: err.Error(), after: vacuumTurn}
	case errors.Is(err, source.ErrVacuumLocked):
		wait = &waitError{reason: err.Error(), after: vacuumLock}
	case cause != nil:
		err = fmt.Errorf("not done within %s: %w", vacuumTimeout, err)
	case isOutage(err):
		wait = &waitError{reason: err.Error(), after: outageWait}
	}
	if wait != nil {
		log.Info("vacuum waits", zap.String("reason", wait.reason), zap.Duration("for", wait.after))
		record(ledger.VacuumQueued, wait.reason)
		v.tell(ctx, log, "waiting: "+wait.reason)
		return river.JobSnooze(wait.after)
	}
	if job.Attempt >= job.MaxAttempts {
		record(ledger.VacuumFailed, err.Error())
		log.Warn("vacuum failed; the rows are archived, and autovacuum comes in its own time", zap.Error(err))
		v.vacuumed(job, ledger.VacuumFailed, ledger.VacuumResult{})
		return err
	}
	record(ledger.VacuumQueued, "to be tried again after: "+err.Error())
	log.Warn("vacuum failed; it will be tried again", zap.Error(err), zap.Duration("in", 15*jobs.RetryDelay(job.Attempt)))
	return err
}

// vacuumed tells whoever asked for it how the vacuum ended.
func (v *vacuumWorker) vacuumed(job *river.Job[jobs.VacuumArgs], state ledger.VacuumState, r ledger.VacuumResult) {
	if v.OnVacuum != nil {
		v.OnVacuum(VacuumDone{Database: job.Args.Database, Table: job.Args.Table, State: state, Result: r})
	}
}

// tell shows the result in River UI.
func (v *vacuumWorker) tell(ctx context.Context, log *zap.Logger, text string) {
	if err := river.RecordOutput(ctx, "vacuum "+text); err != nil {
		log.Debug("the result was not reported", zap.Error(err))
	}
}
