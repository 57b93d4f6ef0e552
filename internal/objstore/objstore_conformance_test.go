package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The sizes of the two ways up: one request, and parts.
var sizes = map[string]int{"whole": 100_000, "parts": 12 * mib}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for name, size := range sizes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			content := noise(1, size)
			want := blobOf(content)
			stored := put(t, s, "a/b.jsonl.gz", content)
			require.Equal(t, want.Size, stored.Size)
			require.NotNil(t, stored.CRC64NVME)
			require.Equal(t, want.CRC64NVME, *stored.CRC64NVME)

			head, err := s.Head(t.Context(), "a/b.jsonl.gz", "")
			require.NoError(t, err)
			require.Equal(t, want.Size, head.Size)
			require.Equal(t, want.CRC64NVME, *head.CRC64NVME)
			require.Equal(t, "STANDARD", head.StorageClass)
			require.WithinDuration(t, time.Now(), head.LastModified, time.Minute)

			body, got, err := s.Get(t.Context(), "a/b.jsonl.gz", head.VersionID)
			require.NoError(t, err)
			defer body.Close()
			require.Equal(t, head, got)
			back, err := io.ReadAll(body)
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, back))
			require.Zero(t, unfinished(t, s))
		})
	}
}

func TestEmptyObject(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	put(t, s, "empty", nil)
	require.Empty(t, read(t, s, "empty", ""))
}

// Twice the same content is one object; another content is refused, and the
// first one is kept.
func TestPutNeverOverwrites(t *testing.T) {
	t.Parallel()
	for name, size := range sizes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			content := noise(1, size)
			put(t, s, "k", content)
			again := put(t, s, "k", content)
			require.Equal(t, int64(size), again.Size)

			for what, other := range map[string][]byte{
				"same size": noise(2, size), "other size": noise(1, size+1), "other way up": []byte("short"),
			} {
				_, err := s.Put(t.Context(), "k", bytes.NewReader(other), blobOf(other))
				require.ErrorIs(t, err, ErrDifferent, what)
				require.True(t, IsPermanent(err), what)
				require.False(t, IsUnavailable(err), what)
			}
			require.True(t, bytes.Equal(content, read(t, s, "k", "")))
			require.Zero(t, unfinished(t, s))
		})
	}
}

// A store that keeps no checksums is read back.
func TestPutSettlesWithoutChecksum(t *testing.T) {
	t.Parallel()
	s := newStore(t, fault{on: "head", times: always, do: withoutChecksum}, fault{on: "get", times: always, do: withoutChecksum})
	content := noise(1, 1000)
	put(t, s, "k", content)
	object := put(t, s, "k", content)
	require.Nil(t, object.CRC64NVME)
	other := noise(2, 1000)
	_, err := s.Put(t.Context(), "k", bytes.NewReader(other), blobOf(other))
	require.ErrorIs(t, err, ErrDifferent)
}

// A blob that is not what it says is refused by the store itself.
func TestStoreChecksWhatItIsSent(t *testing.T) {
	t.Parallel()
	for name, size := range sizes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			content := noise(1, size)
			wrong := blobOf(content)
			wrong.CRC64NVME++
			_, err := s.Put(t.Context(), "k", bytes.NewReader(content), wrong)
			require.Error(t, err)
			_, err = s.Head(t.Context(), "k", "")
			require.True(t, IsNotFound(err), err)
			require.Zero(t, unfinished(t, s))
		})
	}
	t.Run("sha256", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		content := noise(1, 1000)
		wrong := blobOf(content)
		wrong.SHA256[0]++
		_, err := s.Put(t.Context(), "k", bytes.NewReader(content), wrong)
		require.Error(t, err)
		_, err = s.Head(t.Context(), "k", "")
		require.True(t, IsNotFound(err), err)
	})
}

