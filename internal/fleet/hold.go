package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// able are the replicas that take batches: alive, and not held.
const able = `lease_until > now() AND held_for IS NULL`

// notHeld says of an archive_table t that no throttle holds it just now.
const notHeld = `NOT EXISTS (SELECT FROM {s}.table_throttle h WHERE h.table_id = t.id AND h.held_until > now())`

// SetHeld records why a replica takes no batches; an empty reason says that it does. When
// no replica takes any, none is admitted, and what was admitted waits again.
func SetHeld(ctx context.Context, l *ledger.Ledger, worker, reason string) error {
	_, err := l.Pool.Exec(ctx, l.SQL(`UPDATE {s}.worker SET held_for = nullif($2, '') WHERE id = $1`), worker, reason)
	if err != nil {
		return fmt.Errorf("record what worker %s is held for: %w", worker, err)
	}
	return nil
}

// Held is a table of which no batch begins for a while, because its throttle says so.
type Held struct {
	Database, Schema, Table string
	Reason                  string
	Until                   time.Time // when it is looked at again
}

// HeldTables lists what is held just now, from the pool or in a report's own snapshot.
func HeldTables(ctx context.Context, l *ledger.Ledger, q querier) ([]Held, error) {
	rows, err := q.Query(ctx, l.SQL(`
		SELECT t.database, t.schema, t.name, h.held_for, h.held_until
		FROM {s}.table_throttle h JOIN {s}.archive_table t ON t.id = h.table_id
		WHERE h.held_until > now() ORDER BY 1, 2, 3`))
	if err != nil {
		return nil, fmt.Errorf("read which tables are held: %w", err)
	}
	held, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Held])
	if err != nil {
		return nil, fmt.Errorf("read which tables are held: %w", err)
	}
	return held, nil
}
