package objstore

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
)

// recorder keeps the requests that pass through it.
type recorder struct {
	next http.RoundTripper
	mu   sync.Mutex
	seen []*http.Request
}

func (r *recorder) RoundTrip(request *http.Request) (*http.Response, error) {
	r.mu.Lock()
	r.seen = append(r.seen, request.Clone(context.WithoutCancel(request.Context())))
	r.mu.Unlock()
	return r.next.RoundTrip(request)
}

// record makes the store's requests visible.
func record(c *Config) *recorder {
	r := &recorder{}
	c.Transport = func(next http.RoundTripper) http.RoundTripper {
		r.next = next
		return r
	}
	return r
}

// of returns the headers of the first request of a kind.
func (r *recorder) of(t *testing.T, kind string) http.Header {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, request := range r.seen {
		if kindOf(request) == kind {
			return request.Header
		}
	}
	t.Fatalf("no request of the kind %q among %d", kind, len(r.seen))
	return nil
}

// The test server ignores encryption and storage class, so it is the requests
// that are looked at.
func TestHeadersOfUploads(t *testing.T) {
	t.Parallel()
	c := newConfig(t, false)
	c.StorageClass, c.SSE, c.KMSKeyID, c.UserAgent = "STANDARD_IA", "aws:kms", "key-1", "archiver/9.9"
	c.MultipartThreshold, c.PartSize = 6*mib, 5*mib
	seen := record(&c)
	s := open(t, c)
	small, large := noise(1, 1000), noise(2, 11*mib)
	put(t, s, "small", small)
	put(t, s, "large", large)

	for _, kind := range []string{"put", "create"} {
		h := seen.of(t, kind)
		require.Equal(t, "STANDARD_IA", h.Get("X-Amz-Storage-Class"), kind)
		require.Equal(t, "aws:kms", h.Get("X-Amz-Server-Side-Encryption"), kind)
		require.Equal(t, "key-1", h.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"), kind)
		require.Equal(t, "application/gzip", h.Get("Content-Type"), kind)
		require.Equal(t, "42", h.Get("X-Amz-Meta-Archiver-Rows"), kind)
		require.Contains(t, h.Get("User-Agent"), "archiver/9.9")
	}
	sum := blobOf(small).SHA256
	require.Equal(t, hex.EncodeToString(sum[:]), seen.of(t, "put").Get("X-Amz-Content-Sha256"), "the known hash is signed")
	require.Equal(t, "FULL_OBJECT", seen.of(t, "create").Get("X-Amz-Checksum-Type"))
	require.Equal(t, "CRC64NVME", seen.of(t, "create").Get("X-Amz-Checksum-Algorithm"))
	require.Equal(t, encodeCRC(blobOf(large).CRC64NVME), seen.of(t, "complete").Get("X-Amz-Checksum-Crc64nvme"))
	for _, kind := range []string{"put", "complete"} {
		require.Equal(t, "*", seen.of(t, kind).Get("If-None-Match"), kind)
	}
	for _, kind := range []string{"put", "part"} {
		require.NotEmpty(t, seen.of(t, kind).Get("X-Amz-Checksum-Crc64nvme"), kind)
		require.Empty(t, seen.of(t, kind).Get("X-Amz-Trailer"), "no trailers: "+kind)
	}
}

func TestNoHeadersWithoutSettings(t *testing.T) {
	t.Parallel()
	c := newConfig(t, false)
	c.SSE = "none"
	seen := record(&c)
	put(t, open(t, c), "k", []byte("x"))
	for name := range seen.of(t, "put") {
		require.NotContains(t, name, "Server-Side-Encryption")
		require.NotEqual(t, "X-Amz-Storage-Class", name)
	}
}

// Over HTTPS too the hash of the bytes is signed, and AWS_CA_BUNDLE is heeded.
// It sets the environment and so does not run in parallel.
func TestHTTPSWithCABundle(t *testing.T) {
	var signed atomic.Value
	tlsServer := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signed.Store(r.Header.Get("X-Amz-Content-Sha256"))
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("ETag", `"0"`)
	}))
	defer tlsServer.Close()
	tlsServer.Config.ErrorLog = nil
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tlsServer.Certificate().Raw}), 0o600))
	t.Setenv("AWS_CA_BUNDLE", bundle)
	t.Setenv("AWS_MAX_ATTEMPTS", "9")
	s := open(t, Config{Bucket: "b", Endpoint: tlsServer.URL, PathStyle: true, AccessKeyID: "a", SecretAccessKey: "s"})
	content := []byte("some rows")
	put(t, s, "k", content)
	sum := blobOf(content).SHA256
	require.Equal(t, hex.EncodeToString(sum[:]), signed.Load())
}

