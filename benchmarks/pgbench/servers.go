package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/benchmarks/program"
	"github.com/audit-table-archiver/archiver/internal/localserver"
)

// The application's database, which has the audit table too, and the archiver's own.
const (
	appDB     = "app"
	controlDB = "control"
	bucket    = "archive"
)

// auditSQL makes an audit table with rows of about 450 bytes, all old enough.
const auditSQL = `
DROP TABLE IF EXISTS audit_logs;
CREATE TABLE audit_logs (
	id bigint PRIMARY KEY, created_at timestamptz NOT NULL, actor_id uuid NOT NULL, actor text, action varchar(40) NOT NULL,
	ip inet, amount numeric(14,2), user_agent text, payload jsonb NOT NULL
);
INSERT INTO audit_logs
SELECT i, timestamptz '2023-01-01 00:00:00+00' + i * interval '31 seconds', md5((i %% 5000)::text)::uuid, 'user' || i %% 5000 || '@example.com',
       (ARRAY['login','logout','order.created','order.updated','invoice.paid','password.changed'])[1 + i %% 6],
       ('10.' || i %% 200 || '.' || i %% 251 || '.' || i %% 254)::inet, (i * 37 %% 10000000)::numeric / 100,
       'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/' || 90 + i %% 30 || '.0',
       jsonb_build_object('request_id', md5(i::text), 'before', jsonb_build_object('state', 'pending', 'total', i %% 977), 'after', jsonb_build_object('state', 'paid', 'total', i %% 977 + 1))
FROM generate_series(1::bigint, %d) i;
CREATE INDEX ON audit_logs (created_at, id);
VACUUM (ANALYZE) audit_logs`

type servers struct {
	dir     string
	pgbench string
	pg      *localserver.Postgres
	s3      *localserver.S3
}

func newServers(ctx context.Context, o options) (_ *servers, err error) {
	s := &servers{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "archiver-pgbench-"); err != nil {
		return nil, err
	}
	s.pg, err = localserver.StartPostgres(ctx, localserver.PostgresOptions{Settings: map[string]string{
		"fsync": "on", "synchronous_commit": "on", "shared_buffers": "512MB", "max_wal_size": "4GB", "checkpoint_timeout": "30min", "wal_level": "replica",
	}})
	if err != nil {
		return nil, err
	}
	if s.pgbench, err = program.Find("pgbench", s.pg.BinDir, "it comes with the server or in postgresql-contrib"); err != nil {
		return nil, err
	}
	if s.s3, err = localserver.StartS3(ctx, localserver.S3Options{}); err != nil {
		return nil, err
	}
	if err := s.s3.CreateBucket(ctx, bucket, false); err != nil {
		return nil, err
	}
	if err := s.sql(ctx, "postgres", "CREATE DATABASE "+appDB); err != nil {
		return nil, err
	}
	note("pgbench fills its tables at scale %d", o.Scale)
	if out, err := exec.CommandContext(ctx, s.pgbench, "-i", "-q", "-s", strconv.Itoa(o.Scale), s.pg.DSN(appDB)).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("pgbench -i: %w: %s", err, out)
	}
	return s, nil
}

