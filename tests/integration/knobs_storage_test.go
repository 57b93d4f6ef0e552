//go:build failpoint

package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/crc64nvme"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/worker"
)

// wire sees each request on its way to storage, and answers in its place while down.
type wire struct {
	next http.RoundTripper
	down bool

	mu   sync.Mutex
	sent []*http.Request
	at   []time.Time
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.sent, w.at = append(w.sent, r.Clone(context.WithoutCancel(r.Context()))), append(w.at, time.Now())
	w.mu.Unlock()
	if !w.down {
		return w.next.RoundTrip(r)
	}
	body := "<Error><Code>SlowDown</Code></Error>"
	return &http.Response{
		StatusCode: http.StatusServiceUnavailable, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"application/xml"}},
		Request: r, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)),
	}, nil
}

// parts counts the requests that carry a part of an object.
func (w *wire) parts() (n int) {
	for _, r := range w.sent {
		if r.URL.Query().Has("partNumber") {
			n++
		}
	}
	return n
}

// gaps are the pauses between requests.
func (w *wire) gaps() (gaps []time.Duration) {
	for i := 1; i < len(w.at); i++ {
		gaps = append(gaps, w.at[i].Sub(w.at[i-1]))
	}
	return gaps
}

// openWire opens storage as a worker does under the given keys of s3.
func openWire(t *testing.T, keys string) (*objstore.Store, *wire) {
	t.Helper()
	b := testkit.S3(t)
	cfg := load(t, fmt.Sprintf(`
control: {url: "postgres://localhost/archiver"}
s3: {bucket: %q, endpoint: %q, access_key_id: %q, secret_access_key: %q, %s}
databases: [{name: d, host: h, tables: [{name: t, retention: 90d}]}]
`, b.Name, b.Endpoint, b.AccessKey, b.SecretKey, keys))
	c, w := worker.StoreConfig(cfg.S3), &wire{}
	c.Transport = func(next http.RoundTripper) http.RoundTripper { w.next = next; return w }
	s, err := objstore.Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s, w
}

func upload(t *testing.T, s *objstore.Store, mib int) {
	t.Helper()
	content := make([]byte, mib<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content) // it never fails
	_, err := s.Put(t.Context(), "k", bytes.NewReader(content), objstore.Blob{Size: int64(len(content)), SHA256: sha256.Sum256(content), CRC64NVME: crc64nvme.Checksum(content)})
	require.NoError(t, err)
}

// TestMultipart uploads 12 MiB: whole below the threshold, else in parts of the size that
// is set.
func TestMultipart(t *testing.T) {
	t.Parallel()
	for keys, parts := range map[string]int{
		"multipart_threshold_mb: 13, multipart_part_size_mb: 5":  0,
		"multipart_threshold_mb: 11, multipart_part_size_mb: 5":  3,
		"multipart_threshold_mb: 11, multipart_part_size_mb: 6":  2,
		"multipart_threshold_mb: 11, multipart_part_size_mb: 64": 1,
		"prefix: p": 2, // the defaults, 10 and 8
	} {
		t.Run(keys, func(t *testing.T) {
			t.Parallel()
			s, w := openWire(t, keys)
			upload(t, s, 12)
			require.Equal(t, parts, w.parts())
		})
	}
}

// TestUploadHeaders: how an object is to be kept.
func TestUploadHeaders(t *testing.T) {
	t.Parallel()
	for keys, want := range map[string][3]string{
		"storage_class: STANDARD":                          {"STANDARD"},
		"storage_class: STANDARD_IA, sse: AES256":          {"STANDARD_IA", "AES256"},
		"storage_class: INTELLIGENT_TIERING, sse: aws:kms": {"INTELLIGENT_TIERING", "aws:kms"},
		"sse: aws:kms, kms_key_id: key-1":                  {"STANDARD", "aws:kms", "key-1"},
	} {
		t.Run(keys, func(t *testing.T) {
			t.Parallel()
			s, w := openWire(t, keys)
			upload(t, s, 1)
			h := w.sent[0].Header
			require.Equal(t, want, [3]string{h.Get("X-Amz-Storage-Class"), h.Get("X-Amz-Server-Side-Encryption"), h.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id")})
		})
	}
}

// TestRetryKeys: how often a request is tried, and the pauses in between.
func TestRetryKeys(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for keys, want := range map[string][]time.Duration{
		"max_attempts: 1": {},
		"max_attempts: 3, initial_delay: 40ms, max_delay: 1m, exponential_base: 1, jitter: 0":       {40 * ms, 40 * ms},
		"max_attempts: 3, initial_delay: 150ms, max_delay: 1m, exponential_base: 1, jitter: 0":      {150 * ms, 150 * ms},
		"max_attempts: 4, initial_delay: 20ms, max_delay: 1m, exponential_base: 4, jitter: 0":       {20 * ms, 80 * ms, 320 * ms},
		"max_attempts: 3, initial_delay: 100ms, max_delay: 200ms, exponential_base: 100, jitter: 0": {100 * ms, 200 * ms}, // not 10 s
	} {
		t.Run(keys, func(t *testing.T) {
			t.Parallel()
			s, w := openWire(t, "retry: {"+keys+"}")
			w.down = true
			_, err := s.Head(t.Context(), "k", "")
			require.True(t, objstore.IsUnavailable(err), err)
			gaps := w.gaps()
			require.Len(t, gaps, len(want))
			for i := range want {
				require.GreaterOrEqual(t, gaps[i], want[i])
				require.Less(t, gaps[i], want[i]+5*time.Second)
			}
		})
	}
	for jitter, spreads := range map[string]bool{"0": false, "1": true} {
		t.Run("jitter "+jitter, func(t *testing.T) {
			t.Parallel()
			s, w := openWire(t, "retry: {max_attempts: 11, initial_delay: 50ms, max_delay: 1m, exponential_base: 1, jitter: "+jitter+"}")
			w.down = true
			_, err := s.Head(t.Context(), "k", "")
			require.Error(t, err)
			gaps := w.gaps()
			slices.Sort(gaps)
			require.GreaterOrEqual(t, gaps[0], 50*ms)
			if spreads { // each pause has a share of up to 1, and none of ten more than 0.3 in one case of 170,000
				require.Greater(t, gaps[9], 65*ms)
				return
			}
			require.Less(t, gaps[3], 65*ms, "four of ten pauses were hardly late, on a busy machine")
		})
	}
}

// TestBreakerKeys: after how many calls no request is sent, and for how long.
func TestBreakerKeys(t *testing.T) {
	t.Parallel()
	const once = "retry: {max_attempts: 1}, "
	for threshold, sent := range map[int]int{1: 1, 3: 3} {
		s, w := openWire(t, fmt.Sprintf("%scircuit_breaker: {failure_threshold: %d, recovery_timeout: 1h}", once, threshold))
		w.down = true
		for range 5 {
			_, err := s.Head(t.Context(), "k", "")
			require.True(t, objstore.IsUnavailable(err), err)
		}
		require.Len(t, w.sent, sent)
	}
	s, w := openWire(t, once+"circuit_breaker: {failure_threshold: 1, recovery_timeout: 100ms}")
	w.down = true
	_, err := s.Head(t.Context(), "k", "")
	require.Error(t, err)
	testkit.Eventually(t, 30*time.Second, func() bool { return s.Recover(t.Context()) != nil && len(w.sent) == 2 }, "storage is asked again")
	require.GreaterOrEqual(t, w.gaps()[0], 100*time.Millisecond)
}
