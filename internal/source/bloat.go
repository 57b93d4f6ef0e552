package source

import (
	"context"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
)

// vacuumSize is what a vacuum reports before and after it, summed up over relations.
type vacuumSize struct {
	Bytes, Dead, Live int64
	Bloat             *int64 // of the heaps; nil: not known of one of them
}

// relationSize is what the server's catalog and statistics say about a relation.
type relationSize struct {
	Bytes, Dead, Live int64
	Heap              int64    // bytes of the main fork
	Rows              *float64 // nil before the first VACUUM or ANALYZE
	Width             *float64 // average bytes of a row's values; nil: some column has no statistics, or they are hidden
	Fill              float64  // fillfactor, 0 to 1
	Page              float64  // bytes
}

// The layout of a heap, as PostgreSQL's manual describes it in "Database Page Layout": a
// page begins with a header, an array of item pointers leads to its rows, each row has a
// header too, and rows begin at multiples of the alignment.
const (
	pageHeader  = 24
	rowHeader   = 24 // 23 bytes and what aligns the values behind them
	itemPointer = 4
	alignment   = 8
)

// bloat estimates how many bytes of the heap a rewrite would give back: those beyond what
// the live rows would need if they were packed as the fillfactor says. nil: not known.
//
// It comes from statistics alone, so it costs nothing, and does not know the bloat of TOAST
// and of indexes, padding between columns, null bitmaps, or the rest of a page that no
// further row fits into. Before the vacuum, widths are those of the last ANALYZE, and rows
// are counted since then.
func (r relationSize) bloat() *int64 {
	if r.Heap == 0 || r.Rows != nil && *r.Rows == 0 { // whatever the width
		return &r.Heap
	}
	if r.Rows == nil || r.Width == nil {
		return nil
	}
	row := math.Ceil((rowHeader+*r.Width)/alignment)*alignment + itemPointer
	pages := math.Ceil(*r.Rows * row / ((r.Page - pageHeader) * r.Fill))
	over := max(r.Heap-int64(pages*r.Page), 0)
	return &over
}

func (s *vacuumSize) add(r relationSize) {
	s.Bytes, s.Dead, s.Live = s.Bytes+r.Bytes, s.Dead+r.Dead, s.Live+r.Live
	one := r.bloat()
	if s.Bloat == nil || one == nil {
		s.Bloat = nil
		return
	}
	sum := *s.Bloat + *one
	s.Bloat = &sum
}

// relationSizes is a query for relationSize. Rows are known from reltuples, which VACUUM and
// ANALYZE have just set ($2), or else from the counters, which know what was deleted since.
// After a crash or a failover these begin again at zero: if nobody has told them since how
// many rows there are, they only know by how many there are more, or fewer, than reltuples.
//
// The widths are asked for by relation, so that only its columns are looked up in pg_stats,
// which shows those that the role may read.
const relationSizes = `
	SELECT pg_total_relation_size(c.oid), pg_stat_get_dead_tuples(c.oid), pg_stat_get_live_tuples(c.oid), pg_relation_size(c.oid),
		CASE WHEN c.reltuples < 0 THEN NULL WHEN $2 THEN c.reltuples
			WHEN num_nonnulls(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid),
				pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid)) > 0 THEN pg_stat_get_live_tuples(c.oid)
			ELSE greatest(c.reltuples + pg_stat_get_tuples_inserted(c.oid) - pg_stat_get_tuples_deleted(c.oid), 0) END::float8,
		(SELECT CASE WHEN count(*) = count(s.avg_width) THEN sum((1 - s.null_frac) * s.avg_width) END
			FROM pg_attribute a LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname AND NOT s.inherited
			WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v')::float8,
		coalesce((SELECT option_value::float8 FROM pg_options_to_table(c.reloptions) WHERE option_name = 'fillfactor'), 100) / 100,
		current_setting('block_size')::float8
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1::oid[])`

// vacuumSize reads sizes, dead rows and bloat of some relations. analyzed says that they
// were vacuumed and analyzed a moment ago.
func (t *tx) vacuumSize(ctx context.Context, oids []uint32, analyzed bool) (vacuumSize, error) {
	sum := vacuumSize{Bloat: new(int64)}
	rows, err := t.conn.Query(ctx, relationSizes, oids, analyzed)
	if err != nil {
		return sum, fmt.Errorf("read sizes: %w", err)
	}
	sizes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[relationSize])
	if err != nil {
		return sum, fmt.Errorf("read sizes: %w", err)
	}
	for _, r := range sizes {
		sum.add(r)
	}
	return sum, nil
}
