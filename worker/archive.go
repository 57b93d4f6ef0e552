package worker

import (
	"context"
	"time"

	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/digest"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/jobs"
)

// attempt is one try at a batch.
type attempt struct {
	job     *river.Job[jobs.BatchArgs]
	batch   *ledger.Batch
	table   config.Table
	db      *source.DB
	log     *zap.Logger
	began   time.Time
	timings ledger.Timings
	rounds  int   // times that the rows were read
	late    bool  // the batch was finished before this attempt
	paid    int64 // rows, where max_rows_per_second is set

	described *source.Table // as this attempt has read its rows last; nil if it has not

	progress progress // for River UI

	// readBack: this attempt has read the batch's object back and found it whole.
	readBack bool
	// deleted: it is known that the object's rows are gone from the table, by our
	// own committed transaction. lsn is the WAL position of that, if known.
	deleted bool
	lsn     string

	// onPrimary: rows are read from the primary for the rest of this attempt.
	onPrimary bool
	// differed is what the primary held when the replica held something else, and
	// caughtUp the position that the replica must have replayed since.
	differed *digest.Digest
	caughtUp string
}

// archive brings a batch from wherever it stands to a final state. It is the list
// of DESIGN section 3; the ledger's state decides which stage comes next, so a
// resumed attempt and a fresh one run through the same lines.
func (w *Worker) archive(ctx context.Context, a *attempt) error {
	if err := w.guard(ctx, a); err != nil {
		return err
	}
	if err := w.mayBegin(ctx, a); err != nil {
		return err
	}
	if err := w.claim(ctx, a); err != nil {
		return err
	}
	for !a.batch.State.Final() {
		if err := failpoint.Hit(ctx, "state:"+string(a.batch.State)); err != nil {
			return err
		}
		if err := w.step(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func (w *Worker) step(ctx context.Context, a *attempt) error {
	switch a.batch.State {
	case ledger.Planned:
		// All rows are in the table. No object counts.
		if a.rounds > 0 {
			if err := w.mayGoOn(ctx, a); err != nil {
				return err
			}
		}
		a.progress.at(stageRead)
		spool, err := w.extract(ctx, a)
		if err != nil {
			return err
		}
		defer spool.Close() //nolint:errcheck // unlinked, and no longer needed
		if err := w.settle(ctx, a, spool.object.Rows); err != nil {
			return err
		}
		if spool.object.Rows == 0 {
			return w.recordEmpty(ctx, a)
		}
		// The rows are in the spool too; the transaction that read them has ended.
		a.progress.at(stageUpload)
		stored, err := w.upload(ctx, a, spool)
		if err != nil {
			return err
		}
		// An object is in storage that nobody refers to yet.
		a.progress.at(stageVerify)
		return w.verify(ctx, a, spool, stored) // -> Verified

	case ledger.Verified:
		// All rows are in the table, and in an object that was once read back whole.
		if !a.readBack {
			a.progress.at(stageVerify)
			return w.readBack(ctx, a) // or -> Planned
		}
		// This very attempt has seen the object whole. If the rows may not go just now,
		// it stays for the attempt that comes when they may.
		if err := w.mayGoOn(ctx, a); err != nil {
			return err
		}
		a.progress.at(stageDelete)
		return w.deleteRows(ctx, a) // -> Deleting, deleted; or -> Planned

	case ledger.Deleting:
		// The rows are in the object. Whether they are in the table is not known ...
		if !a.deleted {
			a.progress.at(stageResolve)
			return w.resolve(ctx, a) // -> Verified, Planned, or deleted
		}
		// ... and now it is: they are gone, by our own doing.
		a.progress.at(stageRecord)
		return w.record(ctx, a) // -> Archived

	case ledger.Archived, ledger.Empty, ledger.Cancelled:
	}
	return nil
}
