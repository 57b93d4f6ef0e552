package worker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/encode"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/layout"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/objstore"
)

// VerifyError says that storage did not give back what was uploaded.
type VerifyError struct {
	Key        string
	What       string
	Want, Have string
}

func (e *VerifyError) Error() string {
	return fmt.Sprintf("verify %s: %s is %s, want %s", e.Key, e.What, e.Have, e.Want)
}

// damageHint is what an operator can do about an object that is not whole. The
// archiver itself never removes one, nor writes over it.
const damageHint = "look at the object in storage; if it is damaged there, move it away, then: archiver jobs retry --failed"

// verify reads the object back by version, compares every byte's hash and counts
// its rows, and only then records it: from here on the object speaks for the batch.
func (w *Worker) verify(ctx context.Context, a *attempt, s *spool, object *stored) error {
	began := time.Now()
	record, err := a.objectRecord(w, s, object)
	if err != nil {
		return err
	}
	if err := w.compare(ctx, a, &record, &s.object, nil); err != nil {
		return err
	}
	a.timings.Verify += time.Since(began).Seconds()
	if err := failpoint.Hit(ctx, "verify:done"); err != nil {
		return err
	}
	if err := w.Ledger.RecordVerified(ctx, a.batch, record); err != nil {
		return err
	}
	a.readBack = true
	a.log.Debug("object verified", zap.String("object_key", record.Key), zap.Int64("rows", record.Rows), zap.Duration("duration", time.Since(began)))
	return failpoint.Hit(ctx, "verify:recorded")
}

// readBack verifies the recorded object once more in an attempt that did not do
// so itself: hours may lie between the two. An object that is not whole any more
// does no harm yet, since all rows are still in the table.
func (w *Worker) readBack(ctx context.Context, a *attempt) error {
	began := time.Now()
	err := w.compare(ctx, a, a.batch.Object, nil, nil)
	if isDamage(err) {
		a.log.Warn("object is not whole any more; reading the rows again", zap.String("object_key", a.batch.Object.Key), zap.Error(err))
		return w.Ledger.ExtractAgain(ctx, a.batch, ledger.ObjectDiscarded, false)
	}
	if err != nil {
		return err
	}
	a.timings.Verify += time.Since(began).Seconds()
	a.readBack = true
	return nil
}

// compare reads an object and compares it with what the ledger is to hold, or
// holds, about it. The bytes also go to keep, if that is given.
//
// Where this very attempt wrote the object, written says what went into the compressor,
// and a CRC64 of what comes out is enough to show that the two agree: that the bytes in
// between are the same is known by their SHA-256. Otherwise the rows have to match the
// SHA-256 that was recorded of them.
func (w *Worker) compare(ctx context.Context, a *attempt, o *ledger.Object, written *encode.Object, keep io.Writer) error {
	body, meta, err := w.Store.Get(ctx, o.Key, o.VersionID)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // every byte was read and hashed, or an error is returned
	source := &faultReader{r: body}
	var r io.Reader = source
	if keep != nil {
		r = io.TeeReader(source, keep)
	}
	differ := func(what string, want, have any) error {
		return &VerifyError{Key: o.Key, What: what, Want: fmt.Sprint(want), Have: fmt.Sprint(have)}
	}
	depth := encode.Hashed
	switch {
	case a.table.Verify == config.VerifyReadback:
		depth = encode.Stored
	case written != nil:
		depth = encode.Decoded
	}
	have, err := encode.Verify(r, o.Compression, depth)
	switch {
	case source.err != nil: // the network, or a checksum that the store keeps
		return fmt.Errorf("verify %s: %w", o.Key, source.err)
	case err != nil && keep == nil:
		return differ("the content", "readable rows", err)
	case err != nil:
		return fmt.Errorf("verify %s: %w", o.Key, err)
	}
	switch {
	case meta.Size != o.StoredBytes:
		return differ("the size in storage", o.StoredBytes, meta.Size)
	case have.StoredBytes != o.StoredBytes:
		return differ("the length read back", o.StoredBytes, have.StoredBytes)
	case have.StoredSHA256 != o.SHA256:
		return differ("the SHA-256", hex.EncodeToString(o.SHA256[:]), hex.EncodeToString(have.StoredSHA256[:]))
	case depth == encode.Stored:
		return nil
	case have.Rows != o.Rows:
		return differ("the number of rows", o.Rows, have.Rows)
	case have.RawBytes != o.RawBytes:
		return differ("the length of the decompressed rows", o.RawBytes, have.RawBytes)
	case depth == encode.Decoded && have.RawCRC64NVME != written.RawCRC64NVME:
		return differ("the CRC64 of the decompressed rows", fmt.Sprintf("%016x", written.RawCRC64NVME), fmt.Sprintf("%016x", have.RawCRC64NVME))
	case depth == encode.Hashed && have.RawSHA256 != o.RawSHA256:
		return differ("the SHA-256 of the decompressed rows", hex.EncodeToString(o.RawSHA256[:]), hex.EncodeToString(have.RawSHA256[:]))
	}
	return nil
}

