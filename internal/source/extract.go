package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/digest"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/keyrange"
)

// ExtractRequest says which rows to read and how many of them at most.
type ExtractRequest struct {
	Table   config.Table
	Key     []string // the key that the range was planned on, timestamp column first
	Range   keyrange.Range
	MaxRows int64 // the read stops there; Cut then says where
	Content bool  // also read a hash of each row's content
	Timeout time.Duration
}

// Extracted describes the read; all of it belongs to one snapshot.
type Extracted struct {
	Table         *Table
	Identity      Identity
	ServerVersion string
	Snapshot      string // pg_current_snapshot()
	// Cut is the key of the last row that was read, if more rows follow in the
	// range; nil otherwise.
	Cut []string
}

// KeyChangedError says that the table's key is not the one that was planned on.
type KeyChangedError struct {
	Table         string
	Planned, Have []string
}

func (e *KeyChangedError) Error() string {
	return fmt.Sprintf("the key of %s was (%s) when the batch was planned and is (%s) now", e.Table, strings.Join(e.Planned, ", "), strings.Join(e.Have, ", "))
}

// Extract streams the rows of a range, in key order, as binary COPY into the
// writer that open returns once the columns are known. Row by row it is what Table.Encoding
// says: the columns that name the row version, and then the table's. The transaction is
// read-only and has ended when Extract returns.
//
// In a view of the replica it wants r.Content, without which its rows could not be told
// from others of a standby that has gone another way; Identity is the primary's.
func (d *DB) Extract(ctx context.Context, r ExtractRequest, open func(*Table) (io.Writer, error), rows func() int64) (*Extracted, error) {
	if d.view != nil && !r.Content {
		return nil, errors.New("read the rows: a replica is read with their content hash only")
	}
	ctx = doing(ctx, "read", r.Table)
	var out Extracted
	err := d.inTx(ctx, readOnly, extractSettings(r.Timeout), func(t *tx) error {
		if err := t.lockDefinition(ctx, r.Table); err != nil {
			return err
		}
		if err := failpoint.Hit(ctx, "extract:locked"); err != nil {
			return err
		}
		table, err := t.describe(ctx, r.Table)
		if err != nil {
			return err
		}
		if err := table.SameKey(r.Key); err != nil {
			return err
		}
		out.Table = table
		if out.Identity, err = d.identityOf(ctx, t); err != nil {
			return err
		}
		var seen string // WAL position behind every commit that the snapshot sees; a standby has none of its own
		if err := t.conn.QueryRowKept(ctx, `SELECT current_setting('server_version'), pg_current_snapshot()::text,
			CASE WHEN pg_is_in_recovery() THEN '' ELSE pg_current_wal_insert_lsn()::text END`).Scan(&out.ServerVersion, &out.Snapshot, &seen); err != nil {
			return fmt.Errorf("read the snapshot: %w", err)
		}
		where, err := t.predicate(ctx, table, r.Range)
		if err != nil {
			return err
		}
		if err := t.towardsRows(ctx, ""); err != nil {
			return err
		}
		w, err := open(table)
		if err != nil {
			return err
		}
		if _, err := t.conn.PgConn().CopyTo(ctx, w, t.conn.comment+table.copySQL(where, r)); err != nil {
			return err
		}
		if err := failpoint.Hit(ctx, "extract:copied"); err != nil {
			return err
		}
		if rows() == r.MaxRows {
			if out.Cut, err = t.cut(ctx, table, where, r.MaxRows); err != nil {
				return err
			}
		}
		if d.view != nil {
			return nil // what reaches a standby is on the primary's disk
		}
		return t.onDisk(ctx, seen)
	})
	if err != nil {
		return nil, fmt.Errorf("read the rows: %w", err)
	}
	return &out, nil
}

// onDisk returns once the server has all WAL up to lsn on its disk, and may end the
// transaction for that. A session with synchronous_commit = off shows its rows before
// they are there. If the server crashes then, they are gone, and the next rows can be
// given their very ctid and xmin: the delete would take those for what was read. The
// answer comes over the connection of the read, so no crash lies between the two.
func (t *tx) onDisk(ctx context.Context, lsn string) error {
	var flushed bool
	if err := t.conn.QueryRow(ctx, `SELECT pg_current_wal_flush_lsn() >= $1::pg_lsn`, lsn).Scan(&flushed); err != nil {
		return fmt.Errorf("ask whether the rows are on disk: %w", err)
	}
	if flushed {
		return nil
	}
	// A commit that wrote WAL takes all WAL before it to disk.
	if _, err := t.conn.Exec(ctx, `ROLLBACK; BEGIN READ WRITE; SET LOCAL synchronous_commit = local;
		SELECT pg_catalog.pg_logical_emit_message(true, 'archiver', ''); COMMIT`, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("have the rows written to disk: %w", err)
	}
	t.done = true
	return nil
}

