package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// scenario is a fleet to be watched.
type scenario struct {
	Replicas    int           `json:"replicas"`
	Places      int           `json:"max_parallel_databases"`
	Stage       time.Duration `json:"batch_nanoseconds"`
	Idle        bool          `json:"idle"`         // no batch anywhere
	OldSnapshot bool          `json:"old_snapshot"` // a transaction stays open meanwhile
}

func (s scenario) String() string {
	text := fmt.Sprintf("%d replicas, %d databases at a time, batches of %s", s.Replicas, s.Places, s.Stage)
	if s.Idle {
		text = fmt.Sprintf("%d replicas, nothing to do", s.Replicas)
	}
	if s.OldSnapshot {
		text += ", an old snapshot open"
	}
	return text
}

// watched is what a fleet did in a window.
type watched struct {
	scenario
	rates
	Seats         int         `json:"seats"` // that limits and hands allow
	Jobs          float64     `json:"jobs_per_second"`
	Running       float64     `json:"mean_running"`
	MostRunning   int         `json:"most_running"`
	MostDatabases int         `json:"most_databases"`
	MostOfOne     int         `json:"most_of_one_database"`
	Snoozed       float64     `json:"snoozed_share"` // of the runs
	Fetches       float64     `json:"fetches_per_second"`
	EmptyFetches  float64     `json:"empty_fetches_share"`
	Admissions    float64     `json:"admissions_per_second"`
	Admit         times       `json:"admit"` // waiting for the lock included
	Reconcile     times       `json:"reconcile"`
	ReplicaCores  float64     `json:"replica_cores"` // of all of them
	Connections   int         `json:"connections"`
	Failed        int         `json:"failed"` // replicas that did not come up, or lost their lease
	Top           []statement `json:"top_statements"`
	Errors        int         `json:"errors"`
	Error         string      `json:"error,omitempty"`
}

// sampleEvery is how often the running batches are counted.
const sampleEvery = 250 * time.Millisecond

// fleet starts the replicas of a scenario, lets them settle, and watches them.
func (c *control) fleet(ctx context.Context, s scenario) (w watched, err error) {
	w = watched{scenario: s, Seats: min(min(s.Places, c.o.databases)*c.o.seats, s.Replicas*c.o.hands)}
	// What the replicas before may have left.
	if err := c.exec(ctx, `UPDATE {s}.river_job SET state = 'pending' WHERE state IN ('available', 'running') AND kind = 'archive_batch'`); err != nil {
		return w, err
	}
	if err := c.exec(ctx, `DELETE FROM {s}.worker`); err != nil {
		return w, err
	}
	if s.OldSnapshot {
		tx, err := c.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			return w, err
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it has only read
		if _, err := tx.Exec(ctx, `SELECT`); err != nil {
			return w, err
		}
	}
	replicas, err := c.startReplicas(ctx, s)
	defer func() { w.Failed = replicas.stop() }()
	if err != nil {
		return w, err
	}
	if err := c.settle(ctx, s.Replicas); err != nil {
		return w, err
	}
	if c.named {
		if _, err := c.pool.Exec(ctx, `SELECT pg_stat_statements_reset()`); err != nil {
			return w, err
		}
	}
	if _, err := replicas.counts(); err != nil {
		return w, err
	}
	before, err := c.usage(ctx)
	if err != nil {
		return w, err
	}
	before.statements = 0 // reset
	cpu := cpuOf(replicas.pids())
	if err := c.watch(ctx, &w); err != nil {
		return w, err
	}
	after, err := c.usage(ctx)
	if err != nil {
		return w, err
	}
	took := after.at.Sub(before.at)
	w.rates, w.ReplicaCores = after.since(before), (cpuOf(replicas.pids())-cpu)/took.Seconds()
	t, err := replicas.counts()
	if err != nil {
		return w, err
	}
	w.count(t, took)
	w.Top, err = c.top(ctx, took)
	return w, err
}

// settle waits until every replica has joined, or could long have, and a little longer.
func (c *control) settle(ctx context.Context, replicas int) error {
	const patience = 30 * time.Second
	for end := time.Now().Add(patience); time.Now().Before(end); {
		var joined int
		if err := c.pool.QueryRow(ctx, c.ledger.SQL(`SELECT count(*) FROM {s}.worker`)).Scan(&joined); err != nil {
			return err
		}
		if joined >= replicas {
			break
		}
		if err := sleep(ctx, sampleEvery); err != nil {
			return err
		}
	}
	return sleep(ctx, c.o.warmUp)
}

func (w *watched) count(t tally, took time.Duration) {
	s := took.Seconds()
	w.Jobs, w.Fetches, w.Admissions = float64(t.Done)/s, float64(t.Fetches)/s, float64(len(t.Admit))/s
	if t.Runs > 0 {
		w.Snoozed = float64(t.Snoozed) / float64(t.Runs)
	}
	if t.Fetches > 0 {
		w.EmptyFetches = float64(t.EmptyFetches) / float64(t.Fetches)
	}
	w.Admit, w.Reconcile, w.Errors, w.Error = summary(t.Admit), summary(t.Reconcile), t.Errors, t.Error
}

// watch counts the running batches over the window.
func (c *control) watch(ctx context.Context, w *watched) error {
	end, samples := time.Now().Add(c.o.window), 0
	for time.Now().Before(end) {
		var all, databases, ofOne, connections int
		err := c.pool.QueryRow(ctx, c.ledger.SQL(`
			SELECT coalesce(sum(n), 0)::int, count(*)::int, coalesce(max(n), 0)::int,
			       (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name = '`+replicaSession+`')
			FROM (SELECT count(*) AS n FROM {s}.river_job WHERE state = 'running' AND kind = 'archive_batch' GROUP BY queue) q`)).
			Scan(&all, &databases, &ofOne, &connections)
		if err != nil {
			return err
		}
		samples++
		w.Running += float64(all)
		w.MostRunning, w.MostDatabases, w.MostOfOne = max(w.MostRunning, all), max(w.MostDatabases, databases), max(w.MostOfOne, ofOne)
		w.Connections = max(w.Connections, connections)
		if err := sleep(ctx, sampleEvery); err != nil {
			return err
		}
	}
	w.Running /= float64(samples)
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
