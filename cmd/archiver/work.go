package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/worker"
)

func (c *cli) workCommand() *cobra.Command {
	var o worker.RunOptions
	cmd := &cobra.Command{
		Use:   "work",
		Short: "Work on enqueued batches until SIGTERM: one replica, start as many as you like",
		Long: `Work on enqueued batches: archive the rows, verify the object, delete the rows. One
replica of a fleet; replicas need no more in common than the control database.

SIGTERM and Ctrl-C end it in order: no new batch is begun, running ones may finish
within worker.shutdown_timeout, the rest go back to the queue. A second signal ends it
at once. Even kill -9 loses nothing: another replica takes over after worker.lease.

On worker.listen (127.0.0.1:8080) it serves GET /healthz (200 while its lease is held),
/readyz (200 while it takes jobs and control database, schema and bucket answer; 503
as soon as it is told to end), /version and /metrics for Prometheus; and Go's profiles
below /debug/pprof/ if only this machine can reach the address. Where that address is taken, as by another
replica on this host, it warns and works on without; any other address that cannot be
listened on is an error. archiver health asks these from a script.

On ui.listen (127.0.0.1:8081) it serves River UI, see archiver ui --help. Where that
address cannot be had it warns and works on without; ui.enabled: false turns it off.

A table waits while its throttle says so (rows a second, lag of standbys and slots,
active sessions, a query, hours of the day), and all do while storage is down: after
s3.circuit_breaker.failure_threshold failures in a row no batch begins until storage
answers again. archiver status shows the reason. Neither uses up an attempt.

Tables with a schedule are planned when they are due, each by one replica, and once
for whatever was missed while none was up. No cron is needed beside it.

With --drain it ends by itself when nothing is left to do, and plans nothing.

The exit code is 0 after SIGTERM, which is the normal end of a replica, and 130 after
Ctrl-C. A drain that is interrupted by either ends with 130, and one that leaves batches
behind, failed or waiting, with 3.

Examples:
  archiver work
  archiver work --drain
  archiver work --drain --drain-patience 10m`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Patience < 0 {
				return usage("--drain-patience must be 0 or more (got %s)", o.Patience)
			}
			return c.work(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.Drain, "drain", false, "end when nothing is left to do")
	patienceFlag(cmd, &o)
	return cmd
}

func patienceFlag(cmd *cobra.Command, o *worker.RunOptions) {
	cmd.Flags().DurationVar(&o.Patience, "drain-patience", 2*time.Minute, "end a drain after so long in which what is left only waited; 0: never")
}

func (c *cli) work(ctx context.Context, o worker.RunOptions) error {
	a, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.prepareWorker(ctx, a.cfg.Databases); err != nil {
		return err
	}
	stopServing, err := a.serveHealth(ctx)
	if err != nil {
		return err
	}
	defer stopServing()
	defer a.serveUI(ctx)()
	if err := a.runWorker(ctx, a.cfg, o); err != nil {
		return err
	}
	switch {
	case ctx.Err() != nil && terminated(ctx) && !o.Drain:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !o.Drain:
		return nil
	}
	var tables []ledger.TableName
	for _, d := range a.cfg.Databases {
		tables = append(tables, tableNames(d.Tables)...)
	}
	left, err := a.ledger.Left(ctx, tables)
	if err != nil {
		return err
	}
	if err := a.addStanding(ctx, left); err != nil {
		return err
	}
	return drainOutcome(left)
}

func tableNames(tables []config.Table) []ledger.TableName {
	out := make([]ledger.TableName, len(tables))
	for i, t := range tables {
		out[i] = ledger.TableName{Database: t.Database, Schema: t.Schema, Name: t.Name}
	}
	return out
}

// prepareWorker opens what a worker needs. What would make every batch fail ends
// the start; a source that is away only delays its own batches.
func (a *app) prepareWorker(ctx context.Context, databases []config.Database) error {
	if err := worker.CheckSpool(a.cfg.Worker.SpoolDir); err != nil {
		return err
	}
	if err := a.openStore(ctx); err != nil {
		return err
	}
	if _, err := a.store.Probe(ctx); err != nil {
		return &exitError{code: exitUnreachable, err: fmt.Errorf("bucket %s: %w; nothing was archived or deleted", a.cfg.S3.Bucket, err), hint: hintOf(err)}
	}
	a.workerID = worker.NewID()
	if err := a.openSources(ctx, source.WorkerSession(a.workerID)); err != nil {
		return err
	}
	var g errgroup.Group
	for _, d := range databases {
		g.Go(func() error {
			if err := a.sources[d.Name].Ping(ctx); err != nil && ctx.Err() == nil {
				a.log.Warn("a source database is away; its batches wait", zap.String("database", d.Name), zap.Error(err))
			}
			return nil
		})
	}
	return g.Wait()
}

// runWorker runs a replica until ctx ends or the drain is done; one that does not
// drain follows the schedules too. After an error batches may still be at work in this
// process, so that it must end without waiting for them; the ledger and the lease keep
// them from doing harm.
func (a *app) runWorker(ctx context.Context, cfg *config.Config, o worker.RunOptions) error {
	var started func()
	if !o.Drain {
		start, stop, err := a.schedules(ctx, cfg)
		if err != nil {
			return err
		}
		started = start
		defer func() { stop(!a.abandoned) }()
	}
	ended := make(chan struct{}, 1)
	stop, err := a.startWindows(ctx, cfg, ended)
	if err != nil {
		return err
	}
	defer func() { stop(!a.abandoned) }()
	attempted := func(d worker.Done) {
		a.attempted(d)
		select {
		case ended <- struct{}{}:
		default: // it is said already
		}
	}
	err = worker.Run(ctx, worker.Deps{
		ID: a.workerID, Config: cfg, Ledger: a.ledger, Store: a.store, Sources: a.sources, Log: a.log, Version: buildVersion(), Health: a.health, OnBatch: attempted, OnVacuum: a.vacuumed, Started: started,
	}, o)
	a.abandoned = err != nil
	switch {
	case errors.Is(err, fleet.ErrLeaseLost):
		return &exitError{code: exitFailed, err: err, hint: "see whether the control database was out of reach for longer than worker.lease, and start again: batches go on where they stand"}
	case err != nil && ctx.Err() != nil: // not the interruption itself, but that it did not go well
		return &exitError{code: exitFailed, err: err, hint: "raise worker.shutdown_timeout, or lower batch_size"}
	}
	return err
}

// addStanding fills in why batches are left for which their own tries give no reason.
func (a *app) addStanding(ctx context.Context, left map[ledger.TableName]ledger.Left) error {
	if len(left) == 0 {
		return nil
	}
	standing, err := fleet.ReadStanding(ctx, a.ledger, a.control)
	if err != nil {
		return err
	}
	for name, l := range left {
		if why := standing.Why(name.Database, name.Schema, name.Name); l.Failed == 0 && (l.Reason == "" || strings.HasPrefix(why, fleet.PausedWord)) {
			l.Reason = why
			left[name] = l
		}
	}
	return nil
}

// drainOutcome is nil when nothing is left.
func drainOutcome(left map[ledger.TableName]ledger.Left) error {
	var batches, failed, unplanned int64
	var reason string
	for _, l := range left {
		if reason == "" || (l.Failed > 0 && failed == 0) {
			reason = l.Reason
		}
		batches, failed, unplanned = batches+l.Batches, failed+l.Failed, unplanned+l.Unplanned
	}
	if batches == 0 && unplanned == 0 {
		return nil
	}
	e := &exitError{code: exitPartly, hint: "run: archiver jobs list --waiting"}
	if strings.HasPrefix(reason, fleet.PausedWord) {
		e.hint = "run: archiver resume, when the pause is to end"
	}
	text := plural(batches, "batch", "batches") + " left, waiting"
	if failed > 0 {
		e.hint = "run: archiver jobs list --failed, and when the cause is gone: archiver jobs retry --failed"
		text = plural(failed, "batch", "batches") + " failed"
		if more := batches - failed; more > 0 {
			text += fmt.Sprintf(", %s more left", humanize.Comma(more))
		}
	}
	if unplanned > 0 {
		text += fmt.Sprintf(", and about %s not planned yet", plural(unplanned, "row", "rows"))
	}
	text += "; every row of theirs is in its table or in a verified object"
	if reason != "" {
		text += "; one reason: " + reason
	}
	e.err = errors.New(text)
	return e
}
