package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/migrations"
)

const (
	database = "control"
	schema   = "archiver"
)

// control is the control database that is measured.
type control struct {
	o      options
	pg     *localserver.Postgres
	pool   *pgxpool.Pool // the harness's own
	ledger *ledger.Ledger
	queue  *river.Client[pgx.Tx]
	pid    int  // of the postmaster; 0 where the system does not tell
	named  bool // pg_stat_statements tells the statements apart
}

// poolSize is that of a replica of the archiver on the control database.
func (o options) poolSize() int { return max(9, o.hands+5) }

func startControl(ctx context.Context, o options) (_ *control, err error) {
	c := &control{o: o}
	settings := map[string]string{
		"fsync": "on", "synchronous_commit": "on", "wal_level": "replica", "shared_buffers": "512MB", "max_wal_size": "4GB",
		"checkpoint_timeout": "30min", "max_connections": strconv.Itoa(o.replicas*o.poolSize() + 50),
	}
	counted := map[string]string{
		"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track_utility": "off", "pg_stat_statements.track_planning": "on",
	}
	for k, v := range settings {
		counted[k] = v
	}
	c.named = true
	if c.pg, err = localserver.StartPostgres(ctx, localserver.PostgresOptions{Settings: counted}); err != nil {
		note("without pg_stat_statements: %v", err)
		c.named = false
		if c.pg, err = localserver.StartPostgres(ctx, localserver.PostgresOptions{Settings: settings}); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	// Without the file, or on a system without /proc, no CPU time is reported.
	if text, err := os.ReadFile(filepath.Join(c.pg.DataDir, "postmaster.pid")); err == nil {
		first, _, _ := strings.Cut(string(text), "\n")
		c.pid, _ = strconv.Atoi(first)
	}
	if err := c.createDatabase(ctx); err != nil {
		return nil, err
	}
	if c.pool, err = openPool(ctx, c.pg.DSN(database), 4, o.prepared); err != nil {
		return nil, err
	}
	if _, _, err := migrations.Up(ctx, c.pool, schema, slog.New(slog.DiscardHandler)); err != nil {
		return nil, err
	}
	if c.named {
		if _, err := c.pool.Exec(ctx, `CREATE EXTENSION pg_stat_statements`); err != nil {
			return nil, err
		}
	}
	c.ledger = ledger.New(c.pool, schema)
	if err := c.ensureTables(ctx); err != nil {
		return nil, err
	}
	c.queue, err = river.NewClient(riverpgxv5.New(c.pool), &river.Config{Schema: schema})
	return c, err
}

func (c *control) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, c.pg.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // the statement's own error counts
	_, err = conn.Exec(ctx, `CREATE DATABASE `+database)
	return err
}

// openPool connects as the archiver does, which prepares nothing by name unless prepared.
func openPool(ctx context.Context, dsn string, size int, prepared bool) (*pgxpool.Pool, error) {
	pc, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if !prepared {
		pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	pc.MaxConns = int32(size)
	return pgxpool.NewWithConfig(ctx, pc)
}

func (c *control) stop() error {
	if c.pool != nil {
		c.pool.Close()
	}
	return c.pg.Stop()
}

func (c *control) exec(ctx context.Context, sql string) error {
	_, err := c.pool.Exec(ctx, c.ledger.SQL(sql))
	return err
}

// usage is what the database has done since it was started.
type usage struct {
	at         time.Time
	xacts      int64
	statements int64
	cpu        float64 // seconds, of all its processes
}

func (c *control) usage(ctx context.Context) (usage, error) {
	u := usage{at: time.Now(), cpu: cpuOfFamily(c.pid)}
	err := c.pool.QueryRow(ctx, `SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1`, database).Scan(&u.xacts)
	if err == nil && c.named {
		err = c.pool.QueryRow(ctx, `SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements`).Scan(&u.statements)
	}
	if err != nil {
		return u, fmt.Errorf("read what the database has done: %w", err)
	}
	return u, nil
}

// rates is what the database did between two looks.
type rates struct {
	Transactions float64 `json:"transactions_per_second"`
	Statements   float64 `json:"statements_per_second"` // 0 without pg_stat_statements
	Cores        float64 `json:"postgres_cores"`        // 0 without /proc
}

func (u usage) since(before usage) rates {
	s := u.at.Sub(before.at).Seconds()
	return rates{
		Transactions: float64(u.xacts-before.xacts) / s, Statements: float64(u.statements-before.statements) / s, Cores: (u.cpu - before.cpu) / s,
	}
}
