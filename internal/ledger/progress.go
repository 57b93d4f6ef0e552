package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// TableName names a source table in the ledger.
type TableName struct{ Database, Schema, Name string }

// Left is what is planned and not finished of a table.
type Left struct {
	Batches   int64  // open
	Rows      int64  // that these were planned with, and Unplanned
	Unplanned int64  // about: in windows of a run that are still to be planned
	Failed    int64  // of Batches: given up until a human acts
	Reason    string // why one of them failed, or else waits; may be empty
}

// Left sums up the open batches of some tables. A table without any is not in the
// answer. It reads open batches only, however many are archived, and the
// runs that have windows left.
func (l *Ledger) Left(ctx context.Context, tables []TableName) (map[TableName]Left, error) {
	out := map[TableName]Left{}
	var name TableName
	var left Left
	err := l.eachTable(ctx, tables, `
		SELECT t.database, t.schema, t.name, b.batches, b.rows + r.rows, r.rows, b.failed, coalesce(b.reason, r.reason, '')
		FROM wanted t
		CROSS JOIN LATERAL (
			SELECT count(*) AS batches, coalesce(sum(rows_planned), 0)::bigint AS rows, count(*) FILTER (WHERE failed) AS failed,
			       coalesce(min(last_error) FILTER (WHERE failed), min(waiting_for)) AS reason
			FROM {s}.batch WHERE table_id = t.id AND state IN ('planned', 'verified', 'deleting')) b
		CROSS JOIN LATERAL (
			SELECT coalesce(sum(rows_left), 0)::bigint AS rows, count(*) AS runs, min(window_error) AS reason FROM {s}.run WHERE table_id = t.id AND more) r
		WHERE b.batches > 0 OR r.runs > 0`, nil,
		[]any{&name.Database, &name.Schema, &name.Name, &left.Batches, &left.Rows, &left.Unplanned, &left.Failed, &left.Reason},
		func() error { out[name] = left; return nil })
	if err != nil {
		return nil, fmt.Errorf("sum up the open batches: %w", err)
	}
	return out, nil
}

// Finished is what was archived of a table in some time, by whichever worker.
type Finished struct {
	Batches, Rows, Bytes int64 // Bytes as stored
	Timings              Timings
}

// ArchivedSince sums up what was archived of some tables from an instant of the
// control database's clock on. A table without any is not in the answer.
func (l *Ledger) ArchivedSince(ctx context.Context, since time.Time, tables []TableName) (map[TableName]Finished, error) {
	out := map[TableName]Finished{}
	var name TableName
	var f Finished
	err := l.eachTable(ctx, tables, `
		SELECT t.database, t.schema, t.name, count(*), coalesce(sum(b.rows), 0)::bigint, coalesce(sum(b.stored_bytes), 0)::bigint,
		       `+sumTiming("query")+`, `+sumTiming("serialize")+`, `+sumTiming("compress")+`, `+sumTiming("upload")+`, `+sumTiming("verify")+`, `+sumTiming("delete")+`
		FROM wanted t JOIN {s}.batch b ON b.table_id = t.id AND b.state = 'archived' AND b.archived_at >= $4
		GROUP BY 1, 2, 3`, []any{since},
		[]any{
			&name.Database, &name.Schema, &name.Name, &f.Batches, &f.Rows, &f.Bytes,
			&f.Timings.Query, &f.Timings.Serialize, &f.Timings.Compress, &f.Timings.Upload, &f.Timings.Verify, &f.Timings.Delete,
		},
		func() error { out[name] = f; return nil })
	if err != nil {
		return nil, fmt.Errorf("sum up what was archived: %w", err)
	}
	return out, nil
}

func sumTiming(phase string) string {
	return "coalesce(sum((b.timings->>'" + phase + "')::float8), 0)::float8"
}

// eachTable runs a query over the tables' ledger rows, which it sees as `wanted`.
func (l *Ledger) eachTable(ctx context.Context, tables []TableName, sql string, args, scan []any, each func() error) error {
	var database, schema, name []string
	for _, t := range tables {
		database, schema, name = append(database, t.Database), append(schema, t.Schema), append(name, t.Name)
	}
	rows, err := l.Pool.Query(ctx, l.SQL(`
		WITH wanted AS (
			SELECT t.* FROM {s}.archive_table t JOIN unnest($1::text[], $2::text[], $3::text[]) u(d, s, n) ON (t.database, t.schema, t.name) = (u.d, u.s, u.n)
		)`+sql), append([]any{database, schema, name}, args...)...)
	if err != nil {
		return err
	}
	_, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (struct{}, error) {
		if err := r.Scan(scan...); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, each()
	})
	return err
}
