package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/audit-table-archiver/archiver/internal/config"
)

// options say how large the fleet and its backlog are.
type options struct {
	databases, tables int // tables in each database
	backlog           int // batches, at most
	replicas          int
	seats             int // batches of one database at a time
	hands             int // batches of one replica at a time
	window, warmUp    time.Duration
	calls             int // of each thing that is measured one by one
	prepared          bool
	idle, work        bool // watch fleets that have nothing to do, and that work
}

// defaults are the figures of docs/SCALING.md.
func defaults() options {
	return options{
		databases: 100, tables: 10, backlog: 1_000_000, replicas: 50, seats: 2, hands: 4,
		window: 10 * time.Second, warmUp: 3 * time.Second, calls: 50, idle: true, work: true,
	}
}

// config is that of a replica, as far as the control database can tell, where so many
// databases may be worked on at a time.
func (o options) config(places int) *config.Config {
	c := &config.Config{MaxParallelDatabases: places, S3: config.S3{Bucket: "none", Region: "none", Endpoint: "http://127.0.0.1:1"}, Worker: config.Worker{
		Concurrency: o.hands, ShutdownTimeout: 10 * time.Second, BatchTimeout: 15 * time.Minute, Lease: lease,
	}}
	for i := range o.databases {
		d := config.Database{Name: databaseName(i), Concurrency: o.seats}
		for j := range o.tables {
			d.Tables = append(d.Tables, config.Table{Database: d.Name, Schema: "public", Name: tableName(j)})
		}
		c.Databases = append(c.Databases, d)
	}
	return c
}

func main() {
	if isReplica() {
		exit(replicaMain())
	}
	o := defaults()
	flag.IntVar(&o.databases, "databases", o.databases, "source databases, each with a queue of its own")
	flag.IntVar(&o.tables, "tables", o.tables, "tables in each database")
	flag.IntVar(&o.backlog, "backlog", o.backlog, "batches in ledger and queue, at most")
	flag.IntVar(&o.replicas, "replicas", o.replicas, "replicas, at most")
	flag.IntVar(&o.seats, "concurrency", o.seats, "batches of one database at a time")
	flag.IntVar(&o.hands, "hands", o.hands, "batches of one replica at a time")
	flag.DurationVar(&o.window, "window", o.window, "how long each fleet is watched")
	flag.BoolVar(&o.prepared, "prepared", false, "let the replicas prepare their statements, which the archiver does not, so that it works behind a pooler")
	flag.BoolVar(&o.idle, "idle", o.idle, "watch fleets that have nothing to do")
	flag.BoolVar(&o.work, "work", o.work, "watch fleets at work")
	file := flag.String("json", "", "also write the results to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(measureAll(ctx, o, *file))
}

// exit ends the process, with the error if there is one.
func exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(1)
}

func measureAll(ctx context.Context, o options, file string) error {
	r, err := run(ctx, o)
	r.print(os.Stdout) // after an error, what there is
	if err != nil || file == "" {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o600)
}

// run measures everything in an order in which the backlog only grows until the
// replicas work on it. With an error it returns what was measured before.
func run(ctx context.Context, o options) (r *results, err error) {
	r = &results{Cores: runtime.NumCPU(), Arch: runtime.GOARCH, LoadBefore: loadAverage(), Options: o.text()}
	began := time.Now()
	c, err := startControl(ctx, o)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	r.Postgres = c.pg.Version

	var fleets []scenario
	if o.idle {
		for _, n := range upTo(o.replicas, 1, 10, 50) {
			fleets = append(fleets, scenario{Replicas: n, Places: o.databases, Idle: true})
		}
	}
	if err := c.watchAll(ctx, fleets, r); err != nil {
		return r, err
	}
	for _, n := range append([]int{0}, upTo(o.backlog, 10_000, 100_000, 1_000_000)...) {
		if err := c.atBacklog(ctx, n, r); err != nil {
			return r, fmt.Errorf("with a backlog of %d: %w", n, err)
		}
	}
	if o.work {
		if err := c.watchAll(ctx, scenarios(o), r); err != nil {
			return r, err
		}
	}
	r.LoadAfter, r.Seconds = loadAverage(), time.Since(began).Seconds()
	return r, nil
}

func (c *control) watchAll(ctx context.Context, fleets []scenario, r *results) error {
	for _, s := range fleets {
		note("%s", s)
		f, err := c.fleet(ctx, s)
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		r.Fleet = append(r.Fleet, f)
	}
	return nil
}

// atBacklog measures what one caller at a time sees with n batches waiting.
func (c *control) atBacklog(ctx context.Context, n int, r *results) error {
	if n > 0 {
		note("enqueueing up to %d batches", n)
		e, err := c.enqueue(ctx, n)
		if err != nil {
			return err
		}
		r.Enqueue = append(r.Enqueue, e)
	}
	for _, places := range upTo(c.o.databases, 3, 30, 100) {
		note("admission with %d batches, %d databases at a time", n, places)
		a, err := c.admission(ctx, n, places)
		if err != nil {
			return err
		}
		r.Admission = append(r.Admission, a...)
	}
	if n == 0 {
		return nil
	}
	note("reports with %d batches", n)
	p, err := c.reports(ctx, n)
	r.Reports = append(r.Reports, p)
	return err
}

// scenarios are the fleets at work: each limit with each length of a batch, then fewer
// replicas for the same seats, then a transaction somewhere that never ends.
func scenarios(o options) []scenario {
	var all []scenario
	for _, places := range upTo(o.databases, 3, 30, 100) {
		for _, stage := range []time.Duration{0, 100 * time.Millisecond, time.Second} {
			all = append(all, scenario{Replicas: o.replicas, Places: places, Stage: stage})
		}
	}
	middle := min(30, o.databases)
	if fewer := o.replicas / 5; fewer > 0 {
		all = append(all, scenario{Replicas: fewer, Places: middle, Stage: 100 * time.Millisecond})
	}
	return append(all, scenario{Replicas: o.replicas, Places: middle, Stage: 100 * time.Millisecond, OldSnapshot: true})
}

// upTo returns the steps below limit, and limit.
func upTo(limit int, steps ...int) []int {
	var out []int
	for _, s := range steps {
		if s < limit {
			out = append(out, s)
		}
	}
	return append(out, limit)
}

func note(format string, args ...any) { fmt.Fprintf(os.Stderr, "· "+format+"\n", args...) }

// loadAverage is that of the last minute; empty where the system does not tell.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
