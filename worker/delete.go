package worker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/digest"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
)

// twinWait is how long an attempt leaves a batch to the one that holds its lock.
const twinWait = 5 * time.Second

// bisectAfter is how many mismatches in a row it takes until a batch is halved,
// so that one busy row cannot hold back ten thousand.
const bisectAfter = 3

func (w *Worker) deleteRequest(a *attempt) source.DeleteRequest {
	o := a.batch.Object
	return source.DeleteRequest{
		Table: a.table, Key: a.batch.KeyColumns, Range: a.batch.Range, Digest: o.Digest, Content: o.ContentGuard, Fingerprint: o.Fingerprint, Described: a.described,
		Identity: source.Identity{SystemID: o.SystemID, Timeline: o.Timeline},
		LockKey:  w.lockKey(a.batch.ID), Timeout: w.Config.Worker.BatchTimeout,
		Fence:  func(ctx context.Context) error { return w.Ledger.StartDelete(ctx, a.batch) },
		Newest: func(ctx context.Context) error { return w.Ledger.StillDeleting(ctx, a.batch) },
	}
}

// lockKey is the batch's advisory lock on the source: 64 bits of a hash over this
// ledger and the batch. Two keys that collide would only make one wait.
func (w *Worker) lockKey(batchID int64) int64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "archiver batch %s %d", w.ledgerID, batchID))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

// deleteRows runs the guarded delete. Afterwards either the rows are known to be
// gone, or it is known that none is, or, with a CommitUnknownError, the batch
// stays `deleting` and the next attempt looks at the rows.
func (w *Worker) deleteRows(ctx context.Context, a *attempt) error {
	began := time.Now()
	res, err := a.db.Delete(ctx, w.deleteRequest(a))
	a.timings.Delete += time.Since(began).Seconds()
	var unknown *source.CommitUnknownError
	switch {
	case errors.As(err, &unknown), errors.Is(err, ledger.ErrStale):
		return err
	case source.Classify(err) == source.Changed:
		res.Outcome = source.RowsChanged // a row changed under our snapshot: rolled back
	case err != nil:
		return errors.Join(err, w.notDeleted(ctx, a))
	}
	if res.Outcome != source.Deleted {
		a.log.Info("nothing deleted", zap.Stringer("outcome", res.Outcome), zap.Stringer("want", a.batch.Object.Digest), zap.Stringer("found", res.Found))
	}
	switch res.Outcome {
	case source.Deleted:
		a.deleted, a.lsn = true, res.LSN
		a.log.Debug("rows deleted", zap.Int64("rows", res.Found.Count), zap.Duration("duration", time.Since(began)))
		return nil
	case source.TwinAtWork:
		return &waitError{kind: WaitTwin, reason: res.Outcome.String(), after: twinWait}
	case source.RowsLocked:
		if err := w.notDeleted(ctx, a); err != nil {
			return err
		}
		return &waitError{kind: WaitLocked, reason: res.Outcome.String(), after: 10 * time.Second}
	case source.RowsChanged:
		return w.rowsChanged(ctx, a, res.Found, err == nil)
	case source.CatalogChanged, source.TimelineChanged:
		a.readBack = false
		return w.Ledger.ExtractAgain(ctx, a.batch, ledger.ObjectDiscarded, false)
	}
	return fmt.Errorf("delete: unknown outcome %d", res.Outcome)
}

// rowsChanged has the rows read again; found is what the table holds now, if known.
func (w *Worker) rowsChanged(ctx context.Context, a *attempt, found digest.Digest, known bool) error {
	counts := true
	var waitForReplica error
	if a.batch.Object.ReadFrom == source.ReadReplica {
		var now *digest.Digest
		if known {
			now = &found
		}
		counts, waitForReplica = w.otherRows(ctx, a, now)
	}
	if err := w.Ledger.ExtractAgain(ctx, a.batch, ledger.ObjectDiscarded, counts); err != nil {
		return err
	}
	a.readBack = false
	if waitForReplica != nil {
		return waitForReplica
	}
	return w.bisect(ctx, a)
}

// notDeleted takes a batch back from `deleting` once its transaction is known to
// have been rolled back. It outlives a shutdown: a batch that is left in
// `deleting` is safe, but needs its object read again.
func (w *Worker) notDeleted(ctx context.Context, a *attempt) error {
	if a.batch.State != ledger.Deleting {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return w.Ledger.NotDeleted(ctx, a.batch)
}

// bisect halves a batch whose rows changed several times in a row.
func (w *Worker) bisect(ctx context.Context, a *attempt) error {
	if a.batch.Mismatches < bisectAfter {
		return nil
	}
	middle, below, above, err := a.db.Middle(ctx, a.table, a.batch.Range)
	if err != nil {
		return err
	}
	if middle == nil {
		return &waitError{kind: WaitChanging, reason: "the row is being changed all the time", after: 30 * time.Second}
	}
	return w.split(ctx, a, middle, below, above)
}
