package planner

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/jobs"
)

// pageBatches is how many batches are written in one transaction.
const pageBatches = 1000

// Enqueue writes the plan. It is all or nothing for each page of batches; what
// was written before an error stays, is complete in itself, and the next plan
// goes on behind it. With ledger.ErrPlannedMeanwhile another planner came first.
func (p *Plan) Enqueue(ctx context.Context, l *ledger.Ledger, client *river.Client[pgx.Tx]) error {
	if len(p.Pages) == 0 {
		return nil
	}
	return p.enqueueThen(ctx, l, client, func(ctx context.Context, tx pgx.Tx) error { return p.recordWindow(ctx, l, tx) })
}

// recordWindow leaves word, in the transaction of the last page, of what is planned
// later, and of the batch size.
func (p *Plan) recordWindow(ctx context.Context, l *ledger.Ledger, tx pgx.Tx) error {
	if !adapts(p.Table) || len(p.Pages) == 0 {
		return nil
	}
	return l.RecordWindow(ctx, tx, ledger.Window{
		RunID: p.RunID, TableID: p.tableID, More: p.Later > 0, RowsLeft: p.Later, From: p.firstBatch, BatchSize: p.BatchSize, BatchSizeFrom: p.Table.BatchSize,
	})
}

// enqueueThen is Enqueue; finish runs in the transaction of the last page, or in one
// of its own if there is no page, and with its error that page is not written.
func (p *Plan) enqueueThen(ctx context.Context, l *ledger.Ledger, client *river.Client[pgx.Tx], finish func(context.Context, pgx.Tx) error) error {
	if len(p.Pages) == 0 {
		return l.InTx(ctx, func(tx pgx.Tx) error { return finish(ctx, tx) })
	}
	seq := p.Open.PlanSeq
	for from := 0; from < len(p.Pages); from += pageBatches {
		page := p.Pages[from:min(from+pageBatches, len(p.Pages))]
		if err := failpoint.Hit(ctx, "enqueue:page"); err != nil {
			return err
		}
		err := l.InTx(ctx, func(tx pgx.Tx) error {
			err := p.enqueuePage(ctx, tx, l, client, page, seq)
			if err == nil && from+len(page) == len(p.Pages) {
				err = finish(ctx, tx)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("enqueue %s (%d of %d batches were enqueued): %w", p.Table, p.Enqueued, len(p.Pages), err)
		}
		p.Enqueued += len(page)
		seq++
	}
	return nil
}

func (p *Plan) enqueuePage(ctx context.Context, tx pgx.Tx, l *ledger.Ledger, client *river.Client[pgx.Tx], page []source.Page, seq int64) error {
	tableID, err := l.EnsureTable(ctx, tx, p.Table.Database, p.Table.Schema, p.Table.Name)
	if err != nil {
		return err
	}
	// First, so that of two planners the later one waits and then stops here.
	if err := l.AdvancePlan(ctx, tx, tableID, seq, page[len(page)-1].Range.To); err != nil {
		return err
	}
	runID := p.RunID
	if runID == 0 {
		if runID, err = l.CreateRun(ctx, tx, tableID, p.Cutoff.At, p.Cutoff.Value, p.keyColumns); err != nil {
			return err
		}
	}
	ids, err := l.BatchIDs(ctx, tx, len(page))
	if err != nil {
		return fmt.Errorf("take batch ids: %w", err)
	}
	batches := make([]ledger.NewBatch, len(page))
	place := make(map[int64]int, len(page))
	params := make([]river.InsertManyParams, len(page))
	for i, b := range page {
		place[ids[i]] = i
		batches[i] = ledger.NewBatch{ID: ids[i], Range: b.Range, Partition: b.Partition, Rows: b.Rows}
		params[i] = river.InsertManyParams{Args: jobs.BatchArgs{
			BatchID: ids[i], RunID: runID, Database: p.Table.Database, Table: p.Table.Schema + "." + p.Table.Name, Range: b.Range.String(),
		}}
	}
	inserted, err := client.InsertManyTx(ctx, tx, params)
	if err != nil {
		return fmt.Errorf("insert %d jobs: %w", len(params), err)
	}
	for _, r := range inserted { // in any order
		var args jobs.BatchArgs
		if err := json.Unmarshal(r.Job.EncodedArgs, &args); err != nil {
			return fmt.Errorf("read the arguments of job %d: %w", r.Job.ID, err)
		}
		batches[place[args.BatchID]].JobID = r.Job.ID
	}
	if err := l.InsertBatches(ctx, tx, runID, tableID, batches); err != nil {
		return err
	}
	if p.firstBatch == 0 {
		p.firstBatch = ids[0]
	}
	p.tableID, p.RunID = tableID, runID // on rollback the next page is not tried either
	return nil
}
