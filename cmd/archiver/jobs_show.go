package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
)

func (c *cli) jobsShowCommand() *cobra.Command {
	var byBatch bool
	cmd := &cobra.Command{
		Use:   "show JOB_ID",
		Short: "Show everything about one batch",
		Long: `Show one batch, finished or not: its rows, how far it has got, its object, the error of
every try, what a retry would do, and what to do next.

Examples:
  archiver jobs show 17
  archiver jobs show --batch 4 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := c.open(cmd.Context())
			if err != nil {
				return err
			}
			defer a.close()
			ids, err := a.batches(cmd.Context(), args, byBatch)
			if err != nil {
				return err
			}
			client, err := a.queue()
			if err != nil {
				return err
			}
			d, err := fleet.Describe(cmd.Context(), a.ledger, client, ids[0])
			if err != nil {
				return err
			}
			standing, err := fleet.ReadStanding(cmd.Context(), a.ledger, a.control)
			if err != nil {
				return err
			}
			d.WaitingFor = standing.WhyJob(d.Job)
			if c.json {
				return outputError(c.printJSON(jobDocumentOf(d)))
			}
			return c.printJob(d)
		},
	}
	cmd.Flags().BoolVar(&byBatch, "batch", false, "the id is that of a batch, not of a job")
	return c.jsonFlag(cmd)
}

// jobDocument is jobs show --json.
type jobDocument struct {
	jobLine
	Schema     string          `json:"schema"`
	RunID      int64           `json:"run_id"`
	Range      string          `json:"range"`
	Rows       int64           `json:"rows_planned"`
	Tries      int             `json:"ledger_attempt"`
	CreatedAt  string          `json:"created_at"`
	ArchivedAt *string         `json:"archived_at"`
	QueueState *string         `json:"queue_state"`
	NextTry    *string         `json:"next_try_at"`
	Object     *jobObject      `json:"object"`
	Timings    *ledger.Timings `json:"timings"`
	Errors     []jobError      `json:"errors"`
	OnRetry    string          `json:"on_retry"`
	Next       string          `json:"next"`
}

type jobObject struct {
	Key       string  `json:"key"`
	VersionID *string `json:"version_id"`
	State     string  `json:"state"`
	Rows      int64   `json:"rows"`
	Bytes     int64   `json:"bytes"`
	SHA256    string  `json:"sha256"`
	ReadFrom  string  `json:"read_from"`
}

type jobError struct {
	At      string `json:"at"`
	Attempt int    `json:"attempt"`
	Error   string `json:"error"`
}

func jobDocumentOf(d *fleet.Detail) jobDocument {
	doc := jobDocument{
		jobLine: lineOf(d.Job), Schema: d.Schema, RunID: d.RunID, Range: rangeWords(d.Batch), Rows: d.Batch.RowsPlanned, Tries: d.LedgerAttempt,
		CreatedAt: stamp(d.CreatedAt), ArchivedAt: stampOf(d.ArchivedAt), QueueState: nullable(d.QueueState), NextTry: stampOf(d.NextTry),
		Timings: d.Timings, Errors: []jobError{}, OnRetry: onRetry(d), Next: nextStep(d),
	}
	if o := d.Batch.Object; o != nil {
		doc.Object = &jobObject{
			Key: o.Key, VersionID: nullable(o.VersionID), State: string(o.State), Rows: o.Rows, Bytes: o.StoredBytes, SHA256: fmt.Sprintf("%x", o.SHA256), ReadFrom: o.ReadFrom,
		}
	}
	for _, e := range d.Errors {
		doc.Errors = append(doc.Errors, jobError{At: stamp(e.At), Attempt: e.Attempt, Error: e.Error})
	}
	return doc
}

func (c *cli) printJob(d *fleet.Detail) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	line("batch", "%d of %s, run %d, planned %s", d.BatchID, config.Table{Database: d.Database, Schema: d.Schema, Name: d.Table}, d.RunID, stamp(d.CreatedAt))
	line("job", "%d, try %s, in the queue: %s", d.ID, tries(d.Job), orDash(d.QueueState))
	line("state", "%s since %s (%s)", d.State, stamp(d.Since), ago(d.Since))
	line("got as far as", "%s", stageWords(d.Stage))
	line("rows", "%s; %s planned", rangeWords(d.Batch), humanize.Comma(d.Batch.RowsPlanned))
	if o := d.Batch.Object; o != nil {
		line("object", "%s", o.Key)
		line("", "%s rows, %s, %s, sha256 %x", humanize.Comma(o.Rows), bytesText(o.StoredBytes), o.State, o.SHA256)
		if o.VersionID != "" {
			line("", "version %s", o.VersionID)
		}
		line("read from", "%s", readFromWords(o))
	}
	if d.Worker != "" {
		line("worker", "%s", d.Worker)
	}
	if d.WaitingFor != "" {
		line("waits for", "%s", d.WaitingFor)
	}
	if d.NextTry != nil && d.State == fleet.JobWaiting {
		line("next try", "%s (%s)", stamp(*d.NextTry), ago(*d.NextTry))
	}
	if d.LastError != "" {
		line("last error", "%s", d.LastError)
	}
	if d.Hint != "" {
		line("hint", "%s", d.Hint)
	}
	if t := d.Timings; t != nil {
		line("seconds", "query %.2f, serialize %.2f, compress %.2f, upload %.2f, verify %.2f, delete %.2f, record %.2f, total %.2f",
			t.Query, t.Serialize, t.Compress, t.Upload, t.Verify, t.Delete, t.Record, t.Total)
	}
	if err := w.Flush(); err != nil {
		return outputError(err)
	}
	if len(d.Errors) > 0 {
		c.printf("\nerrors of its tries:\n")
		for _, e := range d.Errors {
			c.printf("  %s  try %d: %s\n", stamp(e.At), e.Attempt, clip(e.Error, 1000))
		}
	}
	c.printf("\non a retry: %s\nnext:       %s\n", onRetry(d), nextStep(d))
	return nil
}

// rangeWords says which rows a batch covers.
func rangeWords(b *ledger.Batch) string {
	from := "from the oldest"
	switch {
	case b.Range.After != nil:
		from = "after (" + strings.Join(b.Range.After, ", ") + ")"
	case b.Range.FromTS != nil:
		from = "from " + *b.Range.FromTS + " (included)"
	}
	return fmt.Sprintf("by (%s), %s up to (%s), included", strings.Join(b.KeyColumns, ", "), from, strings.Join(b.Range.To, ", "))
}

func readFromWords(o *ledger.Object) string {
	if o.ReadFrom == source.ReadReplica {
		return "the read replica; the delete compares identity and content of each row with the primary"
	}
	return "the primary"
}

func stageWords(s ledger.State) string {
	switch s {
	case ledger.Planned:
		return "planned: its rows are in the table"
	case ledger.Verified:
		return "verified: its rows are in the table, and in an object that was read back whole"
	case ledger.Deleting:
		return "deleting: its rows are in an object; the delete was begun, and whether it happened is found out by looking at the rows"
	case ledger.Archived:
		return "archived: its rows are in the object, and deleted"
	case ledger.Empty:
		return "empty: no row was left in its range"
	case ledger.Cancelled:
		return "cancelled: it deleted nothing"
	}
	return string(s)
}

func onRetry(d *fleet.Detail) string {
	switch d.Stage {
	case ledger.Planned:
		return "its rows are read, uploaded, verified, and only then deleted"
	case ledger.Verified:
		return "its object is read back once more; if it is whole, exactly its rows are deleted, else they are read again"
	case ledger.Deleting:
		return "its rows are looked up: deleted as a whole, the batch is recorded; still there, they are deleted; changed, they are read again"
	case ledger.Archived, ledger.Empty, ledger.Cancelled:
	}
	return "nothing: the batch is finished, and a retry is refused"
}

func nextStep(d *fleet.Detail) string {
	switch d.State {
	case fleet.JobFailed:
		return fmt.Sprintf("mend what the error names, then: archiver jobs retry %d", d.ID)
	case fleet.JobStuck:
		return fmt.Sprintf("a live worker takes it back within seconds; without one: archiver work, or: archiver jobs retry %d", d.ID)
	case fleet.JobLost:
		return fmt.Sprintf("put it back into the queue: archiver jobs retry %d", d.ID)
	case fleet.JobWaiting:
		if d.NextTry != nil && d.NextTry.After(time.Now()) {
			return fmt.Sprintf("nothing, it is tried again by itself; to try at once: archiver jobs retry %d", d.ID)
		}
		return "nothing, it is tried again by itself; if no worker is running: archiver work"
	case fleet.JobQueued:
		if strings.HasPrefix(d.WaitingFor, fleet.PausedWord) {
			return "nothing before the pause is lifted: archiver resume"
		}
		return "nothing, it is worked when a seat is free; if no worker is running: archiver work"
	case fleet.JobRunning:
		return "nothing, it is being worked on"
	}
	if d.Stage == ledger.Archived && d.Batch.Object != nil {
		return "read its rows: archiver cat '" + d.Batch.Object.Key + "'"
	}
	return "nothing; rows that are still in the table are taken up by the next: archiver plan"
}
