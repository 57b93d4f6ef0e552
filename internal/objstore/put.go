package objstore

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
)

// ifNoneMatchAny makes the store refuse a write to a key that has an object.
const ifNoneMatchAny = "*"

// Put stores the blob's bytes under key and returns the object that holds them.
// It overwrites nothing. If an object stands there already, the same content
// makes it the result, as does an upload whose answer was lost; another content
// is ErrDifferent. body is read from several goroutines, and more than once when
// a request is tried again.
func (s *Store) Put(ctx context.Context, key string, body io.ReaderAt, b Blob) (Object, error) {
	if key == "" || b.Size < 0 {
		return Object{}, s.fail("put", key, fmt.Errorf("%w: key %q, %d bytes", errInvalid, key, b.Size))
	}
	upload := s.putWhole
	if b.Size > 0 && b.Size >= s.config.MultipartThreshold {
		upload = s.putParts
	}
	for failed := 1; ; failed++ {
		object, err := upload(ctx, key, body, b)
		if err == nil {
			return object, nil
		}
		object, settled, settleErr := s.settle(ctx, key, b, err)
		if settled {
			return object, s.fail("put", key, settleErr)
		}
		// The store refused because of another writer of the key whose object is
		// not there (yet): its upload is still going on, or has failed.
		if !isConflict(err) || failed >= s.config.Retry.MaxAttempts {
			if isConflict(err) {
				err = fmt.Errorf("%w: %w", errVanished, err)
			}
			return Object{}, s.fail("put", key, err)
		}
		if err := sleep(ctx, s.config.Retry.delay(failed)); err != nil {
			return Object{}, s.fail("put", key, err)
		}
	}
}

// putWhole stores the blob with one request.
func (s *Store) putWhole(ctx context.Context, key string, body io.ReaderAt, b Blob) (Object, error) {
	out, err := s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket:               s.bucket(),
		Key:                  aws.String(key),
		Body:                 newSection(body, 0, b.Size),
		ContentLength:        aws.Int64(b.Size),
		ContentType:          optional(b.ContentType),
		Metadata:             b.Metadata,
		IfNoneMatch:          aws.String(ifNoneMatchAny),
		ChecksumCRC64NVME:    aws.String(encodeCRC(b.CRC64NVME)),
		StorageClass:         types.StorageClass(s.config.StorageClass),
		ServerSideEncryption: types.ServerSideEncryption(s.config.SSE),
		SSEKMSKeyId:          optional(s.config.KMSKeyID),
	}, withPayloadHash(b.SHA256))
	if err != nil {
		return Object{}, err
	}
	return Object{
		Key: key, VersionID: aws.ToString(out.VersionId), Size: b.Size,
		CRC64NVME: decodeCRC(out.ChecksumCRC64NVME, out.ChecksumType),
	}, nil
}

// withPayloadHash gives the signer the hash of the body that we know anyway: it
// need not read the body once more, and over HTTPS, where the SDK would leave the
// body unsigned, the store checks the SHA-256 too.
func withPayloadHash(sum [32]byte) func(*s3.Options) {
	known := hex.EncodeToString(sum[:])
	set := middleware.InitializeMiddlewareFunc("ArchiverPayloadHash", func(
		ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
	) (middleware.InitializeOutput, middleware.Metadata, error) {
		return next.HandleInitialize(v4.SetPayloadHash(ctx, known), in)
	})
	return func(o *s3.Options) {
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
			return stack.Initialize.Add(set, middleware.Before)
		})
	}
}

// settle finds out what became of an upload that ended with cause. settled is
// false when there is nothing to be found out or nothing was found, and cause
// stands.
func (s *Store) settle(ctx context.Context, key string, b Blob, cause error) (_ Object, settled bool, _ error) {
	options := []func(*s3.Options){}
	switch {
	case isConflict(cause):
	case IsUnavailable(cause) && ctx.Err() == nil:
		// The request may have been carried out and its answer lost. One look is
		// enough: all retries have been used up on the upload.
		options = append(options, once)
	default:
		return Object{}, false, nil
	}
	object, err := s.head(ctx, key, "", options...)
	switch {
	case err == nil:
		err = s.compare(ctx, object, b)
		if err != nil && !errors.Is(err, ErrDifferent) && !isConflict(cause) {
			return Object{}, false, nil // still not known; the cause says more
		}
		return object, true, err
	case IsNotFound(err) || !isConflict(cause):
		return Object{}, false, nil
	default:
		return Object{}, true, fmt.Errorf("look at the object that is there already: %w", err)
	}
}

// compare decides whether the object holds the blob: nil, or an error that is
// ErrDifferent where it is certain that it does not.
func (s *Store) compare(ctx context.Context, object Object, b Blob) error {
	if object.Size != b.Size {
		return fmt.Errorf("%w: it has %d bytes, not %d", ErrDifferent, object.Size, b.Size)
	}
	if object.CRC64NVME != nil {
		if *object.CRC64NVME != b.CRC64NVME {
			return fmt.Errorf("%w: its CRC64NVME is %016x, not %016x", ErrDifferent, *object.CRC64NVME, b.CRC64NVME)
		}
		return nil
	}
	sum, err := s.readSHA256(ctx, object)
	if err != nil {
		return fmt.Errorf("read back the object that is there already: %w", err)
	}
	if sum != b.SHA256 {
		return fmt.Errorf("%w: its SHA-256 is %x, not %x", ErrDifferent, sum, b.SHA256)
	}
	return nil
}

// isConflict says whether the store refused an upload for the sake of another
// one of the same key.
func isConflict(err error) bool {
	code, status := apiError(err)
	return status == http.StatusPreconditionFailed || status == http.StatusConflict && code == "ConditionalRequestConflict" ||
		code == "NoSuchUpload"
}

// once turns off the retries of one request.
func once(o *s3.Options) { o.Retryer = aws.NopRetryer{} }

// sleep waits, or returns the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// section is a range of the caller's bytes as the SDK wants it. It marks the
// errors of reading, and a file that is shorter than promised, so that they are
// not taken for the network's.
type section struct {
	*io.SectionReader
}

func newSection(r io.ReaderAt, offset, size int64) *section {
	return &section{io.NewSectionReader(r, offset, size)}
}

func (s *section) Read(p []byte) (int, error) {
	n, err := s.SectionReader.Read(p)
	if errors.Is(err, io.EOF) && n == 0 && len(p) > 0 {
		if at, seekErr := s.Seek(0, io.SeekCurrent); seekErr == nil && at < s.Size() {
			return 0, &bodyError{io.ErrUnexpectedEOF}
		}
		return 0, io.EOF
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return n, &bodyError{err}
	}
	return n, nil
}

// encodeCRC is the form of a checksum in S3's headers.
func encodeCRC(crc uint64) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, crc))
}

// decodeCRC reads a checksum of a whole object; nil for none and for one that
// was made from the checksums of parts.
func decodeCRC(header *string, kind types.ChecksumType) *uint64 {
	if header == nil || kind == types.ChecksumTypeComposite {
		return nil
	}
	raw, err := base64.StdEncoding.DecodeString(*header)
	if err != nil || len(raw) != 8 {
		return nil
	}
	return aws.Uint64(binary.BigEndian.Uint64(raw))
}
