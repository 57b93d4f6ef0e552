package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
)

// watchStatus shows the status until ctx ends: on a terminal in place, else one report
// after the other. A control database that is away for a while does not end it.
func (c *cli) watchStatus(ctx context.Context, a *app, every time.Duration) error {
	f, ok := c.out.(*os.File)
	terminal := ok && term.IsTerminal(int(f.Fd()))
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		s, err := a.status(ctx)
		if ctx.Err() != nil {
			return errWatched
		}
		if err := c.showStatus(s, err, terminal, every); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errWatched
		case <-tick.C:
		}
	}
}

// errWatched ends a watch, which nothing but an interruption does.
var errWatched = &exitError{code: exitInterrupted, err: errors.New("interrupted")}

// inPlace moves to the upper left corner and clears what is below it: what is drawn next
// comes over the old picture, without a flicker.
const inPlace = "\x1b[H\x1b[J"

func (c *cli) showStatus(s *statusReport, trouble error, terminal bool, every time.Duration) error {
	if c.json && trouble == nil {
		return outputError(c.printJSON(s))
	}
	var page bytes.Buffer
	if terminal {
		page.WriteString(inPlace)
	}
	fmt.Fprintf(&page, "%s, every %s\n\n", time.Now().UTC().Format(time.RFC3339), every)
	if trouble != nil {
		fmt.Fprintf(&page, "the control database does not answer: %s\n", flat(trouble))
		if !terminal {
			_, err := c.err.Write(page.Bytes())
			return err
		}
	} else if err := s.print(&page); err != nil {
		return outputError(err)
	}
	if !terminal {
		page.WriteString("\n")
	}
	_, err := c.out.Write(page.Bytes())
	return outputError(err)
}

func (s *statusReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TABLE\tPLANNED\tRUNNING\tVERIFIED\tDELETING\tFAILED\tARCHIVED\tROWS ARCHIVED\tROWS PLANNED\tSTORED\tROWS/S\tETA\tLAST\tNEXT PLAN")
	for _, t := range s.Tables {
		n := t.Batches
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.name(), n.Planned, n.Running, n.Verified, n.Deleting, n.Failed, n.Archived,
			humanize.Comma(t.RowsArchived), humanize.Comma(t.RowsPlanned), bytesText(t.BytesStored), t.rate(), t.eta(), t.last(), t.nextPlan())
	}
	fmt.Fprintln(w)
	if len(s.Workers) == 0 {
		fmt.Fprintln(w, "no worker is running")
	} else {
		fmt.Fprintln(w, "WORKER\tHOST\tSTARTED\tRUNNING")
	}
	for _, r := range s.Workers {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.ID, r.Host, r.StartedAt, r.works())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if limits := s.Limits.String(); limits != "" {
		fmt.Fprintf(out, "\n%s\n", limits)
	}
	for _, line := range s.remarks() {
		fmt.Fprintln(out, line)
	}
	for _, hint := range s.hints() {
		fmt.Fprintf(out, "hint: %s\n", hint)
	}
	return nil
}

// works is what a worker runs: "2: job 17 app.public.audit_logs verified 3s, ...".
func (w workerStatus) works() string {
	if len(w.Batches) == 0 {
		return "0"
	}
	const most = 4
	var list []string
	for _, b := range w.Batches[:min(len(w.Batches), most)] {
		list = append(list, fmt.Sprintf("job %d %s %s %s", b.JobID, b.name, b.Stage, span(time.Since(b.since))))
	}
	if len(w.Batches) > most {
		list = append(list, "...")
	}
	return fmt.Sprintf("%d: %s", w.Running, strings.Join(list, ", "))
}

// String is "seats taken: app 2 of 2, billing 0 of 4; 1 of 3 databases at a time".
func (l limitsStatus) String() string {
	if len(l.Seats) == 0 {
		return ""
	}
	var names, list []string
	for d := range l.Seats {
		names = append(names, d)
	}
	slices.Sort(names)
	for _, d := range names {
		list = append(list, fmt.Sprintf("%s %d of %d", d, l.Taken[d], l.Seats[d]))
	}
	return fmt.Sprintf("seats taken: %s; %d of %d databases at a time", strings.Join(list, ", "), len(l.Taken), l.Databases)
}

