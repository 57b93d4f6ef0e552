package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/keyrange"
)

// ErrPlannedMeanwhile says that another planner wrote a page for the same table.
var ErrPlannedMeanwhile = errors.New("another plan of this table was written meanwhile")

// Table is the ledger's row of a source table.
type Table struct {
	ID        int64
	PlanSeq   int64
	PlannedTo []string
	// Open batches: neither archived nor empty nor cancelled.
	OpenBatches, OpenRows int64
	OpenKeyColumns        []string // of the newest run that has one; nil without
	LastDelete            string   // as LastDelete returns it
	// The run that is planned to PlannedTo so far, of which about UnplannedRows are left;
	// 0 without one.
	UnplannedRun, UnplannedRows int64
	Pace                        Pace
}

// FindTable reads the row of a table without creating one; the zero Table means
// that nothing was ever planned for it.
func (l *Ledger) FindTable(ctx context.Context, database, schema, name string) (Table, error) {
	var t Table
	err := l.Pool.QueryRow(ctx, l.SQL(`
		SELECT t.id, t.plan_seq, t.planned_to, count(b.id), coalesce(sum(b.rows_planned), 0),
		       (SELECT r.key_columns FROM {s}.run r WHERE r.id = max(b.run_id)),
		       coalesce(t.last_delete_lsn::text, ''), `+selectPace+`
		FROM {s}.archive_table t
		LEFT JOIN {s}.batch b ON b.table_id = t.id AND b.state IN ('planned', 'verified', 'deleting')
		WHERE (t.database, t.schema, t.name) = ($1, $2, $3) GROUP BY t.id`), database, schema, name).
		Scan(append([]any{&t.ID, &t.PlanSeq, &t.PlannedTo, &t.OpenBatches, &t.OpenRows, &t.OpenKeyColumns, &t.LastDelete}, t.Pace.scan()...)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return Table{}, nil
	}
	if err == nil {
		err = l.unplannedRun(ctx, &t)
	}
	if err != nil {
		return Table{}, fmt.Errorf("read the ledger's row of %s.%s.%s: %w", database, schema, name, err)
	}
	return t, nil
}

// LastDelete is a position in the source's WAL at or behind every delete of the table
// that is recorded as archived; empty if there is none.
func (l *Ledger) LastDelete(ctx context.Context, tableID int64) (string, error) {
	var lsn string
	err := l.Pool.QueryRow(ctx, l.SQL(`SELECT coalesce(last_delete_lsn::text, '') FROM {s}.archive_table WHERE id = $1`), tableID).Scan(&lsn)
	if err != nil {
		return "", fmt.Errorf("ledger: read the last delete of table %d: %w", tableID, err)
	}
	return lsn, nil
}

// EnsureTable creates the row of a table if there is none and returns its id.
func (l *Ledger) EnsureTable(ctx context.Context, tx pgx.Tx, database, schema, name string) (int64, error) {
	if _, err := tx.Exec(ctx, l.SQL(`
		INSERT INTO {s}.archive_table (database, schema, name) VALUES ($1, $2, $3)
		ON CONFLICT (database, schema, name) DO NOTHING`), database, schema, name); err != nil {
		return 0, fmt.Errorf("register table %s.%s.%s: %w", database, schema, name, err)
	}
	var id int64
	err := tx.QueryRow(ctx, l.SQL(`SELECT id FROM {s}.archive_table WHERE (database, schema, name) = ($1, $2, $3)`), database, schema, name).Scan(&id)
	return id, err
}

// CreateRun records one planning of a table.
func (l *Ledger) CreateRun(ctx context.Context, tx pgx.Tx, tableID int64, cutoff time.Time, cutoffValue string, keyColumns []string) (int64, error) {
	var id int64
	err := tx.QueryRow(ctx, l.SQL(`
		INSERT INTO {s}.run (table_id, cutoff, cutoff_value, key_columns) VALUES ($1, $2, $3, $4) RETURNING id`),
		tableID, cutoff, cutoffValue, keyColumns).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("record the run: %w", err)
	}
	return id, nil
}

// AdvancePlan compare-and-sets the table's plan sequence and moves planned_to.
// It comes first in each page's transaction: of two planners one waits here for
// the other's row lock and then finds the sequence moved on.
func (l *Ledger) AdvancePlan(ctx context.Context, tx pgx.Tx, tableID, seq int64, plannedTo []string) error {
	tag, err := tx.Exec(ctx, l.SQL(`
		UPDATE {s}.archive_table SET plan_seq = plan_seq + 1, planned_to = $3 WHERE id = $1 AND plan_seq = $2`), tableID, seq, plannedTo)
	if err != nil {
		return fmt.Errorf("advance the plan: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return ErrPlannedMeanwhile
	}
	return nil
}

// NewBatch is a batch to be inserted.
type NewBatch struct {
	ID, JobID int64
	Range     keyrange.Range
	Partition string
	Rows      int64
}

// BatchIDs takes n ids from the ledger's sequence.
func (l *Ledger) BatchIDs(ctx context.Context, tx pgx.Tx, n int) ([]int64, error) {
	rows, err := tx.Query(ctx, `SELECT nextval(pg_get_serial_sequence($1, 'id')) FROM generate_series(1, $2)`, l.schema+".batch", n)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// InsertBatches writes a page of batches.
func (l *Ledger) InsertBatches(ctx context.Context, tx pgx.Tx, runID, tableID int64, batches []NewBatch) error {
	_, err := tx.CopyFrom(ctx, pgx.Identifier{l.name, "batch"},
		[]string{"id", "run_id", "table_id", "job_id", "from_ts", "after_key", "to_key", "partition", "rows_planned"},
		pgx.CopyFromSlice(len(batches), func(i int) ([]any, error) {
			b := batches[i]
			return []any{b.ID, runID, tableID, b.JobID, b.Range.FromTS, b.Range.After, b.Range.To, b.Partition, b.Rows}, nil
		}))
	if err != nil {
		return fmt.Errorf("insert %d batches: %w", len(batches), err)
	}
	return nil
}
