package worker

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"golang.org/x/sync/errgroup"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/throttle"
	"github.com/audit-table-archiver/archiver/jobs"
)

// RunOptions say when a replica ends by itself.
type RunOptions struct {
	Drain bool // end when nothing is left to do
	// Patience ends a drain in which no batch has finished for so long and none is
	// at work: what is left waits for something that may take hours.
	Patience time.Duration
}

// How often a replica looks for dead ones and for free seats, and how often it compares
// the ledger with the queue. What a batch frees is filled at once.
const (
	tendEvery      = time.Second
	reconcileEvery = 5 * time.Second
)

// failedFor is how long River keeps the jobs of failed batches; the ledger keeps all.
const failedFor = 30 * 24 * time.Hour

// Run works the queues of all configured databases until ctx ends, or, with
// Drain, until nothing is left. When ctx ends it takes no more jobs, lets running
// ones finish within shutdown_timeout, and gives the rest back to the queue. With
// fleet.ErrLeaseLost the process must end at once.
func Run(ctx context.Context, d Deps, o RunOptions) error {
	w, client, lease, err := prepare(ctx, d)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil //nolint:nilerr // told to end before it began
	case err != nil:
		return err
	}
	return w.run(ctx, client, lease, o)
}

// prepare joins the fleet; no job is taken before run.
func prepare(ctx context.Context, d Deps) (*Worker, *river.Client[pgx.Tx], *fleet.Lease, error) {
	id, err := d.Ledger.ID(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := CheckSpool(d.Config.Worker.SpoolDir); err != nil {
		return nil, nil, nil, err
	}
	w := &Worker{Deps: d, ledgerID: id, running: newRunning(d.Config.Worker.Concurrency), vacuuming: newRunning(0), freed: make(chan string, 64), jobDone: make(chan struct{}, 1), gate: &throttle.Gate{Now: d.Ledger.Now}}
	pooled, err := behindPooler(ctx, d.Ledger.Pool)
	if err != nil {
		return nil, nil, nil, err
	}
	if pooled {
		d.Log.Info("the control database is behind a connection pooler: jobs are found by asking for them again and again")
	}
	client, err := newClient(w, pooled)
	if err != nil {
		return nil, nil, nil, err
	}
	host, _ := os.Hostname() // shown to people only
	lease, err := fleet.Join(ctx, d.Ledger, fleet.Worker{
		ID: d.ID, Host: host, PID: os.Getpid(), Version: d.Version, Limits: fleet.LimitsOf(d.Config),
	}, d.Config.Worker.Lease)
	if err != nil {
		return nil, nil, nil, err
	}
	return w, client, lease, nil
}

func (w *Worker) run(ctx context.Context, client *river.Client[pgx.Tx], lease *fleet.Lease, o RunOptions) error {
	shutdown := w.Config.Worker.ShutdownTimeout
	work, stop := context.WithCancel(ctx)
	defer stop()
	// The lease outlives ctx: jobs still run while the replica shuts down. Once it
	// is lost, held ends, and with it every wait for a graceful end.
	held, lose := context.WithCancelCause(context.WithoutCancel(ctx))
	defer lose(nil)
	leaseCtx, endLease := context.WithCancel(held)
	defer endLease()
	var g errgroup.Group
	g.Go(func() error { // before River starts: with many queues in a large fleet that takes long
		defer stop()
		err := lease.Keep(leaseCtx)
		if err != nil {
			lose(err)
		}
		return err
	})
	// River is started on a context of its own values but not of ctx's end: how a
	// stop goes is decided below.
	startCtx, cancelStart := context.WithCancel(held)
	defer cancelStart()
	if err := client.Start(startCtx); err != nil {
		endLease()
		return cmp.Or(context.Cause(held), fmt.Errorf("start the job queue: %w", err))
	}
	w.Health.Joined(lease.Held)
	w.Log.Info("worker started", zap.String("worker", client.ID()), zap.Int("concurrency", w.Config.Worker.Concurrency))
	if w.Started != nil {
		w.Started()
	}
	g.Go(func() error { w.tend(work, client); return nil })
	g.Go(func() error { w.watchStorage(work); return nil })
	if o.Drain {
		g.Go(func() error {
			defer stop()
			return w.drain(work, client, o.Patience)
		})
	}

	<-work.Done()
	w.Health.Stopping()
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

// tend keeps the fleet going until ctx ends. Each replica does, so that none is needed.
func (w *Worker) tend(ctx context.Context, client *river.Client[pgx.Tx]) {
	reconciler := &fleet.Reconciler{Ledger: w.Ledger, Client: client, Every: reconcileEvery}
	tick, reconcile := time.NewTicker(tendEvery), time.NewTicker(reconcileEvery)
	defer tick.Stop()
	defer reconcile.Stop()
	bounded(ctx, func(ctx context.Context) { w.admitted(fleet.Admit(ctx, w.Ledger)) }) // its own limits count now
	for {
		select {
		case <-ctx.Done():
			return
		case database := <-w.freed:
			bounded(ctx, func(ctx context.Context) { w.refill(ctx, database) })
		case <-tick.C:
			bounded(ctx, w.bury)
			bounded(ctx, w.reclaim)
			bounded(ctx, w.admit)
		case <-reconcile.C:
			bounded(ctx, func(ctx context.Context) { w.reconcile(ctx, reconciler) })
			bounded(ctx, func(ctx context.Context) {
				if err := w.closeRuns(ctx, client); err != nil && !errors.Is(err, context.Canceled) {
					w.Log.Warn("runs that have ended were not looked for", zap.Error(err))
				}
			})
		}
	}
}

// bounded keeps one step that hangs from keeping all others waiting.
func bounded(ctx context.Context, step func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	step(ctx)
}

// admit fills free seats, unless another replica has just done so.
func (w *Worker) admit(ctx context.Context) {
	due, err := fleet.LookDue(ctx, w.Ledger)
	if err != nil || !due {
		w.admitted(fleet.Admission{}, err)
		return
	}
	w.admitted(fleet.Admit(ctx, w.Ledger))
	if err := fleet.WakeVacuums(ctx, w.Ledger); err != nil && !errors.Is(err, context.Canceled) {
		w.Log.Warn("vacuums that are due were not called for", zap.Error(err))
	}
}

// refill gives away the seats of batches that have ended.
func (w *Worker) refill(ctx context.Context, database string) {
	ended := []string{database}
	for len(w.freed) > 0 {
		ended = append(ended, <-w.freed)
	}
	w.admitted(fleet.Refill(ctx, w.Ledger, ended))
}

func (w *Worker) admitted(a fleet.Admission, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		w.Log.Warn("free seats were not filled", zap.Error(err))
	}
	if a.Parked > 0 {
		w.Log.Info("batches wait again: something was paused, or a limit was lowered", zap.Int("batches", a.Parked))
	}
}

// bury returns the jobs of dead replicas to the queue. Their sessions on the sources are
// ended first: a replica that is only frozen may still hold a transaction open, and its
// place is about to be given to another.
func (w *Worker) bury(ctx context.Context) {
	lost, err := fleet.Bury(ctx, w.Ledger)
	if err != nil && !errors.Is(err, context.Canceled) {
		w.Log.Warn("dead workers were not looked for", zap.Error(err))
	}
	if len(lost) == 0 {
		return
	}
	dead := map[string][]string{}
	for _, j := range lost {
		if !slices.Contains(dead[j.Database], j.Worker) {
			dead[j.Database] = append(dead[j.Database], j.Worker)
		}
	}
	for database, workers := range dead {
		if db := w.Sources[database]; db != nil {
			w.endSessions(ctx, db, workers)
		}
	}
	n, err := fleet.Return(ctx, w.Ledger, lost)
	if err != nil && !errors.Is(err, context.Canceled) {
		w.Log.Warn("the jobs of lost workers were not returned", zap.Error(err))
	}
	if n > 0 {
		w.Log.Warn("jobs of lost workers were returned to the queue", zap.Int("jobs", n), zap.Any("workers", dead))
	}
}

// endSessions is a courtesy: what a dead replica had begun cannot commit in any case.
func (w *Worker) endSessions(ctx context.Context, db *source.DB, workers []string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := db.EndSessions(ctx, workers); err != nil {
		w.Log.Warn("the sessions of a lost worker were not ended", zap.String("database", db.Name), zap.Error(err))
	}
}

// reconcile mends what was done to jobs by hand.
func (w *Worker) reconcile(ctx context.Context, r *fleet.Reconciler) {
	done, err := r.Reconcile(ctx)
	if err != nil && !errors.Is(err, context.Canceled) {
		w.Log.Warn("jobs that were changed by hand were not looked for", zap.Error(err))
	}
	if done.Any() {
		w.Log.Warn("jobs were changed by hand; the ledger follows", zap.Int64s("enqueued_again", done.Reinserted), zap.Int64s("cancelled", done.Cancelled),
			zap.Int64s("failed", done.Failed), zap.Int64s("retried", done.Revived), zap.Int64s("jobs_closed", done.Closed))
	}
}

// NewID makes a name for a replica that no other has.
func NewID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), rand.Text()[:8])
}

