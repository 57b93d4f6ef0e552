// Command benchmarks measures the archiver against what the hardware allows and
// against what a user would do by hand, on the same rows, in one run, on this
// machine: a real Postgres with fsync on, a real S3 server, everything local.
//
//	go run ./benchmarks -archiver bin/archiver -rows 1000000
//
// Absolute times depend on the machine; the ratios between the contenders of one
// run are what to look at.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/localserver"
)

// loadSQL fills the table with rows of about 450 bytes each, all old enough.
const loadSQL = `
CREATE TABLE audit_logs (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	created_at timestamptz NOT NULL,
	actor_id uuid NOT NULL, actor text, action varchar(40) NOT NULL, entity text NOT NULL, entity_id bigint,
	ip inet, amount numeric(14,2), success boolean NOT NULL, user_agent text, payload jsonb NOT NULL
);
INSERT INTO audit_logs (created_at, actor_id, actor, action, entity, entity_id, ip, amount, success, user_agent, payload)
SELECT timestamptz '2023-01-01 00:00:00+00' + i * interval '31 seconds', md5((i %% 5000)::text)::uuid, 'user' || i %% 5000 || '@example.com',
       (ARRAY['login','logout','order.created','order.updated','invoice.paid','password.changed'])[1 + i %% 6], 'order', i * 7 %% 900000,
       ('10.' || i %% 200 || '.' || i %% 251 || '.' || i %% 254)::inet, (i * 37 %% 10000000)::numeric / 100, i %% 17 <> 0,
       'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/' || 90 + i %% 30 || '.0',
       jsonb_build_object('request_id', md5(i::text), 'before', jsonb_build_object('state', 'pending', 'total', i %% 977), 'after', jsonb_build_object('state', 'paid', 'total', i %% 977 + 1), 'note', left(md5((i * 31)::text), 8 + (i %% 24)::int))
FROM generate_series(1::bigint, %d) i;
CREATE INDEX ON audit_logs (created_at, id);`

// result is one contender's account.
type result struct {
	Name    string             `json:"name"`
	Seconds float64            `json:"seconds"` // without vacuum
	Vacuum  float64            `json:"vacuum_seconds"`
	Phases  map[string]float64 `json:"phases"`
	PeakMB  float64            `json:"peak_rss_mb"`
	Stored  int64              `json:"stored_bytes"`
	CPU     float64            `json:"cpu_seconds"`          // of the contender's own processes
	DBCPU   float64            `json:"database_cpu_seconds"` // of all processes of the server
	S3CPU   float64            `json:"s3_cpu_seconds"`
	WAL     float64            `json:"wal_bytes_per_row"`
}

type bench struct {
	archiver   string
	rows       int
	statements int
	pg         *localserver.Postgres
	s3         *localserver.S3
	dir        string
}

func main() {
	var b bench
	flag.StringVar(&b.archiver, "archiver", "bin/archiver", "the binary to measure")
	flag.IntVar(&b.rows, "rows", 1_000_000, "rows of about 450 bytes")
	flag.IntVar(&b.statements, "statements", 0, "print so many of the statements that cost the server most")
	asJSON := flag.Bool("json", false, "print JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	results, err := b.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
	if *asJSON {
		_ = json.NewEncoder(os.Stdout).Encode(results) // to a terminal or a pipe that is gone
		return
	}
	b.print(os.Stdout, results)
}

func (b *bench) run(ctx context.Context) (_ []result, err error) {
	if b.archiver, err = filepath.Abs(b.archiver); err != nil {
		return nil, err
	}
	for _, tool := range []string{"psql", "pigz"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is needed for the pipeline by hand: %w (make bench installs it)", tool, err)
		}
	}
	if b.dir, err = os.MkdirTemp("", "archiver-bench-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	settings := map[string]string{
		"fsync": "on", "synchronous_commit": "on", "shared_buffers": "512MB", "max_wal_size": "4GB", "checkpoint_timeout": "30min", "wal_level": "replica",
	}
	if b.statements > 0 {
		settings["shared_preload_libraries"] = "pg_stat_statements"
		settings["pg_stat_statements.track_planning"] = "on"
	}
	b.pg, err = localserver.StartPostgres(ctx, localserver.PostgresOptions{Settings: settings})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.pg.Stop()) }()
	b.s3, err = localserver.StartS3(ctx, localserver.S3Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.s3.Stop()) }()

	note("loading %d rows", b.rows)
	if err := b.sql(ctx, "postgres", "CREATE DATABASE base"); err != nil {
		return nil, err
	}
	if err := b.sql(ctx, "base", fmt.Sprintf(loadSQL, b.rows)); err != nil {
		return nil, err
	}
	if err := b.sql(ctx, "base", "VACUUM (ANALYZE) audit_logs"); err != nil {
		return nil, err
	}
	var out []result
	for _, contender := range []struct {
		name string
		run  func(context.Context, string) (result, error)
	}{
		{"floor: ordered binary COPY to nowhere, DELETE", b.floor},
		{"by hand: psql COPY row_to_json | pigz, upload, DELETE", b.byHand},
		{"archiver run, default settings", func(ctx context.Context, db string) (result, error) { return b.ours(ctx, db, "{}") }},
		{"archiver run, batch_size 1000000", func(ctx context.Context, db string) (result, error) {
			return b.ours(ctx, db, "{batch_size: 1000000, max_batch_bytes: 10GB, partition_by: none, adaptive_batch: {max_batch_size: 1000000}}")
		}},
	} {
		note("%s", contender.name)
		db := fmt.Sprintf("contender_%d", len(out))
		// Everyone starts from the same files, with nothing left to flush.
		if err := b.sql(ctx, "postgres", "CREATE DATABASE "+db+" TEMPLATE base"); err != nil {
			return nil, err
		}
		if err := b.sql(ctx, "postgres", "CHECKPOINT"); err != nil {
			return nil, err
		}
		if b.statements > 0 {
			if err := b.sql(ctx, "postgres", "CREATE EXTENSION IF NOT EXISTS pg_stat_statements; SELECT pg_stat_statements_reset()"); err != nil {
				return nil, err
			}
		}
		before := b.account(ctx)
		r, err := contender.run(ctx, db)
		after := b.account(ctx)
		r.DBCPU, r.S3CPU, r.CPU = after.db-before.db, after.s3-before.s3, r.CPU+after.own-before.own
		if b.statements > 0 {
			if err := b.printStatements(ctx); err != nil {
				return nil, err
			}
		}
		r.WAL = (after.wal - before.wal) / float64(b.rows)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", contender.name, err)
		}
		r.Name = contender.name
		if err := b.empty(ctx, db); err != nil {
			return nil, fmt.Errorf("%s: %w", contender.name, err)
		}
		if r.Vacuum, err = b.timed(func() error { return b.sql(ctx, db, "VACUUM (ANALYZE) audit_logs") }); err != nil {
			return nil, err
		}
		if err := b.sql(ctx, "postgres", "DROP DATABASE "+db); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// printStatements shows where the server's time went.
