package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/minio/crc64nvme"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/layout"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/objstore"
)

// record writes the manifest, whose presence says that the object is committed,
// and then closes the ledger entry and the job in one transaction. All of it may
// run again: the manifest's bytes were fixed when the object was recorded.
func (w *Worker) record(ctx context.Context, a *attempt) error {
	began := time.Now()
	o := a.batch.Object
	if err := w.deletedAt(ctx, a); err != nil {
		return err
	}
	err := w.putManifest(ctx, o)
	if errors.Is(err, objstore.ErrDifferent) && w.committedBefore(ctx, a) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("the rows are deleted, their object is whole, its manifest is missing: %w", err)
	}
	if err := failpoint.Hit(ctx, "record:manifest"); err != nil {
		return err
	}
	a.timings.Record = time.Since(began).Seconds()
	a.timings.Total = time.Since(a.began).Seconds()
	err = w.Ledger.InTx(ctx, func(tx pgx.Tx) error {
		if err := w.Ledger.Archived(ctx, tx, a.batch, a.lsn, a.timings); err != nil {
			return err
		}
		if err := failpoint.Hit(ctx, "record:ledger"); err != nil {
			return err
		}
		if err := w.batchEnded(ctx, tx, a, true); err != nil {
			return err
		}
		if err := w.completeJob(ctx, tx, a); err != nil {
			return err
		}
		return failpoint.Hit(ctx, "record:before-commit")
	})
	if err != nil {
		return err
	}
	a.batch.State = ledger.Archived
	if err := failpoint.Hit(ctx, "record:done"); err != nil {
		return err
	}
	t := a.timings
	a.log.Info("batch archived", zap.Int64("records", o.Rows), zap.Int64("bytes", o.StoredBytes), zap.String("object_key", o.Key),
		zap.Float64("query", t.Query), zap.Float64("serialize", t.Serialize), zap.Float64("compress", t.Compress), zap.Float64("upload", t.Upload),
		zap.Float64("verify", t.Verify), zap.Float64("delete", t.Delete), zap.Float64("record", t.Record), zap.Float64("total", t.Total))
	return nil
}

// deletedAt finds out where in the WAL the delete lies if that was not heard. A replica
// that has not replayed it is not read: it would show rows that are archived, and should a
// delete of these have an unknown outcome, they would be found gone and count as its own.
func (w *Worker) deletedAt(ctx context.Context, a *attempt) error {
	if a.lsn != "" {
		return nil
	}
	var err error
	if a.lsn, err = a.db.WALPosition(ctx); err != nil {
		return fmt.Errorf("the rows are deleted, their object is whole, it is not known how far a replica must be for that: %w", err)
	}
	return nil
}

// putManifest stores the manifest and reads it back: the ledger keeps no copy of it
// once the batch is archived, and whoever restores without the ledger starts from it.
func (w *Worker) putManifest(ctx context.Context, o *ledger.Object) error {
	want := []byte(o.Manifest)
	there, err := w.Store.Put(ctx, o.ManifestKey, bytes.NewReader(want), objstore.Blob{
		Size: int64(len(want)), SHA256: sha256.Sum256(want), CRC64NVME: crc64nvme.Checksum(want), ContentType: "application/json",
	})
	if err != nil {
		return err
	}
	body, _, err := w.Store.Get(ctx, o.ManifestKey, there.VersionID)
	if err != nil {
		return fmt.Errorf("read it back: %w", err)
	}
	defer body.Close() //nolint:errcheck // only read
	have, err := io.ReadAll(io.LimitReader(body, int64(len(want))+1))
	if err != nil {
		return fmt.Errorf("read it back: %w", err)
	}
	if !bytes.Equal(have, want) {
		return &VerifyError{Key: o.ManifestKey, What: "the manifest", Want: "what was written", Have: "something else"}
	}
	return nil
}

// committedBefore says that the manifest which is in storage already speaks for
// these very bytes. That is so when the rows were archived and deleted once, came
// back as they were (a failover that lost the delete, a restore by hand), and
// were archived again: same rows, same object, another attempt and time.
func (w *Worker) committedBefore(ctx context.Context, a *attempt) bool {
	body, _, err := w.Store.Get(ctx, a.batch.Object.ManifestKey, "")
	if err != nil {
		return false
	}
	defer body.Close() //nolint:errcheck // only read
	var there, mine layout.Manifest
	if json.NewDecoder(body).Decode(&there) != nil || json.Unmarshal([]byte(a.batch.Object.Manifest), &mine) != nil {
		return false
	}
	return there.Object == mine.Object && there.VersionID == mine.VersionID && there.BatchID == mine.BatchID &&
		there.SHA256 == mine.SHA256 && there.RawSHA256 == mine.RawSHA256 && there.Rows == mine.Rows
}

// recordEmpty closes a batch whose rows have all gone by other hands.
func (w *Worker) recordEmpty(ctx context.Context, a *attempt) error {
	err := w.Ledger.InTx(ctx, func(tx pgx.Tx) error {
		if err := w.Ledger.Emptied(ctx, tx, a.batch); err != nil {
			return err
		}
		if err := w.batchEnded(ctx, tx, a, false); err != nil {
			return err
		}
		return w.completeJob(ctx, tx, a)
	})
	if err != nil {
		return err
	}
	a.batch.State = ledger.Empty
	a.log.Info("batch empty: no row is left in its range")
	return nil
}

// completeJob completes the attempt's job, see endJob.
func (w *Worker) completeJob(ctx context.Context, tx pgx.Tx, a *attempt) error {
	return endJob(ctx, w.Ledger, tx, a.job)
}

// endJob completes the River job of a batch or a vacuum in the ledger's transaction, if
// this attempt still owns it. River itself does not check that: a job that was given to
// another worker meanwhile must not be completed under it. The ledger's own
// compare-and-set has decided already.
func endJob[T river.JobArgs](ctx context.Context, l *ledger.Ledger, tx pgx.Tx, job *river.Job[T]) error {
	var mine bool
	err := tx.QueryRow(ctx, l.SQL(`
		SELECT count(*) = 1 FROM (SELECT 1 FROM {s}.river_job WHERE id = $1 AND state = 'running' AND attempted_at = $2 FOR UPDATE) s`),
		job.ID, job.AttemptedAt).Scan(&mine)
	if err != nil {
		return fmt.Errorf("look at the job: %w", err)
	}
	if !mine {
		// It was given back to the queue, where it would wait for ever beside a batch that
		// is finished; whoever runs it finds that out.
		_, err := tx.Exec(ctx, l.SQL(`
			UPDATE {s}.river_job SET state = 'completed', finalized_at = now() WHERE id = $1 AND finalized_at IS NULL AND state <> 'running'`), job.ID)
		if err != nil {
			return fmt.Errorf("end the job: %w", err)
		}
		return nil
	}
	if _, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job); err != nil {
		return fmt.Errorf("complete the job: %w", err)
	}
	return nil
}
