package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/jobs"
	"github.com/audit-table-archiver/archiver/worker"
)

// asReplica in the environment makes this binary a replica. It reads its order from
// standard input, answers each further line with its counts, and ends with the input:
// should the harness die, so does it.
const asReplica = "ARCHIVER_BENCH_REPLICA"

func isReplica() bool { return os.Getenv(asReplica) != "" }

// order is what a replica is told.
type order struct {
	DSN       string        `json:"dsn"`
	ID        string        `json:"id"`
	Databases int           `json:"databases"`
	Tables    int           `json:"tables"`
	Seats     int           `json:"seats"`
	Places    int           `json:"places"`
	Hands     int           `json:"hands"`
	Pool      int           `json:"pool"`
	Stage     time.Duration `json:"stage"`
	Prepared  bool          `json:"prepared"`
	Idle      bool          `json:"idle"` // run the archiver's own replica: there is nothing to work on
}

// counts are what a replica has done since they were last asked for.
type counts struct {
	mu sync.Mutex
	tally
}

type tally struct {
	Done, Runs, Snoozed   int
	Fetches, EmptyFetches int
	Admit                 []float64 // milliseconds of each call
	Reconcile             []float64
	Errors                int
	Error                 string // one of them
}

func (t *tally) add(o tally) {
	t.Done, t.Runs, t.Snoozed = t.Done+o.Done, t.Runs+o.Runs, t.Snoozed+o.Snoozed
	t.Fetches, t.EmptyFetches = t.Fetches+o.Fetches, t.EmptyFetches+o.EmptyFetches
	t.Admit, t.Reconcile = append(t.Admit, o.Admit...), append(t.Reconcile, o.Reconcile...)
	t.Errors += o.Errors
	if o.Error != "" {
		t.Error = o.Error
	}
}

func (c *counts) add(fn func(*tally)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(&c.tally)
}

func (c *counts) done() { c.add(func(t *tally) { t.Done++ }) }

func (c *counts) ran(snoozed bool) {
	c.add(func(t *tally) {
		t.Runs++
		if snoozed {
			t.Snoozed++
		}
	})
}

func (c *counts) fetched(n int) {
	c.add(func(t *tally) {
		t.Fetches++
		if n == 0 {
			t.EmptyFetches++
		}
	})
}

func (c *counts) failed(err error) {
	c.add(func(t *tally) { t.Errors++; t.Error = err.Error() })
}

// reset returns the counts and starts anew.
func (c *counts) reset() tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tally
	c.tally = tally{}
	return t
}

// replicaMain is a replica from its order to the end of its input.
func replicaMain() error {
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	var o order
	if !in.Scan() {
		return errors.New("no order on standard input")
	}
	if err := json.Unmarshal(in.Bytes(), &o); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	pool, err := openPool(ctx, o.DSN, o.Pool, o.Prepared)
	if err != nil {
		return err
	}
	count := &counts{}
	running := make(chan error, 1)
	if o.Idle {
		go func() { running <- o.runArchiver(ctx, pool) }()
	} else {
		go func() { running <- o.runSleeper(ctx, pool, count) }()
	}
	for in.Scan() {
		if err := out.Encode(count.reset()); err != nil {
			return err
		}
	}
	cancel()
	select {
	case err := <-running:
		return err
	case <-time.After(20 * time.Second):
		return errors.New("the replica does not end")
	}
}

func (o order) config() *config.Config {
	return options{databases: o.Databases, tables: o.Tables, seats: o.Seats, hands: o.Hands}.config(o.Places)
}

// runArchiver is the archiver's own replica.
func (o order) runArchiver(ctx context.Context, pool *pgxpool.Pool) error {
	cfg := o.config()
	store, err := objstore.Open(ctx, worker.StoreConfig(cfg.S3)) // asked for nothing, as there is no batch
	if err != nil {
		return err
	}
	defer store.Close()
	return worker.Run(ctx, worker.Deps{ID: o.ID, Config: cfg, Store: store, Ledger: ledger.New(pool, schema), Log: zap.NewNop(), Version: "bench"}, worker.RunOptions{})
}

// lease is the archiver's default.
const lease = 15 * time.Second

