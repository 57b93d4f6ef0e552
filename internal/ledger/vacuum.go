package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
)

// VacuumState is how far the vacuum of a run is.
type VacuumState string

// The states of a vacuum. A run that is not at its end has none of them.
const (
	VacuumNone    VacuumState = "none" // nothing was archived, or it is switched off
	VacuumQueued  VacuumState = "queued"
	VacuumRunning VacuumState = "running"
	VacuumDone    VacuumState = "done"
	VacuumSkipped VacuumState = "skipped" // the role may not, or the table is gone
	VacuumFailed  VacuumState = "failed"
)

// Final says that nothing will happen to the vacuum any more.
func (s VacuumState) Final() bool {
	switch s {
	case VacuumNone, VacuumDone, VacuumSkipped, VacuumFailed:
		return true
	case VacuumQueued, VacuumRunning:
		return false
	}
	return false
}

// VacuumResult is what a vacuum has done. Sizes are in bytes and include indexes and
// TOAST; dead and live rows are the estimates of the server's statistics. Bloat is estimated
// from them: bytes that a rewrite of the heap would give back; nil where it is not known.
type VacuumResult struct {
	Mode        string  `json:"mode"` // ANALYZE or FULL
	Seconds     float64 `json:"seconds"`
	Relations   int     `json:"relations"` // 1, or the partitions that rows were deleted from
	BytesBefore int64   `json:"bytes_before"`
	BytesAfter  int64   `json:"bytes_after"`
	DeadBefore  int64   `json:"dead_rows_before"`
	DeadAfter   int64   `json:"dead_rows_after"`
	LiveAfter   int64   `json:"live_rows_after"`
	BloatBefore *int64  `json:"bloat_bytes_before"`
	BloatAfter  *int64  `json:"bloat_bytes_after"`
}

// String is for people: ANALYZE in 2.1 s, 1.2 GB -> 1.1 GB, 10,000 -> 0 dead rows, bloat
// 700 MB -> 690 MB.
func (r VacuumResult) String() string {
	size := func(n int64) string { return humanize.Bytes(uint64(max(n, 0))) }
	bloat := func(n *int64) string {
		if n == nil {
			return "unknown"
		}
		return size(*n)
	}
	return fmt.Sprintf("%s in %.1f s, %s -> %s, %s -> %s dead rows, bloat %s -> %s", r.Mode, r.Seconds, size(r.BytesBefore), size(r.BytesAfter),
		humanize.Comma(r.DeadBefore), humanize.Comma(r.DeadAfter), bloat(r.BloatBefore), bloat(r.BloatAfter))
}

// Vacuum is the vacuum of a run.
type Vacuum struct {
	RunID     int64
	Name      TableName
	Cutoff    string // what was deleted is older, in the column's type
	State     VacuumState
	Note      string // progress, what it waits for, why it was skipped or failed
	Hint      string
	Result    *VacuumResult // nil unless done
	ChangedAt time.Time
}

// CloseRun finds out, in the transaction that ended a batch, whether that was the last
// of its run, with no window left to be planned, and if so decides about the vacuum: wanted says whether the configuration
// wants one, archived that a batch of the run is known to be archived. It is true exactly
// once for a run, whoever ends its last batches at the same time, and then the caller
// inserts the job in the same transaction.
func (l *Ledger) CloseRun(ctx context.Context, tx pgx.Tx, runID, tableID int64, wanted, archived bool) (bool, error) {
	// The lock comes first, and the question after it in a statement, and so a snapshot, of
	// its own: of two batches that end at once the later one sees that the other has ended.
	batch := &pgx.Batch{}
	batch.Queue(l.SQL(`SELECT FROM {s}.archive_table WHERE id = $1 FOR NO KEY UPDATE`), tableID)
	var queued bool
	batch.Queue(l.SQL(`
		UPDATE {s}.run r SET vacuum_at = now(), vacuum = CASE WHEN $2
			AND ($4 OR EXISTS (SELECT FROM {s}.batch WHERE table_id = $3 AND state = 'archived' AND run_id = r.id)) THEN 'queued' ELSE 'none' END
		WHERE id = $1 AND vacuum IS NULL AND NOT more
			AND NOT EXISTS (SELECT FROM {s}.batch WHERE run_id = $1 AND state IN ('planned', 'verified', 'deleting'))
		RETURNING vacuum = 'queued'`), runID, wanted, tableID, archived).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&queued)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return false, fmt.Errorf("ledger: close run %d: %w", runID, err)
	}
	return queued, nil
}

