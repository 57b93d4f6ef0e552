// Command benchmarks measures the archiver against what the hardware allows and
// against what a user would do by hand, on the same rows, in one run, on this
// machine: a real Postgres with fsync on, a real S3 server, everything local.
//
//	go run ./benchmarks -archiver bin/archiver -rows 1000000
//	go run ./benchmarks -archiver bin/archiver -shape wide -rows 100000 -profile all
//	go run ./benchmarks -archiver bin/archiver -only default -rows 200000 -workers 4
//
// Absolute times depend on the machine; the ratios between the contenders of one
// run are what to look at. The floor and the pipeline by hand get the VACUUM that
// follows a big delete counted too.
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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/benchmarks/record"
	"github.com/audit-table-archiver/archiver/internal/localserver"
)

type bench struct {
	archiver, compare string
	rows              int
	shape             shape
	profile           string
	only              []string
	workers           int
	roundTrip         time.Duration
	megabytes         float64
	linkEach          bool
	statements        int

	pg  *localserver.Postgres
	s3  *localserver.S3
	dir string

	psql, pigz string // of the pipeline by hand

	before account // of the contender that runs
}

func main() {
	var b bench
	flag.StringVar(&b.archiver, "archiver", "bin/archiver", "the binary to measure")
	flag.StringVar(&b.compare, "compare", "", "another binary of the archiver, to be measured too")
	flag.IntVar(&b.rows, "rows", 1_000_000, "rows in the table")
	shapeName := flag.String("shape", "audit", "audit (450 bytes), narrow (200) or wide (4 KB)")
	flag.StringVar(&b.profile, "profile", "default", "default, single-batch, high-performance, memory-constrained, network-constrained, or all")
	only := flag.String("only", "", "only these contenders, with commas: floor, hand, hand-slow, compare, or a profile")
	flag.IntVar(&b.workers, "workers", 0, "so many replicas of one batch each, on slow storage, in the place of archiver run")
	flag.DurationVar(&b.roundTrip, "storage-round-trip", 50*time.Millisecond, "of slow storage: with -workers and in the profile network-constrained")
	flag.Float64Var(&b.megabytes, "storage-mb", 20, "MB a second of slow storage, each way, for all replicas together")
	flag.BoolVar(&b.linkEach, "storage-link-each", false, "with -workers: slow storage by a link for each replica, as on machines of their own")
	flag.IntVar(&b.statements, "statements", 0, "print so many of the statements that cost the server most")
	asJSON := flag.Bool("json", false, "print JSON")
	out := flag.String("out", "", "also write JSON to a file in this folder")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := b.main(ctx, os.Stdout, *shapeName, *only, *asJSON, *out)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

func (b *bench) main(ctx context.Context, w io.Writer, shapeName, only string, asJSON bool, out string) (err error) {
	if b.shape, err = shapeNamed(shapeName); err != nil {
		return err
	}
	if !slices.ContainsFunc(profiles(), func(p profile) bool { return p.name == b.profile || b.profile == "all" }) {
		return fmt.Errorf("no profile %q", b.profile)
	}
	if b.linkEach && b.workers == 0 {
		return errors.New("-storage-link-each is about replicas: give -workers too")
	}
	if only != "" {
		b.only = strings.Split(only, ",")
	}
	for _, binary := range []*string{&b.archiver, &b.compare} {
		if *binary == "" {
			continue
		}
		if *binary, err = filepath.Abs(*binary); err != nil {
			return err
		}
	}
	r, err := b.run(ctx)
	if err != nil {
		return err
	}
	if out != "" {
		name, err := r.save(out)
		if err != nil {
			return err
		}
		note("written to %s", name)
	}
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	r.print(w)
	return nil
}

func (b *bench) run(ctx context.Context) (_ *report, err error) {
	contenders := b.contenders()
	r := &report{Run: record.Here(ctx), Shape: b.shape.name, Rows: b.rows, Profile: b.profile, Workers: b.workers, LinkEach: b.linkEach}
	if slices.ContainsFunc(contenders, func(c contender) bool { return c.slow }) {
		r.RoundTrip, r.Megabytes = b.roundTrip.String(), b.megabytes
	}
	stop, err := b.start(ctx, contenders)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	r.PostgreSQL = b.pg.Version
	if err := b.load(ctx, r); err != nil {
		return nil, fmt.Errorf("load the rows: %w", err)
	}
	return r, b.measureAll(ctx, r, contenders)
}

func (b *bench) measureAll(ctx context.Context, r *report, contenders []contender) error {
	for i, c := range contenders {
		note("%s", c.name)
		res, err := b.measure(ctx, c, contenderDB(i))
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		r.Results = append(r.Results, res)
	}
	return nil
}

// start brings up the servers, and looks for whatever else the contenders need; stop takes
// the servers down.
func (b *bench) start(ctx context.Context, contenders []contender) (stop func() error, err error) {
	var undo []func() error
	stop = func() error {
		var all error
		for _, f := range slices.Backward(undo) {
			all = errors.Join(all, f())
		}
		return all
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	if b.dir, err = os.MkdirTemp("", "archiver-bench-"); err != nil {
		return nil, err
	}
	undo = append(undo, func() error { return os.RemoveAll(b.dir) })
	settings := map[string]string{
		"fsync": "on", "synchronous_commit": "on", "shared_buffers": "512MB", "max_wal_size": "4GB", "checkpoint_timeout": "30min", "wal_level": "replica",
	}
	b.statementSettings(settings)
	if b.pg, err = localserver.StartPostgres(ctx, localserver.PostgresOptions{Settings: settings}); err != nil {
		return nil, err
	}
	undo = append(undo, b.pg.Stop)
	if slices.ContainsFunc(contenders, func(c contender) bool { return c.byHand }) {
		if err = b.findTools(); err != nil {
			return nil, err
		}
	}
	if b.s3, err = localserver.StartS3(ctx, localserver.S3Options{}); err != nil {
		return nil, err
	}
	undo = append(undo, b.s3.Stop)
	return stop, nil
}

func (b *bench) load(ctx context.Context, r *report) error {
	note("loading %d rows of the shape %s", b.rows, b.shape.name)
	if err := b.sql(ctx, "postgres", "CREATE DATABASE base"); err != nil {
		return err
	}
	if err := b.sql(ctx, "base", fmt.Sprintf(b.shape.sql, b.rows)); err != nil {
		return err
	}
	if err := b.sql(ctx, "base", "VACUUM (ANALYZE) audit_logs"); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, b.pg.DSN("base"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // only read
	return conn.QueryRow(ctx, "SELECT pg_table_size('audit_logs')::float8 / $1", b.rows).Scan(&r.RowBytes)
}

// measure gives a contender a database of its own. Everyone starts from the same files,
// with nothing left to flush.
func (b *bench) measure(ctx context.Context, c contender, db string) (r result, err error) {
	if err := b.sql(ctx, "postgres", "CREATE DATABASE "+db+" TEMPLATE base"); err != nil {
		return r, err
	}
	if err := b.sql(ctx, "postgres", "CHECKPOINT"); err != nil {
		return r, err
	}
	if err := b.begin(ctx); err != nil {
		return r, err
	}
	if r, err = c.run(ctx, db); err != nil {
		return r, err
	}
	r.Key, r.Name, r.Slow = c.key, c.name, c.slow
	if r.Rows != int64(b.rows) {
		return r, fmt.Errorf("%d rows came out of %d", r.Rows, b.rows)
	}
	if err := b.printStatements(ctx); err != nil {
		return r, err
	}
	if err := b.empty(ctx, db); err != nil {
		return r, err
	}
	if r.Vacuum == 0 { // the archiver has done so itself
		if r.Vacuum, err = timed(func() error { return b.sql(ctx, db, "VACUUM (ANALYZE) audit_logs") }); err != nil {
			return r, err
		}
	}
	after, err := b.account(ctx)
	if err != nil {
		return r, err
	}
	r.charge(b.before, after, b.rows)
	return r, b.sql(ctx, "postgres", "DROP DATABASE "+db)
}

// empty makes sure that a contender has done all of it.
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

// contenderDB is the database of a contender.
func contenderDB(i int) string { return fmt.Sprintf("contender_%d", i) }

func timed(fn func() error) (float64, error) {
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

func (b *bench) shell(ctx context.Context, script string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "bash", append([]string{"-c", script, "bench"}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return string(out), nil
}

func note(format string, args ...any) { fmt.Fprintf(os.Stderr, "· "+format+"\n", args...) }
