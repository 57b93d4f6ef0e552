package source

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/digest"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/keyrange"
)

// DeleteRequest says which rows may go, and what must be true for it.
type DeleteRequest struct {
	Table       config.Table
	Key         []string // the key that the range was planned on, timestamp column first
	Range       keyrange.Range
	Digest      digest.Digest // exactly these row versions
	Content     bool          // the digest covers their content
	Fingerprint string        // the catalog as it was read
	Described   *Table        // the table of that very Fingerprint, to spare reading it again; may be nil
	Identity    Identity      // the server and timeline that were read
	LockKey     int64         // the batch's advisory lock
	Timeout     time.Duration // statement_timeout
	// Fence is called with the advisory lock held and before any row is locked. An
	// error from it ends the transaction.
	Fence func(context.Context) error
	// Newest is called by Resolve with the advisory lock held. An error says that this
	// attempt may not decide any more.
	Newest func(context.Context) error
}

// Outcome says how a guarded delete ended. Only Deleted removed anything.
type Outcome int

// The outcomes of a guarded delete.
const (
	Deleted         Outcome = iota
	TwinAtWork              // another attempt holds the batch's advisory lock
	RowsLocked              // the rows are as they were read, but some are locked by others
	RowsChanged             // rows were updated, deleted or inserted since the read
	CatalogChanged          // the table is not defined as it was when it was read
	TimelineChanged         // the server was failed over, or is another one
)

// String names the outcome in an operator's words.
func (o Outcome) String() string {
	switch o {
	case Deleted:
		return "deleted"
	case TwinAtWork:
		return "another attempt is at work on this batch"
	case RowsLocked:
		return "rows are locked by another session"
	case RowsChanged:
		return "rows changed since they were read"
	case CatalogChanged:
		return "the table's definition changed since the rows were read"
	case TimelineChanged:
		return "the server was failed over since the rows were read"
	}
	return "unknown"
}

// DeleteResult is the outcome with what an operator wants to know beside it.
type DeleteResult struct {
	Outcome Outcome
	Found   digest.Digest // what the range holds instead, where that was read
	LSN     string        // WAL position at or after the commit; empty if unknown
}

// CommitUnknownError says that COMMIT was sent and its answer was lost.
type CommitUnknownError struct{ Err error }

func (e *CommitUnknownError) Error() string {
	return "the answer to COMMIT was lost, so it is not known whether the rows are deleted: " + e.Err.Error()
}

func (e *CommitUnknownError) Unwrap() error { return e.Err }

// Delete removes exactly the row versions of the request, or nothing: one short
// transaction on the primary that commits only if count and digest of what
// DELETE returned are those of the object. After a *CommitUnknownError the outcome
// must be found out with Resolve; any other error means that nothing was deleted.
func (d *DB) Delete(ctx context.Context, r DeleteRequest) (DeleteResult, error) {
	ctx = doing(ctx, "delete", r.Table)
	var res DeleteResult
	settings := "; SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '500ms'; SET LOCAL idle_in_transaction_session_timeout = '5s'" +
		"; SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL statement_timeout = " + milliseconds(r.Timeout)
	err := d.inTx(ctx, readWrite, settings, func(t *tx) error {
		var err error
		res, err = t.guardedDelete(ctx, r)
		return err
	})
	var locked *rowLockedError
	if errors.As(err, &locked) {
		res, err = d.whyLocked(ctx, r)
	}
	if err != nil {
		return res, fmt.Errorf("delete the rows: %w", err)
	}
	return res, nil
}

// rowLockedError says that DELETE met a row that another session holds, and was rolled
// back.
type rowLockedError struct{ err error }

func (e *rowLockedError) Error() string {
	return "a row is locked by another session: " + e.err.Error()
}
func (e *rowLockedError) Unwrap() error { return e.err }

// whyLocked tells rows that are merely locked from rows that have changed as well, which
// must be read again. Both outcomes delete nothing, so the look needs no lock.
func (d *DB) whyLocked(ctx context.Context, r DeleteRequest) (DeleteResult, error) {
	res := DeleteResult{Outcome: RowsLocked}
	settings := "; SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL statement_timeout = " + milliseconds(r.Timeout)
	err := d.inTx(ctx, readOnly, settings, func(t *tx) error {
		table, err := t.describe(ctx, r.Table)
		if err != nil {
			return err
		}
		if table.Fingerprint != r.Fingerprint {
			res.Outcome = CatalogChanged
			return nil
		}
		where, err := t.predicate(ctx, table, r.Range)
		if err != nil {
			return err
		}
		if err := t.towardsRows(ctx, ""); err != nil {
			return err
		}
		if res.Found, err = t.rangeDigest(ctx, table, where, r.Content); err == nil && res.Found != r.Digest {
			res.Outcome = RowsChanged
		}
		return err
	})
	return res, err
}