// VacuumJob remembers the job of a vacuum that CloseRun has asked for.
func (l *Ledger) VacuumJob(ctx context.Context, tx pgx.Tx, runID, jobID int64) error {
	if _, err := tx.Exec(ctx, l.SQL(`UPDATE {s}.run SET vacuum_job_id = $2 WHERE id = $1`), runID, jobID); err != nil {
		return fmt.Errorf("ledger: record the vacuum job of run %d: %w", runID, err)
	}
	return nil
}

// OpenRun is a run about whose vacuum nothing is decided.
type OpenRun struct {
	ID, TableID int64
	Name        TableName
}

// DrainedRuns lists runs that have no open batch left and of whose vacuum nothing is
// decided: their last batch was cancelled by an operator. There are rarely any.
func (l *Ledger) DrainedRuns(ctx context.Context) ([]OpenRun, error) {
	rows, err := l.Pool.Query(ctx, l.SQL(`
		SELECT r.id, r.table_id, t.database, t.schema, t.name FROM {s}.run r JOIN {s}.archive_table t ON t.id = r.table_id
		WHERE r.vacuum IS NULL AND NOT r.more AND NOT EXISTS (SELECT FROM {s}.batch WHERE run_id = r.id AND state IN ('planned', 'verified', 'deleting'))
		ORDER BY r.id`))
	if err != nil {
		return nil, fmt.Errorf("look for runs that have ended: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r OpenRun, err error) {
		err = row.Scan(&r.ID, &r.TableID, &r.Name.Database, &r.Name.Schema, &r.Name.Name)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("look for runs that have ended: %w", err)
	}
	return out, nil
}

// AbandonVacuums marks as failed the vacuums whose job somebody has deleted or cancelled
// in the queue, and returns their runs. Autovacuum does the work in their place.
func (l *Ledger) AbandonVacuums(ctx context.Context) ([]int64, error) {
	rows, err := l.Pool.Query(ctx, l.SQL(`
		UPDATE {s}.run r SET vacuum = 'failed', vacuum_note = 'its job was cancelled or deleted in the queue', vacuum_hint = NULL, vacuum_at = now()
		WHERE vacuum IN ('queued', 'running') AND vacuum_at < now() - interval '5 seconds'
			AND NOT EXISTS (SELECT FROM {s}.river_job WHERE id = r.vacuum_job_id AND finalized_at IS NULL)
		RETURNING id`))
	if err != nil {
		return nil, fmt.Errorf("look for vacuums without a job: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("look for vacuums without a job: %w", err)
	}
	return ids, nil
}

const selectVacuum = `
	SELECT r.id, t.database, t.schema, t.name,
	       r.cutoff_value, r.vacuum, coalesce(r.vacuum_note, ''), coalesce(r.vacuum_hint, ''), r.vacuum_result, r.vacuum_at
	FROM {s}.run r JOIN {s}.archive_table t ON t.id = r.table_id`

func scanVacuum(row pgx.CollectableRow) (v Vacuum, err error) {
	var result []byte
	err = row.Scan(&v.RunID, &v.Name.Database, &v.Name.Schema, &v.Name.Name, &v.Cutoff, &v.State, &v.Note, &v.Hint, &result, &v.ChangedAt)
	if err == nil && result != nil {
		v.Result = &VacuumResult{}
		err = json.Unmarshal(result, v.Result)
	}
	return v, err
}

// StartVacuum reads the vacuum of a run and marks it as running, unless it is at its
// end. Without one it returns ErrNotFound.
func (l *Ledger) StartVacuum(ctx context.Context, runID int64) (Vacuum, error) {
	if _, err := l.Pool.Exec(ctx, l.SQL(`
		UPDATE {s}.run SET vacuum = 'running', vacuum_note = NULL, vacuum_hint = NULL, vacuum_at = now() WHERE id = $1 AND vacuum IN ('queued', 'running')`), runID); err != nil {
		return Vacuum{}, fmt.Errorf("ledger: start the vacuum of run %d: %w", runID, err)
	}
	rows, err := l.Pool.Query(ctx, l.SQL(selectVacuum+` WHERE r.id = $1 AND r.vacuum IS NOT NULL`), runID)
	if err != nil {
		return Vacuum{}, fmt.Errorf("ledger: read the vacuum of run %d: %w", runID, err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, scanVacuum)
	if errors.Is(err, pgx.ErrNoRows) {
		return v, fmt.Errorf("vacuum of run %d: %w", runID, ErrNotFound)
	}
	if err != nil {
		return v, fmt.Errorf("ledger: read the vacuum of run %d: %w", runID, err)
	}
	return v, nil
}

// NoteVacuum says how far a vacuum is (VacuumRunning), or what it waits for (VacuumQueued).
func (l *Ledger) NoteVacuum(ctx context.Context, runID int64, state VacuumState, note, hint string) error {
	return l.setVacuum(ctx, l.Pool, runID, state, note, hint, nil)
}

// EndVacuum records what became of a vacuum. The first one to end it is right.
func (l *Ledger) EndVacuum(ctx context.Context, tx pgx.Tx, runID int64, state VacuumState, note, hint string, result *VacuumResult) error {
	return l.setVacuum(ctx, tx, runID, state, note, hint, result)
}

func (l *Ledger) setVacuum(ctx context.Context, q execer, runID int64, state VacuumState, note, hint string, result *VacuumResult) error {
	var text *string
	if result != nil {
		b, err := json.Marshal(result)
		if err != nil {
			return fmt.Errorf("ledger: record the vacuum of run %d: %w", runID, err)
		}
		s := string(b)
		text = &s
	}
	_, err := q.Exec(ctx, l.SQL(`
		UPDATE {s}.run SET vacuum = $2, vacuum_note = nullif($3, ''), vacuum_hint = nullif($4, ''), vacuum_result = $5::jsonb, vacuum_at = CASE WHEN $2 = 'running' THEN vacuum_at ELSE now() END
		WHERE id = $1 AND vacuum IN ('queued', 'running')`), runID, state, note, hint, text)
	if err != nil {
		return fmt.Errorf("ledger: record the vacuum of run %d: %w", runID, err)
	}
	return nil
}

// LastVacuums returns the newest vacuum of each table that has had one. q is the pool
// or a transaction.
func (l *Ledger) LastVacuums(ctx context.Context, q querier) ([]Vacuum, error) {
	rows, err := q.Query(ctx, l.SQL(selectVacuum+`
		JOIN LATERAL (SELECT max(id) AS id FROM {s}.run WHERE table_id = t.id AND vacuum <> 'none') newest ON newest.id = r.id ORDER BY 2, 3, 4`))
	if err != nil {
		return nil, fmt.Errorf("read the vacuums: %w", err)
	}
	out, err := pgx.CollectRows(rows, scanVacuum)
	if err != nil {
		return nil, fmt.Errorf("read the vacuums: %w", err)
	}
	return out, nil
}

// VacuumedSince returns the newest vacuum of each of some tables that was at work, or
// ended, from an instant of the control database's clock on.
func (l *Ledger) VacuumedSince(ctx context.Context, since time.Time, tables []TableName) (map[TableName]Vacuum, error) {
	last, err := l.LastVacuums(ctx, l.Pool)
	if err != nil {
		return nil, err
	}
	out := map[TableName]Vacuum{}
	for _, v := range last {
		for _, t := range tables {
			if v.Name == t && !v.ChangedAt.Before(since) {
				out[t] = v
			}
		}
	}
	return out, nil
}
