package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/telemetry"
	"github.com/audit-table-archiver/archiver/planner"
	"github.com/audit-table-archiver/archiver/worker"
)

func (c *cli) runCommand() *cobra.Command {
	var o planOptions
	w := worker.RunOptions{Drain: true}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Plan, and work until nothing is left: for cron and first use",
		Long: `Plan what is old enough and work on it until nothing is left, in one process: archiver
plan and archiver work --drain. Other replicas may help; two runs at once do no harm.

--database and --table narrow what is planned. Work is taken for the databases of these
tables, so batches that were open in them before are finished too.

Progress goes to stderr: a bar on a terminal (the log then shows warnings only, unless
--log-level is given), else a line every few seconds. The last line of stdout is the
result.

Exit code 3 means that some tables were refused, or that batches failed or were left.

Examples:
  archiver run
  archiver run --database orders --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.runOnce(cmd.Context(), o, w) },
	}
	o.flags(cmd)
	patienceFlag(cmd, &w)
	return c.jsonFlag(cmd)
}

// runOnce is `archiver run`.
func (c *cli) runOnce(ctx context.Context, o planOptions, w worker.RunOptions) error {
	began := time.Now()
	a, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer a.close()
	report, err := a.planAndDrain(ctx, c.logLevel, o, w, newProgress(c.err))
	if report == nil {
		return err
	}
	report.finish(time.Since(began))
	if printErr := c.printRun(report); printErr != nil {
		return errors.Join(printErr, err)
	}
	return err
}

// planAndDrain returns a report once batches could be worked on, also with an error.
func (a *app) planAndDrain(ctx context.Context, logLevel string, o planOptions, w worker.RunOptions, bar *progress) (*runReport, error) {
	if err := a.logTo(bar, logLevel); err != nil {
		return nil, err
	}
	tables, err := a.tables(o.selection)
	if err != nil {
		return nil, err
	}
	since, err := a.ledger.Now(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the control database's clock: %w", err)
	}
	cfg := narrowed(a.cfg, tables)
	if err := a.prepareWorker(ctx, cfg.Databases); err != nil {
		return nil, err
	}
	results, err := a.planTables(ctx, o, func(p planned) { fmt.Fprint(bar, planLine(p)) })
	if err != nil {
		return nil, err
	}
	outcome := planOutcome(ctx, results)
	if outcome != nil && nonePlanned(results) {
		return nil, outcome
	}
	names := tableNames(tables)
	if err := a.drainWithProgress(ctx, cfg, w, bar, names); err != nil {
		return nil, err
	}
	// Also after an interruption: what was done is done, and worth a line.
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	done, err := a.ledger.ArchivedSince(look, since, names)
	if err != nil {
		return nil, err
	}
	left, err := a.ledger.Left(look, names)
	if err != nil {
		return nil, err
	}
	if err := a.addStanding(look, left); err != nil {
		return nil, err
	}
	vacuums, err := a.ledger.VacuumedSince(look, since, names)
	if err != nil {
		return nil, err
	}
	report := newRunReport(tables, done, left, vacuums)
	if ctx.Err() != nil {
		return report, context.Cause(ctx)
	}
	return report, bothPartly(outcome, drainOutcome(left))
}

// narrowed keeps the databases of these tables, each with all of its tables: a
// worker cancels the batches of a table that it does not find configured.
func narrowed(c *config.Config, tables []config.Table) *config.Config {
	out := *c
	out.Databases = slices.DeleteFunc(slices.Clone(c.Databases), func(d config.Database) bool {
		return !slices.ContainsFunc(tables, func(t config.Table) bool { return t.Database == d.Name })
	})
	return &out
}

// logTo moves the log to where it does not tear a progress bar.
func (a *app) logTo(bar *progress, level string) error {
	c := a.cfg.Log
	if bar.terminal && level == "" && (c.Level == "info" || c.Level == "debug") {
		c.Level = "warn"
	}
	log, err := telemetry.NewLogger(c, bar)
	if err != nil {
		return err
	}
	a.log = log
	return nil
}

// drainWithProgress works until nothing is left and shows how far it is.
func (a *app) drainWithProgress(ctx context.Context, cfg *config.Config, w worker.RunOptions, bar *progress, names []ledger.TableName) error {
	read := func(ctx context.Context) (rows, failed int64, err error) {
		left, err := a.ledger.Left(ctx, names)
		for _, l := range left {
			rows, failed = rows+l.Rows, failed+l.Failed
		}
		return rows, failed, err
	}
	total, _, err := read(ctx)
	if err != nil {
		return err
	}
	follow, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { bar.follow(follow, total, read) })
	err = a.runWorker(ctx, cfg, w)
	stop()
	wg.Wait()
	return err
}

// nonePlanned says that there can be nothing to work on. What another planner has
// enqueued meanwhile is work too.
func nonePlanned(results []planned) bool {
	return !slices.ContainsFunc(results, func(r planned) bool {
		return r.err == nil && !r.refused() || r.plan != nil && r.plan.Enqueued > 0 || planner.IsMeanwhile(r.err)
	})
}

// bothPartly joins what planning and draining left undone.
func bothPartly(plan, drain error) error {
	if plan == nil || drain == nil {
		return partly(plan, drain)
	}
	return &exitError{code: exitPartly, err: fmt.Errorf("%w; and %w", plan, drain), hint: hintOf(drain)}
}

// partly is whichever of the two is an error, as code 3: something else was done.
func partly(plan, drain error) error {
	if plan != nil {
		return &exitError{code: exitPartly, err: plan, hint: hintOf(plan)}
	}
	return drain
}

// planLine says in a line what became of a table's plan.
func planLine(p planned) string {
	switch {
	case p.err != nil:
		return fmt.Sprintf("%s: not planned: %s\n", p.table, flat(p.err))
	case p.refused():
		text := fmt.Sprintf("%s: refused, nothing was planned\n", p.table)
		for _, f := range p.plan.Refused() {
			text += fmt.Sprintf("  %s: %s\n    hint: %s\n", f.Code, f.Message, f.Hint)
		}
		return text
	case p.plan.Open.UnplannedRun != 0:
		return fmt.Sprintf("%s: nothing new; run %d goes on with about %s that are not planned yet\n", p.table, p.plan.Open.UnplannedRun, plural(p.plan.Open.UnplannedRows, "row", "rows"))
	case p.plan.Later > 0:
		return fmt.Sprintf("%s: %s with %s, the first %s of them now\n", p.table, plural(int64(p.plan.Batches), "batch", "batches"), plural(p.plan.Rows, "row", "rows"), plural(int64(p.plan.Enqueued), "batch", "batches"))
	case p.plan.Enqueued == 0 && p.plan.Open.OpenBatches > 0:
		return fmt.Sprintf("%s: nothing new beyond %s still open\n", p.table, plural(p.plan.Open.OpenBatches, "batch", "batches"))
	case p.plan.Enqueued == 0:
		return fmt.Sprintf("%s: nothing is old enough\n", p.table)
	}
	return fmt.Sprintf("%s: %s with %s\n", p.table, plural(int64(p.plan.Enqueued), "batch", "batches"), plural(p.plan.Rows, "row", "rows"))
}

func (c *cli) printRun(r *runReport) error {
	if c.json {
		return c.printJSON(r)
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "ROWS ARCHIVED\tROWS LEFT\tBATCHES\tFAILED\tSTORED\t  TABLE")
	for _, t := range r.Tables {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t  %s\n", humanize.Comma(t.RowsArchived), humanize.Comma(t.RowsLeft),
			humanize.Comma(t.BatchesArchived), humanize.Comma(t.BatchesFailed), bytesText(t.BytesStored), t.name)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, t := range r.Tables {
		if t.Vacuum != nil {
			c.printf("%s: %s\n", t.name, t.Vacuum.text)
		}
	}
	c.printf("%s archived in %s, %s rows/s\n", plural(r.rows(), "row", "rows"), span(time.Duration(r.Seconds*float64(time.Second))), humanize.Comma(int64(r.RowsPerSecond)))
	return nil
}
