package worker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"golang.org/x/sync/errgroup"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/jobs"
)

// RunOptions say when a replica ends by itself.
type RunOptions struct {
	Drain bool // end when nothing is left to do
	// Patience ends a drain in which no batch has finished for so long and none is
	// at work: what is left waits for something that may take hours.
	Patience time.Duration
}

// reapEvery is how often a replica looks for dead ones.
const reapEvery = 2 * time.Second

// Run works the queues of all configured databases until ctx ends, or, with
// Drain, until nothing is left. When ctx ends it takes no more jobs, lets running
// ones finish within shutdown_timeout, and gives the rest back to the queue. With
// fleet.ErrLeaseLost the process must end at once.
func Run(ctx context.Context, d Deps, o RunOptions) error {
	id, err := d.Ledger.ID(ctx)
	if err != nil {
		return err
	}
	if err := CheckSpool(d.Config.Worker.SpoolDir); err != nil {
		return err
	}
	w := &Worker{Deps: d, ledgerID: id, seats: make(chan struct{}, d.Config.Worker.Concurrency)}
	self := workerID()
	pooled, err := behindPooler(ctx, d.Ledger.Pool)
	if err != nil {
		return err
	}
	if pooled {
		d.Log.Info("the control database is behind a connection pooler: jobs are found by asking for them each second")
	}
	client, err := newClient(w, self, pooled)
	if err != nil {
		return err
	}
	host, _ := os.Hostname() // shown to people only
	lease, err := fleet.Join(ctx, d.Ledger, fleet.Worker{ID: self, Host: host, PID: os.Getpid(), Version: d.Version}, d.Config.Worker.Lease)
	if err != nil {
		return err
	}
	return w.run(ctx, client, lease, o)
}

func (w *Worker) run(ctx context.Context, client *river.Client[pgx.Tx], lease *fleet.Lease, o RunOptions) error {
	shutdown := w.Config.Worker.ShutdownTimeout
	// River is started on a context of its own values but not of ctx's end: how a
	// stop goes is decided below.
	startCtx, cancelStart := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelStart()
	if err := client.Start(startCtx); err != nil {
		return fmt.Errorf("start the job queue: %w", err)
	}
	w.Log.Info("worker started", zap.String("worker", client.ID()), zap.Int("concurrency", w.Config.Worker.Concurrency))

	work, stop := context.WithCancel(ctx)
	defer stop()
	// The lease outlives ctx: jobs still run while the replica shuts down. Once it
	// is lost, held ends, and with it every wait for a graceful end.
	held, lose := context.WithCancelCause(context.WithoutCancel(ctx))
	defer lose(nil)
	leaseCtx, endLease := context.WithCancel(held)
	defer endLease()
	var g errgroup.Group
	g.Go(func() error {
		defer stop()
		err := lease.Keep(leaseCtx)
		if err != nil {
			lose(err)
		}
		return err
	})
	g.Go(func() error { w.reap(work, client.ID()); return nil })
	if o.Drain {
		g.Go(func() error {
			defer stop()
			return w.drain(work, o.Patience)
		})
	}

	<-work.Done()
	if err := context.Cause(held); err != nil {
		return err
	}
	w.Log.Info("worker stopping", zap.Duration("within", shutdown))
	stopCtx, cancel := context.WithTimeout(held, shutdown)
	defer cancel()
	stopErr := client.Stop(stopCtx)
	if err := context.Cause(held); err != nil {
		return err
	}
	if stopErr != nil {
		stopErr = fmt.Errorf("some batches did not stop within shutdown_timeout (%s); they will be taken up again: %w", shutdown, stopErr)
	} else if err := lease.Leave(stopCtx); err != nil {
		// Only after a clean stop: while a job may still run, the lease protects it.
		w.Log.Warn("the lease was not given back", zap.Error(err))
	}
	endLease()
	return errors.Join(g.Wait(), stopErr)
}

// reap returns the jobs of dead replicas, and those of this one that never reached
// it, to the queue until ctx ends.
func (w *Worker) reap(ctx context.Context, self string) {
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	for {
		ids, err := fleet.Reap(ctx, w.Ledger)
		if err != nil && ctx.Err() == nil {
			w.Log.Warn("dead workers were not looked for", zap.Error(err))
		}
		w.reclaim(ctx, self)
		if len(ids) > 0 {
			w.Log.Warn("jobs of a lost worker were returned to the queue", zap.Int64s("job_ids", ids))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func workerID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), rand.Text()[:8])
}

