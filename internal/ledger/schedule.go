package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrOvertaken says that a claim on a schedule has run out and is somebody else's now.
// The holder must stop; nothing was changed.
var ErrOvertaken = errors.New("another replica plans this table now")

const (
	// seenEvery keeps the statements that say "still configured like this" rare; a
	// spec that was not seen for specGone is nobody's any more.
	seenEvery = "30 seconds"
	specGone  = "2 minutes"
)

// TableSpec is a table with its schedule as it is configured.
type TableSpec struct {
	TableName
	Spec string
}

// Schedule is how far the schedule of a table is settled.
type Schedule struct {
	TableSpec
	SettledTo time.Time // due times up to here are planned, or older than the spec
	ReadAt    time.Time // by the control database's clock, as all times here
	Claimed   bool      // somebody plans the table
	Held      bool      // paused, or not to be tried again yet
	PlannedAt *time.Time
	RunID     *int64 // of the last plan that found something
	LastError *string
	LastHint  *string
}

// KeepSchedules records that a replica has these schedules. A table that is new here
// counts from now on, and so does one whose spec was changed, as soon as no replica
// has the earlier one any more, which takes two minutes.
func (l *Ledger) KeepSchedules(ctx context.Context, specs []TableSpec) error {
	var columns [4][]string
	for _, s := range specs {
		for i, v := range []string{s.Database, s.Schema, s.Name, s.Spec} {
			columns[i] = append(columns[i], v)
		}
	}
	// In one order, since several replicas do this at once. What is as it should be is
	// not touched, nor locked.
	_, err := l.Pool.Exec(ctx, l.SQL(`
		WITH mine (database, schema, name, spec) AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])),
		todo AS (
			SELECT m.* FROM mine m LEFT JOIN {s}.schedule s USING (database, schema, name)
			WHERE s.spec IS NULL OR s.seen_at < now() - CASE WHEN s.spec = m.spec THEN interval '`+seenEvery+`' ELSE interval '`+specGone+`' END)
		INSERT INTO {s}.schedule AS s (database, schema, name, spec) SELECT * FROM todo ORDER BY 1, 2, 3
		ON CONFLICT (database, schema, name) DO UPDATE SET seen_at = now(), spec = excluded.spec,
			settled_to = CASE WHEN s.spec = excluded.spec THEN s.settled_to ELSE now() END,
			retry_at = CASE WHEN s.spec = excluded.spec THEN s.retry_at END
		WHERE s.spec = excluded.spec OR s.seen_at < now() - interval '`+specGone+`'`), columns[0], columns[1], columns[2], columns[3])
	if err != nil {
		return fmt.Errorf("record the schedules: %w", err)
	}
	return nil
}

// Schedules reads how far the schedule of each table is settled, those included that
// are configured no longer. q is the pool or a transaction.
func (l *Ledger) Schedules(ctx context.Context, q querier) ([]Schedule, error) {
	rows, err := q.Query(ctx, l.SQL(`
		SELECT t.database, t.schema, t.name, t.spec, t.settled_to, now(), coalesce(t.claimed_until > now(), false),
		       coalesce(t.retry_at > now(), false) OR {s}.is_paused(t.database, t.schema, t.name),
		       t.planned_at, t.run_id, t.last_error, t.last_hint
		FROM {s}.schedule t ORDER BY 1, 2, 3`))
	if err != nil {
		return nil, fmt.Errorf("read the schedules: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Schedule, err error) {
		err = row.Scan(&s.Database, &s.Schema, &s.Name, &s.Spec, &s.SettledTo, &s.ReadAt, &s.Claimed, &s.Held, &s.PlannedAt, &s.RunID, &s.LastError, &s.LastHint)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the schedules: %w", err)
	}
	return out, nil
}

// ScheduleClaim is the right to plan a table for what is due of its schedule.
type ScheduleClaim struct {
	TableName
	number int64
	Began  time.Time // due times up to here are settled by the plan
}

// ClaimSchedule takes the right to plan a table for lease. It is nil when somebody
// else has it, or has settled what was due.
func (l *Ledger) ClaimSchedule(ctx context.Context, s Schedule, lease time.Duration) (*ScheduleClaim, error) {
	c := &ScheduleClaim{TableName: s.TableName}
	err := l.Pool.QueryRow(ctx, l.SQL(`
		UPDATE {s}.schedule SET claim = claim + 1, claimed_until = now() + $6::interval
		WHERE (database, schema, name) = ($1, $2, $3) AND spec = $4 AND settled_to = $5
		  AND coalesce(claimed_until <= now(), true) AND coalesce(retry_at <= now(), true)
		RETURNING claim, now()`), s.Database, s.Schema, s.Name, s.Spec, s.SettledTo, interval(lease)).Scan(&c.number, &c.Began)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("claim the schedule: %w", err)
	}
	return c, nil
}

