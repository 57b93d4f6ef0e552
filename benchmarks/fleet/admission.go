package main

import (
	"context"
	"fmt"
	"time"

	"github.com/audit-table-archiver/archiver/internal/fleet"
)

// admitted is how long admission takes for one caller that nobody gets in the way of.
type admitted struct {
	Backlog int    `json:"backlog"`
	Places  int    `json:"max_parallel_databases"`
	Case    string `json:"case"`
	times
}

// admission measures fleet.Admit when there is nothing to do, when one seat has become
// free, and when every database that has a place has had its turn.
func (c *control) admission(ctx context.Context, backlog, places int) ([]admitted, error) {
	lease, err := fleet.Join(ctx, c.ledger, fleet.Worker{ID: "bench", Host: "bench", Version: "bench", Limits: fleet.LimitsOf(c.o.config(places))}, time.Hour)
	if err != nil {
		return nil, err
	}
	admit := func() error {
		_, err := fleet.Admit(ctx, c.ledger)
		return err
	}
	// The first calls fill the seats, connect and learn the statements.
	for range 3 {
		if err := admit(); err != nil {
			return nil, err
		}
	}
	if err := c.take(ctx); err != nil {
		return nil, err
	}
	cases := []struct {
		name    string
		between func() error
	}{
		{"no free seat", func() error { return nil }},
		{"a seat becomes free", func() error { return c.finishOne(ctx) }},
		{"every turn is over, a database has finished", func() error { return c.endTurns(ctx) }},
	}
	if backlog == 0 {
		cases = cases[:1]
		cases[0].name = "no batch anywhere"
	}
	var out []admitted
	for _, k := range cases {
		t, err := timed(c.o.calls, k.between, admit)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.name, err)
		}
		out = append(out, admitted{Backlog: backlog, Places: places, Case: k.name, times: t})
	}
	if err := c.exec(ctx, `UPDATE {s}.river_job SET state = 'pending' WHERE state IN ('available', 'running')`); err != nil {
		return nil, err
	}
	return out, lease.Leave(ctx)
}

// take has the only replica fetch all that is available, as River's own statement does.
func (c *control) take(ctx context.Context) error {
	return c.exec(ctx, `UPDATE {s}.river_job SET state = 'running', attempt = attempt + 1, attempted_at = now(), attempted_by = array_append(attempted_by, 'bench')
		WHERE state = 'available'`)
}

const endJobs = `
	WITH ended AS (
		UPDATE {s}.river_job SET state = 'completed', finalized_at = now() WHERE id IN (%s) RETURNING id)
	UPDATE {s}.batch SET state = 'empty', rows = 0 WHERE job_id IN (SELECT id FROM ended)`

// finishOne ends a running batch, after what was admitted last was taken.
func (c *control) finishOne(ctx context.Context) error {
	if err := c.take(ctx); err != nil {
		return err
	}
	return c.exec(ctx, fmt.Sprintf(endJobs, `SELECT id FROM {s}.river_job WHERE state = 'running' AND kind = 'archive_batch' ORDER BY id LIMIT 1`))
}

// endTurns ends all batches of one database, and has the turn of each have begun long ago.
func (c *control) endTurns(ctx context.Context) error {
	if err := c.take(ctx); err != nil {
		return err
	}
	if err := c.exec(ctx, `UPDATE {s}.database_turn SET began = now() - interval '1 hour'`); err != nil {
		return err
	}
	return c.exec(ctx, fmt.Sprintf(endJobs, `SELECT id FROM {s}.river_job WHERE state = 'running' AND queue = (
		SELECT queue FROM {s}.river_job WHERE state = 'running' AND kind = 'archive_batch' ORDER BY random() LIMIT 1)`))
}