// remarks are lines about single tables and workers.
func (s *statusReport) remarks() []string {
	var out []string
	for _, t := range s.Tables {
		if n := t.Batches; n.Empty+n.Cancelled > 0 {
			out = append(out, fmt.Sprintf("%s: besides, %s found empty and %s cancelled", t.name(), plural(n.Empty, "batch was", "batches were"), plural(n.Cancelled, "was", "were")))
		}
		switch {
		case t.WaitingFor != nil:
			out = append(out, t.name()+": "+clip(*t.WaitingFor, 300))
		case t.Paused:
			out = append(out, t.name()+": paused")
		}
		if u := t.unplanned; u != nil {
			out = append(out, fmt.Sprintf("%s: run %d is planned to %s; about %s follow", t.name(), u.RunID, u.PlannedTo, plural(u.RowsLeft, "row", "rows")))
			if u.Error != "" && (t.WaitingFor == nil || *t.WaitingFor != u.Error) { // else it stands above
				out = append(out, t.name()+": "+clip(u.Error, 300))
			}
			if u.Hint != "" {
				out[len(out)-1] += "\n  hint: " + u.Hint
			}
		}
		if t.BatchSize != nil && t.LastQuerySeconds != nil {
			out = append(out, fmt.Sprintf("%s: batches of %s, the last query took %.2f s", t.name(), plural(int64(*t.BatchSize), "row", "rows"), *t.LastQuerySeconds))
		}
		if t.Vacuum != nil {
			out = append(out, t.name()+": "+clip(t.Vacuum.text, 300))
		}
		if trouble := t.scheduleTrouble(); trouble != "" {
			out = append(out, t.name()+": "+trouble)
		}
	}
	for _, w := range s.Workers {
		if w.HeldFor != nil {
			out = append(out, fmt.Sprintf("worker %s takes no batches: %s", w.ID, clip(*w.HeldFor, 300)))
		}
	}
	for _, j := range s.StuckJobs {
		out = append(out, fmt.Sprintf("stuck: job %d (batch %d of %s): %s", j.JobID, j.BatchID, j.name, j.Why))
	}
	return append(out, s.Limits.Disagree...)
}

// stuckJob is a batch that a dead worker has.
type stuckJob struct {
	JobID   int64  `json:"job_id"`
	BatchID int64  `json:"batch_id"`
	Worker  string `json:"worker"`
	Since   string `json:"since"`
	Why     string `json:"why"`

	name string
}

func stuckJobOf(j fleet.Job) stuckJob {
	return stuckJob{
		JobID: j.ID, BatchID: j.BatchID, Worker: j.Worker, Since: stamp(j.Since),
		Why:  fmt.Sprintf("its worker %s, which has had it since %s, does not renew its lease any more: killed, stopped or cut off", j.Worker, ago(j.Since)),
		name: config.Table{Database: j.Database, Schema: j.Schema, Name: j.Table}.String(),
	}
}

// hints say what an operator should look at.
func (s *statusReport) hints() []string {
	var ever, open, failed, stuck, lost int64
	var foreign, paused bool
	for _, t := range s.Tables {
		ever += t.Batches.open() + t.Batches.Archived + t.Batches.Empty + t.Batches.Cancelled
		open += t.Batches.open() - t.Batches.Failed - t.Lost
		failed, stuck, lost = failed+t.Batches.Failed, stuck+t.Stuck, lost+t.Lost
		paused = paused || t.Paused
		foreign = foreign || (!t.Configured && t.Batches.open() > 0)
	}
	var out []string
	if ever == 0 {
		out = append(out, "nothing was planned yet: archiver plan")
	}
	if failed > 0 {
		out = append(out, plural(failed, "failed batch", "failed batches")+": archiver jobs list --failed")
	}
	if stuck > 0 {
		out = append(out, plural(stuck, "batch is", "batches are")+" held by a dead worker; a live one takes them back, or: archiver jobs retry --stuck")
	}
	if lost > 0 {
		out = append(out, plural(lost, "batch has", "batches have")+" no job in the queue: archiver jobs list, then archiver jobs retry JOB_ID")
	}
	if open > 0 && len(s.Workers) == 0 && !paused {
		out = append(out, plural(open, "batch waits", "batches wait")+" for a worker: archiver work")
	}
	if foreign {
		out = append(out, "nobody works on the batches of tables marked (not configured): put the table back, or: archiver jobs cancel JOB_ID")
	}
	return out
}

func (t *tableStatus) name() string {
	name := config.Table{Database: t.Database, Schema: t.Schema, Name: t.Table}.String()
	if !t.Configured {
		name += " (not configured)"
	}
	return name
}

func (t *tableStatus) rate() string {
	if t.RowsPerSecond == nil {
		return "-"
	}
	return humanize.CommafWithDigits(*t.RowsPerSecond, 0)
}

func (t *tableStatus) eta() string {
	if t.ETASeconds == nil {
		return "-"
	}
	return (time.Duration(*t.ETASeconds) * time.Second).String()
}

func (t *tableStatus) last() string {
	if t.LastArchived == nil {
		return "-"
	}
	at, err := time.Parse(time.RFC3339, *t.LastArchived)
	if err != nil {
		return *t.LastArchived
	}
	return ago(at)
}
