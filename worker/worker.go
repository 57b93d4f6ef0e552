package worker

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/telemetry"
	"github.com/audit-table-archiver/archiver/internal/throttle"
	"github.com/audit-table-archiver/archiver/jobs"
)

// Deps are what a worker works with. OnBatch, OnVacuum, Health and Started may be left out.
type Deps struct {
	ID       string // NewID
	Config   *config.Config
	Ledger   *ledger.Ledger
	Store    *objstore.Store
	Sources  map[string]*source.DB // by database name
	Log      *zap.Logger
	Version  string
	OnBatch  func(Done)        // called, from several goroutines, when an attempt at a batch has ended
	OnVacuum func(VacuumDone)  // the same for a vacuum
	Health   *telemetry.Health // told how the replica fares
	Started  func()            // called once the replica holds its lease and takes jobs
}

// Worker works batch jobs; River calls it.
type Worker struct {
	river.WorkerDefaults[jobs.BatchArgs]
	Deps
	ledgerID    string
	running     *running
	vacuuming   *running      // vacuums, which take no hand of the process
	freed       chan string   // database of a batch that has ended: a seat may be free
	jobDone     chan struct{} // a batch or a vacuum has
	gate        *throttle.Gate
	preflighted sync.Map // table and fingerprint -> *source.Table, looked at by this process
	replicas    sync.Map // table -> source.ReplicaTrouble that was last logged
}

// Timeout implements river.Worker. It is finite: River never rescues a job
// without a time limit.
func (w *Worker) Timeout(*river.Job[jobs.BatchArgs]) time.Duration {
	return w.Config.Worker.BatchTimeout
}

// NextRetry implements river.Worker.
func (w *Worker) NextRetry(job *river.Job[jobs.BatchArgs]) time.Time {
	return time.Now().Add(jobs.RetryDelay(job.Attempt))
}

// Work implements river.Worker.
func (w *Worker) Work(ctx context.Context, job *river.Job[jobs.BatchArgs]) error {
	defer w.jobEnded()
	defer w.seatFreed(job.Args.Database)
	w.running.start(job.ID)
	defer w.running.end(job.ID)
	a := &attempt{job: job, log: withJobLog(ctx, w.Log.With(zap.Int64("batch_id", job.Args.BatchID), zap.Int64("job_id", job.ID))), began: time.Now()}
	ctx, done := source.WithSession(source.WithBatch(ctx, job.Args.BatchID))
	defer done()
	w.startReport(ctx, a)
	return w.outcome(ctx, a, w.try(ctx, a))
}

// seatFreed has the next batch admitted without waiting for the next look.
func (w *Worker) seatFreed(database string) {
	select {
	case w.freed <- database:
	default: // the next look finds it
	}
}

// jobEnded, of a batch or a vacuum, has a drain look whether that was the last one.
func (w *Worker) jobEnded() {
	select {
	case w.jobDone <- struct{}{}:
	default: // it is said already
	}
}

// try turns a panic into an error, so that it takes the same way as any other.
func (w *Worker) try(ctx context.Context, a *attempt) (err error) {
	defer func() {
		if p := recover(); p != nil {
			a.log.Error("panic", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return w.archive(ctx, a)
}

// configured finds a batch's table and source in the configuration.
func (w *Worker) configured(b *ledger.Batch) (config.Table, *source.DB, bool) {
	return w.table(ledger.TableName{Database: b.Database, Schema: b.Schema, Name: b.Table})
}

func (w *Worker) table(name ledger.TableName) (config.Table, *source.DB, bool) {
	for _, d := range w.Config.Databases {
		if d.Name != name.Database {
			continue
		}
		for _, t := range d.Tables {
			if t.Schema == name.Schema && t.Name == name.Name {
				return t, w.Sources[d.Name], w.Sources[d.Name] != nil
			}
		}
	}
	return config.Table{}, nil, false
}
