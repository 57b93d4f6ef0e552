// Package migrations brings a control database to the schema that this binary
// works with: our ledger (the SQL files beside this one) and River's tables, in
// one Postgres schema.
//
// Files are named NNNN_title.sql, are applied in order, each in a transaction of
// its own together with its row in ledger_migration, and are never edited after a
// release. Everything runs under one advisory lock, since River's migrator takes
// none: five processes may start at once, one works and four find it done.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

//go:embed *.sql
var files embed.FS

// Migration is one file of ours.
type Migration struct {
	Version int
	Name    string
	sql     string
}

// Status compares a control database with this binary.
type Status struct {
	Ledger, LedgerWant int // schema versions; 0 = nothing there
	River, RiverWant   int
}

// Current says that both schemas are exactly those of this binary.
func (s Status) Current() bool { return s.Ledger == s.LedgerWant && s.River == s.RiverWant }

// Newer says that the database was migrated by a later release than this one.
func (s Status) Newer() bool { return s.Ledger > s.LedgerWant || s.River > s.RiverWant }

// NotMigratedError says that this binary cannot work with the control database
// as it is.
type NotMigratedError struct {
	Schema string
	Status Status
}

func (e *NotMigratedError) Error() string {
	s := e.Status
	switch {
	case s.Newer():
		return fmt.Sprintf("control schema %q (ledger %d, river %d) is newer than this binary (ledger %d, river %d)", e.Schema, s.Ledger, s.River, s.LedgerWant, s.RiverWant)
	case s.Ledger == 0 && s.River == 0:
		return fmt.Sprintf("control schema %q is not migrated", e.Schema)
	default:
		return fmt.Sprintf("control schema %q (ledger %d, river %d) is older than this binary (ledger %d, river %d)", e.Schema, s.Ledger, s.River, s.LedgerWant, s.RiverWant)
	}
}

// Hint is the next thing to do about it.
func (e *NotMigratedError) Hint() string {
	if e.Status.Newer() {
		return "run the archiver release that migrated it, or a later one"
	}
	return "run: archiver migrate"
}

var fileName = regexp.MustCompile(`^(\d{4})_([a-z0-9_]+)\.sql$`)

// All returns our migrations in order.
func All() ([]Migration, error) {
	entries, err := files.ReadDir(".") // sorted by name
	if err != nil {
		return nil, err
	}
	var out []Migration
	for i, e := range entries {
		m := fileName.FindStringSubmatch(e.Name())
		if m == nil {
			return nil, fmt.Errorf("migration file %q: want NNNN_title.sql", e.Name())
		}
		version, _ := strconv.Atoi(m[1])
		if version != i+1 {
			return nil, fmt.Errorf("migration file %q: want version %04d", e.Name(), i+1)
		}
		sql, err := files.ReadFile(e.Name())
		if err != nil {
			return nil, err
		}
		out = append(out, Migration{Version: version, Name: m[2], sql: string(sql)})
	}
	return out, nil
}

// Up migrates the schema to this binary's version and creates it if need be. It
// refuses a schema that is newer. Several processes may call it at once.
func Up(ctx context.Context, pool *pgxpool.Pool, schema string, logger *slog.Logger) (before, after Status, err error) {
	// Not one of the pool's: River's migrator needs those, and whoever waits for the
	// lock on the last of them would wait for ever.
	conn, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig)
	if err != nil {
		return before, after, fmt.Errorf("connect to the control database: %w", err)
	}
	defer closeConn(ctx, conn)

	if err := lock(ctx, conn, schema); err != nil {
		return before, after, err
	}

	before, err = Read(ctx, pool, schema)
	if err != nil {
		return before, after, err
	}
	if before.Newer() {
		return before, after, &NotMigratedError{Schema: schema, Status: before}
	}
	if err := createSchema(ctx, pool, schema); err != nil {
		return before, after, err
	}
	// River's tables first: ours put a trigger on its queue.
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: schema, Logger: logger})
	if err != nil {
		return before, after, fmt.Errorf("river migrations: %w", err)
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return before, after, fmt.Errorf("river migrations: %w", err)
	}
	if err := up(ctx, pool, schema, before.Ledger); err != nil {
		return before, after, err
	}
	after, err = Read(ctx, pool, schema)
	return before, after, err
}