func (s *servers) stop() error {
	var errs []error
	if s.pg != nil {
		errs = append(errs, s.pg.Stop())
	}
	if s.s3 != nil {
		errs = append(errs, s.s3.Stop())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// turn runs pgbench for its time, beside an archiver that is at work before and after,
// unless config is empty.
func (s *servers) turn(ctx context.Context, config string, o options) (r turn, err error) {
	for _, sql := range []string{"TRUNCATE pgbench_history", "VACUUM pgbench_branches, pgbench_tellers", "CHECKPOINT"} {
		if err := s.sql(ctx, appDB, sql); err != nil {
			return r, err
		}
	}
	if config == "" {
		r.TPS, r.LatencyMS, err = s.bench(ctx, o)
		return r, err
	}
	started, err := s.look(ctx, time.Time{})
	if err != nil {
		return r, err
	}
	worker := exec.CommandContext(ctx, o.Archiver, "work", "--config", config)
	var log bytes.Buffer
	worker.Stderr = &log
	if err := worker.Start(); err != nil {
		return r, err
	}
	began, err := s.awaitPace(ctx, started.now)
	if err == nil {
		r.TPS, r.LatencyMS, err = s.bench(ctx, o)
	}
	if err == nil {
		var after progress
		after, err = s.look(ctx, began)
		r.archived = after.archived
	}
	var left bool
	if err == nil {
		left, err = s.rowsLeft(ctx)
	}
	_ = worker.Process.Signal(syscall.SIGTERM) // Wait tells
	if waitErr := worker.Wait(); waitErr != nil {
		err = errors.Join(err, fmt.Errorf("archiver work: %w: %s", waitErr, log.Bytes()))
	}
	if err == nil && !left {
		err = fmt.Errorf("the archiver had nothing left to do before the turn was over, after %d rows of it: raise -rows", r.Rows)
	}
	return r, err
}

// backlog makes a fresh audit table and a plan for it, and returns the configuration.
func (s *servers) backlog(ctx context.Context, c contender, o options) (string, error) {
	for _, sql := range []string{"DROP DATABASE IF EXISTS " + controlDB + " WITH (FORCE)", "CREATE DATABASE " + controlDB} {
		if err := s.sql(ctx, "postgres", sql); err != nil {
			return "", err
		}
	}
	rows := o.Rows
	if c.refill {
		rows *= 2
	}
	if err := s.script(ctx, fmt.Sprintf(auditSQL, rows)); err != nil {
		return "", err
	}
	file := filepath.Join(s.dir, "archiver.yaml")
	text := fmt.Sprintf(`
control: {url: %q}
s3: {bucket: %s, endpoint: %q, access_key_id: %q, secret_access_key: %q}
defaults: {retention: 30d, %s}
worker: {listen: ""}
ui: {enabled: false}
log: {level: warn}
databases: [{name: app, url: %q, tables: [{name: audit_logs}]}]
`, s.pg.DSN(controlDB), bucket, s.s3.Endpoint, s.s3.AccessKey, s.s3.SecretKey, c.defaults, s.pg.DSN(appDB))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return "", err
	}
	for _, command := range []string{"migrate", "plan"} {
		if out, err := exec.CommandContext(ctx, o.Archiver, command, "--config", file).CombinedOutput(); err != nil {
			return "", fmt.Errorf("archiver %s: %w: %s", command, err, out)
		}
	}
	return file, nil
}

// awaitPace waits until the archiver has used up what its table saved while nothing was
// archived of it, and has then ended the batch that took the last of it and one that had to
// wait for its time, as all from then on. It returns the server's time.
func (s *servers) awaitPace(ctx context.Context, since time.Time) (time.Time, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("the archiver was not at work, at its pace, within 30 s"))
	defer cancel()
	for spent := false; ; {
		p, err := s.look(ctx, since)
		switch {
		case err != nil:
			return p.now, err
		case p.credit == nil && p.batches > 0, spent && p.batches >= 2:
			return p.now, nil
		case !spent && p.batches > 0 && *p.credit <= 0:
			spent, since = true, p.now
		}
		select {
		case <-ctx.Done():
			return time.Time{}, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// archived is what the archiver did meanwhile.
type archived struct {
	Rows int64 `json:"rows"`
	// RowsPerSecond is from the end of the first batch to the end of the last: batches are
	// archived whole, so that rows over the seconds of a turn would count up to one too many.
	// With a single batch it is that.
	RowsPerSecond float64 `json:"rows_per_second"`
}

type progress struct {
	archived
	batches int64     // that were archived
	credit  *float64  // rows that the table may begin at once after its last batch; nil without a rate
	now     time.Time // of the server
}

// look asks the ledger for what has been archived since then.
func (s *servers) look(ctx context.Context, since time.Time) (p progress, err error) {
	conn, err := pgx.Connect(ctx, s.pg.DSN(controlDB))
	if err != nil {
		return p, err
	}
	defer conn.Close(ctx) //nolint:errcheck // it was only asked a question
	// Credit above 0 is left from a time without batches: a table at its pace owes some.
	err = conn.QueryRow(ctx, `
		WITH done AS (SELECT rows, archived_at, row_number() OVER (ORDER BY archived_at, id) AS n FROM archiver.batch WHERE archived_at > $1)
		SELECT coalesce(sum(rows), 0)::bigint, count(*),
		       coalesce((sum(rows) FILTER (WHERE n > 1) / nullif(extract(epoch FROM max(archived_at) - min(archived_at)), 0))::float8,
		                sum(rows) / extract(epoch FROM clock_timestamp() - $1)::float8, 0),
		       (SELECT max(credit) FROM archiver.table_throttle),
		       clock_timestamp()
		FROM done`, since).Scan(&p.Rows, &p.batches, &p.RowsPerSecond, &p.credit, &p.now)
	return p, err
}

// rowsLeft looks into the table, as batches are planned a window at a time.
func (s *servers) rowsLeft(ctx context.Context) (left bool, err error) {
	conn, err := pgx.Connect(ctx, s.pg.DSN(appDB))
	if err != nil {
		return false, err
	}
	defer conn.Close(ctx) //nolint:errcheck // it was only asked a question
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM audit_logs)").Scan(&left)
	return left, err
}

// bench runs pgbench once.
func (s *servers) bench(ctx context.Context, o options) (tps, latency float64, err error) {
	args := []string{"-n", "-M", "prepared", "-c", strconv.Itoa(o.Clients), "-T", strconv.Itoa(o.Seconds)}
	if o.Rate > 0 {
		args = append(args, "-R", strconv.Itoa(o.Rate))
	}
	out, err := exec.CommandContext(ctx, s.pgbench, append(args, s.pg.DSN(appDB))...).CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	number := func(pattern string) float64 {
		found := regexp.MustCompile(pattern).FindSubmatch(out)
		if found == nil {
			err = fmt.Errorf("pgbench said something else than expected: %s", out)
			return 0
		}
		n, _ := strconv.ParseFloat(string(found[1]), 64) // digits and a point
		return n
	}
	return number(`tps = ([0-9.]+) \(without`), number(`latency average = ([0-9.]+) ms`), err
}

func (s *servers) script(ctx context.Context, text string) error {
	for _, statement := range regexp.MustCompile(`;\s*\n`).Split(text, -1) {
		if err := s.sql(ctx, appDB, statement); err != nil {
			return err
		}
	}
	return nil
}

// sql runs one statement.
func (s *servers) sql(ctx context.Context, database, text string) error {
	conn, err := pgx.Connect(ctx, s.pg.DSN(database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // every statement has answered
	if _, err := conn.Exec(ctx, text); err != nil {
		return fmt.Errorf("%.60s: %w", text, err)
	}
	return nil
}
