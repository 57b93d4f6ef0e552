package worker

import (
	"context"
	"encoding/hex"
	"time"

	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/encode"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/layout"
	"github.com/audit-table-archiver/archiver/internal/objstore"
)

// stored is an object in storage with the names that were made for it.
type stored struct {
	objstore.Object
	manifestKey string
}

// upload puts the spool into storage. The key carries the hash of the bytes, and
// the store never overwrites: a second upload of the same bytes is the same
// object, and different bytes cannot meet it there.
func (w *Worker) upload(ctx context.Context, a *attempt, s *spool) (*stored, error) {
	began := time.Now()
	name := layout.Object{
		Prefix: w.Config.S3.Prefix, Database: a.batch.Database, Schema: a.batch.Schema, Table: a.batch.Table,
		Partition: a.batch.Partition, First: s.object.First[0], BatchID: a.batch.ID, SHA256: s.object.StoredSHA256,
		Extension: encode.Extension(a.table.Format, a.table.Compression),
	}
	object, err := w.Store.Put(ctx, name.Key(), failpoint.ReaderAt(ctx, "upload:read", s.File), objstore.Blob{
		Size: s.object.StoredBytes, SHA256: s.object.StoredSHA256, CRC64NVME: s.object.CRC64NVME,
		ContentType: contentType(a.table.Compression),
		Metadata:    map[string]string{"sha256": hex.EncodeToString(s.object.StoredSHA256[:])},
	})
	if err != nil {
		return nil, err
	}
	a.timings.Upload += time.Since(began).Seconds()
	a.log.Debug("object uploaded", zap.String("object_key", object.Key), zap.Int64("bytes", object.Size), zap.Duration("duration", time.Since(began)))
	return &stored{Object: object, manifestKey: name.ManifestKey()}, failpoint.Hit(ctx, "upload:done")
}

// contentType never names an encoding: clients that see Content-Encoding
// decompress on their own and would not get the bytes that were hashed.
func contentType(compression string) string {
	switch compression {
	case "gzip":
		return "application/gzip"
	case "zstd":
		return "application/zstd"
	default:
		return "application/x-ndjson"
	}
}