func (b *bench) printStatements(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, b.pg.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // only read
	rows, err := conn.Query(ctx, `SELECT calls, plans, total_plan_time, total_exec_time, left(regexp_replace(query, '\s+', ' ', 'g'), 110)
		FROM pg_stat_statements ORDER BY total_plan_time + total_exec_time DESC LIMIT $1`, b.statements)
	if err != nil {
		return err
	}
	defer rows.Close()
	fmt.Fprintf(os.Stderr, "%8s %8s %10s %10s  %s\n", "calls", "plans", "plan ms", "exec ms", "statement")
	for rows.Next() {
		var calls, plans int64
		var plan, exec float64
		var query string
		if err := rows.Scan(&calls, &plans, &plan, &exec, &query); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "%8d %8d %10.1f %10.1f  %s\n", calls, plans, plan, exec, query)
	}
	return rows.Err()
}

type account struct{ db, s3, own, wal float64 }

func (b *bench) account(ctx context.Context) account {
	a := account{db: cpuOf(b.pg.Pid()), s3: cpuOf(b.s3.Pid), own: ownCPU()}
	conn, err := pgx.Connect(ctx, b.pg.DSN("postgres"))
	if err == nil {
		_ = conn.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").Scan(&a.wal)
		_ = conn.Close(ctx)
	}
	return a
}

// ownCPU is of this process and its ended children.
func ownCPU() float64 {
	var total float64
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			total += time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
		}
	}
	return total
}

// floor is what no archiver on this server can beat.
func (b *bench) floor(ctx context.Context, db string) (result, error) {
	conn, err := pgx.Connect(ctx, b.pg.DSN(db))
	if err != nil {
		return result{}, err
	}
	defer conn.Close(ctx) //nolint:errcheck // the database is dropped next
	r := result{Phases: map[string]float64{}}
	r.Phases["query"], err = b.timed(func() error {
		_, err := conn.PgConn().CopyTo(ctx, io.Discard, "COPY (SELECT * FROM audit_logs ORDER BY created_at, id) TO STDOUT (FORMAT binary)")
		return err
	})
	if err != nil {
		return r, err
	}
	r.Phases["delete"], err = b.timed(func() error {
		_, err := conn.Exec(ctx, "DELETE FROM audit_logs")
		return err
	})
	r.Seconds = r.Phases["query"] + r.Phases["delete"]
	return r, err
}

// byHand is the pipeline that a careful user would type: no verification.
func (b *bench) byHand(ctx context.Context, db string) (result, error) {
	file := filepath.Join(b.dir, "by-hand.jsonl.gz")
	r := result{Phases: map[string]float64{}}
	var err error
	r.Phases["query, serialize, compress"], err = b.timed(func() error {
		return b.shell(ctx, `set -o pipefail; psql -X -qAt -c 'COPY (SELECT row_to_json(t) FROM audit_logs t ORDER BY created_at, id) TO STDOUT' "$1" | pigz > "$2"`, b.pg.DSN(db), file)
	})
	if err != nil {
		return r, err
	}
	r.Phases["upload"], err = b.timed(func() error { return b.upload(ctx, file) })
	if err != nil {
		return r, err
	}
	r.Phases["delete"], err = b.timed(func() error {
		return b.shell(ctx, `psql -X -q -c 'DELETE FROM audit_logs' "$1"`, b.pg.DSN(db))
	})
	for _, s := range r.Phases {
		r.Seconds += s
	}
	if info, err := os.Stat(file); err == nil {
		r.Stored = info.Size()
	}
	return r, errors.Join(err, os.Remove(file))
}

