package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Pace is what the finished batches of a table tell about its queries.
type Pace struct {
	BatchSize     int // of the last window; 0: none was planned yet
	BatchSizeFrom int // the configured one that it came from
	// Sums over the last batches; their ratio is what reading a row takes.
	QueryRows, QuerySeconds float64
	LastQuery               *float64 // seconds, of the last batch
}

// queryDecay is how much a batch counts against the next one.
const queryDecay = "0.85"

// OpenWindow is a run of which a window is left to be planned.
type OpenWindow struct {
	RunID, TableID, PlanSeq int64
	Name                    TableName
	Cutoff                  time.Time
	CutoffValue             string
	KeyColumns              []string
	PlannedTo               []string
	RowsLeft                int64
	Pace                    Pace
	// GivenUp: the whole last window was cancelled.
	GivenUp bool
}

// WindowTable is a table with the number of open batches below which its next window
// can be due.
type WindowTable struct {
	TableName
	Low int
}

// dueWindows are the runs r of tables t that want their next window: few batches are open,
// and one of the last window has ended, without which there is nothing to learn a size from,
// or waits, for locked rows perhaps: those behind it need not. Failed batches are open: a
// run whose batches all fail is not planned to its end.
const dueWindows = `
	FROM {s}.run r
	JOIN {s}.archive_table t ON t.id = r.table_id
	JOIN unnest($1::text[], $2::text[], $3::text[], $4::int[]) u(d, s, n, low) ON (t.database, t.schema, t.name) = (u.d, u.s, u.n)
	WHERE r.more AND (SELECT count(*) FROM (
		SELECT FROM {s}.batch b WHERE b.run_id = r.id AND b.state IN ('planned', 'verified', 'deleting') LIMIT u.low) o) < u.low
		AND EXISTS (SELECT FROM {s}.batch b WHERE b.run_id = r.id AND b.id >= r.window_from
			AND (b.state NOT IN ('planned', 'verified', 'deleting') OR b.waiting_for IS NOT NULL))`

func windowArgs(tables []WindowTable) []any {
	var database, schema, name []string
	var low []int
	for _, t := range tables {
		database, schema, name, low = append(database, t.Database), append(schema, t.Schema), append(name, t.Name), append(low, t.Low)
	}
	return []any{database, schema, name, low}
}

// WindowsDue counts the runs of some tables of which a window is due.
func (l *Ledger) WindowsDue(ctx context.Context, tables []WindowTable) (int64, error) {
	var n int64
	if err := l.Pool.QueryRow(ctx, l.SQL(`SELECT count(*)`+dueWindows), windowArgs(tables)...).Scan(&n); err != nil {
		return 0, fmt.Errorf("look for windows to plan: %w", err)
	}
	return n, nil
}

// ClaimWindows takes the right to plan the windows of some tables that are due, for
// lease. What is paused, or claimed by another planner, is left out. The right is no
// more than a courtesy: who writes the window is decided by the table's plan sequence.
func (l *Ledger) ClaimWindows(ctx context.Context, tables []WindowTable, lease time.Duration) ([]OpenWindow, error) {
	rows, err := l.Pool.Query(ctx, l.SQL(`
		WITH due AS (
			SELECT r.id`+dueWindows+` AND coalesce(r.claimed_until <= now(), true)
				AND NOT {s}.is_paused(t.database, t.schema, t.name)
		), claimed AS (
			UPDATE {s}.run r SET claimed_until = now() + $5::interval FROM due
			WHERE r.id = due.id AND r.more AND coalesce(r.claimed_until <= now(), true) RETURNING r.*
		)
		SELECT r.id, t.id, t.plan_seq, t.database, t.schema, t.name, r.cutoff, r.cutoff_value, r.key_columns, t.planned_to, r.rows_left,
		       `+selectPace+`,
		       coalesce((SELECT bool_and(b.state = 'cancelled') FROM {s}.batch b WHERE b.run_id = r.id AND b.id >= r.window_from), false)
		FROM claimed r JOIN {s}.archive_table t ON t.id = r.table_id ORDER BY r.id`), append(windowArgs(tables), interval(lease))...)
	if err != nil {
		return nil, fmt.Errorf("claim windows to plan: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (w OpenWindow, err error) {
		err = row.Scan(append(append([]any{
			&w.RunID, &w.TableID, &w.PlanSeq, &w.Name.Database, &w.Name.Schema, &w.Name.Name, &w.Cutoff, &w.CutoffValue, &w.KeyColumns, &w.PlannedTo, &w.RowsLeft,
		}, w.Pace.scan()...), &w.GivenUp)...)
		return w, err
	})
	if err != nil {
		return nil, fmt.Errorf("claim windows to plan: %w", err)
	}
	return out, nil
}

const selectPace = `coalesce(t.batch_size, 0), coalesce(t.batch_size_from, 0), t.query_rows, t.query_seconds, t.last_query_seconds`

