package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/keyrange"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/planner"
)

// batchRows is what a synthetic batch claims to hold.
const batchRows = 10_000

// enqueued is what it took to write plans.
type enqueued struct {
	Backlog int     `json:"backlog"` // batches in all, afterwards
	Batches int     `json:"batches"` // of these plans
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"batches_per_second"`
	Cores   float64 `json:"postgres_cores"`
	// Bytes of the tables and of their indexes, afterwards.
	BatchHeap    int64 `json:"batch_heap_bytes"`
	BatchIndexes int64 `json:"batch_index_bytes"`
	JobHeap      int64 `json:"job_heap_bytes"`
	JobIndexes   int64 `json:"job_index_bytes"`
}

func databaseName(i int) string { return fmt.Sprintf("db%03d", i) }

func tableName(i int) string { return fmt.Sprintf("audit_log_%d", i) }

// ensureTables has the ledger know every table, as that of a fleet which has nothing to
// do just now.
func (c *control) ensureTables(ctx context.Context) error {
	return c.ledger.InTx(ctx, func(tx pgx.Tx) error {
		for i := range c.o.databases * c.o.tables {
			if _, err := c.ledger.EnsureTable(ctx, tx, databaseName(i%c.o.databases), "public", tableName(i/c.o.databases)); err != nil {
				return err
			}
		}
		return nil
	})
}

// enqueue plans every table once more, so that there are backlog batches in all. It
// is the planner's own way of writing; only the ranges are made up.
func (c *control) enqueue(ctx context.Context, backlog int) (enqueued, error) {
	e := enqueued{Backlog: backlog}
	var there int
	if err := c.pool.QueryRow(ctx, c.ledger.SQL(`SELECT count(*) FROM {s}.batch`)).Scan(&there); err != nil {
		return e, err
	}
	e.Batches = backlog - there
	before, err := c.usage(ctx)
	if err != nil {
		return e, err
	}
	tables := c.o.databases * c.o.tables
	for i := range tables {
		n := e.Batches / tables
		if i < e.Batches%tables {
			n++
		}
		// Databases in turn, as several planners at a time would write them.
		if err := c.plan(ctx, databaseName(i%c.o.databases), tableName(i/c.o.databases), n); err != nil {
			return e, err
		}
	}
	after, err := c.usage(ctx)
	if err != nil {
		return e, err
	}
	e.Seconds, e.Cores = after.at.Sub(before.at).Seconds(), after.since(before).Cores
	e.Rate = float64(e.Batches) / e.Seconds
	err = c.pool.QueryRow(ctx, c.ledger.SQL(`
		SELECT pg_table_size('{s}.batch'), pg_indexes_size('{s}.batch'), pg_table_size('{s}.river_job'), pg_indexes_size('{s}.river_job')`)).
		Scan(&e.BatchHeap, &e.BatchIndexes, &e.JobHeap, &e.JobIndexes)
	if err != nil {
		return e, err
	}
	// What autovacuum does within minutes.
	for _, table := range []string{"batch", "river_job"} {
		if err := c.exec(ctx, `VACUUM (ANALYZE) {s}.`+table); err != nil {
			return e, err
		}
	}
	return e, nil
}

// plan writes n batches of a table behind those that it has.
func (c *control) plan(ctx context.Context, db, table string, n int) error {
	if n == 0 {
		return nil
	}
	open, err := c.ledger.FindTable(ctx, db, "public", table)
	if err != nil {
		return err
	}
	p := &planner.Plan{Table: config.Table{Database: db, Schema: "public", Name: table}, Open: open}
	at := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	p.Cutoff = source.Cutoff{At: at.AddDate(3, 0, 0), Value: stamp(at.AddDate(3, 0, 0))}
	// The run is made here because the key columns, which a Plan learns from the source,
	// cannot be set from outside.
	err = c.ledger.InTx(ctx, func(tx pgx.Tx) error {
		id, err := c.ledger.EnsureTable(ctx, tx, db, "public", table)
		if err != nil {
			return err
		}
		p.RunID, err = c.ledger.CreateRun(ctx, tx, id, p.Cutoff.At, p.Cutoff.Value, []string{"created_at", "id"})
		return err
	})
	if err != nil {
		return err
	}
	key := func(i int) []string {
		i += int(open.OpenBatches)
		return []string{stamp(at.Add(time.Duration(i) * time.Hour)), strconv.Itoa(i * batchRows)}
	}
	for i := range n {
		from := stamp(at)
		p.Pages = append(p.Pages, source.Page{
			Range: keyrange.Range{FromTS: &from, After: key(i), To: key(i + 1)}, Partition: "year=2020/month=01", Rows: batchRows,
		})
	}
	return p.Enqueue(ctx, c.ledger, c.queue)
}

func stamp(t time.Time) string { return t.Format("2006-01-02 15:04:05+00") }