// newClient configures River. Every replica registers all job kinds, since the
// one that leads discards what it does not know.
func newClient(w *Worker, id string, pooled bool) (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, w); err != nil {
		return nil, fmt.Errorf("register the batch worker: %w", err)
	}
	queues := map[string]river.QueueConfig{jobs.ControlQueue: {MaxWorkers: 1}}
	for _, d := range w.Config.Databases {
		queues[jobs.Queue(d.Name)] = river.QueueConfig{MaxWorkers: min(d.Concurrency, w.Config.Worker.Concurrency)}
	}
	timeout := w.Config.Worker.BatchTimeout
	client, err := river.NewClient(riverpgxv5.New(w.Ledger.Pool), &river.Config{
		ID:      id,
		Schema:  w.Ledger.Schema(),
		Queues:  queues,
		Workers: workers,
		Logger:  RiverLogger(w.Log),
		// One fetch per 100 ms, the default, would leave a seat empty for half the
		// time that a small batch takes.
		FetchCooldown:     20 * time.Millisecond,
		FetchPollInterval: time.Second,
		// A pooler that shares sessions swallows LISTEN without an error.
		PollOnly:   pooled,
		JobTimeout: timeout,
		// A backstop only: the lease finds a dead worker within seconds.
		RescueStuckJobsAfter: timeout + 5*time.Minute,
		SoftStopTimeout:      softStop(w.Config.Worker.ShutdownTimeout),
	})
	if err != nil {
		return nil, fmt.Errorf("configure the job queue: %w", err)
	}
	return client, nil
}

// behindPooler says whether a connection ends at something else than the server, such
// as PgBouncer: the process id that it was told is then not that of its session.
func behindPooler(ctx context.Context, pool *pgxpool.Pool) (bool, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return false, fmt.Errorf("connect to the control database: %w", err)
	}
	defer conn.Release()
	var session uint32
	if err := conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&session); err != nil {
		return false, fmt.Errorf("look for a connection pooler: %w", err)
	}
	return session != conn.Conn().PgConn().PID(), nil
}

// softStop is when running jobs are told to give up: early enough that they can
// roll back and be returned to the queue within the whole time.
func softStop(shutdown time.Duration) time.Duration {
	return max(shutdown-min(5*time.Second, shutdown/2), time.Millisecond)
}

// RiverLogger passes River's log on to ours: warnings and errors, and the rest
// only at debug level.
func RiverLogger(log *zap.Logger) *slog.Logger {
	level := zap.WarnLevel
	if log.Core().Enabled(zap.DebugLevel) {
		level = zap.InfoLevel
	}
	return slog.New(zapslog.NewHandler(log.WithOptions(zap.IncreaseLevel(level)).Core(), zapslog.WithName("river")))
}

// SpoolError says that the spool folder cannot be written to: a full disk, a
// missing right. It is this machine's trouble and no batch's.
type SpoolError struct {
	Dir string
	Err error
}

func (e *SpoolError) Error() string {
	return fmt.Sprintf("worker.spool_dir: cannot write to %s: %v", e.Dir, e.Err)
}

func (e *SpoolError) Unwrap() error { return e.Err }

// Hint says what can be done.
func (e *SpoolError) Hint() string {
	return "make room in that folder, or set worker.spool_dir to one with room that this user can write to"
}

// CheckSpool writes a byte, since a folder can be listed and still be read-only or
// full. The error is a *SpoolError. An empty dir is the system's temporary folder.
func CheckSpool(dir string) error {
	w := &Worker{Deps: Deps{Config: &config.Config{Worker: config.Worker{SpoolDir: dir}}}}
	f, err := w.newSpool()
	if err == nil {
		_, err = f.WriteString("x")
		err = errors.Join(err, f.Close())
	}
	var spool *SpoolError
	if err != nil && !errors.As(err, &spool) {
		return &SpoolError{Dir: w.spoolDir(), Err: err}
	}
	return err
}
