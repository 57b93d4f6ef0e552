package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
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
type contender struct {
	name, defaults string
	// refill: the rows do not last for more than a turn.
	refill bool
}

// run is one turn of a contender.
type run struct {
	TPS         float64 `json:"tps"`
	LatencyMS   float64 `json:"latency_ms"`
	Rows        int64   `json:"rows"`         // archived meanwhile
	LossPercent float64 `json:"loss_percent"` // against pgbench alone, right before and right after
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
	flag.IntVar(&o.Seconds, "seconds", 10, "of each turn")
	flag.IntVar(&o.Rounds, "rounds", 12, "turns at the recommended pace, each between two of pgbench alone; a quarter of that without a throttle")
	flag.IntVar(&o.Clients, "clients", 4, "sessions of pgbench")
	flag.IntVar(&o.Scale, "scale", 20, "pgbench's scale factor: 15 MB each")
	flag.IntVar(&o.Rows, "rows", 800_000, "audit rows at the begin; they must last for all turns at the recommended pace; without a throttle there are twice as many for each turn")
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
	alone := result{Name: "alone"}
	results := []result{{}}
	for _, c := range []contender{
		{name: "archiver at the recommended pace", defaults: o.Pace},
		{name: "archiver without a throttle", defaults: "batch_size: 10000", refill: true},
	} {
		mine, before, err := s.turns(ctx, c, o)
		if err != nil {
			return nil, err
		}
		results, alone.Runs = append(results, mine), append(alone.Runs, before...)
	}
	results[0] = alone
	for i := range results {
		r := &results[i]
		r.TPS = median(r.Runs, func(x run) float64 { return x.TPS })
		r.LatencyMS = median(r.Runs, func(x run) float64 { return x.LatencyMS })
		r.RowsPerSecond = median(r.Runs, func(x run) float64 { return float64(x.Rows) }) / float64(o.Seconds)
		r.LossPercent = median(r.Runs, func(x run) float64 { return x.LossPercent })
	}
	return results, nil
}

// turns alternates between a contender and pgbench alone, so that each turn has two of
// these as neighbours to be compared with: a machine that is shared is now faster and now
// slower, by more than the loss that is looked for.
func (s *servers) turns(ctx context.Context, c contender, o options) (mine result, alone []run, err error) {
	mine.Name = c.name
	turn := func(c contender, config string) (run, error) {
		r, err := s.turn(ctx, config, o)
		if err != nil {
			return r, fmt.Errorf("%s: %w", c.name, err)
		}
		note("%s: %.0f transactions a second, %d rows", c.name, r.TPS, r.Rows)
		return r, nil
	}
	var config string
	rounds := o.Rounds
	if c.refill { // which takes its time, and the effect is large
		rounds = max(1, o.Rounds/4)
	}
	for round := range rounds {
		if round == 0 || c.refill {
			if config, err = s.backlog(ctx, c, o); err != nil {
				return mine, nil, err
			}
			// The disk has to settle after so many rows: this one does not count.
			if _, err = turn(contender{name: "alone, to settle"}, ""); err != nil {
				return mine, nil, err
			}
		}
		for _, x := range []struct {
			contender
			config string
		}{{contender{name: "alone"}, ""}, {c, config}, {contender{name: "alone"}, ""}} {
			r, err := turn(x.contender, x.config)
			if err != nil {
				return mine, nil, err
			}
			if x.config == "" {
				alone = append(alone, r)
			} else {
				mine.Runs = append(mine.Runs, r)
			}
		}
		neighbours := alone[len(alone)-2:]
		last := &mine.Runs[len(mine.Runs)-1]
		last.LossPercent = 100 * (1 - 2*last.TPS/(neighbours[0].TPS+neighbours[1].TPS))
	}
	return mine, alone, nil
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
	fmt.Fprintln(out, "\ttransactions/s\tloss\tlatency\trows archived/s\teach turn\tloss of each, %")
	for _, r := range results {
		var each, losses []int
		for _, x := range r.Runs {
			each, losses = append(each, int(x.TPS)), append(losses, int(math.Round(x.LossPercent)))
		}
		fmt.Fprintf(out, "%s\t%.0f\t%.1f %%\t%.2f ms\t%.0f\t%v\t%v\n", r.Name, r.TPS, r.LossPercent, r.LatencyMS, r.RowsPerSecond, each, losses)
	}
	_ = out.Flush()                                                                                                                                         // to a terminal or a pipe that is gone
	fmt.Printf("medians of %d turns of %d s; pgbench with %d clients at scale %d; recommended pace: %s\n", o.Rounds, o.Seconds, o.Clients, o.Scale, o.Pace) //nolint:forbidigo // a command's result
}

func note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().UTC().Format(time.TimeOnly)+" "+format+"\n", args...)
}