// createSchema leaves one that is there alone: IF NOT EXISTS would ask for the right to
// create it all the same, which a role that was given a schema need not have.
func createSchema(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	quoted := pgx.Identifier{schema}.Sanitize()
	var there bool
	err := pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)`, schema).Scan(&there)
	if err == nil && !there {
		_, err = pool.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+quoted)
	}
	if err != nil {
		return fmt.Errorf("create schema %s: %w", quoted, err)
	}
	return nil
}

func up(ctx context.Context, pool *pgxpool.Pool, schema string, have int) error {
	all, err := All()
	if err != nil {
		return err
	}
	quoted := pgx.Identifier{schema}.Sanitize()
	if have == 0 {
		if _, err := pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS `+quoted+`.ledger_migration (
			version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())`); err != nil {
			return fmt.Errorf("create %s.ledger_migration: %w", quoted, err)
		}
	}
	for _, m := range all {
		if m.Version <= have {
			continue
		}
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SET LOCAL search_path = "+quoted); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, m.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `INSERT INTO ledger_migration (version, name) VALUES ($1, $2)`, m.Version, m.Name)
			return err
		})
		if err != nil {
			return fmt.Errorf("migration %04d_%s: %w", m.Version, m.Name, err)
		}
	}
	return nil
}

// lock takes an advisory lock for the schema, in a transaction that stays open until
// the connection ends; the work is done over others. A lock of the session would
// outlive us behind PgBouncer in transaction mode, where sessions are shared.
func lock(ctx context.Context, conn *pgx.Conn, schema string) error {
	h := fnv.New64a()
	_, _ = h.Write([]byte("archiver migrate " + schema))
	key := int64(h.Sum64())
	if _, err := conn.Exec(ctx, fmt.Sprintf(`BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0; SELECT pg_advisory_xact_lock(%d)`, key), pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("wait for another migration: %w", err)
	}
	return nil
}

// closeConn ends the transaction, and with it the lock, even when ctx has ended.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = conn.Close(ctx) // whoever is at the other end rolls back, which frees the lock
}

// Read reports what is there. It changes nothing.
func Read(ctx context.Context, pool *pgxpool.Pool, schema string) (Status, error) {
	all, err := All()
	if err != nil {
		return Status{}, err
	}
	s := Status{LedgerWant: len(all)}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: schema, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return s, fmt.Errorf("river migrations: %w", err)
	}
	for _, v := range migrator.AllVersions() {
		s.RiverWant = max(s.RiverWant, v.Version)
	}
	quoted := pgx.Identifier{schema}.Sanitize()
	if s.Ledger, err = maxVersion(ctx, pool, `SELECT coalesce(max(version), 0) FROM `+quoted+`.ledger_migration`); err != nil {
		return s, fmt.Errorf("read %s.ledger_migration: %w", quoted, err)
	}
	if s.River, err = maxVersion(ctx, pool, `SELECT coalesce(max(version), 0) FROM `+quoted+`.river_migration WHERE line = 'main'`); err != nil {
		return s, fmt.Errorf("read %s.river_migration: %w", quoted, err)
	}
	return s, nil
}

// maxVersion treats a table or schema that is not there as version 0.
func maxVersion(ctx context.Context, pool *pgxpool.Pool, sql string) (int, error) {
	var v int
	err := pool.QueryRow(ctx, sql).Scan(&v)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == "42P01" || pgErr.Code == "3F000" || pgErr.Code == "42703") {
		return 0, nil
	}
	return v, err
}

// Check returns a *NotMigratedError unless the schema is exactly this binary's.
func Check(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	s, err := Read(ctx, pool, schema)
	if err != nil {
		return err
	}
	if !s.Current() {
		return &NotMigratedError{Schema: schema, Status: s}
	}
	return nil
}
