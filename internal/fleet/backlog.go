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
	WaitingFor                  string
	LastError                   string // of a failed batch
}

// Backlogs returns a line for each table that has an open batch.
func Backlogs(ctx context.Context, l *ledger.Ledger, tx pgx.Tx) ([]Backlog, error) {
	rows, err := tx.Query(ctx, l.SQL(`
		WITH open AS (
			SELECT t.database, t.schema, t.name, b.state, b.rows_planned, b.updated_at, b.waiting_for, b.last_error, `+doing+` AS doing`+fromBatches+`
			WHERE `+open+`)
		SELECT database, schema, name,
		       count(*) FILTER (WHERE doing IN ('running', 'stuck')), count(*) FILTER (WHERE doing = 'failed'),
		       count(*) FILTER (WHERE state = 'planned' AND doing NOT IN ('running', 'stuck', 'failed')),
		       count(*) FILTER (WHERE state = 'verified' AND doing NOT IN ('running', 'stuck', 'failed')),
		       count(*) FILTER (WHERE state = 'deleting' AND doing NOT IN ('running', 'stuck', 'failed')),
		       count(*) FILTER (WHERE doing = 'stuck'), count(*) FILTER (WHERE doing = 'waiting'), count(*) FILTER (WHERE doing = 'lost'),
		       sum(rows_planned)::bigint, coalesce(sum(rows_planned) FILTER (WHERE doing NOT IN ('failed', 'lost')), 0)::bigint,
		       coalesce((array_agg(waiting_for ORDER BY updated_at DESC) FILTER (WHERE doing = 'waiting' AND waiting_for IS NOT NULL))[1],
		                (array_agg(last_error ORDER BY updated_at DESC) FILTER (WHERE doing = 'waiting' AND last_error IS NOT NULL))[1], ''),
		       coalesce((array_agg(last_error ORDER BY updated_at DESC) FILTER (WHERE doing = 'failed'))[1], '')
		FROM open GROUP BY 1, 2, 3`))
	if err != nil {
		return nil, fmt.Errorf("count open batches: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (b Backlog, err error) {
		err = row.Scan(&b.Database, &b.Schema, &b.Table, &b.Running, &b.Failed, &b.Planned, &b.Verified, &b.Deleting,
			&b.Stuck, &b.Waiting, &b.Lost, &b.Rows, &b.MovingRows, &b.WaitingFor, &b.LastError)
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("count open batches: %w", err)
	}
	return out, nil
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
