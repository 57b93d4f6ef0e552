package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// Scope is what a pause covers: everything (the zero Scope), a database, or a table.
type Scope struct{ Database, Schema, Table string }

// String names it as an operator would.
func (s Scope) String() string {
	switch {
	case s.Database == "":
		return "everything"
	case s.Table == "":
		return "database " + s.Database
	}
	return config.Table{Database: s.Database, Schema: s.Schema, Name: s.Table}.String()
}

// HeldError says that a resume would change nothing, since a wider pause holds.
type HeldError struct{ Asked, By Scope }

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s cannot be resumed by itself: %s is paused", e.Asked, e.By)
}

// Hint is the command that lifts the wider pause.
func (e *HeldError) Hint() string {
	if e.By.Database == "" {
		return "run: archiver resume"
	}
	return "run: archiver resume --database " + e.By.Database
}

// Pause keeps new batches of the scope from beginning until Resume, whatever is
// restarted meanwhile. Batches at work finish. It says whether anything changed. A
// database's queue shows as paused in River UI too, and can be resumed there.
func Pause(ctx context.Context, l *ledger.Ledger, s Scope) (bool, error) {
	var changed bool
	err := inAdmission(ctx, l, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, l.SQL(`
			INSERT INTO {s}.pause AS p (database, schema, name) VALUES ($1, $2, $3)
			ON CONFLICT (database, schema, name) DO UPDATE SET lifted = false, since = now() WHERE p.lifted`), s.Database, s.Schema, s.Table)
		if err != nil {
			return err
		}
		changed = tag.RowsAffected() == 1
		_, err = tx.Exec(ctx, l.SQL(tellQueues))
		return err
	})
	if err != nil {
		return false, fmt.Errorf("pause %s: %w", s, err)
	}
	return changed, nil
}

// Resume lifts the pause of exactly this scope; pauses of what it contains go on, since
// somebody may have set them for another reason. If there is none, it lifts those of
// what the scope contains. It returns what it lifted. A *HeldError says that a wider
// pause would still hold.
func Resume(ctx context.Context, l *ledger.Ledger, client *river.Client[pgx.Tx], s Scope) ([]Paused, error) {
	var lifted []Paused
	err := inAdmission(ctx, l, func(tx pgx.Tx) error {
		pauses, err := Pauses(ctx, l, tx)
		if err != nil {
			return err
		}
		if wider := widerThan(s, pauses); wider != nil {
			return &HeldError{Asked: s, By: *wider}
		}
		lifted = chosenBy(s, pauses)
		for _, p := range lifted {
			if _, err := tx.Exec(ctx, l.SQL(`DELETE FROM {s}.pause WHERE (database, schema, name) = ($1, $2, $3)`), p.Database, p.Schema, p.Table); err != nil {
				return err
			}
		}
		// An exception to the pause of everything goes with it.
		if _, err := tx.Exec(ctx, l.SQL(`DELETE FROM {s}.pause WHERE lifted AND NOT EXISTS (SELECT FROM {s}.pause WHERE database = '')`)); err != nil {
			return err
		}
		return resumeQueues(ctx, l, client, tx)
	})
	var held *HeldError
	if err != nil && !errors.As(err, &held) {
		err = fmt.Errorf("resume %s: %w", s, err)
	}
	return lifted, err
}

// widerThan is a pause that holds the scope whatever becomes of its own.
func widerThan(s Scope, pauses []Paused) *Scope {
	for _, p := range pauses {
		if p.Scope != s && p.covers(s) {
			return &p.Scope
		}
	}
	return nil
}

// chosenBy is the pause of the scope itself, else those of what it contains.
func chosenBy(s Scope, pauses []Paused) []Paused {
	var inside []Paused
	for _, p := range pauses {
		if p.Scope == s {
			return []Paused{p}
		}
		if s.Database == "" || (s.Table == "" && p.Database == s.Database) {
			inside = append(inside, p)
		}
	}
	return inside
}

// resumeQueues lifts River's own pause of the queues that nothing of ours pauses any more.
func resumeQueues(ctx context.Context, l *ledger.Ledger, client *river.Client[pgx.Tx], tx pgx.Tx) error {
	rows, err := tx.Query(ctx, l.SQL(`
		UPDATE {s}.river_queue SET metadata = metadata - '`+mark+`'
		WHERE metadata ? '`+mark+`' AND `+isDatabaseQueue+` AND NOT {s}.is_paused(substr(name, `+queueName+`), '', '') RETURNING name`))
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := client.QueueResumeTx(ctx, tx, name, nil); err != nil && !errors.Is(err, rivertype.ErrNotFound) {
			return err
		}
	}
	return nil
}