// vacuumPoll is how often a queue of vacuums is asked without a call: see
// fleet.WakeVacuums, which a pooler that shares sessions swallows.
func vacuumPoll(pooled bool) time.Duration {
	if pooled {
		return 5 * time.Second
	}
	return 5 * time.Minute
}

// newClient configures River. Every replica registers all job kinds, since the
// one that leads discards what it does not know.
func newClient(w *Worker, pooled bool) (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, w); err != nil {
		return nil, fmt.Errorf("register the batch worker: %w", err)
	}
	if err := river.AddWorkerSafely(workers, &vacuumWorker{Worker: w}); err != nil {
		return nil, fmt.Errorf("register the vacuum worker: %w", err)
	}
	queues := map[string]river.QueueConfig{jobs.ControlQueue: {MaxWorkers: 1}}
	for _, d := range w.Config.Databases {
		queues[jobs.Queue(d.Name)] = river.QueueConfig{MaxWorkers: min(d.Concurrency, w.Config.Worker.Concurrency)}
		queues[jobs.VacuumQueue(d.Name)] = river.QueueConfig{MaxWorkers: 1, FetchPollInterval: vacuumPoll(pooled)}
	}
	timeout := w.Config.Worker.BatchTimeout
	// Admission tells the replicas of new jobs each second at the latest; with many
	// replicas and databases, asking for them is what costs.
	poll := 30 * time.Second
	if pooled {
		poll = 200 * time.Millisecond // nothing else would tell it of the next job
	}
	client, err := river.NewClient(newSeatedDriver(w.Ledger.Pool, w.running, func() bool { return w.Store.Breaker() == nil }), &river.Config{
		ID:      w.ID,
		Schema:  w.Ledger.Schema(),
		Queues:  queues,
		Workers: workers,
		Logger:  RiverLogger(w.Log),
		// River asks at once when a job has ended, when its seat is not given away yet, and
		// would then leave the seat empty for this long: 100 ms by default, longer than a
		// small batch takes.
		FetchCooldown:     2 * time.Millisecond,
		FetchPollInterval: poll,
		// A pooler that shares sessions swallows LISTEN without an error.
		PollOnly:   pooled,
		JobTimeout: timeout,
		Middleware: []rivertype.Middleware{jobLog()},
		// What failed for good is to be found in River UI for longer than a weekend.
		CancelledJobRetentionPeriod: failedFor,
		DiscardedJobRetentionPeriod: failedFor,
		// The default of a minute leaves a broken index behind on a table of millions.
		ReindexerTimeout: 10 * time.Minute,
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
	own, err := source.OwnSession(ctx, conn.Conn())
	if err != nil {
		return false, fmt.Errorf("look for a connection pooler: %w", err)
	}
	return !own, nil
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