// Whatever goes wrong a few times on the way, the upload succeeds in the end,
// with one object and nothing beside it.
func TestPutSurvives(t *testing.T) {
	t.Parallel()
	faults := map[string]mishap{
		"lost answer":     lostAnswer,
		"unsent":          unsent,
		"slow down":       answer(http.StatusServiceUnavailable, "SlowDown"),
		"internal error":  answer(http.StatusInternalServerError, "InternalError"),
		"request timeout": answer(http.StatusRequestTimeout, "RequestTimeout"),
		"throttled":       answer(http.StatusTooManyRequests, "TooManyRequests"),
		"flipped request": flippedRequest,
	}
	for kind, size := range map[string]int{"put": sizes["whole"], "create": sizes["parts"], "part": sizes["parts"], "complete": sizes["parts"]} {
		for name, do := range faults {
			if name == "flipped request" && kind != "put" && kind != "part" {
				continue // there is no content in it
			}
			for _, times := range []int{1, 3} {
				t.Run(fmt.Sprintf("%s %s %d", name, kind, times), func(t *testing.T) {
					t.Parallel()
					s := newStore(t, fault{on: kind, times: times, do: do})
					content := noise(1, size)
					object := put(t, s, "k", content)
					require.Equal(t, int64(size), object.Size)
					require.True(t, bytes.Equal(content, read(t, s, "k", "")))
					require.Zero(t, unfinished(t, s))
				})
			}
		}
	}
}

// Without any retry left, a lost answer is settled by looking.
func TestPutSettlesLostAnswerWithoutRetry(t *testing.T) {
	t.Parallel()
	for kind, size := range map[string]int{"put": sizes["whole"], "complete": sizes["parts"]} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := newConfig(t, false)
			c.MultipartThreshold, c.Retry.MaxAttempts = 6*mib, 1
			c.Transport = inject(fault{on: kind, times: 1, do: lostAnswer})
			s := open(t, c)
			content := noise(1, size)
			put(t, s, "k", content)
			require.True(t, bytes.Equal(content, read(t, s, "k", "")))
			require.Zero(t, unfinished(t, s))
		})
	}
}

// A store that stays away is an outage and leaves no upload behind.
func TestPutOutage(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"create", "part", "complete"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, fault{on: kind, times: always, do: answer(http.StatusServiceUnavailable, "SlowDown")})
			content := noise(1, sizes["parts"])
			_, err := s.Put(t.Context(), "k", bytes.NewReader(content), blobOf(content))
			require.True(t, IsUnavailable(err), err)
			require.False(t, IsPermanent(err))
			require.ErrorContains(t, err, "put object k: ")
			require.ErrorContains(t, err, "SlowDown: made up by the test (status 503")
			require.ErrorContains(t, err, "after 4 attempts")
			require.Zero(t, unfinished(t, s))
		})
	}
}

// An upload that somebody aborted, or that a conflicting writer stopped, starts
// again.
func TestPutStartsAgain(t *testing.T) {
	t.Parallel()
	cases := map[string]fault{
		"upload gone":  {on: "part", times: 1, do: answer(http.StatusNotFound, "NoSuchUpload")},
		"put conflict": {on: "put", times: 2, do: answer(http.StatusConflict, "ConditionalRequestConflict")},
		"end conflict": {on: "complete", times: 2, do: answer(http.StatusConflict, "ConditionalRequestConflict")},
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, f)
			size := sizes["parts"]
			if f.on == "put" {
				size = sizes["whole"]
			}
			content := noise(1, size)
			put(t, s, "k", content)
			require.True(t, bytes.Equal(content, read(t, s, "k", "")))
			require.Zero(t, unfinished(t, s))
		})
	}
	t.Run("for ever", func(t *testing.T) {
		t.Parallel()
		s := newStore(t, fault{on: "put", times: always, do: answer(http.StatusPreconditionFailed, "PreconditionFailed")})
		_, err := s.Put(t.Context(), "k", bytes.NewReader([]byte("x")), blobOf([]byte("x")))
		require.True(t, IsUnavailable(err), err)
		require.ErrorContains(t, err, "neither the upload nor an object")
	})
}

