package main

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
)

const jobStates = `States of a batch that is not finished:
  running   a live worker has it
  stuck     running, but its worker is dead; a live worker takes it back within seconds
  waiting   goes on by itself: after an error, a lock, an outage
  failed    nothing goes on before somebody acts and retries it
  lost      not in the queue any more, as after a deletion by hand; retry puts it back
  queued    next when a seat is free`

func (c *cli) jobsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "List, show, retry and cancel batches",
		Long: `Look at the batches that are not finished, and act on them. A batch is one range of
rows, and has one job in the queue; JOB_ID is the number that jobs list prints first.

` + jobStates + `

Examples:
  archiver jobs list
  archiver jobs show 17
  archiver jobs retry --failed`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.jobsListCommand(), c.jobsShowCommand(), c.jobsRetryCommand(), c.jobsCancelCommand())
	return cmd
}

// add registers the flags that narrow a command.
func (s *selection) addTo(cmd *cobra.Command) {
	cmd.Flags().Var((*name)(&s.database), "database", "only this `DATABASE`")
	cmd.Flags().Var((*name)(&s.table), "table", "only this `[SCHEMA.]TABLE`")
}

// filter is a selection for reports. Besides the configured tables it takes those
// that the ledger knows: what was archived of a table stays visible when the table
// leaves the configuration.
func (a *app) filter(ctx context.Context, s selection) (ledger.Filter, error) {
	f := ledger.Filter{Database: s.database}
	if s.table != "" {
		var err error
		if f.Schema, f.Table, err = config.ParseTableName(s.table); err != nil {
			return f, usage("--table %s: %w", s.table, err)
		}
	}
	if f == (ledger.Filter{}) {
		return f, nil
	}
	known, err := a.ledger.Knows(ctx, f)
	if err != nil || known {
		return f, err
	}
	for _, d := range a.cfg.Databases {
		for _, t := range d.Tables {
			if (f.Database == "" || f.Database == d.Name) && (f.Table == "" || (f.Schema == t.Schema && f.Table == t.Name)) {
				return f, nil
			}
		}
	}
	_, err = a.tables(s) // says which tables there are
	return f, err
}

// batches reads the arguments of a command: job ids, or with --batch batch ids.
func (a *app) batches(ctx context.Context, ids []string, areBatches bool) ([]int64, error) {
	out := make([]int64, 0, len(ids))
	for _, arg := range ids {
		id, err := strconv.ParseInt(arg, 10, 64)
		if err != nil || id < 1 {
			return nil, usage("%q is not an id: give the numbers that archiver jobs list prints", arg)
		}
		if areBatches {
			_, err = fleet.FindJob(ctx, a.ledger, id)
		} else {
			id, err = fleet.BatchOfJob(ctx, a.ledger, id)
		}
		switch {
		case errors.Is(err, fleet.ErrNoJob):
			return nil, &exitError{
				code: exitFailed, err: errors.New("no batch has job " + arg),
				hint: "see: archiver jobs list --all; for a batch id add --batch",
			}
		case errors.Is(err, ledger.ErrNotFound):
			return nil, &exitError{code: exitFailed, err: errors.New("there is no batch " + arg), hint: "see: archiver jobs list --all"}
		case err != nil:
			return nil, err
		}
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out, nil
}
