package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
)

func (c *cli) pauseCommand() *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use:   "pause",
		Short: "Begin no new batches: of everything, a database or a table",
		Long: `Keep new batches from beginning, in the whole fleet, until archiver resume. Batches that
are at work finish: look at archiver status until none is running. A pause survives
restarts of the replicas and of the control database, and it holds for replicas that are
started later. archiver plan still plans; what a schedule would plan is caught up after the
resume.

The pause of a database shows in River UI, at its queue, and can be set and lifted there
as well.

Examples:
  archiver pause
  archiver pause --database orders
  archiver pause --database orders --table public.audit_logs`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.changePause(cmd.Context(), s, func(ctx context.Context, a *app, scope fleet.Scope) (pauseResult, error) {
				changed, err := fleet.Pause(ctx, a.ledger, scope)
				text := "paused: no new batch begins; batches at work finish"
				if !changed {
					text = "was paused already"
				}
				return pauseResult{Paused: true, Changed: changed, text: text}, err
			})
		},
	}
	s.addTo(cmd)
	return c.jsonFlag(cmd)
}

func (c *cli) resumeCommand() *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "Go on with what was paused",
		Long: `Lift a pause: without flags that of everything, with --database that of a database, with
--table that of a table. Narrower pauses go on, and are named: somebody may have set them
for a reason of their own. If exactly this pause does not exist, the narrower ones are
lifted. Work goes on within seconds.

What is paused by a wider pause cannot be resumed by itself; the error says which.

Examples:
  archiver resume
  archiver resume --database orders
  archiver resume --database orders --table public.audit_logs`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.changePause(cmd.Context(), s, func(ctx context.Context, a *app, scope fleet.Scope) (pauseResult, error) {
				queue, err := a.queue()
				if err != nil {
					return pauseResult{}, err
				}
				lifted, err := fleet.Resume(ctx, a.ledger, queue, scope)
				if err != nil {
					return pauseResult{}, err
				}
				r := pauseResult{Changed: len(lifted) > 0, Resumed: []string{}, StillPaused: []string{}, text: "was not paused"}
				for _, p := range lifted {
					r.Resumed = append(r.Resumed, p.String())
				}
				left, err := fleet.Pauses(ctx, a.ledger, a.control)
				if err != nil {
					return pauseResult{}, err
				}
				for _, p := range left {
					r.StillPaused = append(r.StillPaused, p.String())
				}
				switch {
				case len(lifted) == 1 && lifted[0].Scope == scope:
					r.text = "resumed"
				case len(lifted) > 0:
					r.text = "resumed " + strings.Join(r.Resumed, ", ")
				}
				return r, nil
			})
		},
	}
	s.addTo(cmd)
	return c.jsonFlag(cmd)
}

type pauseResult struct {
	Scope       string   `json:"scope"`
	Paused      bool     `json:"paused"`
	Changed     bool     `json:"changed"`
	Resumed     []string `json:"resumed,omitempty"`      // each pause that was lifted
	StillPaused []string `json:"still_paused,omitempty"` // each that holds, of resume
	text        string
}

func (c *cli) changePause(ctx context.Context, s selection, change func(context.Context, *app, fleet.Scope) (pauseResult, error)) error {
	a, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer a.close()
	scope, err := a.scope(ctx, s)
	if err != nil {
		return err
	}
	r, err := change(ctx, a, scope)
	if err != nil {
		return err
	}
	r.Scope = scope.String()
	if c.json {
		return outputError(c.printJSON(r))
	}
	c.printf("%s: %s\n", r.Scope, r.text)
	if len(r.StillPaused) > 0 {
		c.printf("still paused: %s\n", strings.Join(r.StillPaused, ", "))
	}
	return nil
}

// scope finds what a pause is about. Nothing is paused that does not exist: a misspelt
// name must not leave its table running.
func (a *app) scope(ctx context.Context, s selection) (fleet.Scope, error) {
	if s == (selection{}) {
		return fleet.Scope{}, nil
	}
	f, err := a.filter(ctx, s)
	if err != nil {
		return fleet.Scope{}, err
	}
	if f.Table != "" && f.Database == "" {
		if f.Database, err = a.onlyDatabase(f); err != nil {
			return fleet.Scope{}, err
		}
	}
	return fleet.Scope{Database: f.Database, Schema: f.Schema, Table: f.Table}, nil
}

// onlyDatabase is the one that is configured with the table.
func (a *app) onlyDatabase(f ledger.Filter) (string, error) {
	found := ""
	for _, d := range a.cfg.Databases {
		for _, t := range d.Tables {
			if t.Schema != f.Schema || t.Name != f.Table {
				continue
			}
			if found != "" {
				return "", usage("--table %s.%s is in several databases; add --database", f.Schema, f.Table)
			}
			found = d.Name
		}
	}
	if found == "" {
		return "", usage("--table %s.%s is not configured; add --database", f.Schema, f.Table)
	}
	return found, nil
}
