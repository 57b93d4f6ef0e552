package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
)

// Fate says what became of the rows of a batch whose delete has an unknown
// outcome.
type Fate int

// The fates that Resolve tells apart.
const (
	StillThere   Fate = iota // nothing was deleted
	AllGone                  // the delete was committed
	PartlyGone               // not our doing, which is all or nothing: another hand changed the rows
	TwinDeciding             // another attempt holds the batch's advisory lock
)

// RowReader yields the rows of an object as the JSON lines that they are, and
// io.EOF at the end. A line may be overwritten by the next call.
type RowReader interface {
	Next() ([]byte, error)
}

// lookupRows is how many keys are looked up in one statement.
const lookupRows = 1000

// Resolve decides, under the batch's advisory lock and by looking at the rows,
// whether a delete that was started has happened. It infers nothing from
// transaction ids or from what was last known. rows must come from local storage:
// no lock is held while the network is read.
func (d *DB) Resolve(ctx context.Context, r DeleteRequest, rows RowReader) (Fate, string, error) {
	ctx = doing(ctx, "resolve", r.Table)
	var fate Fate
	var lsn string
	settings := "; SET LOCAL enable_seqscan = off; SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL lock_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '5s'; SET LOCAL statement_timeout = " + milliseconds(r.Timeout)
	// Read-write, since a standby must not answer this: LOCK is refused there.
	// Read-committed, since the statement that takes the advisory lock has its
	// snapshot before it has the lock: a twin that commits and lets go of the lock
	// in between would be seen as not having deleted anything. What is read after
	// the lock must be newer than the lock.
	err := d.inTx(ctx, readLatest, settings, func(t *tx) error {
		if err := t.lockTable(ctx, r.Table); err != nil {
			return err
		}
		if ok, err := t.tryBatchLock(ctx, r.LockKey); err != nil || !ok {
			fate = TwinDeciding
			return err
		}
		// Only the newest attempt may decide. An older one that gets the lock late could
		// find the rows gone because the newer one archived them in another object.
		if err := r.Newest(ctx); err != nil {
			return err
		}
		if err := failpoint.Hit(ctx, "resolve:locked"); err != nil {
			return err
		}
		table, err := t.describe(ctx, r.Table)
		if err != nil {
			return err
		}
		if err := table.SameKey(r.Key); err != nil {
			return err
		}
		id, err := t.identity(ctx)
		if err != nil {
			return err
		}
		if id.SystemID == r.Identity.SystemID { // oids mean nothing on another server
			if err := t.stillTheSame(ctx, table, r.Fingerprint); err != nil {
				return err
			}
		}
		where, err := t.predicate(ctx, table, r.Range)
		if err != nil {
			return err
		}
		found, err := t.rangeDigest(ctx, table, where, r.Content)
		if err != nil {
			return err
		}
		if found == r.Digest && id == r.Identity {
			fate = StillThere
			return nil
		}
		left, err := t.anyLeft(ctx, table, rows)
		if err != nil {
			return err
		}
		if left {
			fate = PartlyGone
			return nil
		}
		if id.SystemID != r.Identity.SystemID { // rows that are not here may well be there
			return &OtherServerError{Read: r.Identity.SystemID, Here: id.SystemID}
		}
		fate, lsn = AllGone, walPosition(ctx, t.conn)
		return nil
	})
	if err != nil {
		return fate, "", fmt.Errorf("find out whether the rows were deleted: %w", err)
	}
	return fate, lsn, nil
}

// AnyLeft says whether the table still has a row with the key of one of rows. It is for
// reports; the answer can be out of date at once.
func (d *DB) AnyLeft(ctx context.Context, c config.Table, rows RowReader) (bool, error) {
	ctx = doing(ctx, "look up", c)
	var left bool
	err := d.inTx(ctx, readOnly, "; SET LOCAL enable_seqscan = off", func(t *tx) error {
		table, err := t.describe(ctx, c)
		if err != nil {
			return err
		}
		left, err = t.anyLeft(ctx, table, rows)
		return err
	})
	return left, err
}

func (t *tx) anyLeft(ctx context.Context, table *Table, rows RowReader) (bool, error) {
	if len(table.PrimaryKey) == 0 {
		return false, fmt.Errorf("table %s has no primary key to look rows up by", table.Config)
	}
	var defs, mine, theirs []string
	for _, name := range table.PrimaryKey {
		c, ok := table.column(name)
		if !ok {
			return false, fmt.Errorf("table %s has no column %q", table.Config, name)
		}
		quoted := pgx.Identifier{name}.Sanitize()
		defs = append(defs, quoted+" "+c.Type+c.collate)
		mine = append(mine, "t."+quoted)
		theirs = append(theirs, "k."+quoted)
	}
	sql := "SELECT EXISTS (SELECT FROM json_to_recordset($1::json) AS k(" + strings.Join(defs, ", ") + ") JOIN " + table.name() +
		" ON " + tuple(mine) + " = " + tuple(theirs) + ")"
	for {
		page, end, err := keyPage(rows, table.PrimaryKey)
		if err != nil {
			return false, err
		}
		if len(page) > 0 {
			doc, err := json.Marshal(page)
			if err != nil {
				return false, fmt.Errorf("look up keys: %w", err)
			}
			var left bool
			if err := t.conn.QueryRow(ctx, sql, string(doc)).Scan(&left); err != nil {
				return false, fmt.Errorf("look up keys: %w", err)
			}
			if left {
				return true, nil
			}
		}
		if end {
			return false, nil
		}
	}
}

// keyPage reads the keys of the next rows; end says that there are no more.
func keyPage(rows RowReader, names []string) (page []map[string]json.RawMessage, end bool, err error) {
	for len(page) < lookupRows {
		line, err := rows.Next()
		if errors.Is(err, io.EOF) {
			return page, true, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("read the object's rows: %w", err)
		}
		key, err := pick(line, names)
		if err != nil {
			return nil, false, err
		}
		page = append(page, key)
	}
	return page, false, nil
}

// pick copies the named columns out of a row.
func pick(line []byte, names []string) (map[string]json.RawMessage, error) {
	var row map[string]json.RawMessage // copies its values
	if err := json.Unmarshal(line, &row); err != nil {
		return nil, fmt.Errorf("read the object's rows: %w", err)
	}
	key := make(map[string]json.RawMessage, len(names))
	for _, n := range names {
		v, ok := row[n]
		if !ok {
			return nil, fmt.Errorf("read the object's rows: a row without the key column %q", n)
		}
		key[n] = v
	}
	return key, nil
}

// OtherServerError says that this is not the server whose rows were read, so that
// rows which are not here say nothing about theirs.
type OtherServerError struct{ Read, Here string }

func (e *OtherServerError) Error() string {
	return fmt.Sprintf("this is another server (system identifier %s) than the one whose rows were read (%s)", e.Here, e.Read)
}
