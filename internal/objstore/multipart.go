package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/minio/crc64nvme"
	"golang.org/x/sync/errgroup"
)

const (
	// partsInFlight bounds the parts of one object on their way at a time. They
	// are sent from the caller's reader and so cost no memory.
	partsInFlight = 4
	// cleanUpLimit bounds the clean-up after an upload; it has a context of its own.
	cleanUpLimit = 30 * time.Second
)

// putParts stores the blob in parts. The object appears at the very end and in
// one piece, if the store finds that the parts make up the blob's checksum. When
// it does not appear, nothing is left behind, unless this process is killed.
func (s *Store) putParts(ctx context.Context, key string, body io.ReaderAt, b Blob) (_ Object, err error) {
	created, err := s.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket:               s.bucket(),
		Key:                  aws.String(key),
		ContentType:          optional(b.ContentType),
		Metadata:             b.Metadata,
		ChecksumAlgorithm:    types.ChecksumAlgorithmCrc64nvme,
		ChecksumType:         types.ChecksumTypeFullObject,
		StorageClass:         types.StorageClass(s.config.StorageClass),
		ServerSideEncryption: types.ServerSideEncryption(s.config.SSE),
		SSEKMSKeyId:          optional(s.config.KMSKeyID),
	})
	if err != nil {
		return Object{}, fmt.Errorf("begin a multipart upload: %w", err)
	}
	defer func() {
		cleanUp, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpLimit)
		defer cancel()
		if err != nil {
			// Best effort: what stays is no object, only space, and the next upload
			// of this key or the bucket's lifecycle rule clears it away.
			s.abandon(cleanUp, key, created.UploadId)
			return
		}
		s.abortOthers(cleanUp, key)
	}()

	parts, err := s.sendParts(ctx, key, created.UploadId, body, b.Size)
	if err != nil {
		return Object{}, err
	}
	done, err := s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket:            s.bucket(),
		Key:               aws.String(key),
		UploadId:          created.UploadId,
		IfNoneMatch:       aws.String(ifNoneMatchAny),
		ChecksumCRC64NVME: aws.String(encodeCRC(b.CRC64NVME)),
		ChecksumType:      types.ChecksumTypeFullObject,
		MpuObjectSize:     aws.Int64(b.Size),
		MultipartUpload:   &types.CompletedMultipartUpload{Parts: parts},
	})
	if err != nil {
		return Object{}, fmt.Errorf("complete the multipart upload: %w", err)
	}
	object := Object{
		Key: key, VersionID: aws.ToString(done.VersionId), Size: b.Size,
		CRC64NVME: decodeCRC(done.ChecksumCRC64NVME, done.ChecksumType),
	}
	if object.CRC64NVME == nil {
		return s.completed(ctx, object, b)
	}
	return object, nil
}

// completed looks at an object whose completion was answered without its checksum. A store
// may say so of an upload that another writer of the key has cleared away, as Versity
// Gateway 1.8 does: it takes the object that is there for the one that the upload made.
func (s *Store) completed(ctx context.Context, object Object, b Blob) (Object, error) {
	there, err := s.head(ctx, object.Key, object.VersionID)
	if err != nil {
		return Object{}, fmt.Errorf("look at the object that the parts have become: %w", err)
	}
	if there.Size != b.Size || there.CRC64NVME != nil && *there.CRC64NVME != b.CRC64NVME {
		return Object{}, fmt.Errorf("%w: the parts were cleared away by another writer of the key", ErrDifferent)
	}
	return there, nil
}

// sendParts uploads all parts, partsInFlight at a time, and stops at the first
// that fails.
func (s *Store) sendParts(ctx context.Context, key string, uploadID *string, body io.ReaderAt, size int64) ([]types.CompletedPart, error) {
	partBytes := max(s.config.PartSize, (size+maxParts-1)/maxParts)
	parts := make([]types.CompletedPart, (size+partBytes-1)/partBytes)
	sending, whileNoneFailed := errgroup.WithContext(ctx)
	sending.SetLimit(partsInFlight)
	for i := range parts {
		if whileNoneFailed.Err() != nil {
			break // what is not started need not be; Wait or ctx has the error
		}
		sending.Go(func() error {
			offset := int64(i) * partBytes
			part, err := s.sendPart(whileNoneFailed, key, uploadID, int32(i+1), newSection(body, offset, min(partBytes, size-offset)))
			if err != nil {
				return fmt.Errorf("part %d of %d: %w", i+1, len(parts), err)
			}
			parts[i] = part
			return nil
		})
	}
	if err := sending.Wait(); err != nil {
		return nil, err
	}
	return parts, ctx.Err()
}

// sendPart uploads one part with its own checksum, so that a damaged one is
// refused at once and not at the end.
func (s *Store) sendPart(ctx context.Context, key string, uploadID *string, number int32, bytes *section) (types.CompletedPart, error) {
	crc := crc64nvme.New()
	if _, err := io.Copy(crc, bytes); err != nil {
		return types.CompletedPart{}, err
	}
	if _, err := bytes.Seek(0, io.SeekStart); err != nil {
		return types.CompletedPart{}, err
	}
	sum := aws.String(encodeCRC(crc.Sum64()))
	sent, err := s.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket:            s.bucket(),
		Key:               aws.String(key),
		UploadId:          uploadID,
		PartNumber:        aws.Int32(number),
		Body:              bytes,
		ContentLength:     aws.Int64(bytes.Size()),
		ChecksumCRC64NVME: sum,
	})
	if err != nil {
		return types.CompletedPart{}, err
	}
	return types.CompletedPart{PartNumber: aws.Int32(number), ETag: sent.ETag, ChecksumCRC64NVME: sum}, nil
}

// abandon removes an upload of which parts may still be on their way. S3 keeps one that
// arrives while the upload is aborted, and says that it may have to be aborted several
// times (AbortMultipartUpload). A store that always says it has done so is believed at the
// third time.
func (s *Store) abandon(ctx context.Context, key string, uploadID *string) {
	for range 3 {
		if there, err := s.abort(ctx, key, uploadID); err != nil || !there {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// abort removes an unfinished upload, and says whether it was there.
func (s *Store) abort(ctx context.Context, key string, uploadID *string) (there bool, err error) {
	_, err = s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
		Bucket: s.bucket(), Key: aws.String(key), UploadId: uploadID,
	})
	if code, _ := apiError(err); code == "NoSuchUpload" {
		return false, nil
	}
	return err == nil, err
}

// abortOthers clears away the unfinished uploads of a key that has its object:
// those of a process that was killed, those whose beginning was acknowledged to
// nobody, and those of a twin, which will find the object instead. It is best
// effort, and a role that may not list uploads just leaves them where they are.
func (s *Store) abortOthers(ctx context.Context, key string) {
	found, err := s.client.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{
		Bucket: s.bucket(), Prefix: aws.String(key),
	}, once)
	if err != nil {
		return
	}
	for _, upload := range found.Uploads {
		if aws.ToString(upload.Key) != key {
			continue
		}
		if _, err := s.abort(ctx, key, upload.UploadId); errors.Is(err, context.DeadlineExceeded) {
			return
		}
	}
}