// ours runs the binary as a user would: plan, upload, verify, delete.
func (b *bench) ours(ctx context.Context, db, settings string) (result, error) {
	bucket := strings.ReplaceAll(db, "_", "-")
	if err := b.s3.CreateBucket(ctx, bucket, false); err != nil {
		return result{}, err
	}
	if err := b.sql(ctx, "postgres", "CREATE DATABASE "+db+"_control"); err != nil {
		return result{}, err
	}
	file := filepath.Join(b.dir, db+".yaml")
	config := fmt.Sprintf(`
control: {url: %q}
s3: {bucket: %q, endpoint: %q, access_key_id: %q, secret_access_key: %q}
defaults: {retention: 30d}
databases: [{name: bench, url: %q, tables: [{name: audit_logs}]}]
`, b.pg.DSN(db+"_control"), bucket, b.s3.Endpoint, b.s3.AccessKey, b.s3.SecretKey, b.pg.DSN(db))
	config = strings.Replace(config, "{name: audit_logs}", strings.Replace("{name: audit_logs, "+strings.TrimPrefix(settings, "{"), ", }", "}", 1), 1)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return result{}, err
	}
	if out, err := exec.CommandContext(ctx, b.archiver, "migrate", "--config", file).CombinedOutput(); err != nil {
		return result{}, fmt.Errorf("migrate: %w: %s", err, out)
	}
	cmd := exec.CommandContext(ctx, b.archiver, "run", "--json", "--log-level", "warn", "--config", file)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	seconds, err := b.timed(cmd.Run)
	if err != nil {
		return result{}, fmt.Errorf("archiver run: %w: %s", err, stderr.String())
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	var summary struct {
		Tables []struct {
			BytesStored int64 `json:"bytes_stored"`
		} `json:"tables"`
		Phases map[string]float64 `json:"phases"`
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &summary); err != nil {
		return result{}, fmt.Errorf("archiver run printed no summary: %w", err)
	}
	r := result{Seconds: seconds, Phases: summary.Phases}
	for _, t := range summary.Tables {
		r.Stored += t.BytesStored
	}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.PeakMB = float64(usage.Maxrss) / 1024
		if runtime.GOOS == "darwin" {
			r.PeakMB /= 1024
		}
	}
	return r, nil
}

func (b *bench) empty(ctx context.Context, db string) error {
	conn, err := pgx.Connect(ctx, b.pg.DSN(db))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // read-only
	var left int64
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM audit_logs").Scan(&left); err != nil {
		return err
	}
	if left != 0 {
		return fmt.Errorf("%d rows were left", left)
	}
	return nil
}

func (b *bench) timed(fn func() error) (float64, error) {
	began := time.Now()
	err := fn()
	return time.Since(began).Seconds(), err
}

func (b *bench) sql(ctx context.Context, db, sql string) error {
	conn, err := pgx.Connect(ctx, b.pg.DSN(db))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // the statement's own error counts
	_, err = conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

func (b *bench) shell(ctx context.Context, script string, args ...string) error {
	out, err := exec.CommandContext(ctx, "bash", append([]string{"-c", script, "bench"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func note(format string, args ...any) { fmt.Fprintf(os.Stderr, "· "+format+"\n", args...) }

func (b *bench) print(w io.Writer, results []result) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d rows, %s, %d cores, PostgreSQL %s\n\n", b.rows, runtime.GOARCH, runtime.NumCPU(), b.pg.Version)
	fmt.Fprintln(t, "seconds\tx floor\trows/s\tpeak MB\tstored MB\tvacuum s\tcpu\tdb cpu\ts3 cpu\tall cpu\twal/row\t")
	for _, r := range results {
		fmt.Fprintf(t, "%.1f\t%.2f\t%.0f\t%.0f\t%.1f\t%.1f\t%.2f\t%.2f\t%.2f\t%.2f\t%.0f\t  %s\n", r.Seconds, r.Seconds/results[0].Seconds, float64(b.rows)/r.Seconds, r.PeakMB, float64(r.Stored)/1e6, r.Vacuum, r.CPU, r.DBCPU, r.S3CPU, r.CPU+r.DBCPU+r.S3CPU, r.WAL, r.Name)
	}
	_ = t.Flush() // to a terminal or a pipe that is gone
	for _, r := range results {
		fmt.Fprintf(w, "\n%s\n", r.Name)
		for _, phase := range []string{"query", "serialize", "compress", "query, serialize, compress", "upload", "verify", "delete"} {
			if s, ok := r.Phases[phase]; ok {
				fmt.Fprintf(w, "  %-28s %7.2f s\n", phase, s)
			}
		}
	}
	fmt.Fprintln(w, "\nPhases of the archiver are summed over its batches, which run side by side and overlap.")
}
