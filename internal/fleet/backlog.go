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
	// none. It is the newest of the table.
	Reason string
}

// Backlogs returns a line for each table that has an open batch.
func Backlogs(ctx context.Context, l *ledger.Ledger, tx pgx.Tx) ([]*Backlog, error) {
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
	return out, addReasons(ctx, l, tx, out)
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
	rows, err := tx.Query(ctx, l.SQL(`
		SELECT DISTINCT ON (b.table_id) t.database, t.schema, t.name,
		       coalesce(b.waiting_for, CASE WHEN b.failed THEN 'failed: ' ELSE 'last error: ' END || b.last_error)
		FROM {s}.batch b JOIN {s}.archive_table t ON t.id = b.table_id
		WHERE `+open+` AND (b.waiting_for IS NOT NULL OR b.last_error IS NOT NULL)
		ORDER BY b.table_id, b.waiting_for IS NULL, b.updated_at DESC`))
	if err != nil {
		return fmt.Errorf("read what batches wait for: %w", err)
	}
	newest, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r [4]string, err error) {
		err = row.Scan(&r[0], &r[1], &r[2], &r[3])
		return r, err
	})
	if err != nil {
		return fmt.Errorf("read what batches wait for: %w", err)
	}
	for _, r := range newest {
		if b := find(backlogs, r[0], r[1], r[2]); b != nil {
			b.Reason = r[3]
		}
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
	ID, Host  string
	StartedAt time.Time
	Running   int64 // batches
}

// LiveWorkers lists the replicas that hold their lease, oldest first.
func LiveWorkers(ctx context.Context, l *ledger.Ledger, tx pgx.Tx) ([]LiveWorker, error) {
	rows, err := tx.Query(ctx, l.SQL(`
		SELECT w.id, w.host, w.started_at, count(j.id)
		FROM {s}.worker w
		LEFT JOIN {s}.river_job j ON j.state = 'running' AND j.kind = 'archive_batch' AND `+lastWorker+` = w.id
		WHERE w.lease_until > now() GROUP BY w.id ORDER BY w.started_at, w.id`))
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (w LiveWorker, err error) {
		err = row.Scan(&w.ID, &w.Host, &w.StartedAt, &w.Running)
		return w, err
	})
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	return out, nil
}
