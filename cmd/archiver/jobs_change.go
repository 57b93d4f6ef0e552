package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/spf13/cobra"

	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
)

func (c *cli) jobsRetryCommand() *cobra.Command {
	var s selection
	var failed, stuck, byBatch bool
	cmd := &cobra.Command{
		Use:   "retry JOB_ID... | --failed | --stuck",
		Short: "Put batches back into the queue",
		Long: `Put batches back into the queue, to be tried at once and with a full number of tries.
A batch goes on where it stands: nothing that was done is done twice.

  JOB_ID    a failed, waiting, stuck or lost batch, by the job id of archiver jobs list,
            or by its batch id with --batch
  --failed  all failed batches; --database and --table narrow it
  --stuck   all batches that dead workers have; --database and --table narrow it

A batch that a live worker has, or that is finished, is refused with the reason. A job
that was deleted from the queue is inserted anew, with a new job id.

Examples:
  archiver jobs retry 17 18
  archiver jobs retry --failed --database orders`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			bulk := failed || stuck
			switch {
			case bulk && len(args) > 0:
				return usage("give job ids, or --failed and --stuck, but not both")
			case !bulk && len(args) == 0:
				return &exitError{code: exitUsage, err: errors.New("say what to retry: job ids, --failed or --stuck"), hint: "see: archiver jobs list"}
			case !bulk && s != selection{}:
				return usage("--database and --table narrow --failed and --stuck only")
			}
			return c.change(cmd.Context(), changeRequest{
				verb: "retry", done: "back in the queue", apply: fleet.Retry, ids: args, byBatch: byBatch, failed: failed, stuck: stuck, narrow: s,
			})
		},
	}
	cmd.Flags().BoolVar(&failed, "failed", false, "all failed batches")
	cmd.Flags().BoolVar(&stuck, "stuck", false, "all batches of dead workers")
	cmd.Flags().BoolVar(&byBatch, "batch", false, "the ids are those of batches, not of jobs")
	s.addTo(cmd)
	return c.jsonFlag(cmd)
}

func (c *cli) jobsCancelCommand() *cobra.Command {
	var byBatch bool
	cmd := &cobra.Command{
		Use:   "cancel JOB_ID...",
		Short: "Give batches up; their rows stay in the table",
		Long: `Give batches up for good, by the job ids of archiver jobs list, or by their batch ids
with --batch. Nothing is deleted: the rows stay in the table, and a verified object is
set aside (archiver ls --orphans shows it). A worker that has the batch stops.

It is refused for a batch that is deleting, since its rows may be gone already, and for
one that is finished. A later archiver plan takes the rows up again; to keep them, raise
the table's retention or take it out of the configuration first.

Example:
  archiver jobs cancel 17`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.change(cmd.Context(), changeRequest{verb: "cancel", done: "cancelled", apply: fleet.Cancel, ids: args, byBatch: byBatch})
		},
	}
	cmd.Flags().BoolVar(&byBatch, "batch", false, "the ids are those of batches, not of jobs")
	return c.jsonFlag(cmd)
}

// changeRequest is a change of single batches, or with failed or stuck of all such.
type changeRequest struct {
	verb, done    string
	apply         func(context.Context, *ledger.Ledger, *river.Client[pgx.Tx], int64) (fleet.Job, error)
	ids           []string
	byBatch       bool
	failed, stuck bool
	narrow        selection
}

// changeLine is a line of retry --json and cancel --json.
type changeLine struct {
	JobID   int64   `json:"job_id"`
	BatchID int64   `json:"batch_id"`
	Done    bool    `json:"done"`
	Reason  *string `json:"reason"`
	Hint    *string `json:"hint"`
}

func (c *cli) change(ctx context.Context, r changeRequest) error {
	a, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer a.close()
	client, err := a.queue()
	if err != nil {
		return err
	}
	batches, err := a.chosen(ctx, r)
	if err != nil {
		return err
	}
	var done int
	var last *fleet.RefusedError
	for _, id := range batches {
		job, err := r.apply(ctx, a.ledger, client, id)
		var refused *fleet.RefusedError
		switch {
		case errors.As(err, &refused):
			last = refused
			if len(batches) == 1 && !c.json {
				break // the command's own error says it
			}
			if err := c.printChange(changeLine{JobID: job.ID, BatchID: id, Reason: nullable(refused.Error()), Hint: nullable(refused.Hint())}, r.done); err != nil {
				return err
			}
		case err != nil:
			return fmt.Errorf("%w; %s before that", err, plural(int64(done), "batch was "+r.done, "batches were "+r.done))
		default:
			done++
			if err := c.printChange(changeLine{JobID: job.ID, BatchID: id, Done: true}, r.done); err != nil {
				return err
			}
		}
	}
	refused := len(batches) - done
	switch {
	case refused == 0:
		switch {
		case c.json:
		case done == 0:
			c.printf("there is nothing to retry\n")
		case done > 1:
			c.printf("%s %s\n", plural(int64(done), "batch", "batches"), r.done)
		}
		return nil
	case len(batches) == 1:
		return &exitError{code: exitFailed, err: fmt.Errorf("%s: %w; nothing was changed", r.verb, last), hint: last.Hint()}
	case done == 0:
		return &exitError{code: exitFailed, err: fmt.Errorf("%s: all %d batches were refused; nothing was changed", r.verb, refused), hint: last.Hint()}
	}
	return &exitError{code: exitPartly, err: fmt.Errorf("%s: %d of %d batches were refused", r.verb, refused, len(batches)), hint: last.Hint()}
}

// chosen are the ids of the batches to change.
func (a *app) chosen(ctx context.Context, r changeRequest) ([]int64, error) {
	if !r.failed && !r.stuck {
		return a.batches(ctx, r.ids, r.byBatch)
	}
	filter, err := a.filter(ctx, r.narrow)
	if err != nil {
		return nil, err
	}
	var states []fleet.JobState
	if r.failed {
		states = append(states, fleet.JobFailed)
	}
	if r.stuck {
		states = append(states, fleet.JobStuck)
	}
	var ids []int64
	err = fleet.EachJob(ctx, a.ledger, filter, states, 0, func(j fleet.Job) error {
		ids = append(ids, j.BatchID)
		return nil
	})
	return ids, err
}

func (c *cli) printChange(l changeLine, done string) error {
	switch {
	case c.json:
		return outputError(c.printJSON(l))
	case l.Done:
		c.printf("job %d (batch %d): %s\n", l.JobID, l.BatchID, done)
	default:
		c.notef("refused: %s\n", *l.Reason)
	}
	return nil
}
