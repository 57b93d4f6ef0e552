package objstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/minio/crc64nvme"
)

// Get opens an object for reading; with an empty versionID its newest version.
// The reader ends with io.EOF only after all bytes that the store announced, and
// only if they have the checksum that the store keeps: else with an error that
// IsUnavailable (cut short), or with ErrCorrupt. The caller closes it.
func (s *Store) Get(ctx context.Context, key, versionID string) (io.ReadCloser, Object, error) {
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket:    s.bucket(),
		Key:       aws.String(key),
		VersionId: optional(versionID),
	}, withChecksum)
	if err != nil {
		return nil, Object{}, s.fail("get", key, err)
	}
	if out.ContentLength == nil {
		_ = out.Body.Close() // nothing was read from it
		return nil, Object{}, s.fail("get", key, errors.New("the store does not say how long the object is"))
	}
	object := Object{
		Key:          key,
		VersionID:    aws.ToString(out.VersionId),
		Size:         *out.ContentLength,
		CRC64NVME:    decodeCRC(out.ChecksumCRC64NVME, out.ChecksumType),
		LastModified: aws.ToTime(out.LastModified),
		StorageClass: storageClass(string(out.StorageClass)),
	}
	return &wholeBody{ReadCloser: out.Body, store: s, object: object, left: object.Size, crc: crc64nvme.New()}, object, nil
}

// withChecksum asks for the stored checksum in a way that the SDK does not
// notice: it would compare with an implementation that is twenty times slower,
// and report a mismatch by an error that cannot be told from others.
func withChecksum(o *s3.Options) {
	o.APIOptions = append(o.APIOptions, smithyhttp.SetHeaderValue("X-Amz-Checksum-Mode", string(types.ChecksumModeEnabled)))
}

// wholeBody makes sure that the end of the stream is the end of the object, and
// that its bytes are those that were stored.
type wholeBody struct {
	io.ReadCloser
	store  *Store
	object Object
	left   int64 // bytes to come
	crc    hash.Hash64
}

func (b *wholeBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	_, _ = b.crc.Write(p[:n]) // it never fails
	ended := errors.Is(err, io.EOF)
	switch want := b.object.CRC64NVME; {
	case b.left < 0:
		err = fmt.Errorf("%w: there are more than %d of them", ErrCorrupt, b.object.Size)
	// At the last byte and not at the end of the stream, which a reader that knows
	// the length may never ask for.
	case b.left == 0 && want != nil && b.crc.Sum64() != *want:
		err = fmt.Errorf("%w: CRC64NVME %016x, not %016x", ErrCorrupt, b.crc.Sum64(), *want)
	case b.left == 0 && ended:
		return n, io.EOF
	case err == nil:
		return n, nil
	case ended: // not to be wrapped: a caller that asks for io.EOF would take it for a good end
		err = fmt.Errorf("%w: %d bytes are missing", io.ErrUnexpectedEOF, b.left)
	case b.left > 0:
		err = fmt.Errorf("%w: %d bytes are missing: %w", io.ErrUnexpectedEOF, b.left, err)
	}
	return n, b.store.fail("get", b.object.Key, err)
}

// Head returns what the store says of an object, with an empty versionID of its
// newest version. It says nothing about the bytes; only reading them does.
func (s *Store) Head(ctx context.Context, key, versionID string) (Object, error) {
	object, err := s.head(ctx, key, versionID)
	return object, s.fail("head", key, err)
}

func (s *Store) head(ctx context.Context, key, versionID string, options ...func(*s3.Options)) (Object, error) {
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{
		Bucket:       s.bucket(),
		Key:          aws.String(key),
		VersionId:    optional(versionID),
		ChecksumMode: types.ChecksumModeEnabled,
	}, options...)
	if err != nil {
		return Object{}, err
	}
	return Object{
		Key:          key,
		VersionID:    aws.ToString(out.VersionId),
		Size:         aws.ToInt64(out.ContentLength),
		CRC64NVME:    decodeCRC(out.ChecksumCRC64NVME, out.ChecksumType),
		LastModified: aws.ToTime(out.LastModified),
		StorageClass: storageClass(string(out.StorageClass)),
	}, nil
}

// List goes through the objects whose keys begin with prefix, in the store's
// order; an empty prefix means all. An error is the last thing it yields.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{
			Bucket: s.bucket(),
			Prefix: aws.String(prefix),
			// XML has no way to write some characters that a key may have: one
			// such key would make the whole listing unreadable.
			EncodingType: types.EncodingTypeUrl,
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(Object{}, s.fail("list", prefix, err))
				return
			}
			for _, entry := range page.Contents {
				key := aws.ToString(entry.Key)
				if page.EncodingType == types.EncodingTypeUrl {
					if key, err = url.QueryUnescape(key); err != nil {
						yield(Object{}, s.fail("list", prefix, fmt.Errorf("read the key: %w", err)))
						return
					}
				}
				if !yield(Object{
					Key:          key,
					Size:         aws.ToInt64(entry.Size),
					LastModified: aws.ToTime(entry.LastModified),
					StorageClass: storageClass(string(entry.StorageClass)),
				}, nil) {
					return
				}
			}
		}
	}
}

// readSHA256 reads an object to its end.
func (s *Store) readSHA256(ctx context.Context, object Object) (sum [32]byte, err error) {
	body, _, err := s.Get(ctx, object.Key, object.VersionID)
	if err != nil {
		return sum, err
	}
	defer body.Close() //nolint:errcheck // nothing is written; a failed read has shown itself
	hash := sha256.New()
	if _, err := io.Copy(hash, body); err != nil {
		return sum, err
	}
	return [32]byte(hash.Sum(nil)), nil
}

// storageClass fills in the class that stores leave out.
func storageClass(class string) string {
	if class == "" {
		return string(types.StorageClassStandard)
	}
	return class
}
