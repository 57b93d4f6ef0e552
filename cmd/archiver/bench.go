package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"path"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/measure"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/worker"
)

// benchOptions say what `archiver bench` measures.
type benchOptions struct {
	selection
	rows   int64
	upload bool
}

func (c *cli) benchCommand() *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast a table could be archived; delete nothing",
		Long: `Read the oldest rows of a table that are past their retention, encode, compress, read
back and verify them with the settings of the configuration, and print where the time
went. Nothing is deleted, and neither ledger nor queue is needed or touched. As many
batches run at a time as one worker would take for the database.

Rows go to a temporary file and no further, unless --upload is given: then each batch is
an object below PREFIX/_bench/ in the bucket, and is read back from there. These objects
stay, since the archiver never deletes one; the report says where they are.

Then the same rows are read once more, as an ordered binary COPY to nowhere, one batch
after the other: no archiver that reads one batch at a time can be faster than that.
The server has the rows at hand by then, so on a table that was not in memory before,
the ratio looks worse than it is; a second call shows by how much.

The delete and the vacuum are not measured. On a server whose disk keeps up the delete
takes about as long as the query phase. What all this costs the server, processor time
and WAL, a client cannot see.

Examples:
  archiver bench --database orders --table public.audit_logs
  archiver bench --table public.audit_logs --rows 1000000 --upload --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.bench(cmd.Context(), o) },
	}
	o.flags(cmd)
	cmd.Flags().Int64Var(&o.rows, "rows", 100_000, "measure about so many `ROWS`, the oldest ones, in whole batches")
	cmd.Flags().BoolVar(&o.upload, "upload", false, "upload the objects, below a prefix of their own, where they stay")
	return c.jsonFlag(cmd)
}

// benchReport is the result of `archiver bench`.
type benchReport struct {
	Database string `json:"database"`
	Schema   string `json:"schema"`
	Table    string `json:"table"`
	measure.Result
	RowsPerSecond   float64 `json:"rows_per_second"`
	Workers         int     `json:"batches_at_a_time"`
	TableRows       int64   `json:"table_rows"`       // by the server's statistics; not all need be old enough
	EstimateSeconds float64 `json:"estimate_seconds"` // for as many rows as the table has, without delete and vacuum
	TimesReadFloor  float64 `json:"times_read_floor"` // seconds, as a multiple of read_floor_seconds
	UploadedTo      string  `json:"uploaded_to"`      // empty: nothing was uploaded
	name            string
}

func (c *cli) bench(ctx context.Context, o benchOptions) error {
	if o.rows < 1 {
		return usage("--rows %d: must be at least 1", o.rows)
	}
	a, err := c.load()
	if err != nil {
		return err
	}
	defer a.close()
	tables, err := a.tables(o.selection)
	if err != nil {
		return err
	}
	if len(tables) > 1 {
		return usage("%d tables match; name one with --database and --table", len(tables))
	}
	report, err := a.measure(ctx, tables[0], o)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(report)
	}
	return c.printBench(report)
}

func (a *app) measure(ctx context.Context, t config.Table, o benchOptions) (*benchReport, error) {
	if err := worker.CheckSpool(a.cfg.Worker.SpoolDir); err != nil {
		return nil, err
	}
	if err := a.openSources(ctx, "archiver bench"); err != nil {
		return nil, err
	}
	db := a.sources[t.Database]
	if err := db.Ping(ctx); err != nil {
		return nil, err
	}
	table, findings, err := db.Preflight(ctx, t)
	if err != nil {
		return nil, err
	}
	if refusals := source.Refusals(findings); len(refusals) > 0 {
		return nil, &source.RefusedError{Table: t.String(), Findings: refusals}
	}
	size, err := db.Size(ctx, table)
	if err != nil {
		return nil, err
	}
	m := measure.Options{Rows: o.rows, Workers: a.batchesAtATime(t), SpoolDir: a.cfg.Worker.SpoolDir, Timeout: a.cfg.Worker.BatchTimeout}
	if o.upload {
		if err := a.openStore(ctx); err != nil {
			return nil, err
		}
		m.Store = a.store
		m.Prefix = a.benchFolder() + time.Now().UTC().Format("20060102T150405Z") + "-" + rand.Text()[:8] + "/"
	}
	result, err := measure.Table(ctx, db, table, m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; nothing was deleted", t, err)
	}
	if result.Rows == 0 {
		return nil, fmt.Errorf("%s: no row is older than its retention (%s): nothing to measure", t, t.Retention)
	}
	r := &benchReport{
		Database: t.Database, Schema: t.Schema, Table: t.Name, name: t.String(), Result: result, RowsPerSecond: result.RowsPerSecond(),
		Workers: m.Workers, TableRows: int64(size.Rows), TimesReadFloor: result.TimesReadFloor(), UploadedTo: m.Prefix,
	}
	if r.RowsPerSecond > 0 {
		r.EstimateSeconds = size.Rows / r.RowsPerSecond
	}
	return r, nil
}

// batchesAtATime is how many batches of the table's database one worker takes.
func (a *app) batchesAtATime(t config.Table) int {
	for _, d := range a.cfg.Databases {
		if d.Name == t.Database {
			return min(d.Concurrency, a.cfg.Worker.Concurrency)
		}
	}
	return 1
}

func (c *cli) printBench(r *benchReport) error {
	c.printf("%s: %s in %s, %s at a time\n\n", r.name, plural(r.Rows, "row", "rows"), plural(r.Batches, "batch", "batches"), plural(int64(r.Workers), "batch", "batches"))
	p := r.Phases
	sum := p.Plan + p.Query + p.Serialize + p.Compress + p.Upload + p.Verify
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "SECONDS\tSHARE\t  PHASE")
	for _, phase := range []struct {
		name    string
		seconds float64
		done    bool
	}{
		{"plan (walk the index)", p.Plan, true},
		{"query", p.Query, true},
		{"serialize", p.Serialize, true},
		{"compress", p.Compress, true},
		{"upload", p.Upload, r.UploadedTo != ""},
		{"verify", p.Verify, true},
		{"delete", 0, false},
		{"vacuum", 0, false},
	} {
		if !phase.done {
			fmt.Fprintf(w, "-\t-\t  %s: not measured\n", phase.name)
			continue
		}
		fmt.Fprintf(w, "%.2f\t%.0f %%\t  %s\n", phase.seconds, 100*phase.seconds/sum, phase.name)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	c.printf("\nPhases are summed over batches and overlap. In all: %s, %s rows/s, %s/s of lines, %s stored (1 to %.1f).\n",
		span(time.Duration(r.Seconds*float64(time.Second))), humanize.Comma(int64(r.RowsPerSecond)), bytesText(int64(float64(r.RawBytes)/r.Seconds)),
		bytesText(r.StoredBytes), float64(r.RawBytes)/float64(r.StoredBytes))
	c.printf("Reading the same rows with an ordered binary COPY to nowhere takes %.2f s: bench took %.1f times as long.\n", r.ReadFloorSeconds, r.TimesReadFloor)
	if r.PeakMemoryMB > 0 {
		c.printf("Peak memory of this process: %.0f MB.\n", r.PeakMemoryMB)
	}
	c.printf("At this rate the table's %s (by the server's statistics) take %s, and deleting them comes on top.\n",
		plural(r.TableRows, "row", "rows"), span(time.Duration(r.EstimateSeconds*float64(time.Second))))
	if r.UploadedTo != "" {
		c.printf("The objects below %s in the bucket stay there: the archiver deletes none.\n", r.UploadedTo)
	}
	c.printf("Nothing was deleted.\n")
	return nil
}

// benchFolder is where --upload leaves its objects. They are copies of rows that are still
// in their tables.
func (a *app) benchFolder() string { return path.Join(a.cfg.S3.Prefix, "_bench") + "/" }
