package metrics

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/jobs"
)

const (
	// keepFor and keepTimes say how long what was read is good for; see the package
	// comment.
	keepFor   = 15 * time.Second
	keepTimes = 50
	// keepTrouble is keepTimes after a read that failed, which may have been the time-out.
	keepTrouble = 5
	// readTime bounds a read, so that a scrape has an answer within Prometheus's usual
	// ten seconds.
	readTime = 8 * time.Second
	// lookBack is added to the time since the last read when looking for batches that
	// were archived since: transactions take a while, and replicas' clocks differ.
	lookBack = 5 * time.Minute
)

// fleetMetrics shows what the control database says.
type fleetMetrics struct {
	Config

	success, seconds                    *prometheus.Desc
	batches, rows, oldest, archived     *prometheus.Desc
	paused, throttled                   *prometheus.Desc
	batchSize, batchQuery               *prometheus.Desc
	seats, taken, parallel              *prometheus.Desc
	workers, disagree, queue            *prometheus.Desc
	scheduleNext, schedulePlanned, fail *prometheus.Desc

	mu      sync.Mutex
	snap    *snapshot // nil: it could not be read
	next    time.Time // not read again before
	took    time.Duration
	last    map[ledger.TableName]time.Time // archived; grows with each read
	lastAsk time.Time                      // up to when last is complete; zero: it was never read
}

func newFleet(c Config) *fleetMetrics {
	return &fleetMetrics{
		Config:          c,
		success:         desc("archiver_fleet_read_success", "1 if this replica could read the fleet's metrics; without, they are left out."),
		seconds:         desc("archiver_fleet_read_seconds", "Seconds that it last took to read the fleet's metrics."),
		batches:         desc("archiver_fleet_open_batches", "Batches that are not finished, each in one state.", "database", "table", "state"),
		rows:            desc("archiver_fleet_open_rows", "Rows that the open batches were planned with, and about those that the run has yet to plan.", "database", "table"),
		oldest:          desc("archiver_fleet_oldest_open_row_timestamp_seconds", "Timestamp of the last row of the oldest open batch; none if no batch is open.", "database", "table"),
		archived:        desc("archiver_fleet_last_archived_timestamp_seconds", "When a batch of the table was last archived; none if never.", "database", "table"),
		paused:          desc("archiver_fleet_paused", "1 while a pause covers the table.", "database", "table"),
		throttled:       desc("archiver_fleet_throttled", "1 while a rule of throttle holds the table.", "database", "table"),
		batchSize:       desc("archiver_fleet_batch_size_rows", "Rows that the next batches of the table are planned with.", "database", "table"),
		batchQuery:      desc("archiver_fleet_batch_query_seconds", "Seconds that the query of the last archived batch took; none before one was.", "database", "table"),
		seats:           desc("archiver_fleet_seats", "Batches of the database that may run at a time, in the whole fleet.", "database"),
		taken:           desc("archiver_fleet_seats_taken", "Batches of the database that run, or are about to.", "database"),
		parallel:        desc("archiver_fleet_max_parallel_databases", "Databases that may have batches running at a time."),
		workers:         desc("archiver_fleet_workers", "Replicas that hold their lease."),
		disagree:        desc("archiver_fleet_limits_disagree", "1 while replicas have different limits configured."),
		queue:           desc("archiver_fleet_queue_jobs", "Jobs in River's queues that are not finished, by River's state.", "queue", "state"),
		scheduleNext:    desc("archiver_fleet_schedule_next_timestamp_seconds", "When the table's schedule is due next; in the past while the plan is late.", "database", "table"),
		schedulePlanned: desc("archiver_fleet_schedule_planned_timestamp_seconds", "When the table was last planned by its schedule; none if never.", "database", "table"),
		fail:            desc("archiver_fleet_schedule_failing", "1 while the last scheduled plan did not succeed.", "database", "table"),
	}
}

