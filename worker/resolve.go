package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/encode"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
)

// resolve finds out whether a delete that was begun has happened, by looking at
// the rows. The object is read back into the spool first, both because no lock is
// held while the network is read, and because nothing is decided about rows whose
// object cannot be seen whole.
func (w *Worker) resolve(ctx context.Context, a *attempt) error {
	f, err := w.newSpool()
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // unlinked, and only read from here on
	o := a.batch.Object
	if err := w.compare(ctx, a, o, nil, spoolWriter{f, w.spoolDir()}); err != nil {
		if isDamage(err) {
			return &permanentError{
				err:  fmt.Errorf("%w; the delete of its rows was begun and may have happened, so nothing more is done", err),
				hint: "restore " + o.Key + " (version " + o.VersionID + ") in storage, then: archiver jobs retry " + fmt.Sprint(a.job.ID),
			}
		}
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("rewind the spool: %w", err)
	}
	rows, err := newRowReader(f, o.Compression)
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // see above
	fate, lsn, err := a.db.Resolve(ctx, w.deleteRequest(a), rows)
	if err != nil {
		return a.undecidable(err)
	}
	if err := failpoint.Hit(ctx, "resolve:decided"); err != nil {
		return err
	}
	switch fate {
	case source.StillThere:
		a.log.Info("resumed: nothing was deleted")
		if err := w.Ledger.NotDeleted(ctx, a.batch); err != nil {
			return err
		}
		a.readBack = true
		return w.covered(ctx, a) // claim could not ask before the outcome was known
	case source.AllGone:
		a.log.Info("resumed: the rows are deleted")
		a.deleted, a.lsn = true, lsn
		return nil
	case source.PartlyGone:
		a.log.Warn("resumed: the rows were changed by another hand; the object is set aside", zap.String("object_key", o.Key))
		if err := w.Ledger.ExtractAgain(ctx, a.batch, ledger.ObjectSuperseded, false); err != nil {
			return err
		}
		return w.covered(ctx, a)
	case source.TwinDeciding:
		return &waitError{kind: WaitTwin, reason: source.TwinAtWork.String(), after: twinWait}
	}
	return fmt.Errorf("resolve: unknown fate %d", fate)
}

// undecidable makes an error permanent that says that the rows cannot be looked for
// as things are: only a human can put them back as they were.
func (a *attempt) undecidable(err error) error {
	var (
		rekeyed  *source.KeyChangedError
		replaced *source.ReplacedError
		other    *source.OtherServerError
		first    string
	)
	switch {
	case errors.As(err, &rekeyed):
		first = "give the table its former key back for as long as this takes"
	case errors.As(err, &replaced):
		first = "rename the tables back for as long as this takes"
	case errors.As(err, &other):
		first = "let databases[] name the server that they were read from"
	default:
		return err
	}
	return &permanentError{
		err:  fmt.Errorf("%w, so it cannot be found out here whether its rows were deleted", err),
		hint: first + ", then: archiver jobs retry " + fmt.Sprint(a.job.ID),
	}
}

// rowReader yields the lines of an object.
type rowReader struct {
	io.Closer
	lines *bufio.Reader
}

func newRowReader(r io.Reader, compression string) (*rowReader, error) {
	d, err := encode.NewReader(r, compression)
	if err != nil {
		return nil, err
	}
	return &rowReader{Closer: d, lines: bufio.NewReaderSize(d, 1<<16)}, nil
}

// Next implements source.RowReader.
func (r *rowReader) Next() ([]byte, error) {
	line, err := r.lines.ReadBytes('\n')
	if errors.Is(err, io.EOF) && len(line) > 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return line, err
}
