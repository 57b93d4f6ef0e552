package worker

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/jobs"
)

// split cuts the batch behind the key cut. The rest gets a batch and a job of its
// own, in the same transaction that shortens this one.
func (w *Worker) split(ctx context.Context, a *attempt, cut []string, rows, rest int64) error {
	err := w.Ledger.InTx(ctx, func(tx pgx.Tx) error { return w.splitTx(ctx, tx, a, cut, rows, rest) })
	if err != nil {
		return fmt.Errorf("split the batch: %w", err)
	}
	a.log.Info("batch split", zap.Strings("at", cut), zap.Int64("rows", rows), zap.Int64("rest", rest))
	a.batch.Range.To, a.batch.RowsPlanned, a.batch.Mismatches = cut, rows, 0
	return failpoint.Hit(ctx, "split:done")
}

// splitTx inserts the rest of a split batch with a job of its own.
func (w *Worker) splitTx(ctx context.Context, tx pgx.Tx, a *attempt, cut []string, rows, rest int64) error {
	ids, err := w.Ledger.BatchIDs(ctx, tx, 1)
	if err != nil {
		return err
	}
	r := a.batch.Range
	r.FromTS, r.After = nil, cut
	job, err := river.ClientFromContext[pgx.Tx](ctx).InsertTx(ctx, tx, jobs.BatchArgs{
		BatchID: ids[0], RunID: a.batch.RunID, Database: a.batch.Database, Table: a.batch.Schema + "." + a.batch.Table, Range: r.String(),
	}, nil)
	if err != nil {
		return fmt.Errorf("insert the job of the rest: %w", err)
	}
	return w.Ledger.Split(ctx, tx, a.batch, cut, rows, rest, ids[0], job.Job.ID)
}
