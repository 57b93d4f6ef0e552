package source

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/keyrange"
)

// Cutoff is the upper end of a run, by the source's clock.
type Cutoff struct {
	At    time.Time
	Value string // in the column's type
}

// Cutoff returns now() - retention, or earlier if that is given and is earlier.
func (d *DB) Cutoff(ctx context.Context, table *Table, earlier *time.Time) (Cutoff, error) {
	ctx = doing(ctx, "cutoff", table.Config)
	var c Cutoff
	instant := "least(now() - " + interval(table.Config.Retention) + ", $1::timestamptz)"
	err := d.inTx(ctx, readOnly, "", func(t *tx) error {
		return t.conn.QueryRow(ctx, `SELECT c, `+inColumnType(table.Config, table.Key[0].Type, "c")+`::text FROM (SELECT `+instant+` AS c) s`, earlier).Scan(&c.At, &c.Value)
	})
	if err != nil {
		return c, fmt.Errorf("read the cutoff of %s from the database's clock: %w", table.Config, err)
	}
	return c, nil
}

// PastRetention says whether a timestamp value is older than the retention that
// is configured now. It is asked again at each attempt, since the configuration
// may have changed after planning.
func (d *DB) PastRetention(ctx context.Context, table *Table, value string) (bool, error) {
	ctx = doing(ctx, "check", table.Config)
	var past bool
	err := d.inTx(ctx, readOnly, "", func(t *tx) error {
		var err error
		past, err = t.pastRetention(ctx, table, value)
		return err
	})
	return past, err
}

func (t *tx) pastRetention(ctx context.Context, table *Table, value string) (past bool, err error) {
	lit, err := t.keyLiterals(ctx, table.Key[:1], []string{value})
	if err == nil {
		err = t.conn.QueryRow(ctx, `SELECT `+lit[0]+` < `+age(table.Config, table.Key[0].Type, table.Config.Retention)).Scan(&past)
	}
	if err != nil {
		return false, fmt.Errorf("compare with the retention of %s: %w", table.Config, err)
	}
	return past, nil
}

// Standing is PastRetention for a table whose definition may be known: known returns the
// table of a catalog fingerprint. It returns nil where known does.
func (d *DB) Standing(ctx context.Context, c config.Table, value string, known func(fingerprint string) *Table) (table *Table, past bool, err error) {
	err = d.inTx(ctx, readOnly, "", func(t *tx) error {
		here := &Table{Config: c}
		if err := t.fingerprint(ctx, here); err != nil {
			return err
		}
		if table = known(here.Fingerprint); table == nil {
			return nil
		}
		past, err = t.pastRetention(ctx, table, value)
		return err
	})
	return table, past, err
}

// Page is a batch to be: a range and how many rows are in it now.
type Page struct {
	Range     keyrange.Range
	Partition string // year=2024/month=03, or empty
	Rows      int64
}

// calendar is the slice of time that one folder of the layout covers.
type calendar struct {
	start, end string // text; end is exclusive, both empty for partition_by none
	folder     string
}

// walkTime bounds one transaction of a walk, so that no snapshot lives long.
const walkTime = time.Second