// Describe implements prometheus.Collector.
func (f *fleetMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		f.success, f.seconds, f.batches, f.rows, f.oldest, f.archived, f.paused, f.throttled, f.batchSize, f.batchQuery, f.seats, f.taken, f.parallel,
		f.workers, f.disagree, f.queue, f.scheduleNext, f.schedulePlanned, f.fail,
	} {
		out <- d
	}
}

// snapshot is the fleet at an instant.
type snapshot struct {
	backlogs  []*fleet.Backlog
	standing  *fleet.Standing
	queues    []fleet.QueueDepth
	oldest    []fleet.OldestRow
	schedules []ledger.Schedule
	archived  map[ledger.TableName]time.Time
	paces     map[ledger.TableName]ledger.Pace
	unplanned []ledger.Unplanned
}

// Collect implements prometheus.Collector. Of several scrapes at once one reads, and
// the others wait for it.
func (f *fleetMetrics) Collect(out chan<- prometheus.Metric) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !time.Now().Before(f.next) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), readTime) // a collector is given no context
		snap, err := f.look(ctx)
		cancel()
		f.snap, f.took = snap, time.Since(began)
		f.next = time.Now().Add(max(keepFor, keepTimes*f.took))
		if err != nil {
			f.next = time.Now().Add(max(keepFor, keepTrouble*f.took))
			f.Log.Warn("the fleet's metrics could not be read; they are left out", zap.Error(err))
		}
	}
	send := sender(out)
	send(f.success, truth(f.snap != nil))
	send(f.seconds, f.took.Seconds())
	if f.snap != nil {
		f.send(send, f.snap)
	}
}

// look reads all of it in one snapshot.
func (f *fleetMetrics) look(ctx context.Context) (*snapshot, error) {
	s := &snapshot{}
	l := f.Ledger
	began := time.Now()
	var within time.Duration
	if !f.lastAsk.IsZero() && time.Since(f.lastAsk) < time.Hour {
		within = time.Since(f.lastAsk) + lookBack
	}
	err := pgx.BeginTxFunc(ctx, l.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		if _, err := tx.Exec(ctx, `SET LOCAL jit = off`); err != nil {
			return fmt.Errorf("begin to read: %w", err)
		}
		if s.backlogs, err = fleet.CountOpen(ctx, l, tx); err != nil {
			return err
		}
		if s.standing, err = fleet.ReadStanding(ctx, l, tx); err != nil {
			return err
		}
		if s.queues, err = fleet.QueueDepths(ctx, l, tx); err != nil {
			return err
		}
		if s.oldest, err = fleet.OldestRows(ctx, l, tx); err != nil {
			return err
		}
		if s.schedules, err = l.Schedules(ctx, tx); err != nil {
			return err
		}
		if s.paces, err = l.Paces(ctx, tx); err != nil {
			return err
		}
		if s.unplanned, err = l.UnplannedRuns(ctx, tx); err != nil {
			return err
		}
		s.archived, err = l.LastArchived(ctx, tx, within)
		return err
	})
	if err != nil {
		return nil, err
	}
	if f.last == nil {
		f.last = map[ledger.TableName]time.Time{}
	}
	for name, at := range s.archived {
		if at.After(f.last[name]) {
			f.last[name] = at
		}
	}
	f.lastAsk, s.archived = began, f.last
	return s, nil
}

func (f *fleetMetrics) send(send func(*prometheus.Desc, float64, ...string), s *snapshot) {
	f.sendTables(send, s)
	f.sendPaces(send, s.paces)
	for _, o := range s.oldest {
		send(f.oldest, o.At, o.Database, label(o.Schema, o.Table))
	}
	for name, at := range s.archived {
		send(f.archived, unix(at), name.Database, label(name.Schema, name.Name))
	}
	for database, seats := range s.standing.Limits.Seats {
		send(f.seats, float64(seats), database)
	}
	for _, d := range f.Config.Config.Databases {
		if _, some := s.standing.Running[d.Name]; !some {
			send(f.taken, 0, d.Name)
		}
	}
	for database, n := range s.standing.Running {
		send(f.taken, float64(n), database)
	}
	send(f.parallel, float64(s.standing.Limits.Databases))
	send(f.workers, float64(s.standing.Limits.Live))
	send(f.disagree, truth(len(s.standing.Limits.Disagree) > 0))
	f.sendQueues(send, s.queues)
	for _, d := range s.schedules {
		table := label(d.Schema, d.Name)
		if at, ok := f.NextDue(d); ok {
			send(f.scheduleNext, at, d.Database, table)
		}
		if d.PlannedAt != nil {
			send(f.schedulePlanned, unix(*d.PlannedAt), d.Database, table)
		}
		send(f.fail, truth(d.LastError != nil), d.Database, table)
	}
}

