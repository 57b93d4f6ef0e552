package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// paceCredit is how many seconds' worth of rows a table may save up while nothing is
	// archived of it. Less than the second or so that admission takes to come by with the
	// next batch, and a table would stay a good deal below its limit.
	paceCredit = 2.0
	// PaceAhead is how long before its time a batch may be paid for: so long may a worker
	// wait with a seat in its hand.
	PaceAhead = time.Second
)

// creditNow, with the rate in $2 and paceCredit in $3, is what a table has by now. A clock that is set back gives nothing.
const creditNow = `least($2::float8 * $3::float8, t.credit + $2::float8 * greatest(extract(epoch FROM clock_timestamp() - t.credited_at), 0)::float8)` //nolint:gosec // SQL, no credentials

// Pay takes rows out of what a table may archive at rate rows a second in the whole
// fleet. paid: the batch may begin after wait, at most PaceAhead. Otherwise nothing was
// taken, and all that was paid for will have begun after wait, which is longer.
//
// Over any time a table begins at most rate rows for each second of it, two seconds'
// worth on top, and the batch at its end.
func (l *Ledger) Pay(ctx context.Context, tableID, rows int64, rate int) (paid bool, wait time.Duration, err error) {
	var credit float64
	batch := &pgx.Batch{}
	batch.Queue(`SELECT set_config('synchronous_commit', 'off', true)`) // to lose a payment in a crash is harmless
	batch.Queue(l.SQL(`INSERT INTO {s}.table_throttle (table_id) VALUES ($1) ON CONFLICT DO NOTHING`), tableID)
	// Of several at a time each waits for the one before, and sees what that one has left.
	batch.Queue(l.SQL(`
		UPDATE {s}.table_throttle t SET credit = `+creditNow+` - $5::float8, credited_at = clock_timestamp()
		WHERE table_id = $1 AND `+creditNow+` >= -$2::float8 * $4::float8
		RETURNING credit + $5::float8`), tableID, float64(rate), paceCredit, PaceAhead.Seconds(), float64(rows)).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&credit)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		paid = err == nil
		return err
	})
	batch.Queue(l.SQL(`SELECT `+creditNow+` FROM {s}.table_throttle t WHERE table_id = $1`), tableID, float64(rate), paceCredit).QueryRow(func(row pgx.Row) error {
		if paid {
			return nil
		}
		return row.Scan(&credit)
	})
	if err := l.Pool.SendBatch(ctx, batch).Close(); err != nil {
		return false, 0, fmt.Errorf("ledger: pace the table: %w", err)
	}
	return paid, time.Duration(max(-credit, 0) / float64(rate) * float64(time.Second)), nil
}

// PayMore corrects a payment once it is known how many rows a batch has; fewer than were
// paid for are given back.
func (l *Ledger) PayMore(ctx context.Context, tableID, rows int64) error {
	_, err := l.Pool.Exec(ctx, l.SQL(`UPDATE {s}.table_throttle SET credit = credit - $2::float8 WHERE table_id = $1`), tableID, float64(rows))
	if err != nil {
		return fmt.Errorf("ledger: pace the table: %w", err)
	}
	return nil
}

// Hold has no batch of a table admitted for a while, and says why. It only ever makes
// that longer: of several reasons the one that lasts longest counts.
func (l *Ledger) Hold(ctx context.Context, tableID int64, reason string, d time.Duration) error {
	_, err := l.Pool.Exec(ctx, l.SQL(`
		INSERT INTO {s}.table_throttle AS t (table_id, held_until, held_for) VALUES ($1, now() + $2::float8 * interval '1 second', $3)
		ON CONFLICT (table_id) DO UPDATE SET held_until = excluded.held_until, held_for = excluded.held_for
		WHERE t.held_until <= excluded.held_until`), tableID, d.Seconds(), reason)
	if err != nil {
		return fmt.Errorf("ledger: hold the table: %w", err)
	}
	return nil
}
