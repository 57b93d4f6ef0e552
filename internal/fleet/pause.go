package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/jobs"
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

// Paused is a pause that holds.
type Paused struct {
	Scope
	Since time.Time
}

// pauseCovers joins a pause p with a table t.
const pauseCovers = `p.database IN ('', t.database) AND (p.name = '' OR (p.schema, p.name) = (t.schema, t.name))`

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
		tag, err := tx.Exec(ctx, l.SQL(`INSERT INTO {s}.pause (database, schema, name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`), s.Database, s.Schema, s.Table)
		if err != nil {
			return err
		}
		changed = tag.RowsAffected() == 1
		return mirrorPauses(ctx, l, tx)
	})
	if err != nil {
		return false, fmt.Errorf("pause %s: %w", s, err)
	}
	return changed, nil
}

// Resume lifts the pause of the scope, and the pauses of what it contains. It says how
// many there were. A *HeldError says that a wider pause would still hold.
func Resume(ctx context.Context, l *ledger.Ledger, client *river.Client[pgx.Tx], s Scope) (int, error) {
	var lifted int
	err := inAdmission(ctx, l, func(tx pgx.Tx) error {
		pauses, err := Pauses(ctx, l, tx)
		if err != nil {
			return err
		}
		for _, p := range pauses {
			if p.Scope != s && (p.Database == "" || (p.Database == s.Database && p.Table == "" && s.Table != "")) {
				return &HeldError{Asked: s, By: p.Scope}
			}
		}
		tag, err := tx.Exec(ctx, l.SQL(`DELETE FROM {s}.pause WHERE $1 IN ('', database) AND ($3 = '' OR (schema, name) = ($2, $3))`), s.Database, s.Schema, s.Table)
		if err != nil {
			return err
		}
		lifted = int(tag.RowsAffected())
		return resumeQueues(ctx, l, client, tx, s)
	})
	var held *HeldError
	if err != nil && !errors.As(err, &held) {
		err = fmt.Errorf("resume %s: %w", s, err)
	}
	return lifted, err
}

func resumeQueues(ctx context.Context, l *ledger.Ledger, client *river.Client[pgx.Tx], tx pgx.Tx, s Scope) error {
	if s.Table != "" {
		return nil
	}
	rows, err := tx.Query(ctx, l.SQL(`SELECT name FROM {s}.river_queue WHERE paused_at IS NOT NULL AND `+isDatabaseQueue+` AND $1 IN ('', name) ORDER BY name`), queueOf(s.Database))
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

func queueOf(database string) string {
	if database == "" {
		return ""
	}
	return jobs.Queue(database)
}

// Pauses lists what is paused, the widest first.
func Pauses(ctx context.Context, l *ledger.Ledger, q querier) ([]Paused, error) {
	rows, err := q.Query(ctx, l.SQL(`SELECT database, schema, name, since FROM {s}.pause ORDER BY 1, 2, 3`))
	if err != nil {
		return nil, fmt.Errorf("read the pauses: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Paused, err error) {
		err = row.Scan(&p.Database, &p.Schema, &p.Table, &p.Since)
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
// sets and lifts them. A queue that is not paused though we told it so was resumed by
// hand, unless it was forgotten and made anew since.
const (
	pausedInUI = `
		INSERT INTO {s}.pause (database, mirrored)
		SELECT substr(q.name, ` + queueName + `), now() FROM {s}.river_queue q
		WHERE q.paused_at IS NOT NULL AND ` + isDatabaseQueue + `
			AND NOT EXISTS (SELECT FROM {s}.pause p WHERE p.name = '' AND p.database IN ('', substr(q.name, ` + queueName + `)))
		ON CONFLICT DO NOTHING`
	// While everything is paused, resuming one database by hand leaves all others paused.
	resumedInUI = `
		WITH resumed AS (
			SELECT substr(q.name, ` + queueName + `) AS database FROM {s}.river_queue q
			WHERE q.paused_at IS NULL AND ` + isDatabaseQueue + `
				AND EXISTS (SELECT FROM {s}.pause p WHERE p.name = '' AND p.database IN ('', substr(q.name, ` + queueName + `)) AND p.mirrored >= q.created_at)
		), everything AS (
			DELETE FROM {s}.pause WHERE database = '' AND EXISTS (SELECT FROM resumed) RETURNING since, mirrored
		), others AS (
			INSERT INTO {s}.pause (database, since, mirrored)
			SELECT d.database, e.since, e.mirrored FROM everything e, (
				SELECT database FROM {s}.archive_table
				UNION SELECT substr(name, ` + queueName + `) FROM {s}.river_queue WHERE ` + isDatabaseQueue + `
				UNION SELECT jsonb_object_keys(limits->'seats') FROM {s}.worker
			) d WHERE d.database NOT IN (SELECT database FROM resumed)
			ON CONFLICT DO NOTHING
		)
		DELETE FROM {s}.pause p USING resumed r WHERE p.database = r.database AND p.name = ''`
	mirror = `
		WITH untold AS (
			UPDATE {s}.river_queue q SET paused_at = now(), updated_at = now()
			WHERE q.paused_at IS NULL AND ` + isDatabaseQueue + `
				AND EXISTS (SELECT FROM {s}.pause p WHERE p.name = '' AND p.database IN ('', substr(q.name, ` + queueName + `)))
			RETURNING q.name
		)
		UPDATE {s}.pause p SET mirrored = now()
		WHERE p.name = '' AND (p.mirrored IS NULL OR EXISTS (SELECT FROM untold u WHERE p.database IN ('', substr(u.name, ` + queueName + `))))`
)

// queuePauseSync takes over what River UI did since the last time, and tells River's
// queues what it does not know. It runs under the lock of admission.
func queuePauseSync(batch *pgx.Batch, l *ledger.Ledger) {
	for _, sql := range []string{pausedInUI, resumedInUI, mirror} {
		batch.Queue(l.SQL(sql))
	}
}

func mirrorPauses(ctx context.Context, l *ledger.Ledger, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, l.SQL(mirror))
	return err
}
