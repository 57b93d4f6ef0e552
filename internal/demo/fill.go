package demo

import (
	"context"
	_ "embed" // the table's SQL reads better in files of its own
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
)

//go:embed table.sql
var createTable string

//go:embed rows.sql
var insertRows string

// fill makes the databases and the archiver's role, fills the table, and takes the
// originals.
func (s *story) fill(ctx context.Context) error {
	if err := s.createDatabases(ctx); err != nil {
		return err
	}
	began := time.Now()
	// The same rows each time, but for the clock.
	err := s.execute(ctx, createTable, "SELECT setseed(0.5)")
	if err != nil {
		return err
	}
	if _, err := s.source.Exec(ctx, insertRows, s.Rows); err != nil {
		return fmt.Errorf("fill the audit table: %w", err)
	}
	err = s.execute(ctx,
		"CREATE INDEX audit_logs_created_at_id ON public.audit_logs (created_at, id)",
		"VACUUM (ANALYZE) public.audit_logs",
		"ALTER TABLE public.audit_logs OWNER TO "+ownerRole,
	)
	if err != nil {
		return err
	}
	s.done(began, "filled public.audit_logs in database %s with %s rows", sourceDatabase, humanize.Comma(s.Rows))

	began = time.Now()
	if err := s.takeOriginals(ctx); err != nil {
		return err
	}
	s.done(began, "PostgreSQL has hashed each row, for the proof at the end")

	if s.before, err = s.measure(ctx); err != nil {
		return err
	}
	var oldest time.Time
	err = s.source.QueryRow(ctx, "SELECT min(created_at), count(*) FILTER (WHERE created_at < now() - make_interval(days => $1)) FROM public.audit_logs",
		retentionDays).Scan(&oldest, &s.old)
	if err != nil {
		return fmt.Errorf("look at the audit table: %w", err)
	}
	s.linef("oldest row %s; %s rows are older than the retention of %d days", oldest.Format(time.DateOnly), humanize.Comma(s.old), retentionDays)
	return nil
}

// createDatabases makes the source and the control database, and connects to the
// source.
func (s *stage) createDatabases(ctx context.Context) error {
	admin, err := pgx.Connect(ctx, s.postgres.DSN("postgres"))
	if err != nil {
		return fmt.Errorf("prepare the databases: %w", err)
	}
	defer admin.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is lost with it
	for _, sql := range []string{
		"CREATE ROLE " + ownerRole,
		// As a member of the owner it may vacuum, too. To read and delete,
		// configs/grants.sql is enough.
		"CREATE ROLE " + archiverRole + " LOGIN IN ROLE " + ownerRole,
		"CREATE DATABASE " + sourceDatabase + " OWNER " + ownerRole,
		"CREATE DATABASE " + controlDatabase + " OWNER " + archiverRole,
	} {
		if _, err := admin.Exec(ctx, sql); err != nil {
			return fmt.Errorf("prepare the databases: %s: %w", sql, err)
		}
	}
	config, err := pgx.ParseConfig(s.postgres.DSN(sourceDatabase))
	if err != nil {
		return fmt.Errorf("connect to the audit table: %w", err)
	}
	// The text of a row depends on these. They are the ones that the archive is
	// written under, see docs/FORMAT.md.
	for name, value := range map[string]string{
		"TimeZone": "UTC", "DateStyle": "ISO", "IntervalStyle": "postgres", "extra_float_digits": "1", "bytea_output": "hex",
	} {
		config.RuntimeParams[name] = value
	}
	if s.source, err = pgx.ConnectConfig(ctx, config); err != nil {
		return fmt.Errorf("connect to the audit table: %w", err)
	}
	return nil
}

func (s *stage) execute(ctx context.Context, statements ...string) error {
	for _, sql := range statements {
		if _, err := s.source.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%.60s: %w", sql, err)
		}
	}
	return nil
}
