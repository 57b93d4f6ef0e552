package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
)

// jobLine is a line of jobs list --json.
type jobLine struct {
	JobID       int64   `json:"job_id"`
	BatchID     int64   `json:"batch_id"`
	Database    string  `json:"database"`
	Table       string  `json:"table"` // schema.table, plain names
	State       string  `json:"state"`
	Attempt     int     `json:"attempt"`
	MaxAttempts *int    `json:"max_attempts"`
	LastError   *string `json:"last_error"`
	Worker      *string `json:"worker"`
	Since       string  `json:"since"`
	Hint        *string `json:"hint"`
	WaitingFor  *string `json:"waiting_for"`
	Stage       string  `json:"stage"` // how far the batch has got
}

func lineOf(j fleet.Job) jobLine {
	return jobLine{
		JobID: j.ID, BatchID: j.BatchID, Database: j.Database, Table: j.Schema + "." + j.Table, State: string(j.State),
		Attempt: j.Attempt, MaxAttempts: j.MaxAttempts, LastError: nullable(j.LastError), Worker: nullable(j.Worker), Since: stamp(j.Since),
		Hint: nullable(j.Hint), WaitingFor: nullable(j.WaitingFor), Stage: string(j.Stage),
	}
}

// notQueued are the states that an operator may want to look at; thousands of
// batches that are simply next would hide them.
var notQueued = []fleet.JobState{fleet.JobFailed, fleet.JobRunning, fleet.JobWaiting, fleet.JobStuck, fleet.JobLost}

func (c *cli) jobsListCommand() *cobra.Command {
	var s selection
	var failed, waiting, running, stuck, all bool
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the batches that are not finished",
		Long: `List the batches that are not finished, oldest first. Without a flag those that are
simply queued are only counted; --all lists them too. Flags for several states add up.
For people the list ends after 100 lines unless --limit says otherwise.

` + jobStates + `

Examples:
  archiver jobs list
  archiver jobs list --failed --stuck
  archiver jobs list --all --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			most, err := c.limit(limit, cmd.Flags().Changed("limit"))
			if err != nil {
				return err
			}
			var states []fleet.JobState
			for _, f := range []struct {
				on    bool
				state fleet.JobState
			}{{failed, fleet.JobFailed}, {waiting, fleet.JobWaiting}, {running, fleet.JobRunning}, {stuck, fleet.JobStuck}} {
				if f.on {
					states = append(states, f.state)
				}
			}
			switch {
			case all && states != nil:
				return usage("--all already includes the batches in every state; leave the other flags out")
			case all:
				states = append(append(states, notQueued...), fleet.JobQueued)
			case states == nil:
				states = notQueued
			}
			a, err := c.open(cmd.Context())
			if err != nil {
				return err
			}
			defer a.close()
			return c.jobsList(cmd.Context(), a, s, states, most)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&failed, "failed", false, "those that wait for somebody to act")
	flags.BoolVar(&waiting, "waiting", false, "those that go on by themselves later")
	flags.BoolVar(&running, "running", false, "those that a live worker has")
	flags.BoolVar(&stuck, "stuck", false, "those that a dead worker has")
	flags.BoolVar(&all, "all", false, "also those that are simply queued")
	flags.IntVar(&limit, "limit", 0, "at most `N` lines; 0 for no limit (default 100, with --json no limit)")
	s.addTo(cmd)
	return c.jsonFlag(cmd)
}

func (c *cli) jobsList(ctx context.Context, a *app, s selection, states []fleet.JobState, limit int) error {
	filter, err := a.filter(ctx, s)
	if err != nil {
		return err
	}
	standing, err := fleet.ReadStanding(ctx, a.ledger, a.control)
	if err != nil {
		return err
	}
	list := c.lines("JOB\tBATCH\tTABLE\tSTATE\tTRY\tSINCE\tWORKER\tREASON")
	err = fleet.EachJob(ctx, a.ledger, filter, states, limit, func(j fleet.Job) error {
		j.WaitingFor = standing.WhyJob(j)
		return list.add(lineOf(j), strconv.FormatInt(j.ID, 10), strconv.FormatInt(j.BatchID, 10),
			config.Table{Database: j.Database, Schema: j.Schema, Name: j.Table}.String(), string(j.State), tries(j), ago(j.Since), orDash(j.Worker), reason(j))
	})
	if err != nil {
		return err
	}
	if err := list.finish("no batch is " + statesText(states)); err != nil || c.json {
		return err
	}
	counts, err := fleet.CountJobs(ctx, a.ledger, filter)
	if err != nil {
		return err
	}
	var matching int64
	for _, s := range states {
		matching += counts[s]
		delete(counts, s)
	}
	if more := matching - int64(list.count); limit > 0 && list.count == limit && more > 0 {
		c.printf("... and %s more: add --limit 0\n", humanize.Comma(more))
	}
	if n := counts[fleet.JobQueued]; n > 0 {
		c.printf("%s simply queued\n", plural(n, "batch is", "batches are"))
	}
	return nil
}

// statesText is "failed, waiting or stuck".
func statesText(states []fleet.JobState) string {
	words := make([]string, len(states))
	for i, s := range states {
		words[i] = string(s)
	}
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// tries is "2 of 5".
func tries(j fleet.Job) string {
	if j.MaxAttempts == nil {
		return strconv.Itoa(j.Attempt)
	}
	return strconv.Itoa(j.Attempt) + " of " + strconv.Itoa(*j.MaxAttempts)
}

// reason is why a batch is in its state, for a cell of a table.
func reason(j fleet.Job) string {
	switch {
	case j.State == fleet.JobLost && j.LastError == "":
		return "it has no job in the queue"
	case j.WaitingFor != "":
		return clip(j.WaitingFor, 120)
	default:
		return orDash(clip(j.LastError, 120))
	}
}