// lockDefinition keeps the columns as they are until the end of the transaction. It
// comes before the snapshot: a snapshot that is older than an ALTER TABLE which
// rewrites the table finds that table empty, and COPY would look for columns that
// are no longer there. It is the lock that COPY takes too, and a standby grants it.
func (t *tx) lockDefinition(ctx context.Context, c config.Table) error {
	name := pgx.Identifier{c.Schema, c.Name}.Sanitize()
	if _, err := t.conn.Exec(ctx, "LOCK TABLE ONLY "+name+" IN ACCESS SHARE MODE", pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("lock the table's definition: %w", err)
	}
	return nil
}

// copySQL is the statement whose output package encode reads.
func (t *Table) copySQL(where string, r ExtractRequest) string {
	list := []string{identityList(t.rowColumns(r.Content))}
	for _, c := range t.Columns {
		list = append(list, c.expr)
	}
	return "COPY (SELECT " + strings.Join(list, ", ") + t.rowsSQL(where, r.MaxRows) + ") TO STDOUT (FORMAT binary)"
}

// contentHash covers every column of the row, whatever its type. The star matters: in
// a table with a column named t, t alone would be that column.
const contentHash = "hashtextextended(format('%s', (t.*)), 0)"

// SameKey returns a *KeyChangedError unless the table is still keyed as planned.
func (t *Table) SameKey(planned []string) error {
	have := t.KeyColumns()
	if strings.Join(have, "\x00") != strings.Join(planned, "\x00") {
		return &KeyChangedError{Table: t.Config.String(), Planned: planned, Have: have}
	}
	return nil
}

// cut returns the key of row number n of the range if there is a row after it.
func (t *tx) cut(ctx context.Context, table *Table, where string, n int64) ([]string, error) {
	rows, err := t.conn.Query(ctx, `SELECT `+table.keyText()+` FROM `+table.name()+` WHERE `+where+
		` ORDER BY `+table.order()+` LIMIT 2 OFFSET `+strconv.FormatInt(n-1, 10))
	if err != nil {
		return nil, fmt.Errorf("find the end of the rows read: %w", err)
	}
	defer rows.Close()
	var keys [][]string
	for rows.Next() {
		var k []string
		if err := rows.Scan(&k); err != nil {
			return nil, fmt.Errorf("find the end of the rows read: %w", err)
		}
		keys = append(keys, k)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("find the end of the rows read: %w", err)
	}
	if len(keys) < 2 {
		return nil, nil
	}
	return keys[0], nil
}

// Middle returns the key of the row in the middle of a range, to bisect it; nil
// if it holds fewer than two rows.
func (d *DB) Middle(ctx context.Context, c config.Table, r keyrange.Range) (key []string, below, above int64, err error) {
	err = d.inRange(ctx, c, r, func(ctx context.Context, t *tx, table *Table, where string) (err error) {
		var n int64
		if err := t.conn.QueryRow(ctx, `SELECT count(*) FROM `+table.name()+` WHERE `+where).Scan(&n); err != nil || n < 2 {
			return err
		}
		below, above = n/2, n-n/2
		key, err = t.cut(ctx, table, where, below)
		return err
	})
	if err != nil {
		return nil, 0, 0, fmt.Errorf("bisect the batch: %w", err)
	}
	return key, below, above, nil
}

// KeyAt returns the key of row number n of a range, from 1, if there is a row after it; nil
// otherwise. It reads the n rows' index entries.
func (d *DB) KeyAt(ctx context.Context, c config.Table, r keyrange.Range, n int64) (key []string, err error) {
	err = d.inRange(ctx, c, r, func(ctx context.Context, t *tx, table *Table, where string) (err error) {
		key, err = t.cut(ctx, table, where, n)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find row %d of the batch: %w", n, err)
	}
	return key, nil
}

// inRange runs fn in a transaction in which rows are looked for by the index.
func (d *DB) inRange(ctx context.Context, c config.Table, r keyrange.Range, fn func(ctx context.Context, t *tx, table *Table, where string) error) error {
	ctx = doing(ctx, "bisect", c)
	return d.inTx(ctx, readOnly, "; SET LOCAL enable_seqscan = off", func(t *tx) error {
		table, err := t.describe(ctx, c)
		if err != nil {
			return err
		}
		where, err := t.predicate(ctx, table, r)
		if err != nil {
			return err
		}
		return fn(ctx, t, table, where)
	})
}

// rangeDigest reads the identities of all rows in a range.
func (t *tx) rangeDigest(ctx context.Context, table *Table, where string, content bool) (digest.Digest, error) {
	columns := table.rowColumns(content)
	return t.digestOf(ctx, "SELECT "+identityList(columns)+" FROM "+table.name()+" WHERE "+where, columns)
}

// rowColumns are the columns that name a row version of the table: as few as will do, as
// each costs about as much as one of the table's own.
func (t *Table) rowColumns(content bool) digest.Columns {
	if t.Kind == "p" {
		return digest.Columns{Content: content}
	}
	return digest.Columns{Table: t.OID, Content: content}
}

// identityList selects columns.
func identityList(columns digest.Columns) string {
	var list []string
	for _, name := range columns.System() {
		list = append(list, "t."+name)
	}
	if columns.Content {
		list = append(list, contentHash)
	}
	return strings.Join(list, ", ")
}