func TestForbiddenIsNotRetried(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	s := newStore(t, fault{on: "put", times: always, hits: &requests, do: answer(http.StatusForbidden, "AccessDenied")})
	_, err := s.Put(t.Context(), "k", bytes.NewReader([]byte("x")), blobOf([]byte("x")))
	require.True(t, IsPermanent(err), err)
	require.False(t, IsUnavailable(err))
	require.EqualValues(t, 1, requests.Load())
	var failed *Error
	require.ErrorAs(t, err, &failed)
	require.Contains(t, failed.Hint, "s3:PutObject")
}

func TestCancelledUploadLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := newStore(t, fault{on: "part", times: always, do: func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		if r.URL.Query().Get("partNumber") == "2" {
			cancel()
		}
		return next.RoundTrip(r)
	}})
	content := noise(1, 30*mib)
	_, err := s.Put(ctx, "k", bytes.NewReader(content), blobOf(content))
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, IsUnavailable(err))
	require.False(t, IsPermanent(err))
	require.Zero(t, unfinished(t, s))
	_, err = s.Head(t.Context(), "k", "")
	require.True(t, IsNotFound(err))
}

// The bytes to upload are the caller's; what is wrong with them is not retried
// and not taken for an outage.
func TestUnreadableBody(t *testing.T) {
	t.Parallel()
	for name, size := range sizes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			s := newStore(t, fault{on: "put", hits: &requests})
			content := noise(1, size)
			_, err := s.Put(t.Context(), "k", bytes.NewReader(content[:size-10]), blobOf(content))
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.False(t, IsUnavailable(err), err)
			require.LessOrEqual(t, requests.Load(), int64(1))
			_, err = s.Head(t.Context(), "k", "")
			require.True(t, IsNotFound(err))
			require.Zero(t, unfinished(t, s))
		})
	}
}

func TestGetNoticesDamageOnTheWay(t *testing.T) {
	t.Parallel()
	content := noise(1, 100_000)
	cases := map[string]struct {
		change func([]byte) []byte
		check  func(*testing.T, error)
	}{
		"flipped": {func(b []byte) []byte { b[500] ^= 4; return b }, func(t *testing.T, err error) {
			t.Helper()
			require.ErrorIs(t, err, ErrCorrupt)
			require.False(t, IsUnavailable(err))
		}},
		"cut short": {func(b []byte) []byte { return b[:99_999] }, func(t *testing.T, err error) {
			t.Helper()
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.True(t, IsUnavailable(err))
		}},
		"too long": {func(b []byte) []byte { return append(b, 0) }, func(t *testing.T, err error) {
			t.Helper()
			require.ErrorIs(t, err, ErrCorrupt)
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, fault{on: "get", times: always, do: changedAnswer(c.change)})
			put(t, s, "k", content)
			body, _, err := s.Get(t.Context(), "k", "")
			require.NoError(t, err)
			defer body.Close()
			_, err = io.ReadAll(body)
			c.check(t, err)
			require.False(t, IsPermanent(err))
			require.ErrorContains(t, err, "get object k: ")
		})
	}
}