// runSleeper is a copy of the archiver's replica around a batch that only sleeps: the
// same client, lease, admission and rounds.
func (o order) runSleeper(ctx context.Context, pool *pgxpool.Pool, count *counts) error {
	l := ledger.New(pool, schema)
	h := &hands{free: o.Hands, count: count}
	s := &sleeper{ledger: l, stage: o.Stage, hands: h, count: count, freed: make(chan string, 64)}
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, s); err != nil {
		return err
	}
	limits := fleet.LimitsOf(o.config())
	queues := map[string]river.QueueConfig{jobs.ControlQueue: {MaxWorkers: 1}}
	for name, seats := range limits.Seats {
		queues[jobs.Queue(name)] = river.QueueConfig{MaxWorkers: min(seats, o.Hands)}
	}
	client, err := river.NewClient(newHandedDriver(pool, h), &river.Config{
		ID: o.ID, Schema: schema, Queues: queues, Workers: workers, Logger: slog.New(slog.DiscardHandler),
		FetchCooldown: 2 * time.Millisecond, FetchPollInterval: 30 * time.Second,
		JobTimeout: time.Minute, RescueStuckJobsAfter: 6 * time.Minute, SoftStopTimeout: 5 * time.Second,
	})
	if err != nil {
		return err
	}
	held, err := fleet.Join(ctx, l, fleet.Worker{ID: o.ID, Host: "bench", PID: os.Getpid(), Version: "bench", Limits: limits}, lease)
	if err != nil {
		return err
	}
	keepCtx, endLease := context.WithCancel(context.WithoutCancel(ctx))
	defer endLease()
	lost := make(chan error, 1)
	go func() { lost <- held.Keep(keepCtx) }()
	if err := client.Start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	tended := make(chan struct{})
	go func() { defer close(tended); s.tend(ctx, o.ID, client) }()
	select {
	case <-ctx.Done():
	case err := <-lost:
		return err
	}
	<-tended
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	return errors.Join(client.Stop(stopCtx), held.Leave(stopCtx))
}

// tend is what each replica does besides its batches.
func (s *sleeper) tend(ctx context.Context, id string, client *river.Client[pgx.Tx]) {
	reconciler := &fleet.Reconciler{Ledger: s.ledger, Client: client, Every: reconcileEvery}
	tick, reconcile := time.NewTicker(time.Second), time.NewTicker(reconcileEvery)
	defer tick.Stop()
	defer reconcile.Stop()
	took := func(into func(*tally, float64), fn func() error) {
		began := time.Now()
		err := fn()
		if err != nil && ctx.Err() == nil {
			s.count.failed(err)
		}
		s.count.add(func(t *tally) { into(t, millis(time.Since(began))) })
	}
	admit := func(look func() error) {
		took(func(t *tally, ms float64) { t.Admit = append(t.Admit, ms) }, look)
	}
	everything := func() error { _, err := fleet.Admit(ctx, s.ledger); return err }
	admit(everything)
	for {
		select {
		case <-ctx.Done():
			return
		case database := <-s.freed:
			ended := []string{database}
			for len(s.freed) > 0 {
				ended = append(ended, <-s.freed)
			}
			admit(func() error { _, err := fleet.Refill(ctx, s.ledger, ended); return err })
		case <-tick.C:
			took(func(*tally, float64) {}, func() error {
				due, err := fleet.LookDue(ctx, s.ledger)
				if err == nil && due {
					admit(everything)
				}
				return err
			})
			took(func(*tally, float64) {}, func() error {
				lost, err := fleet.Bury(ctx, s.ledger)
				if err != nil {
					return err
				}
				if len(lost) > 0 {
					if _, err := fleet.Return(ctx, s.ledger, lost); err != nil {
						return err
					}
				}
				// No job that is known: none is older than this.
				_, err = fleet.Reclaim(ctx, s.ledger, id, []int64{}, time.Hour)
				return err
			})
		case <-reconcile.C:
			took(func(t *tally, ms float64) { t.Reconcile = append(t.Reconcile, ms) }, func() error {
				_, err := reconciler.Reconcile(ctx)
				return err
			})
		}
	}
}