// RenewSchedule holds the claim for lease from now on. With ErrOvertaken it is lost.
func (l *Ledger) RenewSchedule(ctx context.Context, c *ScheduleClaim, lease time.Duration) error {
	tag, err := l.Pool.Exec(ctx, l.SQL(`
		UPDATE {s}.schedule SET claimed_until = now() + $5::interval WHERE (database, schema, name) = ($1, $2, $3) AND claim = $4`),
		c.Database, c.Schema, c.Name, c.number, interval(lease))
	switch {
	case err != nil:
		return fmt.Errorf("renew the claim on the schedule: %w", err)
	case tag.RowsAffected() != 1:
		return ErrOvertaken
	}
	return nil
}

// SettleSchedule ends a claim: what was due when it began is planned. It belongs into
// the transaction that writes the last of the plan, so that no due time is settled by
// half a plan and none by two. runID is 0 if there was nothing to plan. The claim is
// used up, so that a lost answer to COMMIT cannot lead to a postponement.
func (l *Ledger) SettleSchedule(ctx context.Context, tx pgx.Tx, c *ScheduleClaim, runID int64) error {
	tag, err := tx.Exec(ctx, l.SQL(`
		UPDATE {s}.schedule SET settled_to = greatest(settled_to, $5), claim = claim + 1, claimed_until = NULL, retry_at = NULL, planned_at = now(),
			run_id = coalesce(nullif($6::bigint, 0), run_id), last_error = NULL, last_hint = NULL
		WHERE (database, schema, name) = ($1, $2, $3) AND claim = $4`), c.Database, c.Schema, c.Name, c.number, c.Began, runID)
	switch {
	case err != nil:
		return fmt.Errorf("settle the schedule: %w", err)
	case tag.RowsAffected() != 1:
		return ErrOvertaken
	}
	return nil
}

// PostponeSchedule ends a claim without settling anything: the table is due again
// after a while. An empty message leaves the last error as it is.
func (l *Ledger) PostponeSchedule(ctx context.Context, c *ScheduleClaim, after time.Duration, message, hint string) error {
	_, err := l.Pool.Exec(ctx, l.SQL(`
		UPDATE {s}.schedule SET claimed_until = NULL, retry_at = now() + $5::interval,
			last_error = coalesce(nullif($6, ''), last_error), last_hint = CASE WHEN $6 = '' THEN last_hint ELSE nullif($7, '') END
		WHERE (database, schema, name) = ($1, $2, $3) AND claim = $4`), c.Database, c.Schema, c.Name, c.number, interval(after), message, hint)
	if err != nil {
		return fmt.Errorf("postpone the schedule: %w", err)
	}
	return nil
}

// interval is a duration as text for a parameter of that type. Before version 15 no
// field of it may exceed 2^31, so it is not in microseconds.
func interval(d time.Duration) string { return fmt.Sprintf("%.6f seconds", d.Seconds()) }
