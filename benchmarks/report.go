package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/audit-table-archiver/archiver/benchmarks/record"
)

// result is one contender's account.
type result struct {
	Key     string             `json:"key"`
	Name    string             `json:"name"`
	Seconds float64            `json:"seconds"`        // without the VACUUM below
	Vacuum  float64            `json:"vacuum_seconds"` // of the VACUUM (ANALYZE) afterwards: the archiver's own, else ours
	Phases  map[string]float64 `json:"phases"`         // seconds, summed over batches that overlap
	Slow    bool               `json:"slow_storage,omitempty"`
	Rows    int64              `json:"rows"` // that came out of the table
	Batches int64              `json:"batches,omitempty"`
	PeakMB  float64            `json:"peak_rss_mb,omitempty"` // of one process
	Raw     int64              `json:"raw_bytes,omitempty"`
	Stored  int64              `json:"stored_bytes,omitempty"`

	// Processor seconds: of the contender's own processes, of all processes of the
	// database server, of the S3 server.
	ClientCPU   float64 `json:"client_cpu_seconds"`
	DatabaseCPU float64 `json:"database_cpu_seconds"`
	StorageCPU  float64 `json:"storage_cpu_seconds"`
	WALPerRow   float64 `json:"wal_bytes_per_row"`
}

func (r result) total() float64 { return r.Seconds + r.Vacuum }
func (r result) cpu() float64   { return r.ClientCPU + r.DatabaseCPU + r.StorageCPU }

// report is what one run of the benchmark leaves in benchmarks/results.
type report struct {
	record.Run
	PostgreSQL string   `json:"postgresql"`
	Shape      string   `json:"shape"`
	RowBytes   float64  `json:"row_bytes"` // of a row in the table, without indexes
	Rows       int      `json:"rows"`
	Profile    string   `json:"profile"`
	Workers    int      `json:"workers,omitempty"`
	RoundTrip  string   `json:"storage_round_trip,omitempty"`
	Megabytes  float64  `json:"storage_mb_per_second,omitempty"`
	LinkEach   bool     `json:"storage_link_each,omitempty"` // else one link for all replicas
	Results    []result `json:"results"`
}

// save writes the report under a name that says what was measured, and when.
func (p *report) save(dir string) (string, error) {
	what := fmt.Sprintf("%s-%d-%s", p.Shape, p.Rows, p.Profile)
	if p.Workers > 0 {
		what += fmt.Sprintf("-%dworkers", p.Workers)
	}
	if p.LinkEach {
		what += "-linkeach"
	}
	return p.Save(dir, what, p)
}

// find returns a contender's result, and false if it did not run.
func (p *report) find(key string) (result, bool) {
	for _, r := range p.Results {
		if r.Key == key {
			return r, true
		}
	}
	return result{}, false
}

// handFor is the pipeline by hand with the same way to storage.
func (p *report) handFor(r result) (result, bool) {
	if r.Slow {
		return p.find(handSlow)
	}
	return p.find("hand")
}

func (p *report) links() string {
	switch {
	case p.Workers == 0:
		return ""
	case p.LinkEach:
		return fmt.Sprintf(", over %d links, one for each replica", p.Workers)
	default:
		return fmt.Sprintf(", over one link for %d replicas", p.Workers)
	}
}

// times is a ratio as people read it, or a dash.
func times(a, b float64, ok bool) string {
	if !ok || b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", a/b)
}

func (p *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s: %d rows of %.0f bytes, PostgreSQL %s, %d cores for everything (%s), load %s, commit %s\n\n",
		p.Shape, p.Rows, p.RowBytes, p.PostgreSQL, p.Machine.Cores, p.Machine.CPU, p.Machine.Load, p.Commit)
	if p.RoundTrip != "" {
		fmt.Fprintf(w, "slow storage is %s and %g MB/s away%s\n\n", p.RoundTrip, p.Megabytes, p.links())
	}
	floor, haveFloor := p.find("floor")
	mb := float64(p.Rows) * p.RowBytes / 1e6
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "seconds\tvacuum\ttotal\tx floor\thand / it\trows/s\tMB/s\tpeak MB\tstored MB\tWAL B/row\t")
	for _, r := range p.Results {
		hand, haveHand := p.handFor(r)
		fmt.Fprintf(t, "%.1f\t%.1f\t%.1f\t%s\t%s\t%.0f\t%.0f\t%.0f\t%.1f\t%.0f\t  %s\n", r.Seconds, r.Vacuum, r.total(),
			times(r.total(), floor.total(), haveFloor), times(hand.total(), r.total(), haveHand),
			float64(p.Rows)/r.total(), mb/r.total(), r.PeakMB, float64(r.Stored)/1e6, r.WALPerRow, r.Name)
	}
	_ = t.Flush() // to a terminal or a pipe that is gone
	fmt.Fprintln(w, "\nCPU seconds")
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "own\tdatabase\tS3 server\tall\tx floor\t")
	for _, r := range p.Results {
		fmt.Fprintf(t, "%.2f\t%.2f\t%.2f\t%.2f\t%s\t  %s\n", r.ClientCPU, r.DatabaseCPU, r.StorageCPU, r.cpu(), times(r.cpu(), floor.cpu(), haveFloor), r.Name)
	}
	_ = t.Flush()
	for _, r := range p.Results {
		fmt.Fprintf(w, "\n%s\n", r.Name)
		printPhases(w, r)
	}
	fmt.Fprintln(w, "\nPhases of the archiver are summed over its batches, which run side by side and overlap.")
}

func printPhases(w io.Writer, r result) {
	phases := map[string]float64{"vacuum": r.Vacuum}
	var sum float64
	for name, s := range r.Phases {
		if name != "total" {
			phases[name] += s
		}
	}
	for _, s := range phases {
		sum += s
	}
	for _, name := range []string{"query", "serialize", "compress", "query, serialize, compress", "upload", "verify", "delete", "record", "vacuum"} {
		if s, ok := phases[name]; ok {
			fmt.Fprintf(w, "  %-28s %8.2f s  %3.0f %%\n", name, s, 100*s/sum)
		}
	}
}
