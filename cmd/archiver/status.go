package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
)

func (c *cli) statusCommand() *cobra.Command {
	return c.jsonFlag(&cobra.Command{
		Use:   "status",
		Short: "Show backlog, rate, failures and workers",
		Long: `Show for each table what is archived, what is left, how fast it goes and what holds it
up, and which workers are alive. It reads the control database only.

Each open batch is counted once: as running while a worker has it, as failed when
nothing goes on before somebody acts, else by how far it has got (planned, verified,
deleting). The rate is that of the last 5 minutes.

Examples:
  archiver status
  archiver status --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.open(cmd.Context())
			if err != nil {
				return err
			}
			defer a.close()
			s, err := a.status(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return outputError(c.printJSON(s))
			}
			return c.printStatus(s)
		},
	})
}

type statusReport struct {
	Tables  []*tableStatus `json:"tables"`
	Workers []workerStatus `json:"workers"`
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
	ID        string `json:"id"`
	Host      string `json:"host"`
	StartedAt string `json:"started_at"`
	Running   int64  `json:"running"`
}

// status reads all of it in one snapshot, so that a batch which is archived
// meanwhile is counted once.
func (a *app) status(ctx context.Context) (*statusReport, error) {
	var totals []ledger.Totals
	var backlogs []*fleet.Backlog
	var workers []fleet.LiveWorker
	var schedules []ledger.Schedule
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
		workers, err = fleet.LiveWorkers(ctx, a.ledger, tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	s := &statusReport{Tables: []*tableStatus{}, Workers: []workerStatus{}}
	tables := map[[3]string]*tableStatus{}
	table := func(database, schema, name string) *tableStatus {
		key := [3]string{database, schema, name}
		if tables[key] == nil {
			tables[key] = &tableStatus{Database: database, Schema: schema, Table: name}
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
		table(b.Database, b.Schema, b.Table).addBacklog(b)
	}
	for _, d := range schedules {
		if t := tables[[3]string{d.Database, d.Schema, d.Name}]; t != nil {
			if err := t.addSchedule(d); err != nil {
				return nil, err
			}
		}
	}
	for _, w := range workers {
		s.Workers = append(s.Workers, workerStatus{ID: w.ID, Host: w.Host, StartedAt: stamp(w.StartedAt), Running: w.Running})
	}
	return s, nil
}

func (t *tableStatus) addTotals(d ledger.Totals) {
	t.Batches.Archived, t.Batches.Empty, t.Batches.Cancelled = d.Archived, d.Empty, d.Cancelled
	t.RowsArchived, t.BytesStored, t.LastArchived, t.RowsPerSecond = d.Rows, d.StoredBytes, stampOf(d.LastArchivedAt), d.RowsPerSecond
}

func (t *tableStatus) addBacklog(b *fleet.Backlog) {
	n := &t.Batches
	n.Planned, n.Running, n.Verified, n.Deleting, n.Failed = b.Planned, b.Running, b.Verified, b.Deleting, b.Failed
	t.Stuck, t.Waiting, t.Lost, t.RowsPlanned = b.Stuck, b.Waiting, b.Lost, b.Rows
	if t.RowsPerSecond != nil && *t.RowsPerSecond > 0 && b.MovingRows > 0 {
		eta := float64(b.MovingRows) / *t.RowsPerSecond
		t.ETASeconds = &eta
	}
	t.WaitingFor = nullable(b.Reason)
}

func (c *cli) printStatus(s *statusReport) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TABLE\tPLANNED\tRUNNING\tVERIFIED\tDELETING\tFAILED\tARCHIVED\tROWS ARCHIVED\tROWS PLANNED\tSTORED\tROWS/S\tETA\tLAST\tNEXT PLAN")
	for _, t := range s.Tables {
		n := t.Batches
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.name(), n.Planned, n.Running, n.Verified, n.Deleting, n.Failed, n.Archived,
			humanize.Comma(t.RowsArchived), humanize.Comma(t.RowsPlanned), bytesText(t.BytesStored), t.rate(), t.eta(), t.last(), t.nextPlan())
	}
	if err := w.Flush(); err != nil {
		return outputError(err)
	}
	c.printf("\n")
	if len(s.Workers) == 0 {
		c.printf("no worker is running\n")
	} else {
		fmt.Fprintln(w, "WORKER\tHOST\tSTARTED\tRUNNING")
		for _, r := range s.Workers {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", r.ID, r.Host, r.StartedAt, r.Running)
		}
		if err := w.Flush(); err != nil {
			return outputError(err)
		}
	}
	for _, t := range s.Tables {
		if n := t.Batches; n.Empty+n.Cancelled > 0 {
			c.printf("%s: besides, %s found empty and %s cancelled\n", t.name(), plural(n.Empty, "batch was", "batches were"), plural(n.Cancelled, "was", "were"))
		}
		if t.WaitingFor != nil {
			c.printf("%s: %s\n", t.name(), clip(*t.WaitingFor, 300))
		}
		if trouble := t.scheduleTrouble(); trouble != "" {
			c.printf("%s: %s\n", t.name(), trouble)
		}
	}
	for _, hint := range s.hints() {
		c.printf("hint: %s\n", hint)
	}
	return nil
}

// hints say what an operator should look at.
func (s *statusReport) hints() []string {
	var ever, open, failed, stuck, lost int64
	var foreign bool
	for _, t := range s.Tables {
		ever += t.Batches.open() + t.Batches.Archived + t.Batches.Empty + t.Batches.Cancelled
		open += t.Batches.open() - t.Batches.Failed - t.Lost
		failed, stuck, lost = failed+t.Batches.Failed, stuck+t.Stuck, lost+t.Lost
		foreign = foreign || (!t.Configured && t.Batches.open() > 0)
	}
	var out []string
	if ever == 0 {
		out = append(out, "nothing was planned yet: archiver plan")
	}
	if failed > 0 {
		out = append(out, plural(failed, "failed batch", "failed batches")+": archiver jobs list --failed")
	}
	if stuck > 0 {
		out = append(out, plural(stuck, "batch is", "batches are")+" held by a dead worker; a live one takes them back, or: archiver jobs retry --stuck")
	}
	if lost > 0 {
		out = append(out, plural(lost, "batch has", "batches have")+" no job in the queue: archiver jobs list, then archiver jobs retry JOB_ID")
	}
	if open > 0 && len(s.Workers) == 0 {
		out = append(out, plural(open, "batch waits", "batches wait")+" for a worker: archiver work")
	}
	if foreign {
		out = append(out, "nobody works on the batches of tables marked (not configured): put the table back, or: archiver jobs cancel JOB_ID")
	}
	return out
}

func (t *tableStatus) name() string {
	name := config.Table{Database: t.Database, Schema: t.Schema, Name: t.Table}.String()
	if !t.Configured {
		name += " (not configured)"
	}
	return name
}

func (t *tableStatus) rate() string {
	if t.RowsPerSecond == nil {
		return "-"
	}
	return humanize.CommafWithDigits(*t.RowsPerSecond, 0)
}

func (t *tableStatus) eta() string {
	if t.ETASeconds == nil {
		return "-"
	}
	return (time.Duration(*t.ETASeconds) * time.Second).String()
}

func (t *tableStatus) last() string {
	if t.LastArchived == nil {
		return "-"
	}
	at, err := time.Parse(time.RFC3339, *t.LastArchived)
	if err != nil {
		return *t.LastArchived
	}
	return ago(at)
}