func (p *Pace) scan() []any {
	return []any{&p.BatchSize, &p.BatchSizeFrom, &p.QueryRows, &p.QuerySeconds, &p.LastQuery}
}

// Window is what a plan leaves behind for the next window of its run.
type Window struct {
	RunID, TableID           int64
	More                     bool  // there is one
	RowsLeft                 int64 // about so many rows are in it and those after it
	From                     int64 // the first batch of this one; 0: it has none
	BatchSize, BatchSizeFrom int
}

// RecordWindow belongs into the transaction that writes the batches of a window.
func (l *Ledger) RecordWindow(ctx context.Context, tx pgx.Tx, w Window) error {
	if _, err := tx.Exec(ctx, l.SQL(`
		UPDATE {s}.run SET more = $2, rows_left = CASE WHEN $2 THEN $3 ELSE 0 END, window_from = coalesce(nullif($4::bigint, 0), window_from),
			claimed_until = NULL, window_error = NULL, window_hint = NULL WHERE id = $1`), w.RunID, w.More, max(w.RowsLeft, 0), w.From); err != nil {
		return fmt.Errorf("record the window of run %d: %w", w.RunID, err)
	}
	if _, err := tx.Exec(ctx, l.SQL(`UPDATE {s}.archive_table SET batch_size = $2, batch_size_from = $3 WHERE id = $1`), w.TableID, w.BatchSize, w.BatchSizeFrom); err != nil {
		return fmt.Errorf("record the batch size: %w", err)
	}
	return nil
}

// PostponeWindow gives a claim back: the window is not planned before after has passed.
func (l *Ledger) PostponeWindow(ctx context.Context, runID int64, after time.Duration, message, hint string) error {
	_, err := l.Pool.Exec(ctx, l.SQL(`
		UPDATE {s}.run SET claimed_until = now() + $2::interval, window_error = nullif($3, ''), window_hint = nullif($4, '') WHERE id = $1 AND more`),
		runID, interval(after), message, hint)
	if err != nil {
		return fmt.Errorf("postpone the window of run %d: %w", runID, err)
	}
	return nil
}

// EndWindows ends a run where it is planned to: the rest of it is left to a later plan.
func (l *Ledger) EndWindows(ctx context.Context, runID int64) error {
	if _, err := l.Pool.Exec(ctx, l.SQL(`UPDATE {s}.run SET more = false, rows_left = 0, claimed_until = NULL WHERE id = $1`), runID); err != nil {
		return fmt.Errorf("end run %d: %w", runID, err)
	}
	return nil
}

// Unplanned is the run of a table that has windows left.
type Unplanned struct {
	Name      TableName
	RunID     int64
	RowsLeft  int64  // about
	PlannedTo string // timestamp
	Error     string // why the next window was not planned; empty: none
	Hint      string
}

// UnplannedRuns lists the runs that have windows left.
func (l *Ledger) UnplannedRuns(ctx context.Context, q querier) ([]Unplanned, error) {
	rows, err := q.Query(ctx, l.SQL(`
		SELECT t.database, t.schema, t.name, r.id, r.rows_left, coalesce(t.planned_to[1], ''), coalesce(r.window_error, ''), coalesce(r.window_hint, '')
		FROM {s}.run r JOIN {s}.archive_table t ON t.id = r.table_id WHERE r.more ORDER BY r.id`))
	if err != nil {
		return nil, fmt.Errorf("read the runs with windows left: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (u Unplanned, err error) {
		err = row.Scan(&u.Name.Database, &u.Name.Schema, &u.Name.Name, &u.RunID, &u.RowsLeft, &u.PlannedTo, &u.Error, &u.Hint)
		return u, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the runs with windows left: %w", err)
	}
	return out, nil
}

// Paces returns the pace of each table that was ever planned.
func (l *Ledger) Paces(ctx context.Context, q querier) (map[TableName]Pace, error) {
	rows, err := q.Query(ctx, l.SQL(`SELECT t.database, t.schema, t.name, `+selectPace+` FROM {s}.archive_table t`)) //nolint:rowserrcheck // ForEachRow checks it
	if err != nil {
		return nil, fmt.Errorf("read the batch sizes: %w", err)
	}
	out := map[TableName]Pace{}
	var name TableName
	var p Pace
	_, err = pgx.ForEachRow(rows, append([]any{&name.Database, &name.Schema, &name.Name}, p.scan()...), func() error { out[name] = p; return nil })
	if err != nil {
		return nil, fmt.Errorf("read the batch sizes: %w", err)
	}
	return out, nil
}

// unplannedRun reads the run of a table that has windows left into t.
func (l *Ledger) unplannedRun(ctx context.Context, t *Table) error {
	err := l.Pool.QueryRow(ctx, l.SQL(`SELECT id, rows_left FROM {s}.run WHERE table_id = $1 AND more`), t.ID).Scan(&t.UnplannedRun, &t.UnplannedRows)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	return nil
}