// sendPaces shows the batch sizes of the tables that are configured here.
func (f *fleetMetrics) sendPaces(send func(*prometheus.Desc, float64, ...string), paces map[ledger.TableName]ledger.Pace) {
	for _, d := range f.Config.Config.Databases {
		for _, t := range d.Tables {
			pace := paces[ledger.TableName{Database: t.Database, Schema: t.Schema, Name: t.Name}]
			send(f.batchSize, float64(f.BatchSize(t, pace)), t.Database, label(t.Schema, t.Name))
			if pace.LastQuery != nil {
				send(f.batchQuery, *pace.LastQuery, t.Database, label(t.Schema, t.Name))
			}
		}
	}
}

// sendTables shows the tables that are configured here, also those without a backlog,
// and any other that has one.
func (f *fleetMetrics) sendTables(send func(*prometheus.Desc, float64, ...string), s *snapshot) {
	backlogs := s.backlogs
	unplanned := map[ledger.TableName]int64{}
	for _, u := range s.unplanned {
		unplanned[u.Name] = u.RowsLeft
	}
	known := map[ledger.TableName]bool{}
	for _, b := range backlogs {
		known[ledger.TableName{Database: b.Database, Schema: b.Schema, Name: b.Table}] = true
	}
	for _, d := range f.Config.Config.Databases {
		for _, t := range d.Tables {
			if !known[ledger.TableName{Database: t.Database, Schema: t.Schema, Name: t.Name}] {
				backlogs = append(backlogs, &fleet.Backlog{Database: t.Database, Schema: t.Schema, Table: t.Name})
			}
		}
	}
	held := map[ledger.TableName]bool{}
	for _, h := range s.standing.Held {
		held[ledger.TableName{Database: h.Database, Schema: h.Schema, Name: h.Table}] = true
	}
	for _, b := range backlogs {
		table := label(b.Schema, b.Table)
		for state, n := range map[fleet.JobState]int64{
			fleet.JobQueued: b.Queued(), fleet.JobRunning: b.Running - b.Stuck, fleet.JobWaiting: b.Waiting,
			fleet.JobFailed: b.Failed, fleet.JobStuck: b.Stuck, fleet.JobLost: b.Lost,
		} {
			send(f.batches, float64(n), b.Database, table, string(state))
		}
		send(f.rows, float64(b.Rows+unplanned[ledger.TableName{Database: b.Database, Schema: b.Schema, Name: b.Table}]), b.Database, table)
		send(f.paused, truth(s.standing.PausedBy(b.Database, b.Schema, b.Table) != nil), b.Database, table)
		send(f.throttled, truth(held[ledger.TableName{Database: b.Database, Schema: b.Schema, Name: b.Table}]), b.Database, table)
	}
}

// sendQueues shows all states of the configured databases' queues, and whatever else
// there is.
func (f *fleetMetrics) sendQueues(send func(*prometheus.Desc, float64, ...string), depths []fleet.QueueDepth) {
	found := map[[2]string]float64{}
	for _, d := range f.Config.Config.Databases {
		for _, state := range []string{"available", "pending", "retryable", "running", "scheduled"} {
			found[[2]string{jobs.Queue(d.Name), state}] = 0
		}
	}
	for _, d := range depths {
		found[[2]string{d.Queue, d.State}] = float64(d.Jobs)
	}
	for k, n := range found {
		send(f.queue, n, k[0], k[1])
	}
}

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
