package main

import (
	"context"
	"crypto/sha256"
	"io"
	"os"

	"github.com/minio/crc64nvme"

	"github.com/audit-table-archiver/archiver/internal/objstore"
)

// handObject is what the pipeline by hand leaves in its bucket.
const handObject = "by-hand.jsonl.gz"

// upload stands in for `aws s3 cp`: one object, in parts, with a checksum.
func (b *bench) upload(ctx context.Context, endpoint, bucket, file string) error {
	store, err := objstore.Open(ctx, objstore.Config{Bucket: bucket, Endpoint: endpoint, PathStyle: true, AccessKeyID: b.s3.AccessKey, SecretAccessKey: b.s3.SecretKey})
	if err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read-only
	sha, crc := sha256.New(), crc64nvme.New()
	size, err := io.Copy(io.MultiWriter(sha, crc), f)
	if err != nil {
		return err
	}
	_, err = store.Put(ctx, handObject, f, objstore.Blob{Size: size, SHA256: [32]byte(sha.Sum(nil)), CRC64NVME: crc.Sum64(), ContentType: "application/gzip"})
	return err
}
