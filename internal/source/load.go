package source

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// askLimits bounds what a question about the load may cost the server.
const askLimits = "; SET LOCAL statement_timeout = '2s'; SET LOCAL lock_timeout = '500ms'; SET LOCAL idle_in_transaction_session_timeout = '5s'"

// HiddenError says that the role may not see what a throttle goes by.
type HiddenError struct {
	What string // in an operator's words
	Role string
}

func (e *HiddenError) Error() string {
	return fmt.Sprintf("role %s cannot see %s", e.Role, e.What)
}

// Hint is the GRANT.
func (e *HiddenError) Hint() string {
	return "GRANT pg_monitor TO " + pgx.Identifier{e.Role}.Sanitize()
}

// Lag is how far somebody who reads the server's WAL is behind. Bytes is negative where
// there is nobody.
type Lag struct {
	Name  string
	Bytes int64
}

// StandbyLag finds the connected standby whose replay is furthest behind. One that is not
// connected cannot be seen here; its slot, if it has one, can, see SlotLag. It needs
// pg_monitor, or is a *HiddenError.
func (d *DB) StandbyLag(ctx context.Context) (Lag, error) {
	// A receiver that replays nothing, such as pg_receivewal, counts with what it has on
	// disk. Subscribers are not standbys. state is shown to nobody without the right.
	return d.lag(ctx, `the lag of its standbys (pg_stat_replication)`, `
		SELECT coalesce(nullif(r.application_name, ''), host(r.client_addr), r.pid::text),
		       pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(r.replay_lsn, r.flush_lsn, r.sent_lsn))::int8, r.state IS NULL
		FROM pg_stat_replication r
		WHERE (r.state IS NULL OR r.state IN ('catchup', 'streaming'))
			AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
		ORDER BY 3 DESC, 2 DESC NULLS LAST LIMIT 1`)
}

// SlotLag finds the replication slot, physical or logical, in use or not, that keeps the
// most WAL from being removed.
func (d *DB) SlotLag(ctx context.Context) (Lag, error) {
	return d.lag(ctx, `replication slots`, `
		SELECT slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8, false
		FROM pg_replication_slots WHERE restart_lsn IS NOT NULL ORDER BY 2 DESC LIMIT 1`)
}

func (d *DB) lag(ctx context.Context, what, sql string) (Lag, error) {
	ctx = aside(ctx, "throttle")
	worst := Lag{Bytes: -1}
	err := d.inTx(ctx, readOnly, askLimits, func(t *tx) error {
		var hidden bool
		var bytes *int64
		err := t.conn.QueryRow(ctx, sql).Scan(&worst.Name, &bytes, &hidden)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return nil
		case err != nil:
			return err
		case hidden:
			return t.hidden(ctx, what)
		case bytes != nil:
			worst.Bytes = *bytes
		}
		return nil
	})
	if err != nil {
		return Lag{}, fmt.Errorf("ask database %s: %w", d.Name, err)
	}
	return worst, nil
}

// ActiveSessions counts the sessions of clients that are at work on the server at this
// instant, in whichever database, without those of the archiver. It needs pg_monitor, or
// is a *HiddenError.
func (d *DB) ActiveSessions(ctx context.Context) (int64, error) {
	ctx = aside(ctx, "throttle")
	var active int64
	err := d.inTx(ctx, readOnly, askLimits, func(t *tx) error {
		var hidden bool
		// Without the right, what a session of another role does is NULL.
		err := t.conn.QueryRow(ctx, `
			SELECT count(*) FILTER (WHERE state = 'active' AND backend_type = 'client backend' AND application_name NOT LIKE 'archiver %'),
			       bool_or(query = '<insufficient privilege>')
			FROM pg_stat_activity WHERE pid <> pg_backend_pid()`).Scan(&active, &hidden)
		if err == nil && hidden {
			err = t.hidden(ctx, "the sessions of others (pg_stat_activity)")
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("ask database %s: %w", d.Name, err)
	}
	return active, nil
}

func (t *tx) hidden(ctx context.Context, what string) error {
	e := &HiddenError{What: what}
	if err := t.conn.QueryRow(ctx, `SELECT current_user::text`).Scan(&e.Role); err != nil {
		return err
	}
	return e
}

// Ask runs an operator's own query, read-only, for at most two seconds, with the
// role's own search_path and time zone, and says whether its first value is true or a
// positive number. No row and NULL are neither. answer is the value as text.
func (d *DB) Ask(ctx context.Context, query string) (positive bool, answer string, err error) {
	ctx = aside(ctx, "throttle")
	own := askLimits + "; SET LOCAL search_path TO DEFAULT; SET LOCAL TimeZone TO DEFAULT; SET LOCAL row_security TO DEFAULT"
	err = d.inTx(ctx, readOnly, own, func(t *tx) error {
		// One statement only: that is all which the extended protocol takes.
		rows := t.conn.PgConn().ExecParams(ctx, query, nil, nil, nil, nil)
		var value []byte
		var oid uint32
		if rows.NextRow() && len(rows.Values()) > 0 {
			value = append(value, rows.Values()[0]...)
			oid = rows.FieldDescriptions()[0].DataTypeOID
			if rows.Values()[0] == nil {
				oid = 0
			}
		}
		if _, err := rows.Close(); err != nil {
			return err
		}
		answer = string(value)
		switch oid {
		case 0:
			return nil
		case pgtype.BoolOID:
			positive = answer == "t"
			return nil
		}
		n, err := strconv.ParseFloat(answer, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) || math.IsNaN(n) {
			return fmt.Errorf("its first value is %q, neither a number nor a boolean", answer)
		}
		positive = n > 0
		return nil
	})
	if err != nil {
		return false, "", fmt.Errorf("ask database %s: %w", d.Name, err)
	}
	return positive, answer, nil
}
