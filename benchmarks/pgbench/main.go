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
	"slices"
	"syscall"
	"text/tabwriter"
	"time"
)

// recommended is the pace of docs/THROTTLE.md, for the defaults of a configuration.
const recommended = `batch_size: 2000, adaptive_batch: {enabled: false}, concurrency: 1, throttle: {max_rows_per_second: 2000}`

type options struct {
	Archiver string
	Seconds  int
	Rounds   int
	Clients  int
	Scale    int
	Rows     int
	Rate     int
	Pace     string
}

// contender is what runs beside pgbench; without defaults, nothing does.
type contender struct{ name, defaults string }

// run is one turn of a contender.
type run struct {
	TPS       float64 `json:"tps"`
	LatencyMS float64 `json:"latency_ms"`
	Rows      int64   `json:"rows"` // archived meanwhile
}

// result is all turns of one.
type result struct {
	Name          string  `json:"name"`
	Runs          []run   `json:"runs"`
	TPS           float64 `json:"tps"` // the median
	LatencyMS     float64 `json:"latency_ms"`
	LossPercent   float64 `json:"loss_percent"`
	RowsPerSecond float64 `json:"rows_per_second"`
}

func main() {
	var o options
	flag.StringVar(&o.Archiver, "archiver", "bin/archiver", "the binary to measure")
	flag.IntVar(&o.Seconds, "seconds", 30, "of each turn")
	flag.IntVar(&o.Rounds, "rounds", 3, "turns of each")
	flag.IntVar(&o.Clients, "clients", 4, "sessions of pgbench")
	flag.IntVar(&o.Scale, "scale", 20, "pgbench's scale factor: 15 MB each")
	flag.IntVar(&o.Rows, "rows", 500_000, "audit rows at the begin of each turn")
	flag.IntVar(&o.Rate, "rate", 0, "transactions a second that pgbench aims at; 0: as many as it can")
	flag.StringVar(&o.Pace, "pace", recommended, "keys of defaults for the recommended pace")
	asJSON := flag.Bool("json", false, "print JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	results, err := measure(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
	if *asJSON {
		_ = json.NewEncoder(os.Stdout).Encode(results) // to a terminal or a pipe that is gone
		return
	}
	show(results, o)
}

func measure(ctx context.Context, o options) (_ []result, err error) {
	if o.Archiver, err = filepath.Abs(o.Archiver); err != nil {
		return nil, err
	}
	s, err := newServers(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	contenders := []contender{
		{"alone", ""},
		{"archiver without a throttle", "batch_size: 10000"},
		{"archiver at the recommended pace", o.Pace},
	}
	results := make([]result, len(contenders))
	for round := range o.Rounds {
		for i, c := range contenders {
			note("round %d of %d: %s", round+1, o.Rounds, c.name)
			r, err := s.turn(ctx, c, o)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			results[i].Name = c.name
			results[i].Runs = append(results[i].Runs, r)
		}
	}
	for i := range results {
		r := &results[i]
		r.TPS = median(r.Runs, func(x run) float64 { return x.TPS })
		r.LatencyMS = median(r.Runs, func(x run) float64 { return x.LatencyMS })
		r.RowsPerSecond = median(r.Runs, func(x run) float64 { return float64(x.Rows) }) / float64(o.Seconds)
		r.LossPercent = 100 * (1 - r.TPS/results[0].TPS)
	}
	return results, nil
}

func median(runs []run, of func(run) float64) float64 {
	var all []float64
	for _, r := range runs {
		all = append(all, of(r))
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

func show(results []result, o options) {
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "\ttransactions/s\tloss\tlatency\trows archived/s\teach turn")
	for _, r := range results {
		var each []int
		for _, x := range r.Runs {
			each = append(each, int(x.TPS))
		}
		fmt.Fprintf(out, "%s\t%.0f\t%.1f %%\t%.2f ms\t%.0f\t%v\n", r.Name, r.TPS, r.LossPercent, r.LatencyMS, r.RowsPerSecond, each)
	}
	_ = out.Flush()                                                                                                                                         // to a terminal or a pipe that is gone
	fmt.Printf("medians of %d turns of %d s; pgbench with %d clients at scale %d; recommended pace: %s\n", o.Rounds, o.Seconds, o.Clients, o.Scale, o.Pace) //nolint:forbidigo // a command's result
}

func note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().UTC().Format(time.TimeOnly)+" "+format+"\n", args...)
}
