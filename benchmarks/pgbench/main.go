package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/audit-table-archiver/archiver/benchmarks/record"
)

// recommended is the pace of docs/THROTTLE.md, for the defaults of a configuration.
const recommended = `batch_size: 2000, adaptive_batch: {enabled: false}, concurrency: 1, throttle: {max_rows_per_second: 1000}`

type options struct {
	Archiver string `json:"-"` // a file of this machine
	Seconds  int    `json:"seconds"`
	Rounds   int    `json:"rounds"`
	Clients  int    `json:"clients"`
	Scale    int    `json:"scale"`
	Rows     int    `json:"rows"`
	Rate     int    `json:"rate"`
	Pace     string `json:"pace"`
}

// contender is what runs beside pgbench; without defaults, nothing does.
type contender struct {
	name, defaults string
	// refill: the rows do not last for more than a turn.
	refill bool
}

// turn is one of a contender's.
type turn struct {
	TPS         float64 `json:"tps"`
	LatencyMS   float64 `json:"latency_ms"`
	LossPercent float64 `json:"loss_percent"` // against pgbench alone, right before and right after
	archived
}

// result is all turns of one.
type result struct {
	Name          string  `json:"name"`
	Runs          []turn  `json:"runs"`
	TPS           float64 `json:"tps"` // the median
	LatencyMS     float64 `json:"latency_ms"`
	LossPercent   float64 `json:"loss_percent"`
	RowsPerSecond float64 `json:"rows_per_second"`
}

// report is what -out and -json leave.
type report struct {
	record.Run
	PostgreSQL string   `json:"postgresql"`
	Options    options  `json:"options"`
	Results    []result `json:"results"`
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
	out := flag.String("out", "", "also write JSON to a file in this folder")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, *asJSON, *out); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

func run(ctx context.Context, o options, asJSON bool, out string) error {
	r := &report{Run: record.Here(ctx), Options: o}
	if err := r.measure(ctx); err != nil {
		return err
	}
	if out != "" {
		file, err := r.Save(out, "pgbench", r)
		if err != nil {
			return err
		}
		note("written to %s", file)
	}
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	r.print(os.Stdout)
	return nil
}

func (r *report) measure(ctx context.Context) (err error) {
	o := r.Options
	if o.Archiver, err = filepath.Abs(o.Archiver); err != nil {
		return err
	}
	s, err := newServers(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	r.PostgreSQL = s.pg.Version
	alone := result{Name: "alone"}
	results := []result{{}}
	for _, c := range []contender{
		{name: "archiver at the recommended pace", defaults: o.Pace},
		{name: "archiver without a throttle", defaults: "batch_size: 10000", refill: true},
	} {
		mine, before, err := s.turns(ctx, c, o)
		if err != nil {
			return err
		}
		results, alone.Runs = append(results, mine), append(alone.Runs, before...)
	}
	results[0] = alone
	for i := range results {
		x := &results[i]
		x.TPS = median(x.Runs, func(t turn) float64 { return t.TPS })
		x.LatencyMS = median(x.Runs, func(t turn) float64 { return t.LatencyMS })
		x.RowsPerSecond = median(x.Runs, func(t turn) float64 { return t.RowsPerSecond })
		x.LossPercent = median(x.Runs, func(t turn) float64 { return t.LossPercent })
	}
	r.Results = results
	return nil
}

// turns alternates between a contender and pgbench alone, so that each turn has two of
// these as neighbours to be compared with: a machine that is shared is now faster and now
// slower, by more than the loss that is looked for.
func (s *servers) turns(ctx context.Context, c contender, o options) (mine result, alone []turn, err error) {
	mine.Name = c.name
	take := func(c contender, config string) (turn, error) {
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
			if _, err = take(contender{name: "alone, to settle"}, ""); err != nil {
				return mine, nil, err
			}
		}
		for _, x := range []struct {
			contender
			config string
		}{{contender{name: "alone"}, ""}, {c, config}, {contender{name: "alone"}, ""}} {
			r, err := take(x.contender, x.config)
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

func median(runs []turn, of func(turn) float64) float64 {
	var all []float64
	for _, r := range runs {
		all = append(all, of(r))
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

func (r *report) print(w io.Writer) {
	o := r.Options
	fmt.Fprintf(w, "PostgreSQL %s, %d cores for everything (%s), load %s, commit %s\n\n", r.PostgreSQL, r.Machine.Cores, r.Machine.CPU, r.Machine.Load, r.Commit)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\ttransactions/s\tloss\tlatency\trows archived/s\teach turn\tloss of each, %")
	for _, r := range r.Results {
		var each, losses []int
		for _, x := range r.Runs {
			each, losses = append(each, int(x.TPS)), append(losses, int(math.Round(x.LossPercent)))
		}
		fmt.Fprintf(t, "%s\t%.0f\t%.1f %%\t%.2f ms\t%.0f\t%v\t%v\n", r.Name, r.TPS, r.LossPercent, r.LatencyMS, r.RowsPerSecond, each, losses)
	}
	_ = t.Flush() // to a terminal or a pipe that is gone
	fmt.Fprintf(w, "medians of %d turns of %d s; pgbench with %d clients at scale %d; recommended pace: %s\n", o.Rounds, o.Seconds, o.Clients, o.Scale, o.Pace)
	fmt.Fprintln(w, "rows archived/s: from the end of the first batch within a turn to the end of the last. A turn begins when the two seconds' worth are used up that a table saves while nothing is archived of it.")
}

func note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().UTC().Format(time.TimeOnly)+" "+format+"\n", args...)
}
