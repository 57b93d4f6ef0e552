package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// Backlog is what is not finished of a table. Each batch is counted once, in one
// of the first five fields.
type Backlog struct {
	Database, Schema, Table     string
	Running, Failed             int64 // running includes stuck
	Planned, Verified, Deleting int64 // of the others
	Stuck, Waiting, Lost        int64 // counted above; see JobState
	Rows                        int64 // planned, of all of them
	MovingRows                  int64 // of those that need nobody to act
	// Reason is why a batch waits, else the last error of one; empty if there is
	// none. It is the newest of the table. Until is when that batch is tried again.
	Reason string
	Until  *time.Time
}

// Queued are those that would begin at once if there were room for them.
func (b *Backlog) Queued() int64 { return b.Planned + b.Verified + b.Deleting - b.Waiting - b.Lost }

// Backlogs returns a line for each table that has an open batch.
func Backlogs(ctx context.Context, l *ledger.Ledger, tx pgx.Tx) ([]*Backlog, error) {
	out, err := CountOpen(ctx, l, tx)
	if err != nil {
		return nil, err
	}
	return out, addReasons(ctx, l, tx, out)
}

// CountOpen is Backlogs without the reasons.
func CountOpen(ctx context.Context, l *ledger.Ledger, tx pgx.Tx) ([]*Backlog, error) {
	// Grouped before it is sorted out, so that the state of each of a million
	// batches is found out once; and the reasons apart, since they need an order.
	rows, err := tx.Query(ctx, l.SQL(`
		SELECT t.database, t.schema, t.name, b.state, `+doing+`, count(*), sum(b.rows_planned)::bigint`+fromBatches+`
		WHERE `+open+` GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3`))
	if err != nil {
		return nil, fmt.Errorf("count open batches: %w", err)
	}
	groups, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (g group, err error) {
		err = row.Scan(&g.database, &g.schema, &g.table, &g.stage, &g.state, &g.batches, &g.rows)
		return g, err
	})
	if err != nil {
		return nil, fmt.Errorf("count open batches: %w", err)
	}
	var out []*Backlog
	for _, g := range groups {
		b := find(out, g.database, g.schema, g.table)
		if b == nil {
			b = &Backlog{Database: g.database, Schema: g.schema, Table: g.table}
			out = append(out, b)
		}
		b.add(g)
	}
	return out, nil
}

// group is a number of batches of one table that stand alike.
type group struct {
	database, schema, table string
	stage                   ledger.State
	state                   JobState
	batches, rows           int64
}

func (b *Backlog) add(g group) {
	b.Rows += g.rows
	if g.state != JobFailed && g.state != JobLost {
		b.MovingRows += g.rows
	}
	switch g.state {
	case JobRunning:
		b.Running += g.batches
		return
	case JobStuck:
		b.Running += g.batches
		b.Stuck += g.batches
		return
	case JobFailed:
		b.Failed += g.batches
		return
	case JobWaiting:
		b.Waiting += g.batches
	case JobLost:
		b.Lost += g.batches
	case JobQueued:
	}
	switch g.stage {
	case ledger.Planned:
		b.Planned += g.batches
	case ledger.Verified:
		b.Verified += g.batches
	case ledger.Deleting:
		b.Deleting += g.batches
	case ledger.Archived, ledger.Empty, ledger.Cancelled: // not open
	}
}

func addReasons(ctx context.Context, l *ledger.Ledger, tx pgx.Tx, backlogs []*Backlog) error {
	//nolint:rowserrcheck // ForEachRow checks it
	rows, err := tx.Query(ctx, l.SQL(`
		SELECT DISTINCT ON (b.table_id) t.database, t.schema, t.name,
		       coalesce(b.waiting_for, CASE WHEN b.failed THEN 'failed: ' ELSE 'back-off after: ' END || b.last_error),
		       CASE WHEN j.finalized_at IS NULL AND j.state <> 'running' AND j.scheduled_at > now() THEN j.scheduled_at END
		FROM {s}.batch b JOIN {s}.archive_table t ON t.id = b.table_id LEFT JOIN {s}.river_job j ON j.id = b.job_id
		WHERE `+open+` AND (b.waiting_for IS NOT NULL OR b.last_error IS NOT NULL)
		ORDER BY b.table_id, b.waiting_for IS NULL, b.updated_at DESC`))
	if err != nil {
		return fmt.Errorf("read what batches wait for: %w", err)
	}
	var database, schema, name, reason string
	var until *time.Time
	_, err = pgx.ForEachRow(rows, []any{&database, &schema, &name, &reason, &until}, func() error {
		if b := find(backlogs, database, schema, name); b != nil {
			b.Reason, b.Until = reason, until
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read what batches wait for: %w", err)
	}
	return nil
}

func find(in []*Backlog, database, schema, table string) *Backlog {
	for _, b := range in {
		if b.Database == database && b.Schema == schema && b.Table == table {
			return b
		}
	}
	return nil
}

// LiveWorker is a replica that holds its lease.
type LiveWorker struct {
	ID, Host, Version string
	StartedAt         time.Time
	HeldFor           *string // why it takes no batches, such as an open breaker; nil: it does
	Running           []Work
}

// LiveWorkers lists the replicas that hold their lease with what they run, both oldest
// first.
func LiveWorkers(ctx context.Context, l *ledger.Ledger, tx pgx.Tx) ([]*LiveWorker, error) {
	rows, err := tx.Query(ctx, l.SQL(`
		SELECT w.id, w.host, w.version, w.started_at, w.held_for, j.id, b.id, t.database, t.schema, t.name, b.state, j.attempted_at
		FROM {s}.worker w
		LEFT JOIN ({s}.river_job j
			JOIN {s}.batch b ON b.job_id = j.id
			JOIN {s}.archive_table t ON t.id = b.table_id
		) ON j.state = 'running' AND j.kind = 'archive_batch' AND `+lastWorker+` = w.id
		WHERE w.lease_until > now() ORDER BY w.started_at, w.id, j.attempted_at, j.id`))
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	defer rows.Close()
	var out []*LiveWorker
	for rows.Next() {
		var w LiveWorker
		var job, batch *int64
		var name [3]*string
		var stage *ledger.State
		var since *time.Time
		if err := rows.Scan(&w.ID, &w.Host, &w.Version, &w.StartedAt, &w.HeldFor, &job, &batch, &name[0], &name[1], &name[2], &stage, &since); err != nil {
			return nil, fmt.Errorf("list workers: %w", err)
		}
		if len(out) == 0 || out[len(out)-1].ID != w.ID {
			out = append(out, &w)
		}
		if job != nil {
			last := out[len(out)-1]
			last.Running = append(last.Running, Work{JobID: *job, BatchID: *batch, Database: *name[0], Schema: *name[1], Table: *name[2], Stage: *stage, Since: *since})
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	return out, nil
}
