package objstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/minio/crc64nvme"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/localserver"
)

// server is the real S3 server that all tests of this package share; each has
// buckets of its own.
var server *localserver.S3

var bucketNumber atomic.Int64

func TestMain(m *testing.M) {
	started, err := localserver.StartS3(context.Background(), localserver.S3Options{Log: os.Stderr})
	if err != nil {
		log.Fatal(err)
	}
	server = started
	m.Run() // its result is the exit code when TestMain returns
	if err := server.Stop(); err != nil {
		log.Print(err)
	}
}

// newConfig is a configuration for a new bucket, with retries that take no time.
func newConfig(t testing.TB, versioned bool) Config {
	t.Helper()
	bucket := fmt.Sprintf("test-%d", bucketNumber.Add(1))
	require.NoError(t, server.CreateBucket(t.Context(), bucket, versioned))
	return Config{
		Bucket: bucket, Endpoint: server.Endpoint, PathStyle: true, Region: "us-east-1",
		AccessKeyID: server.AccessKey, SecretAccessKey: server.SecretKey,
		Retry: RetryPolicy{MaxAttempts: 4, InitialDelay: time.Millisecond, MaxDelay: 5 * time.Millisecond},
	}
}

func open(t testing.TB, c Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// newStore is a store on a new bucket whose requests go through faults.
func newStore(t testing.TB, faults ...fault) *Store {
	t.Helper()
	c := newConfig(t, false)
	c.MultipartThreshold, c.PartSize = 6*mib, 5*mib
	if len(faults) > 0 {
		c.Transport = inject(faults...)
	}
	return open(t, c)
}

// blobOf describes content as the encoder would.
func blobOf(content []byte) Blob {
	return Blob{
		Size: int64(len(content)), SHA256: sha256.Sum256(content), CRC64NVME: crc64nvme.Checksum(content),
		ContentType: "application/gzip", Metadata: map[string]string{"archiver-rows": "42"},
	}
}

// noise is content that differs with its seed and cannot be compressed.
func noise(seed byte, size int) []byte {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(content) // it never fails
	return content
}

func put(t testing.TB, s *Store, key string, content []byte) Object {
	t.Helper()
	object, err := s.Put(t.Context(), key, bytes.NewReader(content), blobOf(content))
	require.NoError(t, err)
	return object
}

func read(t testing.TB, s *Store, key, versionID string) []byte {
	t.Helper()
	body, _, err := s.Get(t.Context(), key, versionID)
	require.NoError(t, err)
	defer body.Close()
	content, err := io.ReadAll(body)
	require.NoError(t, err)
	return content
}

// overwrite does what Put never does.
func overwrite(t testing.TB, s *Store, key string, content []byte) {
	t.Helper()
	_, err := s.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: s.bucket(), Key: &key, Body: bytes.NewReader(content)})
	require.NoError(t, err)
}

// unfinished counts the multipart uploads that were neither completed nor aborted.
func unfinished(t testing.TB, s *Store) int {
	t.Helper()
	found, err := s.client.ListMultipartUploads(context.WithoutCancel(t.Context()), &s3.ListMultipartUploadsInput{Bucket: s.bucket()})
	require.NoError(t, err)
	return len(found.Uploads)
}

// fault is something that goes wrong with the first few requests of a kind.
type fault struct {
	on    string // see kindOf
	times int    // how many of them
	do    mishap
	hits  *atomic.Int64 // counts the requests of the kind, when set
}

// mishap stands in for the transport's RoundTrip.
type mishap func(request *http.Request, next http.RoundTripper) (*http.Response, error)

// kindOf names a request by what it does.
func kindOf(r *http.Request) string {
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodPost && query.Has("uploads"):
		return "create"
	case r.Method == http.MethodPost && query.Has("uploadId"):
		return "complete"
	case r.Method == http.MethodPut && query.Has("partNumber"):
		return "part"
	case r.Method == http.MethodDelete && query.Has("uploadId"):
		return "abort"
	case r.Method == http.MethodGet && query.Has("uploads"):
		return "uploads"
	case r.Method == http.MethodGet && query.Has("list-type"):
		return "list"
	}
	return strings.ToLower(r.Method)
}

type injector struct {
	next   http.RoundTripper
	faults []fault
	left   []atomic.Int64
}

func inject(faults ...fault) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		i := &injector{next: next, faults: faults, left: make([]atomic.Int64, len(faults))}
		for n := range faults {
			i.left[n].Store(int64(faults[n].times))
		}
		return i
	}
}

func (i *injector) RoundTrip(r *http.Request) (*http.Response, error) {
	kind := kindOf(r)
	for n, f := range i.faults {
		if f.on != kind {
			continue
		}
		if f.hits != nil {
			f.hits.Add(1)
		}
		if f.do != nil && i.left[n].Add(-1) >= 0 {
			return f.do(r, i.next)
		}
	}
	return i.next.RoundTrip(r)
}

// always is more often than any retry.
const always = 1 << 30