// Walk cuts everything between after (exclusive; nil = the oldest row) and cutoff
// (exclusive) into pages of at most rows rows, in key order, and calls yield for
// each. Pages are disjoint and complete, and none crosses a border of
// partition_by. It reads the key index only, by keyset, in short transactions.
// A page that starts a folder is bounded below by the folder's start, so that a
// row that arrives late cannot end up in another month's folder.
func (d *DB) Walk(ctx context.Context, table *Table, after []string, cutoff string, rows int, yield func(Page) error) error {
	ctx = doing(ctx, "plan", table.Config)
	w := walk{table: table, after: after, cutoff: cutoff, rows: rows, literals: map[string]string{}}
	for !w.done {
		err := d.inTx(ctx, readOnly, "; SET LOCAL enable_seqscan = off; SET LOCAL max_parallel_workers_per_gather = 0", func(t *tx) error {
			for start := time.Now(); !w.done && time.Since(start) < walkTime; {
				page, err := w.next(ctx, t)
				if err != nil || page == nil {
					return err
				}
				if err := yield(*page); err != nil {
					return err
				}
				if err := failpoint.Hit(ctx, "walk:page"); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("walk the key of %s: %w", table.Config, err)
		}
	}
	return nil
}

type walk struct {
	table    *Table
	after    []string
	cutoff   string
	rows     int
	folder   *calendar // of the last page, while it may have more rows
	literals map[string]string
	done     bool
}

// literal turns a timestamp that bounds many pages, the cutoff or the end of a folder,
// into a typed literal, asking the server once.
func (w *walk) literal(ctx context.Context, t *tx, value string) (string, error) {
	if lit, ok := w.literals[value]; ok {
		return lit, nil
	}
	lit, err := t.keyLiterals(ctx, w.table.Key[:1], []string{value})
	if err != nil {
		return "", err
	}
	w.literals[value] = lit[0]
	return lit[0], nil
}

// next returns the next page, or nil at the end.
func (w *walk) next(ctx context.Context, t *tx) (*Page, error) {
	for {
		r := keyrange.Range{After: w.after}
		if w.folder == nil {
			cal, err := w.enter(ctx, t)
			if err != nil || cal == nil {
				w.done = err == nil
				return nil, err
			}
			w.folder = cal
			if cal.start != "" {
				r.FromTS = &cal.start // a page that starts a folder is bounded by time, not by the last key
				if inside, err := w.startsInside(ctx, t, cal); err != nil {
					return nil, err
				} else if inside {
					r.FromTS = nil
				} else {
					r.After = nil
				}
			}
		}
		page, err := w.page(ctx, t, r)
		if err != nil {
			return nil, err
		}
		if page == nil { // the rows that enter saw are gone since
			w.folder = nil
			continue
		}
		w.after = page.Range.To
		if page.Rows < int64(w.rows) {
			w.folder = nil
		}
		return page, nil
	}
}

// enter finds the first row that is left and the folder that it belongs to.
func (w *walk) enter(ctx context.Context, t *tx) (*calendar, error) {
	where, err := w.where(ctx, t, keyrange.Range{After: w.after})
	if err != nil {
		return nil, err
	}
	ts := w.table.timestamp()
	// date_trunc gives a timestamp for a date; the cast brings both ends back.
	typ := w.table.Key[0].Type
	var start, end, month, day *string
	var year *int
	var finite bool
	unit := w.table.Config.PartitionBy
	if unit == config.PartitionByNone {
		unit = "day" // computed, not used
	}
	err = t.conn.QueryRow(ctx, `SELECT isfinite(v), (`+periodStart(unit)+`)::`+typ+`::text,
			CASE WHEN isfinite(v) THEN date_trunc('`+unit+`', v + interval '1 `+unit+`')::`+typ+`::text END,
			CASE WHEN isfinite(v) THEN extract(year FROM v)::int END, to_char(v, 'MM'), to_char(v, 'DD')
		FROM (SELECT `+ts+` AS v FROM `+w.table.name()+` WHERE `+where+` ORDER BY `+w.table.order()+` LIMIT 1) s`).
		Scan(&finite, &start, &end, &year, &month, &day)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if w.table.Config.PartitionBy == config.PartitionByNone {
		return &calendar{}, nil
	}
	if !finite { // -infinity is older than every cutoff; it gets a folder of its own
		return &calendar{start: *start, folder: "year=-infinity"}, nil
	}
	cal := &calendar{start: *start, end: *end, folder: fmt.Sprintf("year=%04d", *year)}
	if unit == config.PartitionByMonth || unit == config.PartitionByDay {
		cal.folder += "/month=" + *month
	}
	if unit == config.PartitionByDay {
		cal.folder += "/day=" + *day
	}
	return cal, nil
}

// periodStart is SQL for the start of the day, month or year that v is in. The month
// and the year of the first timestamps that there are began before the first of them,
// where date_trunc has nothing to return.
func periodStart(unit string) string {
	const first = "4714-11-24 BC"
	firstWhole := map[string]string{config.PartitionByDay: first, config.PartitionByMonth: "4714-12-01 BC", config.PartitionByYear: "4713-01-01 BC"}
	return `CASE WHEN isfinite(v) AND v < '` + firstWhole[unit] + `' THEN '` + first + `' ELSE date_trunc('` + unit + `', v) END`
}

// startsInside says whether the walk goes on in the middle of the folder, so that
// the last key is the tighter bound.
func (w *walk) startsInside(ctx context.Context, t *tx, cal *calendar) (bool, error) {
	if w.after == nil {
		return false, nil
	}
	lit, err := t.keyLiterals(ctx, []Column{w.table.Key[0], w.table.Key[0]}, []string{w.after[0], cal.start})
	if err != nil {
		return false, err
	}
	var inside bool
	err = t.conn.QueryRow(ctx, "SELECT "+lit[0]+" >= "+lit[1]).Scan(&inside)
	return inside, err
}

func (w *walk) where(ctx context.Context, t *tx, r keyrange.Range) (string, error) {
	where, err := t.predicate(ctx, w.table, r)
	if err != nil {
		return "", err
	}
	lit, err := w.literal(ctx, t, w.cutoff)
	if err != nil {
		return "", err
	}
	return where + " AND " + w.table.timestamp() + " < " + lit, nil
}

// page reads up to w.rows keys from r on and returns the range that they span.
func (w *walk) page(ctx context.Context, t *tx, r keyrange.Range) (*Page, error) {
	where, err := w.where(ctx, t, r)
	if err != nil {
		return nil, err
	}
	switch {
	case w.folder.end != "":
		lit, err := w.literal(ctx, t, w.folder.end)
		if err != nil {
			return nil, err
		}
		where += " AND " + w.table.timestamp() + " < " + lit
	case w.folder.folder != "":
		where += " AND NOT isfinite(" + w.table.timestamp() + ")"
	}
	page := Page{Range: r, Partition: w.folder.folder}
	// The key columns are renamed on the way: a table may well have a column "n".
	names, text := w.table.renamedKey()
	keys := `SELECT ` + w.table.order() + ` FROM ` + w.table.name() + ` WHERE ` + where + ` ORDER BY ` + w.table.order()
	// A full page is found by its last row, at less than half of the cost of counting.
	err = t.conn.QueryRow(ctx, `SELECT `+text+` FROM (`+keys+` OFFSET `+strconv.Itoa(w.rows-1)+` LIMIT 1) s (`+names+`)`).Scan(&page.Range.To)
	if err == nil {
		page.Rows = int64(w.rows)
		return &page, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return nil, err
	}
	var n int64
	// The text forms are made of the last row only, which is why it is found first.
	err = t.conn.QueryRow(ctx, `SELECT n, `+text+` FROM (
			SELECT `+names+`, row_number() OVER () AS n FROM (`+keys+` LIMIT `+strconv.Itoa(w.rows)+`) s (`+names+`)
			ORDER BY n DESC LIMIT 1) p`).Scan(&n, &page.Range.To)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	page.Rows = n
	return &page, nil
}

// Size is a rough account of a table for the plan's report.
type Size struct {
	Bytes     int64 // of the table and its indexes
	HeapBytes int64 // with TOAST, without indexes
	Rows      float64
	Oldest    *string
}

// Size reads sizes and the oldest value of the timestamp column.
func (d *DB) Size(ctx context.Context, table *Table) (Size, error) {
	ctx = doing(ctx, "size", table.Config)
	var s Size
	err := d.inTx(ctx, readOnly, "", func(t *tx) error {
		if err := t.conn.QueryRow(ctx, `
			SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint, coalesce(sum(pg_table_size(c.oid)), 0)::bigint, coalesce(sum(greatest(c.reltuples, 0)), 0)::float8
			FROM pg_class c WHERE c.relkind = 'r' AND c.oid IN (SELECT $1::oid UNION SELECT relid FROM pg_partition_tree($1::oid))`, table.OID).
			Scan(&s.Bytes, &s.HeapBytes, &s.Rows); err != nil {
			return err
		}
		return t.conn.QueryRow(ctx, `SELECT min(`+table.timestamp()+`)::text FROM `+table.name()).Scan(&s.Oldest)
	})
	if err != nil {
		return s, fmt.Errorf("read the size of %s: %w", table.Config, err)
	}
	return s, nil
}