func TestGetNoticesDamageOnDisk(t *testing.T) {
	t.Parallel()
	for name, size := range sizes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			put(t, s, "k", noise(1, size))
			file, err := os.OpenFile(server.ObjectPath(s.config.Bucket, "k"), os.O_RDWR, 0)
			require.NoError(t, err)
			_, err = file.WriteAt([]byte("damaged"), int64(size/2))
			require.NoError(t, err)
			require.NoError(t, file.Close())

			_, err = s.Head(t.Context(), "k", "")
			require.NoError(t, err, "a HEAD does not look at the bytes")
			body, _, err := s.Get(t.Context(), "k", "")
			require.NoError(t, err)
			defer body.Close()
			_, err = io.ReadAll(body)
			require.ErrorIs(t, err, ErrCorrupt)
		})
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	c := newConfig(t, true)
	s := open(t, c)
	content := noise(1, 5000)
	stored := put(t, s, "k", content)
	require.NotEmpty(t, stored.VersionID)
	require.Equal(t, stored.VersionID, put(t, s, "k", content).VersionID, "the same object again")

	// Somebody else overwrites it; the version that was verified is still there.
	overwrite(t, s, "k", []byte("other"))
	require.Equal(t, []byte("other"), read(t, s, "k", ""))
	require.Equal(t, content, read(t, s, "k", stored.VersionID))
	head, err := s.Head(t.Context(), "k", stored.VersionID)
	require.NoError(t, err)
	require.EqualValues(t, 5000, head.Size)
}

func TestKeysAndList(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	keys := []string{
		"a b/year=2024/month=03/x.gz", "plus+sign", "per%20cent", "ünï/cödé/日本語", "amp&<xml>\"quote'", "tilde~(1)!*", "deep/a/b/c/d/e",
	}
	for i, key := range keys {
		put(t, s, key, noise(byte(i), 100+i))
		require.Equal(t, noise(byte(i), 100+i), read(t, s, key, ""), key)
	}
	list := func(prefix string) []string {
		var found []string
		for object, err := range s.List(t.Context(), prefix) {
			require.NoError(t, err)
			require.GreaterOrEqual(t, object.Size, int64(100))
			require.Equal(t, "STANDARD", object.StorageClass)
			found = append(found, object.Key)
		}
		return found
	}
	require.ElementsMatch(t, keys, list(""))
	require.Equal(t, []string{"a b/year=2024/month=03/x.gz"}, list("a b/year="))
	require.Equal(t, []string{"ünï/cödé/日本語"}, list("ünï/"))
	require.Empty(t, list("nothing/"))
	for range s.List(t.Context(), "") {
		break // a caller may stop early
	}
}

func TestListPages(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var writers sync.WaitGroup
	const writing, each = 8, 130 // more than the 1000 of one page
	for w := range writing {
		writers.Go(func() {
			for i := range each {
				put(t, s, fmt.Sprintf("p/%d-%03d", w, i), []byte("x"))
			}
		})
	}
	writers.Wait()
	seen := map[string]bool{}
	for object, err := range s.List(t.Context(), "p/") {
		require.NoError(t, err)
		require.False(t, seen[object.Key], "twice: %s", object.Key)
		seen[object.Key] = true
	}
	require.Len(t, seen, writing*each)
}

// Many writers of one key: those with the content of the winner succeed, the
// others are told.
func TestConcurrentWritersOfOneKey(t *testing.T) {
	t.Parallel()
	for name, size := range sizes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			contents := [][]byte{noise(1, size), noise(2, size)}
			var won [2]atomic.Int64
			var writers sync.WaitGroup
			for i := range 6 {
				writers.Go(func() {
					mine := i % 2
					_, err := s.Put(t.Context(), "k", bytes.NewReader(contents[mine]), blobOf(contents[mine]))
					switch {
					case err == nil:
						won[mine].Add(1)
					case !errors.Is(err, ErrDifferent):
						t.Errorf("writer %d: %v", i, err)
					}
				})
			}
			writers.Wait()
			winner := 0
			if bytes.Equal(read(t, s, "k", ""), contents[1]) {
				winner = 1
			}
			require.EqualValues(t, 3, won[winner].Load())
			require.Zero(t, won[1-winner].Load())
			require.Zero(t, unfinished(t, s))
		})
	}
}

