package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/fleet"
)

// reported is what reports and reconcile take with a backlog.
type reported struct {
	Backlog     int     `json:"backlog"`
	Totals      times   `json:"totals"`   // what was archived of each table
	Backlogs    times   `json:"backlogs"` // what is left of each table
	Workers     times   `json:"workers"`
	Slice       times   `json:"reconcile_slice"`
	Slices      int     `json:"reconcile_slices"`  // until every batch was seen; the fleet does one each 5 s
	RoundSecond float64 `json:"reconcile_seconds"` // of work, for that
}

// reconcileEvery is that of a replica.
const reconcileEvery = 5 * time.Second

func (c *control) reports(ctx context.Context, backlog int) (reported, error) {
	r := reported{Backlog: backlog}
	inSnapshot := func(fn func(tx pgx.Tx) error) func() error {
		return func() error {
			return pgx.BeginTxFunc(ctx, c.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `SET LOCAL jit = off`); err != nil {
					return err
				}
				return fn(tx)
			})
		}
	}
	parts := []struct {
		into *times
		fn   func(tx pgx.Tx) error
	}{
		{&r.Totals, func(tx pgx.Tx) error { _, err := c.ledger.Totals(ctx, tx); return err }},
		{&r.Backlogs, func(tx pgx.Tx) error { _, err := fleet.Backlogs(ctx, c.ledger, tx); return err }},
		{&r.Workers, func(tx pgx.Tx) error { _, err := fleet.LiveWorkers(ctx, c.ledger, tx); return err }},
	}
	var err error
	for _, p := range parts {
		if *p.into, err = timed(3, func() error { return nil }, inSnapshot(p.fn)); err != nil {
			return r, err
		}
	}
	return r, c.reconcile(ctx, &r)
}

// reconcile goes once through all open batches.
func (c *control) reconcile(ctx context.Context, r *reported) error {
	reconciler := &fleet.Reconciler{Ledger: c.ledger, Client: c.queue}
	const slice = 10_000 // batches in one look; one look more finds the end
	r.Slices = r.Backlog/slice + 1
	began := time.Now()
	var err error
	r.Slice, err = timed(r.Slices, func() error { return nil }, func() error {
		_, err := reconciler.Reconcile(ctx)
		return err
	})
	r.RoundSecond = time.Since(began).Seconds()
	return err
}
