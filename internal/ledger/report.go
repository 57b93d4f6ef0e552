package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Filter narrows a report. Empty fields narrow nothing; Schema and Table go
// together and are plain names.
type Filter struct{ Database, Schema, Table string }

// ofTable is the filter on archive_table t; its arguments are $1 to $3.
const ofTable = `($1 = '' OR t.database = $1) AND ($3 = '' OR (t.schema = $2 AND t.name = $3))`

// Knows says whether anything was ever planned for a table that the filter lets through.
func (l *Ledger) Knows(ctx context.Context, f Filter) (bool, error) {
	var known bool
	err := l.Pool.QueryRow(ctx, l.SQL(`SELECT EXISTS (SELECT FROM {s}.archive_table t WHERE `+ofTable+`)`), f.Database, f.Schema, f.Table).Scan(&known)
	if err != nil {
		return false, fmt.Errorf("look for the table in the ledger: %w", err)
	}
	return known, nil
}

// Totals is what has become of a table's finished batches.
type Totals struct {
	Database, Schema, Table    string
	Archived, Empty, Cancelled int64 // batches
	Rows, StoredBytes          int64 // of the archived ones
	LastArchivedAt             *time.Time
	// RowsPerSecond is the rate of the last few minutes; nil if nothing was
	// archived in them.
	RowsPerSecond *float64
}

// LastArchived returns when a batch of each table was last archived, if that was within
// the last while. It looks only at the jobs that were finished in that time, so that a
// caller who asks again and again does not read all batches each time; the queue keeps
// finished jobs for a day. Zero, for ever, reads all batches.
func (l *Ledger) LastArchived(ctx context.Context, q querier, within time.Duration) (map[TableName]time.Time, error) {
	from, args := `{s}.batch b`, []any(nil)
	if within > 0 { // the job of a batch is completed in the transaction that archives it
		from = `{s}.river_job j JOIN {s}.batch b ON b.job_id = j.id AND j.state = 'completed' AND j.finalized_at >= now() - $1::interval`
		args = []any{interval(within)}
	}
	//nolint:rowserrcheck // ForEachRow checks it
	rows, err := q.Query(ctx, l.SQL(`
		SELECT t.database, t.schema, t.name, d.last
		FROM (SELECT b.table_id, max(b.archived_at) AS last FROM `+from+` GROUP BY 1) d JOIN {s}.archive_table t ON t.id = d.table_id
		WHERE d.last IS NOT NULL`), args...)
	if err != nil {
		return nil, fmt.Errorf("look for the last archived batches: %w", err)
	}
	out := map[TableName]time.Time{}
	var name TableName
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&name.Database, &name.Schema, &name.Name, &at}, func() error { out[name] = at; return nil })
	if err != nil {
		return nil, fmt.Errorf("look for the last archived batches: %w", err)
	}
	return out, nil
}

// rateWindow is how far back the rate of a table looks: long enough to smooth
// batches of minutes, short enough to say what is going on now.
const rateWindow = "5 minutes"

