package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/planner"
)

func (c *cli) planCommand() *cobra.Command {
	var o planOptions
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Enqueue what is old enough to be archived",
		Long: `Cut what is older than the retention into batches and enqueue them for the workers.
No row is archived or deleted by this command. Planning twice adds nothing: a table
with open batches is planned only beyond the last of them.

With adaptive_batch (on by default) a backlog of more than 32 batches is enqueued in
windows: 4 batches at once (or twice the concurrency), the next ones by the workers as
the run goes on, with the batch size that the measured query times ask for, up to the
same cutoff. The counts are of the whole backlog in any case.

A table that is refused, and a database that is away, do not stop the others: exit
code 3. It is 12 if every table was refused, and 13 if no database could be reached.

Examples:
  archiver plan --dry-run
  archiver plan --database orders --table public.audit_logs
  archiver plan --cutoff 2024-01-01
  archiver plan --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.plan(cmd.Context(), o) },
	}
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "print the plan and write nothing")
	o.flags(cmd)
	return c.jsonFlag(cmd)
}

// planOptions narrow a plan.
type planOptions struct {
	selection
	cutoffFlag string
	dryRun     bool
}

func (o *planOptions) flags(cmd *cobra.Command) {
	o.selection.flags(cmd)
	cmd.Flags().StringVar(&o.cutoffFlag, "cutoff", "", "plan rows before `TIME` only (2024-01-31, in UTC, or 2024-01-31T12:00:00+01:00); never later than the retention allows")
}

// cutoff reads --cutoff; nil means the retention's own.
func (o *planOptions) cutoff() (*time.Time, error) {
	if o.cutoffFlag == "" {
		return nil, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, o.cutoffFlag); err == nil {
			return &t, nil
		}
	}
	return nil, usage("--cutoff %q is neither a date (2024-01-31) nor a time with its zone (2024-01-31T12:00:00Z)", o.cutoffFlag)
}

// planned is what became of one table.
type planned struct {
	table config.Table
	plan  *planner.Plan // nil when the table could not be looked at
	err   error
}

func (p planned) refused() bool { return p.err == nil && len(p.plan.Refused()) > 0 }

func (c *cli) plan(ctx context.Context, o planOptions) error {
	a, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.openSources(ctx, "archiver plan"); err != nil {
		return err
	}
	results, err := a.planTables(ctx, o, func(p planned) {
		if !c.json {
			c.printPlan(p, o.dryRun)
		}
	})
	if err != nil {
		return err
	}
	if c.json {
		if err := c.printJSON(planReport(ctx, results)); err != nil {
			return err
		}
	} else {
		c.printPlanTotal(results, o.dryRun)
	}
	return planOutcome(ctx, results)
}

// planTables plans each selected table by itself, and enqueues unless it is a dry
// run. done sees every result as it comes. An error means that nothing was planned,
// or that ctx ended.
func (a *app) planTables(ctx context.Context, o planOptions, done func(planned)) ([]planned, error) {
	tables, err := a.tables(o.selection)
	if err != nil {
		return nil, err
	}
	cutoff, err := o.cutoff()
	if err != nil {
		return nil, err
	}
	if err := a.checkCutoff(ctx, tables, cutoff); err != nil {
		return nil, err
	}
	queue, err := a.queue()
	if err != nil {
		return nil, err
	}
	reached := map[string]error{}
	var results []planned
	for _, t := range tables {
		db := a.sources[t.Database]
		if _, asked := reached[t.Database]; !asked {
			reached[t.Database] = db.Ping(ctx)
		}
		p := planned{table: t, err: reached[t.Database]}
		if p.err == nil {
			database := a.cfg.Database(t.Database)
			p.plan, p.err = planner.Make(ctx, db, a.ledger, t, planner.Options{Cutoff: cutoff, Siblings: database.Tables, Concurrency: database.Concurrency})
		}
		if p.err == nil && !o.dryRun && !p.refused() {
			p.err = p.plan.Enqueue(ctx, a.ledger, queue)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		results = append(results, p)
		done(p)
	}
	return results, nil
}

// checkCutoff finds a --cutoff that is too late for one of the tables before any
// is planned. It goes by the control database's clock; the plan itself goes by the
// source's.
func (a *app) checkCutoff(ctx context.Context, tables []config.Table, cutoff *time.Time) error {
	if cutoff == nil {
		return nil
	}
	now, err := a.ledger.Now(ctx)
	if err != nil {
		return fmt.Errorf("read the control database's clock: %w", err)
	}
	for _, t := range tables {
		if own := now.Add(-t.Retention); cutoff.After(own) {
			late := &planner.LateCutoffError{Table: t.String(), Asked: *cutoff, Own: own}
			return &exitError{code: exitUsage, err: fmt.Errorf("%w; nothing was planned", late), hint: late.Hint()}
		}
	}
	return nil
}

// planOutcome turns what became of the tables into the command's own result.
func planOutcome(ctx context.Context, results []planned) error {
	var refused, away, late, other int
	var first error // of those that count as trouble
	for _, r := range results {
		var lateError *planner.LateCutoffError
		switch {
		case r.refused():
			refused++
			first = cmp.Or[error](first, &source.RefusedError{Table: r.table.String(), Findings: r.plan.Refused()})
			continue
		case r.err == nil:
			continue
		case errors.As(r.err, &lateError):
			late++
		case exitCode(ctx, r.err) == exitUnreachable:
			away++
		default:
			other++
		}
		first = cmp.Or(first, r.err)
	}
	all := len(results)
	switch bad := refused + away + late + other; {
	case bad == 0:
		return nil
	case late > 0:
		return &exitError{code: exitUsage, err: first, hint: hintOf(first)}
	case bad == 1 && all == 1:
		err := &exitError{code: exitCode(ctx, first), err: first, hint: hintOf(first)}
		if refused == 1 {
			err.err = fmt.Errorf("%w; nothing was planned", first)
		}
		if planner.IsMeanwhile(first) {
			err.code, err.hint = exitPartly, "what the other planner enqueued stands; run archiver plan again for the rest, if any"
		}
		return err
	case refused == all:
		return &exitError{code: exitRefused, err: fmt.Errorf("all %d tables are refused; nothing was planned", all), hint: "run: archiver check"}
	case away == all:
		return &exitError{code: exitUnreachable, err: fmt.Errorf("no database could be reached; nothing was planned: %w", first), hint: hintOf(first)}
	case other == all && !planner.IsMeanwhile(first):
		return &exitError{code: exitFailed, err: fmt.Errorf("no table could be planned: %w", first), hint: hintOf(first)}
	default:
		return &exitError{
			code: exitPartly, hint: "run: archiver check",
			err: fmt.Errorf("%d of %d tables were not planned, or not in full (%d refused, %d in databases that are away, %d failed); the others were", bad, all, refused, away, other),
		}
	}
}

func (c *cli) printPlan(p planned, dryRun bool) {
	c.printf("%s\n", p.table)
	if p.err != nil && (p.plan == nil || p.plan.Enqueued == 0) {
		c.printf("  not planned    %s\n\n", flat(p.err))
		return
	}
	if p.refused() {
		c.printf("  refused        nothing was planned\n")
	} else {
		plan := p.plan
		oldest := "no row in the table"
		if plan.TableSize.Oldest != nil {
			oldest = *plan.TableSize.Oldest
		}
		c.printf("  cutoff         %s\n", stamp(plan.Cutoff.At))
		c.printf("  oldest row     %s\n", oldest)
		about := ""
		if plan.Bytes > 0 {
			about = ", about " + bytesText(plan.Bytes) + " in the table"
		}
		c.printf("  eligible       %s%s\n", plural(plan.Rows, "row", "rows"), about)
		c.printf("  batches        %s of at most %s\n", humanize.Comma(int64(plan.Batches)), plural(int64(plan.BatchSize), "row", "rows"))
		if plan.Open.OpenBatches > 0 {
			c.printf("  already open   %s with %s; only what lies beyond them is planned\n", plural(plan.Open.OpenBatches, "batch", "batches"), plural(plan.Open.OpenRows, "row", "rows"))
		}
		if plan.Open.UnplannedRun != 0 {
			c.printf("  run %-11d is planned to %s; its other %s, about, follow as it goes on, and what is newer with the plan after it\n", plan.Open.UnplannedRun, plan.Open.PlannedTo[0], plural(plan.Open.UnplannedRows, "row", "rows"))
		}
		switch {
		case plan.PassedOver != nil:
			c.printf("  read from      the %s: %s\n", plan.ReadFrom, flat(plan.PassedOver))
		case plan.ReadFrom == source.ReadReplica:
			c.printf("  read from      the %s\n", plan.ReadFrom)
		}
		switch {
		case dryRun:
			c.printf("  dry run        nothing was written\n")
		case plan.Enqueued > 0:
			c.printf("  enqueued       %s as run %d\n", plural(int64(plan.Enqueued), "batch", "batches"), plan.RunID)
			if plan.Later > 0 {
				c.printf("  later          %s follow in windows as the run goes on, with the batch size that queries ask for (adaptive_batch)\n", plural(plan.Later, "row", "rows"))
			}
		default:
			c.printf("  enqueued       nothing\n")
		}
		if p.err != nil {
			c.printf("  stopped        %s\n", flat(p.err))
		}
	}
	for _, f := range p.plan.Findings {
		if f.Severity != source.Info {
			c.printFinding("  ", f.Severity, f.Code, f.Message, f.Hint)
		}
	}
	c.printf("\n")
}

func (c *cli) printPlanTotal(results []planned, dryRun bool) {
	var batches, rows, enqueued int64
	for _, r := range results {
		if r.plan != nil && !r.refused() {
			batches += int64(r.plan.Batches)
			rows += r.plan.Rows
			enqueued += int64(r.plan.Enqueued)
		}
	}
	switch {
	case dryRun:
		c.printf("dry run: %s with %s would be enqueued\n", plural(batches, "batch", "batches"), plural(rows, "row", "rows"))
	case enqueued > 0:
		c.printf("%s enqueued; next: archiver work\n", plural(enqueued, "batch", "batches"))
	default:
		c.printf("nothing new was enqueued\n")
	}
}