func (t *tx) guardedDelete(ctx context.Context, r DeleteRequest) (DeleteResult, error) {
	// The table lock comes before the first statement that takes a snapshot. In a
	// repeatable-read transaction the catalog is read as of that snapshot, while the
	// DELETE below acts on the catalog as it is: a trigger created between a
	// snapshot and a later lock would fire without the fingerprint showing it.
	if err := failpoint.Hit(ctx, "delete:begun"); err != nil {
		return DeleteResult{}, err
	}
	if err := t.lockTable(ctx, r.Table); err != nil {
		return DeleteResult{}, err
	}
	if err := failpoint.Hit(ctx, "delete:table-locked"); err != nil {
		return DeleteResult{}, err
	}
	if ok, err := t.tryBatchLock(ctx, r.LockKey); err != nil || !ok {
		return DeleteResult{Outcome: TwinAtWork}, err
	}
	if err := r.Fence(ctx); err != nil {
		return DeleteResult{}, err
	}
	if err := failpoint.Hit(ctx, "delete:fenced"); err != nil {
		return DeleteResult{}, err
	}
	if id, err := t.identity(ctx); err != nil || id != r.Identity {
		return DeleteResult{Outcome: TimelineChanged}, err
	}
	table, err := t.describeKnown(ctx, r.Table, func(fingerprint string) *Table {
		if r.Described != nil && r.Described.Fingerprint == fingerprint {
			return r.Described
		}
		return nil
	})
	if err != nil {
		return DeleteResult{}, err
	}
	if table.Fingerprint != r.Fingerprint {
		return DeleteResult{Outcome: CatalogChanged}, nil
	}
	where, err := t.predicate(ctx, table, r.Range)
	if err != nil {
		return DeleteResult{}, err
	}
	// Rows that this DELETE has passed are locked until its end, so it may hardly wait
	// for one that another session holds.
	if err := t.towardsRows(ctx, "; SET LOCAL lock_timeout = '"+rowLockTimeout+"'"); err != nil {
		return DeleteResult{}, err
	}
	rowColumns := table.rowColumns(r.Content)
	// min_retention is checked here once more, by the server's clock, whatever was
	// planned, configured or typed.
	gone, err := t.digestOf(ctx, "DELETE FROM "+table.name()+" WHERE "+where+
		" AND "+table.timestamp()+" < "+age(r.Table, table.Key[0].Type, r.Table.MinRetention)+
		" RETURNING "+identityList(rowColumns), rowColumns)
	if isLockTimeout(err) {
		return DeleteResult{}, &rowLockedError{err}
	}
	if err != nil {
		return DeleteResult{}, err
	}
	if err := failpoint.Hit(ctx, "delete:locked"); err != nil {
		return DeleteResult{}, err
	}
	if gone != r.Digest {
		return DeleteResult{Outcome: RowsChanged, Found: gone}, nil
	}
	if err := failpoint.Hit(ctx, "delete:before-commit"); err != nil {
		return DeleteResult{}, err
	}
	if err := t.commit(ctx); err != nil {
		if refusedByConstraint(err) {
			return DeleteResult{}, err
		}
		return DeleteResult{}, &CommitUnknownError{Err: err}
	}
	if err := failpoint.Hit(ctx, "delete:after-commit"); err != nil {
		return DeleteResult{}, &CommitUnknownError{Err: err}
	}
	return DeleteResult{Outcome: Deleted, Found: gone, LSN: walPosition(ctx, t.conn)}, nil
}

// refusedByConstraint says that COMMIT was answered with a violated constraint: a
// deferred foreign key, which is checked there. The server has then rolled back. Any
// other error at COMMIT is looked into by Resolve, which costs a read and risks nothing.
func refusedByConstraint(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && strings.HasPrefix(pg.Code, "23")
}

// lockTable keeps the definition of the table and of its partitions as it is
// until the end of the transaction. LOCK takes no snapshot.
func (t *tx) lockTable(ctx context.Context, c config.Table) error {
	name := pgx.Identifier{c.Schema, c.Name}.Sanitize()
	if _, err := t.conn.Exec(ctx, "LOCK TABLE "+name+" IN ROW EXCLUSIVE MODE", pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("lock the table: %w", err)
	}
	return nil
}

func (t *tx) tryBatchLock(ctx context.Context, key int64) (bool, error) {
	var ok bool
	if err := t.conn.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, key).Scan(&ok); err != nil {
		return false, fmt.Errorf("take the batch's advisory lock: %w", err)
	}
	return ok, nil
}

// rowLockTimeout is how long the DELETE waits for one row that another session holds,
// while that session, or a third one, may wait for rows that are deleted already. Short
// enough that people do not feel it; most locks of applications are shorter.
const rowLockTimeout = "50ms"

// isLockTimeout says that a lock was not to be had in time: the server has rolled back.
func isLockTimeout(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "55P03"
}

// digestOf runs a statement whose rows are named by columns, and adds them up as they
// arrive.
func (t *tx) digestOf(ctx context.Context, sql string, columns digest.Columns) (digest.Digest, error) {
	rows := t.conn.PgConn().ExecParams(ctx, t.conn.comment+sql, nil, nil, nil, binaryFormat)
	var d digest.Digest
	for rows.NextRow() {
		row, err := columns.Row(rows.Values())
		if err != nil {
			_, _ = rows.Close()
			return digest.Digest{}, fmt.Errorf("read a row's identity: %w", err)
		}
		d.Add(row)
	}
	if _, err := rows.Close(); err != nil { // a broken connection looks like the end of the rows
		return digest.Digest{}, err
	}
	return d, nil
}

// binaryFormat asks for all columns of a result in their binary form.
var binaryFormat = []int16{1}

// walPosition is read after the commit, so it lies at or behind the delete. It is empty
// when the connection is lost by now; WALPosition asks again over another.
func walPosition(ctx context.Context, c *conn) string {
	var lsn string
	if err := c.QueryRow(ctx, `SELECT pg_catalog.pg_current_wal_lsn()::text`+flushStatistics(c)).Scan(&lsn); err != nil {
		return ""
	}
	return lsn
}

// flushStatistics has the server count now what the session deleted. Otherwise it may do
// so ten seconds later, and if the table was vacuumed meanwhile it takes these rows for
// dead ones that were left: autovacuum would come for nothing, and `status` would be wrong.
// PostgreSQL 14 has no such function.
func flushStatistics(c *conn) string {
	major, _, _ := strings.Cut(c.PgConn().ParameterStatus("server_version"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < 15 {
		return ""
	}
	return ` FROM pg_catalog.pg_stat_force_next_flush()`
}