// TestCompletedForAnother has a store say that parts were completed which another writer
// of the key has cleared away: what is there is looked at.
func TestCompletedForAnother(t *testing.T) {
	t.Parallel()
	const done = `<CompleteMultipartUploadResult><Key>k</Key><ETag>"0"</ETag></CompleteMultipartUploadResult>`
	size := sizes["parts"]
	for name, there := range map[string][]byte{"same content": noise(1, size), "another": noise(2, size), "shorter": noise(1, size-1), "nothing": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newConfig(t, false)
			if there != nil {
				put(t, open(t, c), "k", there)
			}
			c.Transport = inject(fault{on: "complete", times: always, do: func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
				res, err := answerOK(r, nil)
				res.Body = io.NopCloser(strings.NewReader(done))
				return res, err
			}})
			content := noise(1, size)
			object, err := open(t, c).Put(t.Context(), "k", bytes.NewReader(content), blobOf(content))
			switch name {
			case "same content":
				require.NoError(t, err)
				require.EqualValues(t, size, object.Size)
			case "nothing":
				require.True(t, IsNotFound(err), "%v", err)
			default:
				require.ErrorIs(t, err, ErrDifferent)
			}
		})
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	for _, versioned := range []bool{false, true} {
		t.Run(fmt.Sprintf("versioned %v", versioned), func(t *testing.T) {
			t.Parallel()
			c := newConfig(t, versioned)
			c.Prefix = "prod/"
			s := open(t, c)
			for range 3 {
				p, err := s.Probe(t.Context())
				require.NoError(t, err)
				require.True(t, strings.HasPrefix(p.Key, "prod/.archiver/probe-"), p.Key)
				require.Equal(t, Probe{Key: p.Key, Conditional: true, Versioned: versioned, Checksum: true}, p)
			}
			count := 0
			for _, err := range s.List(t.Context(), "") {
				require.NoError(t, err)
				count++
			}
			require.Equal(t, 1, count)
		})
	}
	t.Run("store that overwrites", func(t *testing.T) {
		t.Parallel()
		c := newConfig(t, false)
		_, err := open(t, c).Probe(t.Context())
		require.NoError(t, err)
		c.Transport = inject(fault{on: "put", times: always, do: answerOK})
		p, err := open(t, c).Probe(t.Context())
		require.NoError(t, err)
		require.False(t, p.Conditional)
	})
	t.Run("damaged", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		p, err := s.Probe(t.Context())
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(server.ObjectPath(s.config.Bucket, p.Key), []byte("?"), 0o600))
		_, err = s.Probe(t.Context())
		require.Error(t, err)
	})
}

func TestWhatAnOperatorIsTold(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		change    func(*Config)
		permanent bool
		hint      string
	}{
		"no bucket":    {func(c *Config) { c.Bucket = "missing" }, true, "there is no bucket missing: create it, or set s3.bucket"},
		"wrong secret": {func(c *Config) { c.SecretAccessKey = "planted-secret" }, true, "check s3.access_key_id and s3.secret_access_key"},
		"wrong id":     {func(c *Config) { c.AccessKeyID = "unknown" }, true, "check s3.access_key_id and s3.secret_access_key"},
		"server down":  {func(c *Config) { c.Endpoint = "http://127.0.0.1:1" }, false, "check that http://127.0.0.1:1 can be reached"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := newConfig(t, false)
			c.change(&config)
			s := open(t, config)
			_, probed := s.Probe(t.Context())
			_, uploaded := s.Put(t.Context(), "k", bytes.NewReader([]byte("x")), blobOf([]byte("x")))
			_, _, got := s.Get(t.Context(), "k", "")
			for _, err := range []error{probed, uploaded, got} {
				require.Equal(t, c.permanent, IsPermanent(err), err)
				require.Equal(t, !c.permanent, IsUnavailable(err), err)
				require.False(t, IsNotFound(err), err)
				var failed *Error
				require.ErrorAs(t, err, &failed)
				require.Contains(t, failed.Hint, c.hint, err)
				require.NotContains(t, err.Error()+failed.Hint, "planted-secret")
				require.Less(t, len(err.Error()), 250, err.Error())
				t.Log(err, "| hint:", failed.Hint)
			}
		})
	}
}
