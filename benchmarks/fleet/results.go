package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// results is all that was measured.
type results struct {
	Cores      int        `json:"cores"`
	Arch       string     `json:"arch"`
	Postgres   string     `json:"postgres"`
	Options    string     `json:"options"`
	LoadBefore string     `json:"load_before"` // of the machine, in the last minute
	LoadAfter  string     `json:"load_after"`
	Seconds    float64    `json:"seconds"`
	Enqueue    []enqueued `json:"enqueue"`
	Admission  []admitted `json:"admission"`
	Reports    []reported `json:"reports"`
	Fleet      []watched  `json:"fleet"`
}

func (o options) text() string {
	return fmt.Sprintf("%d databases x %d tables, %d batches, %d replicas, concurrency %d, worker.concurrency %d", o.databases, o.tables, o.backlog, o.replicas, o.seats, o.hands)
}

// table writes lines of tab-separated cells, the first being the head.
func table(out io.Writer, title, head string, lines func(line func(format string, args ...any))) {
	fmt.Fprintf(out, "\n%s\n\n", title)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, head+"\t")
	lines(func(format string, args ...any) { fmt.Fprintf(t, format+"\t\n", args...) })
	_ = t.Flush() // to a terminal or a pipe that is gone
}

func (r *results) print(out io.Writer) {
	fmt.Fprintf(out, "%s; PostgreSQL %s with fsync on, %d cores (%s) for everything, load %s before and %s after, %.0f s\n",
		r.Options, r.Postgres, r.Cores, r.Arch, r.LoadBefore, r.LoadAfter, r.Seconds)
	table(out, "Planning: writing batches into ledger and queue", "backlog\tbatches\tseconds\tbatches/s\tcores\tbatch MB\tits indexes\tjob MB\tits indexes", func(line func(string, ...any)) {
		const mb = 1e6
		for _, e := range r.Enqueue {
			line("%d\t%d\t%.1f\t%.0f\t%.2f\t%.0f\t%.0f\t%.0f\t%.0f", e.Backlog, e.Batches, e.Seconds, e.Rate, e.Cores,
				float64(e.BatchHeap)/mb, float64(e.BatchIndexes)/mb, float64(e.JobHeap)/mb, float64(e.JobIndexes)/mb)
		}
	})
	table(out, "Admission: milliseconds of one call", "backlog\tdatabases at a time\tp50\tp99\tmax\tcase", func(line func(string, ...any)) {
		for _, a := range r.Admission {
			line("%d\t%d\t%.1f\t%.1f\t%.1f\t%s", a.Backlog, a.Places, a.P50, a.P99, a.Max, a.Case)
		}
	})
	table(out, "Reports and reconcile: milliseconds, median", "backlog\ttotals\tbacklogs\tworkers\treconcile slice\tp99\tslices\tround", func(line func(string, ...any)) {
		for _, p := range r.Reports {
			line("%d\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%d\t%.0f", p.Backlog, p.Totals.P50, p.Backlogs.P50, p.Workers.P50, p.Slice.P50, p.Slice.P99, p.Slices, p.RoundSecond*1000)
		}
	})
	table(out, "Fleets", "seats\tjobs/s\trunning\tof seats\ttransactions/s\tstatements/s\tfetches/s\tempty\tsnoozed\tadmissions/s\tp50\tp99\tpostgres cores\treplicas'\tconnections\tfailed\tscenario",
		func(line func(string, ...any)) {
			for _, w := range r.Fleet {
				line("%d\t%.1f\t%.1f\t%.0f %%\t%.0f\t%.0f\t%.0f\t%.0f %%\t%.2f %%\t%.0f\t%.1f\t%.1f\t%.2f\t%.2f\t%d\t%d\t%s", w.Seats, w.Jobs, w.Running, 100*w.Running/float64(w.Seats),
					w.Transactions, w.Statements, w.Fetches, 100*w.EmptyFetches, 100*w.Snoozed, w.Admissions, w.Admit.P50, w.Admit.P99, w.Cores, w.ReplicaCores, w.Connections, w.Failed, w.scenario)
			}
		})
	for _, w := range r.Fleet {
		if w.MostOfOne > 0 || w.Errors > 0 {
			fmt.Fprintf(out, "\n%s\n  at most %d running, of %d databases, %d of one; %d errors %s\n", w.scenario, w.MostRunning, w.MostDatabases, w.MostOfOne, w.Errors, w.Error)
		}
		if len(w.Top) > 0 && w.telling(r) {
			table(out, "  "+w.String()+": where the database's time goes", "calls/s\tms each\tof it planning\ts/s\tstatement", func(line func(string, ...any)) {
				for _, s := range w.Top {
					line("%.1f\t%.2f\t%.2f\t%.3f\t%s", s.Calls, s.Millis, s.Planned, s.Seconds, s.What)
				}
			})
		}
	}
}

// telling says whether the statements of a fleet are printed: those of the largest that
// has nothing to do, and of those with middling batches. The JSON has them all.
func (w watched) telling(r *results) bool {
	for _, o := range r.Fleet {
		if o.Idle == w.Idle && o.Replicas > w.Replicas {
			return false
		}
	}
	return w.Idle || w.Stage == 100*time.Millisecond
}
