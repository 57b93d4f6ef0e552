package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
)

func (c *cli) statusCommand() *cobra.Command {
	var watch bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show backlog, rate, failures and workers",
		Long: `Show for each table what is archived, what is left, how fast it goes and what holds it
up, and which workers are alive. It reads the control database only.

Each open batch is counted once: as running while a worker has it, as failed when
nothing goes on before somebody acts, else by how far it has got (planned, verified,
deleting). The rate is that of the last 5 minutes.

For what waits it gives one reason: a pause, a throttle, a limit that is reached, a lock,
a service that is away, an open breaker, a back-off.

Examples:
  archiver status
  archiver status --watch
  archiver status --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return usage("--interval must be 100ms or more (got %s)", every)
			}
			a, err := c.open(cmd.Context())
			if err != nil {
				return err
			}
			defer a.close()
			if watch {
				return c.watchStatus(cmd.Context(), a, every)
			}
			s, err := a.status(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return outputError(c.printJSON(s))
			}
			return outputError(s.print(c.out))
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again and again until Ctrl-C; with --json a line each time")
	cmd.Flags().DurationVar(&every, "interval", 2*time.Second, "how often, with --watch")
	return c.jsonFlag(cmd)
}

type statusReport struct {
	Tables  []*tableStatus `json:"tables"`
	Workers []workerStatus `json:"workers"`
	Limits  limitsStatus   `json:"limits"`

	StuckJobs []stuckJob `json:"stuck_jobs"` // the oldest hundred
}

// limitsStatus is what the live workers allow together.
type limitsStatus struct {
	Databases int            `json:"max_parallel_databases"`
	Seats     map[string]int `json:"concurrency"` // by database
	Taken     map[string]int `json:"taken"`       // by database
	Disagree  []string       `json:"disagree"`
}

type tableStatus struct {
	Database      string      `json:"database"`
	Schema        string      `json:"schema"`
	Table         string      `json:"table"`
	Configured    bool        `json:"configured"`
	Batches       batchCounts `json:"batches"`
	Stuck         int64       `json:"stuck"`   // in running
	Waiting       int64       `json:"waiting"` // in planned, verified or deleting
	Lost          int64       `json:"lost"`    // in planned, verified or deleting
	RowsArchived  int64       `json:"rows_archived"`
	RowsPlanned   int64       `json:"rows_planned"`
	BytesStored   int64       `json:"bytes_stored"`
	RowsPerSecond *float64    `json:"rate_rows_per_second"`
	ETASeconds    *float64    `json:"eta_seconds"`
	LastArchived  *string     `json:"last_archived_at"`
	Paused        bool        `json:"paused"`
	WaitingFor    *string     `json:"waiting_for"`

	Schedule *scheduleStatus `json:"schedule"` // null: planned by hand
	Vacuum   *vacuumJSON     `json:"vacuum"`   // the last one; null: none so far

	// Of a run that is planned in windows: about so many rows are not planned yet.
	RowsUnplanned    int64    `json:"rows_unplanned"`
	BatchSize        *int     `json:"batch_size"` // that queries have brought about; null: as configured
	LastQuerySeconds *float64 `json:"last_query_seconds"`

	unplanned *ledger.Unplanned
}

type batchCounts struct {
	Planned   int64 `json:"planned"`
	Running   int64 `json:"running"`
	Verified  int64 `json:"verified"`
	Deleting  int64 `json:"deleting"`
	Archived  int64 `json:"archived"`
	Empty     int64 `json:"empty"`
	Failed    int64 `json:"failed"`
	Cancelled int64 `json:"cancelled"`
}

func (b batchCounts) open() int64 { return b.Planned + b.Running + b.Verified + b.Deleting + b.Failed }

type workerStatus struct {
	ID        string        `json:"id"`
	Host      string        `json:"host"`
	Version   string        `json:"version"`
	StartedAt string        `json:"started_at"`
	HeldFor   *string       `json:"held_for"` // why it takes no batches; null: it does
	Running   int           `json:"running"`
	Batches   []workerBatch `json:"batches"`
}

// workerBatch is a batch that a worker has.
type workerBatch struct {
	JobID    int64  `json:"job_id"`
	BatchID  int64  `json:"batch_id"`
	Database string `json:"database"`
	Table    string `json:"table"` // schema.table, plain names
	Stage    string `json:"stage"`
	Since    string `json:"since"`

	name  string
	since time.Time
}

// status reads all of it in one snapshot, so that a batch which is archived
// meanwhile is counted once.
func (a *app) status(ctx context.Context) (*statusReport, error) {
	var totals []ledger.Totals
	var backlogs []*fleet.Backlog
	var workers []*fleet.LiveWorker
	var standing *fleet.Standing
	var schedules []ledger.Schedule
	var vacuums []ledger.Vacuum
	var unplanned []ledger.Unplanned
	var paces map[ledger.TableName]ledger.Pace
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, a.control, snapshot, func(tx pgx.Tx) (err error) {
		// It would take longer to compile these queries than to run them.
		if _, err := tx.Exec(ctx, `SET LOCAL jit = off`); err != nil {
			return fmt.Errorf("begin the report: %w", err)
		}
		if totals, err = a.ledger.Totals(ctx, tx); err != nil {
			return err
		}
		if backlogs, err = fleet.Backlogs(ctx, a.ledger, tx); err != nil {
			return err
		}
		if schedules, err = a.ledger.Schedules(ctx, tx); err != nil {
			return err
		}
		if vacuums, err = a.ledger.LastVacuums(ctx, tx); err != nil {
			return err
		}
		if unplanned, err = a.ledger.UnplannedRuns(ctx, tx); err != nil {
			return err
		}
		if paces, err = a.ledger.Paces(ctx, tx); err != nil {
			return err
		}
		if standing, err = fleet.ReadStanding(ctx, a.ledger, tx); err != nil {
			return err
		}
		workers, err = fleet.LiveWorkers(ctx, a.ledger, tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	s := &statusReport{Tables: []*tableStatus{}, Workers: []workerStatus{}, StuckJobs: []stuckJob{}, Limits: limitsStatus{
		Databases: standing.Limits.Databases, Seats: standing.Limits.Seats, Taken: standing.Running, Disagree: append([]string{}, standing.Limits.Disagree...),
	}}
	tables := map[[3]string]*tableStatus{}
	table := func(database, schema, name string) *tableStatus {
		key := [3]string{database, schema, name}
		if tables[key] == nil {
			tables[key] = &tableStatus{Database: database, Schema: schema, Table: name, Paused: standing.PausedBy(database, schema, name) != nil}
			s.Tables = append(s.Tables, tables[key])
		}
		return tables[key]
	}
	for _, d := range a.cfg.Databases {
		for _, t := range d.Tables {
			row := table(t.Database, t.Schema, t.Name)
			row.Configured = true
			if t.Schedule != "" {
				row.Schedule = &scheduleStatus{Spec: t.Schedule}
			}
		}
	}
	for _, t := range totals {
		table(t.Database, t.Schema, t.Table).addTotals(t)
	}
	for _, b := range backlogs {
		table(b.Database, b.Schema, b.Table).addBacklog(b, standing)
	}
	for name, p := range paces {
		table(name.Database, name.Schema, name.Name).addPace(p)
	}
	for _, u := range unplanned {
		table(u.Name.Database, u.Name.Schema, u.Name.Name).addUnplanned(u)
	}
	for _, d := range schedules {
		if t := tables[[3]string{d.Database, d.Schema, d.Name}]; t != nil {
			if err := t.addSchedule(d); err != nil {
				return nil, err
			}
		}
	}
	for _, v := range vacuums {
		if t := tables[[3]string{v.Name.Database, v.Name.Schema, v.Name.Name}]; t != nil {
			t.Vacuum = newVacuumJSON(v)
		}
	}
	if err := a.addStuck(ctx, s); err != nil {
		return nil, err
	}
	for _, w := range workers {
		s.Workers = append(s.Workers, workerStatusOf(w))
	}
	return s, nil
}

// addStuck names the jobs that are stuck, if any is.
func (a *app) addStuck(ctx context.Context, s *statusReport) error {
	if !slices.ContainsFunc(s.Tables, func(t *tableStatus) bool { return t.Stuck > 0 }) {
		return nil
	}
	return fleet.EachJob(ctx, a.ledger, ledger.Filter{}, []fleet.JobState{fleet.JobStuck}, 100, func(j fleet.Job) error {
		s.StuckJobs = append(s.StuckJobs, stuckJobOf(j))
		return nil
	})
}

func (t *tableStatus) addTotals(d ledger.Totals) {
	t.Batches.Archived, t.Batches.Empty, t.Batches.Cancelled = d.Archived, d.Empty, d.Cancelled
	t.RowsArchived, t.BytesStored, t.LastArchived, t.RowsPerSecond = d.Rows, d.StoredBytes, stampOf(d.LastArchivedAt), d.RowsPerSecond
}

func (t *tableStatus) addBacklog(b *fleet.Backlog, standing *fleet.Standing) {
	n := &t.Batches
	n.Planned, n.Running, n.Verified, n.Deleting, n.Failed = b.Planned, b.Running, b.Verified, b.Deleting, b.Failed
	t.Stuck, t.Waiting, t.Lost, t.RowsPlanned = b.Stuck, b.Waiting, b.Lost, b.Rows
	if t.RowsPerSecond != nil && *t.RowsPerSecond > 0 && b.MovingRows > 0 && !t.Paused {
		eta := float64(b.MovingRows) / *t.RowsPerSecond
		t.ETASeconds = &eta
	}
	t.WaitingFor = nullable(waitsFor(b, standing))
}

func (t *tableStatus) addPace(p ledger.Pace) {
	if p.BatchSize > 0 {
		t.BatchSize = &p.BatchSize
	}
	t.LastQuerySeconds = p.LastQuery
}

// addUnplanned comes after addBacklog: what is not planned yet takes its time, too.
func (t *tableStatus) addUnplanned(u ledger.Unplanned) {
	t.RowsUnplanned, t.unplanned = u.RowsLeft, &u
	if t.ETASeconds != nil {
		*t.ETASeconds += float64(u.RowsLeft) / *t.RowsPerSecond
	}
	if t.WaitingFor == nil {
		t.WaitingFor = nullable(u.Error)
	}
}

// waitsFor is the one reason why a table does not go on faster: what holds most of its
// batches.
func waitsFor(b *fleet.Backlog, standing *fleet.Standing) string {
	if p := standing.PausedBy(b.Database, b.Schema, b.Table); p != nil || b.Queued() > 0 {
		if why := standing.Why(b.Database, b.Schema, b.Table); why != "" {
			return why
		}
	}
	if b.Until != nil {
		return fmt.Sprintf("%s (tried again at %s)", b.Reason, stamp(*b.Until))
	}
	return b.Reason
}

func workerStatusOf(w *fleet.LiveWorker) workerStatus {
	s := workerStatus{ID: w.ID, Host: w.Host, Version: w.Version, StartedAt: stamp(w.StartedAt), HeldFor: w.HeldFor, Running: len(w.Running), Batches: []workerBatch{}}
	for _, b := range w.Running {
		s.Batches = append(s.Batches, workerBatch{
			JobID: b.JobID, BatchID: b.BatchID, Database: b.Database, Table: b.Schema + "." + b.Table, Stage: string(b.Stage), Since: stamp(b.Since),
			name: config.Table{Database: b.Database, Schema: b.Schema, Name: b.Table}.String(), since: b.Since,
		})
	}
	return s
}