// Totals returns a line for each table that was ever planned, in one pass over
// the batches. tx is taken so that a report can read all its parts in one snapshot.
func (l *Ledger) Totals(ctx context.Context, tx pgx.Tx) ([]Totals, error) {
	// The span of the rate begins when the first batch of the window was begun:
	// one batch that took a minute is no burst, and a pause at the end counts.
	rows, err := tx.Query(ctx, l.SQL(`
		WITH done AS (
			SELECT table_id,
			       count(*) FILTER (WHERE state = 'archived') AS archived,
			       count(*) FILTER (WHERE state = 'empty') AS empty,
			       count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
			       coalesce(sum(rows) FILTER (WHERE state = 'archived'), 0)::bigint AS rows,
			       coalesce(sum(stored_bytes) FILTER (WHERE state = 'archived'), 0)::bigint AS bytes,
			       max(archived_at) AS last,
			       sum(rows) FILTER (WHERE archived_at > now() - interval '`+rateWindow+`') AS recent,
			       min(archived_at - coalesce((timings->>'total')::float8, 0) * interval '1 second')
			           FILTER (WHERE archived_at > now() - interval '`+rateWindow+`') AS since
			FROM {s}.batch WHERE state IN ('archived', 'empty', 'cancelled') GROUP BY table_id)
		SELECT t.database, t.schema, t.name, coalesce(d.archived, 0), coalesce(d.empty, 0), coalesce(d.cancelled, 0),
		       coalesce(d.rows, 0), coalesce(d.bytes, 0), d.last,
		       d.recent::float8 / greatest(extract(epoch FROM now() - greatest(d.since, now() - interval '`+rateWindow+`')), 1)::float8
		FROM {s}.archive_table t LEFT JOIN done d ON d.table_id = t.id
		ORDER BY 1, 2, 3`))
	if err != nil {
		return nil, fmt.Errorf("sum up the ledger: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Totals, err error) {
		err = row.Scan(&t.Database, &t.Schema, &t.Table, &t.Archived, &t.Empty, &t.Cancelled, &t.Rows, &t.StoredBytes, &t.LastArchivedAt, &t.RowsPerSecond)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("sum up the ledger: %w", err)
	}
	return out, nil
}

// Archive is an archived batch with its committed object.
type Archive struct {
	BatchID, RunID          int64
	Database, Schema, Table string
	Attempt                 int // whose object was committed
	Key, VersionID          string
	Rows, StoredBytes       int64
	SHA256                  []byte
	From                    *string // timestamp that bounds the range below; nil: unbounded
	To                      string  // timestamp that bounds it above, inclusive
	ArchivedAt              time.Time
}

// EachArchive calls fn for archived batches, those planned last first, at most
// limit of them (0: all). The rows are streamed: memory does not grow with them.
// An error of fn ends the walk and is returned as it is.
func (l *Ledger) EachArchive(ctx context.Context, f Filter, limit int, fn func(Archive) error) error {
	// In the order of the primary key, so that nothing is sorted.
	rows, err := l.Pool.Query(ctx, l.SQL(`
		SELECT b.id, b.run_id, t.database, t.schema, t.name, o.attempt, o.key, o.version_id, o.rows, o.stored_bytes, o.sha256,
		       coalesce(b.from_ts, b.after_key[1]), b.to_key[1], b.archived_at
		FROM {s}.batch b
		JOIN {s}.archive_table t ON t.id = b.table_id
		JOIN {s}.object o ON o.batch_id = b.id AND o.state = 'committed'
		WHERE b.state = 'archived' AND `+ofTable+`
		ORDER BY b.id DESC LIMIT nullif($4, 0)`), f.Database, f.Schema, f.Table, limit)
	if err != nil {
		return fmt.Errorf("list archived batches: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var a Archive
		if err := rows.Scan(&a.BatchID, &a.RunID, &a.Database, &a.Schema, &a.Table, &a.Attempt, &a.Key, &a.VersionID, &a.Rows, &a.StoredBytes,
			&a.SHA256, &a.From, &a.To, &a.ArchivedAt); err != nil {
			return fmt.Errorf("list archived batches: %w", err)
		}
		if err := fn(a); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("list archived batches: %w", err)
	}
	return nil
}

// KeyRecord is what the ledger knows about an object key.
type KeyRecord struct {
	State   ObjectState
	BatchID int64
	// CommittedKey is the object that speaks for the batch now; empty if none does.
	CommittedKey string
}

// KeyRecords looks object keys up. A key that was used more than once (the same
// rows read twice give the same key) has the record that matters most: committed,
// then verified, superseded, discarded. Unknown keys are not in the result.
func (l *Ledger) KeyRecords(ctx context.Context, keys []string) (map[string]KeyRecord, error) {
	rows, err := l.Pool.Query(ctx, l.SQL(`
		SELECT DISTINCT ON (o.key) o.key, o.state, o.batch_id, coalesce(c.key, '')
		FROM {s}.object o
		LEFT JOIN {s}.object c ON c.batch_id = o.batch_id AND c.state = 'committed'
		WHERE o.key = ANY ($1)
		ORDER BY o.key, array_position(ARRAY['committed', 'verified', 'superseded', 'discarded'], o.state)`), keys)
	if err != nil {
		return nil, fmt.Errorf("look object keys up in the ledger: %w", err)
	}
	type keyed struct {
		Key string
		KeyRecord
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k keyed, err error) {
		err = row.Scan(&k.Key, &k.State, &k.BatchID, &k.CommittedKey)
		return k, err
	})
	if err != nil {
		return nil, fmt.Errorf("look object keys up in the ledger: %w", err)
	}
	out := make(map[string]KeyRecord, len(found))
	for _, k := range found {
		out[k.Key] = k.KeyRecord
	}
	return out, nil
}

// CommittedKey is the key of the committed object of a batch of the given table;
// empty if there is no such batch, or it has none.
func (l *Ledger) CommittedKey(ctx context.Context, f Filter, batchID int64) (string, error) {
	var key string
	err := l.Pool.QueryRow(ctx, l.SQL(`
		SELECT o.key FROM {s}.object o
		JOIN {s}.batch b ON b.id = o.batch_id
		JOIN {s}.archive_table t ON t.id = b.table_id
		WHERE o.batch_id = $4 AND o.state = 'committed' AND `+ofTable), f.Database, f.Schema, f.Table, batchID).Scan(&key)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for the object of batch %d: %w", batchID, err)
	}
	return key, nil
}