// Without credentials an operator is told so, and nothing hangs. It sets the
// environment and so does not run in parallel.
func TestNoCredentials(t *testing.T) {
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_PROFILE", "")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	_, err := Open(t.Context(), Config{Bucket: "b"})
	require.ErrorContains(t, err, "no region: set s3.region")

	s := open(t, Config{Bucket: "b", Region: "eu-west-1", Retry: RetryPolicy{MaxAttempts: 2, InitialDelay: time.Millisecond}})
	_, err = s.Probe(t.Context())
	var failed *Error
	require.ErrorAs(t, err, &failed)
	require.Contains(t, failed.Hint, "AWS credentials")
	require.ErrorContains(t, err, "no AWS credentials")
	require.True(t, IsUnavailable(err))
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		change func(*Config)
		says   string
	}{
		"no bucket":        {func(c *Config) { c.Bucket = "" }, "no bucket"},
		"half credentials": {func(c *Config) { c.AccessKeyID = "" }, "need each other"},
		"small parts":      {func(c *Config) { c.PartSize = 1000 }, "part size of 1000 bytes"},
		"threshold":        {func(c *Config) { c.MultipartThreshold = -1 }, "multipart threshold"},
		"encryption":       {func(c *Config) { c.SSE = "rot13" }, `encryption "rot13"`},
		"key without kms":  {func(c *Config) { c.KMSKeyID = "k" }, "aws:kms"},
		"endpoint":         {func(c *Config) { c.Endpoint = "localhost:9000" }, "endpoint must be a URL"},
		"endpoint secret":  {func(c *Config) { c.Endpoint = "http://u:planted-secret@h" }, "must not hold credentials"},
		"attempts":         {func(c *Config) { c.Retry.MaxAttempts = -1 }, "-1 attempts"},
		"delays":           {func(c *Config) { c.Retry.InitialDelay = time.Hour; c.Retry.MaxDelay = time.Minute }, "delays from"},
		"base":             {func(c *Config) { c.Retry.Base = math.NaN() }, "base NaN"},
		"jitter":           {func(c *Config) { c.Retry.Jitter = 1.5 }, "jitter 1.5"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := Config{Bucket: "b", Region: "us-east-1", AccessKeyID: "a", SecretAccessKey: "planted-secret"}
			c.change(&config)
			_, err := Open(t.Context(), config)
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), "planted-secret")
		})
	}
}

func TestRetryDelays(t *testing.T) {
	t.Parallel()
	p := RetryPolicy{}.withDefaults()
	require.Equal(t, RetryPolicy{MaxAttempts: 5, InitialDelay: time.Second, MaxDelay: 30 * time.Second, Base: 2, Jitter: 0.1}, p)
	for failed, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 5: 16 * time.Second, 6: 30 * time.Second, 5000: 30 * time.Second} {
		for range 100 {
			d := p.delay(failed)
			require.GreaterOrEqual(t, d, want)
			require.LessOrEqual(t, d, want+want/10)
		}
	}
	p.Jitter = 0
	require.Equal(t, 2*time.Second, p.delay(2))
}

// A store that takes the connection and says nothing, or stops in the middle, is
// given up after the timeout.
func TestStandstill(t *testing.T) {
	t.Parallel()
	cases := map[string]func(net.Conn){
		"says nothing": func(net.Conn) {},
		"stops in the body": func(c net.Conn) {
			if _, err := c.Read(make([]byte, 4096)); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
		},
	}
	for name, behave := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			done := make(chan struct{})
			var conns sync.WaitGroup
			t.Cleanup(func() {
				close(done)
				require.NoError(t, listener.Close())
				conns.Wait()
			})
			conns.Go(func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					conns.Go(func() {
						defer conn.Close()
						behave(conn)
						<-done
					})
				}
			})
			s := open(t, Config{
				Bucket: "b", Endpoint: "http://" + listener.Addr().String(), PathStyle: true,
				AccessKeyID: "a", SecretAccessKey: "s", Timeout: 100 * time.Millisecond,
				Retry: RetryPolicy{MaxAttempts: 2, InitialDelay: time.Millisecond},
			})
			body, _, err := s.Get(t.Context(), "k", "")
			if err == nil {
				_, err = io.ReadAll(body)
				require.NoError(t, body.Close())
			}
			require.True(t, IsUnavailable(err), err)
			require.NoError(t, t.Context().Err())

			// More bytes than the sockets' buffers hold: the writing stands still. What
			// the second server says to a HEAD is another object.
			content := noise(1, 9*mib)
			_, err = s.Put(t.Context(), "k", bytes.NewReader(content), blobOf(content))
			require.Equal(t, name == "says nothing", IsUnavailable(err), err)
		})
	}
}

