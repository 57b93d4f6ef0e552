package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// execer is what both a pool and a transaction offer.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// cas runs one update that must change exactly one row.
func (l *Ledger) cas(ctx context.Context, q execer, what string, b *Batch, sql string, args ...any) error {
	tag, err := q.Exec(ctx, l.SQL(sql), args...)
	if err != nil {
		return fmt.Errorf("ledger: %s batch %d: %w", what, b.ID, err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("ledger: %s batch %d, attempt %d: %w", what, b.ID, b.Attempt, ErrStale)
	}
	return nil
}

// RecordVerified moves planned -> verified and remembers the object. From here on
// a resumed attempt starts at the object instead of reading the rows again.
func (l *Ledger) RecordVerified(ctx context.Context, b *Batch, o Object) error {
	err := l.InTx(ctx, func(tx pgx.Tx) error {
		if err := l.cas(ctx, tx, "record the object of", b, `
			UPDATE {s}.batch SET state = 'verified', updated_at = now()
			WHERE id = $1 AND attempt = $2 AND state = 'planned'`, b.ID, b.Attempt); err != nil {
			return err
		}
		return tx.QueryRow(ctx, l.SQL(`
			INSERT INTO {s}.object (batch_id, attempt, key, version_id, rows, raw_bytes, stored_bytes, raw_sha256, sha256,
				digest, content_guard, fingerprint, system_identifier, timeline, compression, manifest_key, manifest, read_from)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) RETURNING id`),
			b.ID, b.Attempt, o.Key, o.VersionID, o.Rows, o.RawBytes, o.StoredBytes, o.RawSHA256[:], o.SHA256[:],
			o.Digest.String(), o.ContentGuard, o.Fingerprint, o.SystemID, o.Timeline, o.Compression, o.ManifestKey, o.Manifest, o.ReadFrom,
		).Scan(&o.ID)
	})
	if err != nil {
		return err
	}
	o.Attempt, o.State = b.Attempt, ObjectVerified
	b.State, b.Object = Verified, &o
	return nil
}

// StartDelete moves verified -> deleting. It is called while the batch's advisory
// lock on the source is held and before any row is locked there: whoever passes
// it is the only one that may delete. A batch that is `deleting` already is not let
// through: its rows must be looked at first.
func (l *Ledger) StartDelete(ctx context.Context, b *Batch) error {
	// In a transaction for what InTx sees to: once the rows are gone, this must be known.
	err := l.InTx(ctx, func(tx pgx.Tx) error {
		return l.cas(ctx, tx, "start the delete of", b, `
			UPDATE {s}.batch SET state = 'deleting', updated_at = now()
			WHERE id = $1 AND attempt = $2 AND state = 'verified'`, b.ID, b.Attempt)
	})
	if err == nil {
		b.State = Deleting
	}
	return err
}

// StillDeleting returns ErrStale unless this attempt is the newest and the batch is
// `deleting`. Under the batch's advisory lock on the source the answer stays true for
// every decision that another attempt could make.
func (l *Ledger) StillDeleting(ctx context.Context, b *Batch) error {
	var mine bool
	err := l.Pool.QueryRow(ctx, l.SQL(`SELECT count(*) = 1 FROM {s}.batch WHERE id = $1 AND attempt = $2 AND state = 'deleting'`), b.ID, b.Attempt).Scan(&mine)
	if err != nil {
		return fmt.Errorf("ledger: look at batch %d: %w", b.ID, err)
	}
	if !mine {
		return fmt.Errorf("ledger: decide about batch %d, attempt %d: %w", b.ID, b.Attempt, ErrStale)
	}
	return nil
}

// NotDeleted moves deleting -> verified, when the delete's transaction is known
// to have been rolled back.
func (l *Ledger) NotDeleted(ctx context.Context, b *Batch) error {
	err := l.cas(ctx, l.Pool, "take back the delete of", b, `
		UPDATE {s}.batch SET state = 'verified', updated_at = now()
		WHERE id = $1 AND attempt = $2 AND state = 'deleting'`, b.ID, b.Attempt)
	if err == nil {
		b.State = Verified
	}
	return err
}

// ExtractAgain moves verified or deleting -> planned, when it is known that
// nothing was deleted or that another hand changed the rows. The object is set
// aside as fate says. mismatch counts towards the bisection of the batch.
func (l *Ledger) ExtractAgain(ctx context.Context, b *Batch, fate ObjectState, mismatch bool) error {
	err := l.InTx(ctx, func(tx pgx.Tx) error {
		if err := l.cas(ctx, tx, "set back", b, `
			UPDATE {s}.batch SET state = 'planned', mismatches = mismatches + $3, updated_at = now()
			WHERE id = $1 AND attempt = $2 AND state IN ('verified', 'deleting')`, b.ID, b.Attempt, btoi(mismatch)); err != nil {
			return err
		}
		return l.setAside(ctx, tx, b, fate)
	})
	if err != nil {
		return err
	}
	b.State, b.Object = Planned, nil
	b.Mismatches += btoi(mismatch)
	return nil
}

func (l *Ledger) setAside(ctx context.Context, tx pgx.Tx, b *Batch, fate ObjectState) error {
	_, err := tx.Exec(ctx, l.SQL(`UPDATE {s}.object SET state = $2 WHERE batch_id = $1 AND state = 'verified'`), b.ID, fate)
	if err != nil {
		return fmt.Errorf("ledger: set aside the object of batch %d: %w", b.ID, err)
	}
	return nil
}

// Archived moves deleting -> archived in tx, which also completes the job. deleteLSN is a
// position in the source's WAL at or behind the commit of the delete.
func (l *Ledger) Archived(ctx context.Context, tx pgx.Tx, b *Batch, deleteLSN string, t Timings) error {
	if err := l.cas(ctx, tx, "finish", b, `
		UPDATE {s}.batch SET state = 'archived', failed = false, mismatches = 0, rows = $3, stored_bytes = $4, delete_lsn = nullif($5, '')::pg_lsn,
			timings = $6, last_error = NULL, last_hint = NULL, waiting_for = NULL, archived_at = now(), updated_at = now()
		WHERE id = $1 AND attempt = $2 AND state = 'deleting'`,
		b.ID, b.Attempt, b.Object.Rows, b.Object.StoredBytes, deleteLSN, t.json()); err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, l.SQL(`UPDATE {s}.object SET state = 'committed', manifest = NULL WHERE batch_id = $1 AND id = $2 AND state = 'verified'`), b.ID, b.Object.ID)
	if err != nil {
		return fmt.Errorf("ledger: commit the object of batch %d: %w", b.ID, err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("ledger: commit the object of batch %d: %w", b.ID, ErrStale)
	}
	if _, err := tx.Exec(ctx, l.SQL(`
		UPDATE {s}.archive_table SET last_delete_lsn = greatest(last_delete_lsn, nullif($2, '')::pg_lsn),
			query_rows = CASE WHEN $3::float8 > 0 THEN query_rows * `+queryDecay+` + $4::float8 ELSE query_rows END,
			query_seconds = CASE WHEN $3::float8 > 0 THEN query_seconds * `+queryDecay+` + $3::float8 ELSE query_seconds END,
			last_query_seconds = CASE WHEN $3::float8 > 0 THEN $3::float8 ELSE last_query_seconds END
		WHERE id = $1`), b.TableID, deleteLSN, t.Query, float64(b.Object.Rows)); err != nil {
		return fmt.Errorf("ledger: record the delete position of batch %d: %w", b.ID, err)
	}
	return nil
}

// Emptied moves planned -> empty in tx: there is no row in the range any more.
func (l *Ledger) Emptied(ctx context.Context, tx pgx.Tx, b *Batch) error {
	return l.cas(ctx, tx, "finish empty", b, `
		UPDATE {s}.batch SET state = 'empty', failed = false, rows = 0, last_error = NULL, last_hint = NULL, waiting_for = NULL, updated_at = now()
		WHERE id = $1 AND attempt = $2 AND state = 'planned'`, b.ID, b.Attempt)
}

// CancelAttempt moves planned or verified -> cancelled in tx, from within an attempt.
func (l *Ledger) CancelAttempt(ctx context.Context, tx pgx.Tx, b *Batch, reason string) error {
	if err := l.cas(ctx, tx, "cancel", b, `
		UPDATE {s}.batch SET state = 'cancelled', failed = false, last_error = $3, last_hint = NULL, waiting_for = NULL, updated_at = now()
		WHERE id = $1 AND attempt = $2 AND state IN ('planned', 'verified')`, b.ID, b.Attempt, reason); err != nil {
		return err
	}
	return l.setAside(ctx, tx, b, ObjectDiscarded)
}

// Split cuts a planned batch at key: it keeps (.., cut], and a new batch with the
// rest is inserted under newID for newJob, in tx.
func (l *Ledger) Split(ctx context.Context, tx pgx.Tx, b *Batch, cut []string, rows, restRows, newID, newJob int64) error {
	if err := l.cas(ctx, tx, "split", b, `
		UPDATE {s}.batch SET to_key = $3, rows_planned = $4, mismatches = 0, updated_at = now()
		WHERE id = $1 AND attempt = $2 AND state = 'planned'`, b.ID, b.Attempt, cut, rows); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, l.SQL(`
		INSERT INTO {s}.batch (id, run_id, table_id, job_id, from_ts, after_key, to_key, partition, rows_planned)
		VALUES ($1, $2, $3, $4, NULL, $5, $6, $7, $8)`),
		newID, b.RunID, b.TableID, newJob, cut, b.Range.To, b.Partition, restRows)
	if err != nil {
		return fmt.Errorf("ledger: insert the rest of batch %d: %w", b.ID, err)
	}
	return nil
}

// Waiting notes why a batch does not go on just now. It never fails an attempt.
func (l *Ledger) Waiting(ctx context.Context, b *Batch, reason string) error {
	_, err := l.Pool.Exec(ctx, l.SQL(`UPDATE {s}.batch SET waiting_for = $3, updated_at = now() WHERE id = $1 AND attempt = $2`), b.ID, b.Attempt, reason)
	return err
}

// Failed notes the error of an attempt; final also marks the batch as failed.
func (l *Ledger) Failed(ctx context.Context, batchID int64, attempt int, message, hint string, final bool) error {
	_, err := l.Pool.Exec(ctx, l.SQL(`
		UPDATE {s}.batch SET last_error = $3, last_hint = nullif($4, ''), failed = failed OR $5, updated_at = now()
		WHERE id = $1 AND attempt = $2 AND state IN ('planned', 'verified', 'deleting')`), batchID, attempt, message, hint, final)
	return err
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
