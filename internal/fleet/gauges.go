package fleet

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// QueueDepth is how many jobs of a queue are in one of River's states that is not
// final.
type QueueDepth struct {
	Queue, State string
	Jobs         int64
}

// QueueDepths counts what is in the queues. It reads one index from end to end of the
// jobs that are not finished.
func QueueDepths(ctx context.Context, l *ledger.Ledger, q querier) ([]QueueDepth, error) {
	rows, err := q.Query(ctx, l.SQL(`
		SELECT queue, state::text, count(*) FROM {s}.river_job
		WHERE state IN ('available', 'pending', 'running', 'retryable', 'scheduled') GROUP BY 1, 2 ORDER BY 1, 2`))
	if err != nil {
		return nil, fmt.Errorf("count queued jobs: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[QueueDepth])
	if err != nil {
		return nil, fmt.Errorf("count queued jobs: %w", err)
	}
	return out, nil
}

// OldestRow is how old the rows are at which a table's backlog begins.
type OldestRow struct {
	Database, Schema, Table string
	At                      float64 // Unix seconds, by the source's clock
}

// OldestRows returns, for each table with an open batch, the timestamp of the last row
// of the oldest one: there was a row as old as that when it was planned, and there are
// at most a batch's worth that are older. It asks for the first batch of each table
// only. A timestamp that is infinite is left out.
func OldestRows(ctx context.Context, l *ledger.Ledger, q querier) ([]OldestRow, error) {
	// Timestamps are in the column's own type and may lack a zone; the run has one
	// instant in both forms, so that the distance to it gives the instant of any other.
	const first = `SELECT id, run_id, to_key[1]::timestamp AS ts FROM {s}.batch WHERE table_id = t.id AND state IN ('planned', 'verified', 'deleting') AND `
	rows, err := q.Query(ctx, l.SQL(`
		SELECT t.database, t.schema, t.name, extract(epoch FROM r.cutoff - (r.cutoff_value::timestamp - b.ts))::float8
		FROM {s}.archive_table t
		CROSS JOIN LATERAL (
			SELECT * FROM ((`+first+`NOT failed ORDER BY id LIMIT 1) UNION ALL (`+first+`failed ORDER BY id LIMIT 1)) s ORDER BY id LIMIT 1
		) b
		JOIN {s}.run r ON r.id = b.run_id
		WHERE isfinite(b.ts) ORDER BY 1, 2, 3`))
	if err != nil {
		return nil, fmt.Errorf("look for the oldest batches: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[OldestRow])
	if err != nil {
		return nil, fmt.Errorf("look for the oldest batches: %w", err)
	}
	return out, nil
}