// Redirects are reported, never followed: the target could be any host.
func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	var followed atomic.Bool
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Store(true) }))
	defer target.Close()
	from := httptest.NewServer(http.RedirectHandler(target.URL, http.StatusTemporaryRedirect))
	defer from.Close()
	s := open(t, Config{Bucket: "b", Endpoint: from.URL, PathStyle: true, AccessKeyID: "a", SecretAccessKey: "s"})
	_, err := s.Put(t.Context(), "k", strings.NewReader("x"), blobOf([]byte("x")))
	require.True(t, IsPermanent(err), err)
	var failed *Error
	require.ErrorAs(t, err, &failed)
	require.Contains(t, failed.Hint, "s3.region")
	require.False(t, followed.Load())
}

// What a killed process, or a lost answer, left of uploads of this key goes with
// the next upload; those of other keys stay.
func TestPutClearsAwayUnfinishedUploads(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, key := range []string{"k", "k", "k2"} {
		_, err := s.client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: s.bucket(), Key: aws.String(key)})
		require.NoError(t, err)
	}
	put(t, s, "k", noise(1, 12*mib))
	require.Equal(t, 1, unfinished(t, s))
}

func TestInvalidBlob(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for name, c := range map[string]struct {
		key  string
		size int64
	}{"no key": {"", 1}, "negative": {"k", -1}} {
		_, err := s.Put(t.Context(), c.key, strings.NewReader("x"), Blob{Size: c.size})
		require.True(t, IsPermanent(err), name)
	}
}

func TestKindsOfErrors(t *testing.T) {
	t.Parallel()
	for _, err := range []error{nil, errors.New("something else"), context.Canceled, &bodyError{io.ErrUnexpectedEOF}, ErrCorrupt} {
		require.False(t, IsNotFound(err), err)
		require.False(t, IsPermanent(err), err)
		require.False(t, IsUnavailable(err), err)
	}
	require.True(t, IsUnavailable(context.DeadlineExceeded))
	require.True(t, IsPermanent(&Error{Op: "put", Key: "k", Err: ErrDifferent}))

	kinds := map[string]struct {
		status              int
		code                string
		permanent, away, no bool
	}{
		"denied":         {http.StatusForbidden, "AccessDenied", true, false, false},
		"no key":         {http.StatusNotFound, "NoSuchKey", false, false, true},
		"no version":     {http.StatusNotFound, "NoSuchVersion", false, false, true},
		"no bucket":      {http.StatusNotFound, "NoSuchBucket", true, false, false},
		"bad argument":   {http.StatusBadRequest, "InvalidArgument", true, false, false},
		"bad class":      {http.StatusBadRequest, "InvalidStorageClass", true, false, false},
		"damaged":        {http.StatusBadRequest, "BadDigest", false, true, false},
		"damaged, minio": {http.StatusBadRequest, "XAmzContentChecksumMismatch", false, true, false},
		"slow down":      {http.StatusServiceUnavailable, "SlowDown", false, true, false},
		"bad gateway":    {http.StatusBadGateway, "", false, true, false},
		"not there":      {http.StatusNotImplemented, "NotImplemented", true, false, false},
		"late":           {http.StatusBadRequest, "RequestTimeout", false, true, false},
	}
	for name, want := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, fault{on: "get", times: always, do: answer(want.status, want.code)})
			_, _, err := s.Get(t.Context(), "k", "")
			require.Error(t, err)
			require.Equal(t, want.permanent, IsPermanent(err), err)
			require.Equal(t, want.away, IsUnavailable(err), err)
			require.Equal(t, want.no, IsNotFound(err), err)
		})
	}
}
