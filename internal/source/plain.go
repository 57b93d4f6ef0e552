package source

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/audit-table-archiver/archiver/internal/encode"
	"github.com/audit-table-archiver/archiver/internal/keyrange"
)

// CopyPlain reads the rows that Extract reads, at most maxRows of the range in key order,
// as binary COPY, and drops them: what Extract can be compared with. The columns are as
// the table has them, or in their text form where Extract has the server make JSON, without those that name a row version, and the catalogs are not
// looked at again. The transaction is read-only. It returns how many rows there were.
func (d *DB) CopyPlain(ctx context.Context, table *Table, r keyrange.Range, maxRows int64, timeout time.Duration) (rows int64, err error) {
	ctx = doing(ctx, "read", table.Config)
	err = d.inTx(ctx, readOnly, extractSettings(timeout), func(t *tx) error {
		where, err := t.predicate(ctx, table, r)
		if err != nil {
			return err
		}
		if err := t.towardsRows(ctx, ""); err != nil {
			return err
		}
		tag, err := t.conn.PgConn().CopyTo(ctx, io.Discard, t.conn.comment+table.plainSQL(where, maxRows))
		rows = tag.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read the rows without their versions: %w", err)
	}
	return rows, nil
}

func (t *Table) plainSQL(where string, maxRows int64) string {
	list := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		list[i] = col(c.Name)
		if c.encode == encode.TypeRawJSON { // some of these types have no binary form, such as aclitem
			list[i] = outputText(list[i])
		}
	}
	return "COPY (SELECT " + strings.Join(list, ", ") + t.rowsSQL(where, maxRows) + ") TO STDOUT (FORMAT binary)"
}

// rowsSQL is the part of a read behind its select list.
func (t *Table) rowsSQL(where string, maxRows int64) string {
	return " FROM " + t.name() + " WHERE " + where + " ORDER BY " + t.order() + " LIMIT " + strconv.FormatInt(maxRows, 10)
}

// extractSettings are of a transaction that reads the rows of a range.
func extractSettings(timeout time.Duration) string {
	return "; SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL statement_timeout = " + milliseconds(timeout)
}
