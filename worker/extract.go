package worker

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/encode"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/source"
)

// spool is the local copy of an object: an unlinked temporary file, so that
// nothing is left behind however the process ends.
type spool struct {
	*os.File
	object    encode.Object
	extracted *source.Extracted
	readFrom  string // source.Primary or source.ReadReplica
	content   bool   // the digest covers what the rows hold
}

func (w *Worker) newSpool() (*os.File, error) {
	f, err := os.CreateTemp(w.Config.Worker.SpoolDir, "archiver-spool-")
	if err != nil {
		return nil, &SpoolError{Dir: w.spoolDir(), Err: err}
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, &SpoolError{Dir: w.spoolDir(), Err: err}
	}
	return f, nil
}

func (w *Worker) spoolDir() string {
	if w.Config.Worker.SpoolDir == "" {
		return os.TempDir()
	}
	return w.Config.Worker.SpoolDir
}

// spoolWriter tells a full disk from every other reason why a read ended.
type spoolWriter struct {
	io.Writer
	dir string
}

func (s spoolWriter) Write(p []byte) (int, error) {
	n, err := s.Writer.Write(p)
	if err != nil {
		err = &SpoolError{Dir: s.dir, Err: err}
	}
	return n, err
}

// slowQuery is what reading a batch should never take.
const slowQuery = 5 * time.Second

// maxRounds bounds how often one attempt reads the rows again because they
// changed; then it gives its place to other batches for a while.
const maxRounds = 5

var errKeepsChanging = &waitError{kind: WaitChanging, reason: "the table's rows or definition keep changing", after: 30 * time.Second}

// extract reads the batch's rows in one snapshot and leaves them, encoded and
// compressed, in the spool. A batch that turns out to hold more than it should is
// cut there: the rest becomes a batch of its own.
func (w *Worker) extract(ctx context.Context, a *attempt) (*spool, error) {
	if a.rounds++; a.rounds > maxRounds {
		return nil, errKeepsChanging
	}
	// A definition that changed since the last look is looked at before its rows
	// are read again: what is refused need not be read.
	if a.rounds > 1 {
		if _, err := w.preflight(ctx, a); err != nil {
			return nil, err
		}
	}
	maxRows := 2 * max(int64(a.table.BatchSize), a.batch.RowsPlanned) // which adapts
	for {
		from, err := w.reader(ctx, a)
		if err != nil {
			return nil, err
		}
		s, err := w.read(ctx, a, from, maxRows)
		var braked *brakedError
		if errors.As(err, &braked) {
			return nil, w.letGo(ctx, a, from, braked)
		}
		var tooLarge *encode.TooLargeError
		if errors.As(err, &tooLarge) && tooLarge.Rows < maxRows {
			maxRows = tooLarge.Rows // read again, only what fits
			continue
		}
		if err != nil {
			if maxRows, err = w.passOver(a, err, maxRows); err != nil {
				return nil, err
			}
			continue
		}
		if s.object.Rows == 0 && s.readFrom == source.ReadReplica {
			_ = s.Close()
			a.onPrimary = true // only there is it known that no row is left
			continue
		}
		// It may have changed since that look, too, and the delete asks for no more than
		// the definition that the rows were read under: that is the one to be looked at.
		if w.lookedAt(a.table, s.extracted.Table.Fingerprint) == nil {
			_ = s.Close()
			if s.readFrom == source.ReadReplica {
				if maxRows, err = w.passOver(a, otherForm(a), maxRows); err != nil {
					return nil, err
				}
			}
			if a.rounds++; a.rounds > maxRounds {
				return nil, errKeepsChanging
			}
			if _, err := w.preflight(ctx, a); err != nil {
				return nil, err
			}
			continue
		}
		if s.extracted.Cut != nil {
			if err := w.split(ctx, a, s.extracted.Cut, s.object.Rows, max(a.batch.RowsPlanned-s.object.Rows, 1)); err != nil {
				_ = s.Close()
				return nil, err
			}
		}
		return s, nil
	}
}

func (w *Worker) read(ctx context.Context, a *attempt, from *source.DB, maxRows int64) (*spool, error) {
	began := time.Now()
	f, err := w.newSpool()
	if err != nil {
		return nil, err
	}
	s := &spool{
		File: f, readFrom: from.Role(),
		// The identity of a row says what it holds only on one server: a standby that has
		// gone another way can hold another row under the same.
		content: a.table.DeleteGuard == config.DeleteGuardContent || from.Role() == source.ReadReplica,
	}
	var out *encode.Writer
	var rows rowCounter
	copying := began // but for the time until it begins
	ctx, stop := w.underBrake(ctx, a)
	defer stop()
	s.extracted, err = from.Extract(ctx, source.ExtractRequest{
		Table: a.table, Key: a.batch.KeyColumns, Range: a.batch.Range, MaxRows: maxRows,
		Content: s.content, Timeout: w.Config.Worker.BatchTimeout,
	}, func(t *source.Table) (io.Writer, error) {
		o := t.Encoding(s.content)
		o.Compression, o.Level, o.MaxRawBytes = a.table.Compression, a.table.CompressionLevel, a.table.MaxBatchBytes
		var err error
		out, err = encode.NewWriter(spoolWriter{a.progress.counted(f), w.spoolDir()}, o)
		rows.Writer = out
		copying = time.Now()
		return failpoint.Writer(ctx, "extract:row", out), err
	}, rows.count)
	if out != nil {
		object, closeErr := out.Close()
		s.object, err = object, errors.Join(err, closeErr)
	}
	elapsed := time.Since(began)
	query := max(elapsed-s.object.Serialize, 0)
	// Also one that was given up in the end. A connection or a lock that was waited for is
	// no slow query, and the advice would lead astray.
	if slow := time.Since(copying) - s.object.Serialize; out != nil && slow > slowQuery {
		a.log.Warn("slow query", zap.Duration("query", slow), zap.Int64("rows", rows.count()), zap.Error(err),
			zap.String("hint", "see that an index starts with the timestamp column and ends with the key (archiver check), lower batch_size or adaptive_batch.target_query_time, vacuum the table, or read from a replica (read_replica)"))
	}
	if err != nil {
		_ = f.Close()
		return nil, brakedBy(ctx, err, rows.count())
	}
	a.described = s.extracted.Table
	a.timings.Serialize += s.object.Serialize.Seconds()
	a.timings.Compress += s.object.Compress.Seconds()
	a.timings.Query += query.Seconds()
	a.progress.holds(s.object.Rows, s.object.StoredBytes)
	a.log.Debug("rows read", zap.Int64("rows", s.object.Rows), zap.Int64("bytes", s.object.RawBytes), zap.String("from", s.readFrom), zap.Duration("duration", elapsed),
		zap.Duration("serialize", s.object.Serialize), zap.Duration("compress", s.object.Compress))
	return s, nil
}

// rowCounter reads the number of rows so far from an encoder that does not exist
// before the columns are known.
type rowCounter struct{ *encode.Writer }

func (r *rowCounter) count() int64 {
	if r.Writer == nil {
		return 0
	}
	return r.Rows()
}
