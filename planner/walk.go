package planner

import (
	"context"
	"errors"
	"slices"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/jobs"
)

// maxConflicts is how often a plan goes on after the replica has cancelled its read.
const maxConflicts = 5

// walk fills the pages, from the replica where it is fit. Bounds are keys, which mean the
// same on both servers: where the replica fails, the primary goes on behind the last page.
// A row that the replica lacks is in the range that it falls into, or in the next plan.
//
// With replica_fallback wait an unfit replica ends the plan with a *source.ReplicaError.
func (p *Plan) walk(ctx context.Context, db *source.DB, table *source.Table) error {
	// The ledger was read before: a replica that has replayed every delete which is
	// recorded there does not show rows that are archived.
	from, not, err := db.Reader(ctx, p.Table, p.Open.LastDelete)
	if err != nil {
		return err
	}
	p.PassedOver = not
	for conflicts := 0; ; conflicts++ {
		p.ReadFrom = from.Role()
		err := p.walkOn(ctx, from, table)
		if !errors.As(err, &not) {
			return err
		}
		switch {
		case p.Table.ReplicaFallback == config.ReplicaFallbackPrimary:
			p.PassedOver, from = not, db
		case not.Trouble != source.ReplicaConflict || conflicts == maxConflicts:
			return err
		}
	}
}

// walkOn goes on behind the last page that was seen, or behind what is planned already.
func (p *Plan) walkOn(ctx context.Context, from *source.DB, table *source.Table) (err error) {
	var after []string
	switch {
	case p.walkedTo != nil:
		after = p.walkedTo
	case p.Open.OpenBatches > 0:
		after = p.Open.PlannedTo
	}
	if p.TableSize, err = from.Size(ctx, table); err != nil {
		return err
	}
	first := jobs.FirstWindow(p.concurrency)
	return from.Walk(ctx, table, after, p.Cutoff.Value, p.BatchSize, func(page source.Page) error {
		p.walkedTo = page.Range.To
		p.Rows += page.Rows
		p.Batches++
		if p.Later == 0 {
			p.Pages = append(p.Pages, page)
		} else {
			p.Later += page.Rows
		}
		if adapts(p.Table) && len(p.Pages) > max(jobs.WholeBacklog, first) {
			p.leave(first)
		}
		return nil
	})
}

// leave keeps the first pages, and leaves the others to further windows.
func (p *Plan) leave(first int) {
	for _, page := range p.Pages[first:] {
		p.Later += page.Rows
	}
	p.Pages = slices.Clip(p.Pages[:first])
}