// objectRecord is what the ledger will hold, manifest included: the manifest is
// made here, once, so that whoever commits the batch writes the same bytes.
func (a *attempt) objectRecord(w *Worker, s *spool, object *stored) (ledger.Object, error) {
	b, x := a.batch, s.extracted
	columns := make([]layout.Column, len(x.Table.Columns))
	for i, c := range x.Table.Columns {
		columns[i] = layout.Column{Name: c.Name, Type: c.Type, Nullable: !c.NotNull, Identity: c.Identity, Generated: c.Generated}
	}
	manifest, err := layout.Manifest{
		FormatVersion: layout.FormatVersion, Archiver: w.Version,
		Database: b.Database, Schema: b.Schema, Table: b.Table, RunID: b.RunID, BatchID: b.ID, Attempt: b.Attempt,
		Object: object.Key, VersionID: object.VersionID,
		Range: layout.Range{FromTS: b.Range.FromTS, After: b.Range.After, To: b.Range.To}, Cutoff: b.CutoffValue,
		Rows: s.object.Rows, Format: a.table.Format, Compression: a.table.Compression,
		RawBytes: s.object.RawBytes, StoredBytes: s.object.StoredBytes,
		RawSHA256: hex.EncodeToString(s.object.RawSHA256[:]), SHA256: hex.EncodeToString(s.object.StoredSHA256[:]),
		KeyColumns: b.KeyColumns, First: s.object.First, Last: s.object.Last,
		Columns: columns, PrimaryKey: x.Table.PrimaryKey,
		Source: layout.Source{
			SystemIdentifier: x.Identity.SystemID, Timeline: x.Identity.Timeline, ServerVersion: x.ServerVersion,
			Snapshot: x.Snapshot, RowDigest: s.object.Digest.String(), ReadFrom: s.readFrom,
		},
		CreatedAt: time.Now().UTC(),
	}.Bytes()
	if err != nil {
		return ledger.Object{}, err
	}
	return ledger.Object{
		Key: object.Key, VersionID: object.VersionID, Rows: s.object.Rows, RawBytes: s.object.RawBytes, StoredBytes: s.object.StoredBytes,
		RawSHA256: s.object.RawSHA256, SHA256: s.object.StoredSHA256, Digest: s.object.Digest,
		ContentGuard: s.content, ReadFrom: s.readFrom, Fingerprint: x.Table.Fingerprint,
		SystemID: x.Identity.SystemID, Timeline: x.Identity.Timeline, Compression: a.table.Compression,
		ManifestKey: object.manifestKey, Manifest: string(manifest),
	}, nil
}

// isDamage says that the object is not there or not whole, and not that storage
// is out of reach.
func isDamage(err error) bool {
	var v *VerifyError
	return errors.As(err, &v) || objstore.IsNotFound(err) || errors.Is(err, objstore.ErrCorrupt)
}

// faultReader remembers why reading failed, to tell a broken way from bad bytes.
type faultReader struct {
	r   io.Reader
	err error
}

func (f *faultReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}