// Paused is a pause that holds.
type Paused struct {
	Scope
	Since  time.Time
	except []string // databases that go on, of a pause of everything
}

// covers says whether the pause keeps all of the scope from running.
func (p Paused) covers(s Scope) bool {
	switch {
	case p.Database == "":
		return !slices.Contains(p.except, s.Database)
	case p.Table == "":
		return p.Database == s.Database
	}
	return p.Scope == s
}

// Pauses lists what is paused, the widest first.
func Pauses(ctx context.Context, l *ledger.Ledger, q querier) ([]Paused, error) {
	rows, err := q.Query(ctx, l.SQL(`
		SELECT database, schema, name, since,
		       CASE WHEN database = '' THEN (SELECT array_agg(x.database) FROM {s}.pause x WHERE x.lifted) END
		FROM {s}.pause WHERE NOT lifted ORDER BY 1, 2, 3`))
	if err != nil {
		return nil, fmt.Errorf("read the pauses: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Paused, err error) {
		err = row.Scan(&p.Database, &p.Schema, &p.Table, &p.Since, &p.except)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the pauses: %w", err)
	}
	return out, nil
}

// inAdmission runs fn in a durable transaction that nobody admits jobs beside.
func inAdmission(ctx context.Context, l *ledger.Ledger, fn func(pgx.Tx) error) error {
	return l.InTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, l.SQL(named(lockAdmission, l))); err != nil {
			return err
		}
		return fn(tx)
	})
}

// named puts the schema's plain name into a statement that hashes it.
func named(sql string, l *ledger.Ledger) string {
	return strings.ReplaceAll(sql, "{name}", strings.ReplaceAll(l.Schema(), "'", "''"))
}

const isDatabaseQueue = `name LIKE 'db\_%'`

// The pauses of databases are kept in step with those of River's queues, where River UI
// sets and lifts them. A mark in the queue's metadata says that it was told of our pause:
// River keeps it when a replica comes back, and loses it with the queue. So a queue that
// has the mark and is not paused was resumed by hand; no clock is asked. Rows that
// somebody has locked wait for the next look.
const (
	mark = `archiver_paused`

	pausedByHand = `
		WITH found AS (
			UPDATE {s}.river_queue SET metadata = metadata || '{"` + mark + `": true}' WHERE name IN (
				SELECT name FROM {s}.river_queue WHERE paused_at IS NOT NULL AND NOT metadata ? '` + mark + `' AND ` + isDatabaseQueue + ` FOR UPDATE SKIP LOCKED)
			RETURNING substr(name, ` + queueName + `) AS database
		)
		INSERT INTO {s}.pause AS p (database) SELECT database FROM found WHERE NOT {s}.is_paused(database, '', '')
		ON CONFLICT (database, schema, name) DO UPDATE SET lifted = false, since = now()`
	// Of a pause of everything the one database is excepted; all others stay paused.
	resumedByHand = `
		WITH found AS (
			UPDATE {s}.river_queue SET metadata = metadata - '` + mark + `' WHERE name IN (
				SELECT name FROM {s}.river_queue WHERE paused_at IS NULL AND metadata ? '` + mark + `' AND ` + isDatabaseQueue + ` FOR UPDATE SKIP LOCKED)
			RETURNING substr(name, ` + queueName + `) AS database
		), gone AS (
			DELETE FROM {s}.pause WHERE name = '' AND database IN (SELECT database FROM found) AND NOT EXISTS (SELECT FROM {s}.pause WHERE database = '')
		)
		INSERT INTO {s}.pause AS p (database, lifted) SELECT database, true FROM found WHERE EXISTS (SELECT FROM {s}.pause WHERE database = '')
		ON CONFLICT (database, schema, name) DO UPDATE SET lifted = true`
	tellQueues = `
		UPDATE {s}.river_queue SET paused_at = coalesce(paused_at, now()), updated_at = now(), metadata = metadata || '{"` + mark + `": true}' WHERE name IN (
			SELECT name FROM {s}.river_queue WHERE (paused_at IS NULL OR NOT metadata ? '` + mark + `') AND ` + isDatabaseQueue + `
				AND {s}.is_paused(substr(name, ` + queueName + `), '', '') FOR UPDATE SKIP LOCKED)`
)

// queuePauseSync takes over what River UI did since the last time, and tells River's
// queues what they do not know. It runs under the lock of admission.
func queuePauseSync(batch *pgx.Batch, l *ledger.Ledger) {
	for _, sql := range []string{pausedByHand, resumedByHand, tellQueues} {
		batch.Queue(l.SQL(sql))
	}
}
