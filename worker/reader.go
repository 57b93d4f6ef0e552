package worker

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/digest"
	"github.com/audit-table-archiver/archiver/internal/source"
)

const (
	// replicaWait is how long a batch waits for its replica, with replica_fallback wait.
	replicaWait = 10 * time.Second
	// otherRowsWait is the same for a replica that holds other rows than the primary:
	// somebody has to rebuild it.
	otherRowsWait = time.Minute
	// A replica that cancels a read is asked for half as many rows, and again for half of
	// these, down to such a share of the batch. Where the primary may be read it is asked
	// once more only: each try can cost it max_standby_streaming_delay.
	smallestShare       = 16
	smallestBeforeOther = 2
)

// reader is the server that the batch's rows are read from now. A replica is compared
// with the primary by content before anything is deleted, so that which server it is
// decides about load and never about what is archived.
func (w *Worker) reader(ctx context.Context, a *attempt) (*source.DB, error) {
	if !a.db.HasReplica() || a.onPrimary {
		return a.db, nil
	}
	fallsBack := a.table.ReplicaFallback == config.ReplicaFallbackPrimary
	if fallsBack && a.batch.Mismatches > 0 {
		return a.db, nil // an attempt before has seen that the two differ
	}
	// Asked now: every batch that could have deleted rows of this range is recorded.
	last, err := w.Ledger.LastDelete(ctx, a.batch.TableID)
	if err != nil {
		return nil, err
	}
	from, not, err := a.db.Reader(ctx, a.table, last, a.caughtUp)
	w.replicaNews(a, not)
	if not != nil && !fallsBack {
		return nil, waitForReplica(not)
	}
	return from, err
}

func waitForReplica(not *source.ReplicaError) error {
	wait := &waitError{kind: WaitReplica, reason: not.Error() + " (hint: " + not.Hint() + ")", after: replicaWait}
	if not.Trouble == source.ReplicaOtherRows {
		wait.after = otherRowsWait
	}
	return wait
}

// passOver says how to go on after a read that failed: on the replica with fewer rows if
// that can help, else on the primary if the table may. Any other error it returns.
func (w *Worker) passOver(a *attempt, err error, maxRows int64) (int64, error) {
	var not *source.ReplicaError
	if !errors.As(err, &not) {
		return 0, err
	}
	w.replicaNews(a, not)
	fallsBack := a.table.ReplicaFallback == config.ReplicaFallbackPrimary
	share := int64(smallestShare)
	if fallsBack {
		share = smallestBeforeOther
	}
	planned := max(a.batch.RowsPlanned, 1)
	if rows := min(maxRows, planned) / 2; not.Trouble == source.ReplicaConflict && rows >= max(planned/share, 1) {
		a.log.Info("the read replica cancelled the read; fewer rows are read", zap.Int64("rows", rows), zap.Error(not))
		return rows, nil
	}
	if fallsBack {
		a.onPrimary = true
		return maxRows, nil
	}
	return 0, waitForReplica(not)
}

// otherRows is called when the primary does not hold what was read from the replica.
// found is what it holds, if that is known. The error, if any, is to be returned once the
// object is set aside; counts says whether that was a change of the rows.
//
// With replica_fallback wait the replica is read again when it has caught up with this
// moment. If the primary then still holds the same rows and the replica still others,
// nobody has changed anything: the standby has gone another way.
func (w *Worker) otherRows(ctx context.Context, a *attempt, found *digest.Digest) (counts bool, err error) {
	not := &source.ReplicaError{Database: a.batch.Database, Trouble: source.ReplicaOtherRows, Detail: "does not hold the rows that the primary holds"}
	w.replicaNews(a, not)
	if a.table.ReplicaFallback == config.ReplicaFallbackPrimary {
		a.onPrimary = true
		return true, nil
	}
	before := a.differed
	if before != nil && found != nil && *before == *found {
		return false, waitForReplica(not)
	}
	a.differed = found
	a.caughtUp, err = a.db.WALPosition(ctx)
	return before != nil, err
}

// otherForm says that rows were read from the replica under a definition of the table that
// is not the one which was looked at on the primary.
func otherForm(a *attempt) *source.ReplicaError {
	return &source.ReplicaError{Database: a.batch.Database, Trouble: source.ReplicaOtherForm, Detail: "has another definition of table " + a.table.String()}
}

// replicaNews logs when the replica of a table is passed over and when it is read again,
// once for each change.
func (w *Worker) replicaNews(a *attempt, not *source.ReplicaError) {
	var now source.ReplicaTrouble
	if not != nil {
		now = not.Trouble
	}
	before, known := w.replicas.Swap(a.table.String(), now)
	switch {
	case before == now, !known && not == nil:
	case not == nil:
		w.Log.Info("the read replica is read again", zap.String("database", a.table.Database), zap.String("table", a.batch.Schema+"."+a.batch.Table))
	default:
		w.Log.Warn("the read replica is not used", zap.String("database", a.table.Database), zap.String("table", a.batch.Schema+"."+a.batch.Table),
			zap.String("replica_fallback", a.table.ReplicaFallback), zap.String("trouble", string(not.Trouble)), zap.Error(not), zap.String("hint", not.Hint()))
	}
}
