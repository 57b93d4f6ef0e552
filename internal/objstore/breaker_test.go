package objstore

import (
	"bytes"
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// counted counts every request that is sent, and has the first few of them fail.
type counted struct {
	next http.RoundTripper
	sent atomic.Int64
	fail atomic.Pointer[mishap]
}

func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.sent.Add(1)
	if do := c.fail.Load(); do != nil {
		return (*do)(r, c.next)
	}
	return c.next.RoundTrip(r)
}

func (c *counted) set(do mishap) {
	if do == nil {
		c.fail.Store(nil)
		return
	}
	c.fail.Store(&do)
}

// broken is a store with a breaker, whose requests fail as told, each tried twice.
func broken(t *testing.T, p BreakerPolicy, do mishap) (*Store, *counted) {
	t.Helper()
	way := &counted{}
	way.set(do)
	c := newConfig(t, false)
	c.Retry.MaxAttempts, c.Breaker = 2, p
	c.Transport = func(next http.RoundTripper) http.RoundTripper { way.next = next; return way }
	return open(t, c), way
}

func TestBreakerOpens(t *testing.T) {
	t.Parallel()
	const recovery = 200 * time.Millisecond
	s, way := broken(t, BreakerPolicy{Failures: 5, Recovery: recovery}, answer(http.StatusServiceUnavailable, "SlowDown"))
	for n := range 5 {
		require.Nil(t, s.Breaker(), n)
		_, err := s.Head(t.Context(), "k", "")
		require.True(t, IsUnavailable(err), err)
	}
	require.EqualValues(t, 10, way.sent.Load(), "each call with its retries counts as one")

	// Open: nothing is sent, by whatever call, and the error says until when.
	open := s.Breaker()
	require.NotNil(t, open)
	for _, call := range []func() error{
		func() error { _, err := s.Head(t.Context(), "k", ""); return err },
		func() error { _, _, err := s.Get(t.Context(), "k", ""); return err },
		func() error {
			_, err := s.Put(t.Context(), "k", bytes.NewReader([]byte("x")), blobOf([]byte("x")))
			return err
		},
		func() error {
			for _, err := range s.List(t.Context(), "") {
				return err
			}
			return nil
		},
	} {
		err := call()
		var refused *OpenError
		require.ErrorAs(t, err, &refused)
		require.True(t, IsUnavailable(err))
		require.False(t, IsPermanent(err))
		require.ErrorContains(t, err, "breaker open: storage failed 5 times in a row, no request is sent until "+open.Until.UTC().Format(time.RFC3339)+"; last: ")
	}
	require.Contains(t, open.Last, "status 503")
	require.EqualValues(t, 10, way.sent.Load())

	// One request after that time; it fails, and so it is open for as long again.
	waitUntil(t, open.Until)
	again := s.Recover(t.Context())
	require.NotNil(t, again)
	require.EqualValues(t, 11, way.sent.Load())
	require.Equal(t, 6, again.Failures)
	require.True(t, again.Until.After(open.Until))

	way.set(nil)
	require.NotNil(t, s.Recover(t.Context()), "too early")
	require.EqualValues(t, 11, way.sent.Load())
	waitUntil(t, again.Until)
	require.Nil(t, s.Recover(t.Context()), "a 404 is a sign of life")
	require.EqualValues(t, 12, way.sent.Load())
	put(t, s, "k", []byte("x"))
}

// waitUntil waits for an instant that the test cannot bring about.
func waitUntil(t *testing.T, at time.Time) {
	t.Helper()
	require.NoError(t, sleep(t.Context(), time.Until(at)+5*time.Millisecond))
}

// Of those who come while the one request is under way, none is sent.
func TestBreakerLetsOneTry(t *testing.T) {
	t.Parallel()
	s, way := broken(t, BreakerPolicy{Failures: 1, Recovery: time.Millisecond}, unsent)
	_, err := s.Head(t.Context(), "k", "")
	require.Error(t, err)
	waitUntil(t, s.Breaker().Until)

	arrived, release := make(chan struct{}), make(chan struct{})
	way.set(func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		close(arrived)
		<-release
		return next.RoundTrip(r)
	})
	first := make(chan *OpenError)
	go func() { first <- s.Recover(context.WithoutCancel(t.Context())) }()
	<-arrived
	_, err = s.Head(t.Context(), "k", "")
	var refused *OpenError
	require.ErrorAs(t, err, &refused)
	require.NotNil(t, s.Recover(t.Context()))
	close(release)
	require.Nil(t, <-first)
}

// What the store answers, and what the caller gives up, is no outage.
func TestBreakerCountsOutagesOnly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do    mishap
		opens bool
	}{
		"forbidden":    {answer(http.StatusForbidden, "AccessDenied"), false},
		"no such key":  {answer(http.StatusNotFound, "NoSuchKey"), false},
		"no bucket":    {answer(http.StatusNotFound, "NoSuchBucket"), false},
		"conflict":     {answer(http.StatusConflict, "ConditionalRequestConflict"), false},
		"damaged":      {answer(http.StatusBadRequest, "BadDigest"), false},
		"unsupported":  {answer(http.StatusNotImplemented, "NotImplemented"), false},
		"server error": {answer(http.StatusInternalServerError, "InternalError"), true},
		"slow down":    {answer(http.StatusServiceUnavailable, "SlowDown"), true},
		"too many":     {answer(http.StatusTooManyRequests, "TooManyRequests"), true},
		"timed out":    {answer(http.StatusRequestTimeout, "RequestTimeout"), true},
		"reset":        {unsent, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := broken(t, BreakerPolicy{Failures: 3, Recovery: time.Hour}, c.do)
			for range 3 {
				_, _, err := s.Get(t.Context(), "k", "")
				require.Error(t, err)
			}
			require.Equal(t, c.opens, s.Breaker() != nil)
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		s, way := broken(t, BreakerPolicy{Failures: 1, Recovery: time.Hour}, func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
			cancel()
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		_, err := s.Head(ctx, "k", "")
		require.ErrorIs(t, err, context.Canceled)
		require.Nil(t, s.Breaker())
		require.EqualValues(t, 1, way.sent.Load())
	})
	t.Run("success in between", func(t *testing.T) {
		t.Parallel()
		s, way := broken(t, BreakerPolicy{Failures: 2, Recovery: time.Hour}, nil)
		for range 3 {
			way.set(unsent)
			_, err := s.Head(t.Context(), "k", "")
			require.Error(t, err)
			way.set(nil)
			_, err = s.Head(t.Context(), "k", "")
			require.True(t, IsNotFound(err))
		}
		require.Nil(t, s.Breaker(), "two in a row, and never were there two")
	})
}

// TestRefusalsAreNotRetried: 403 and a missing bucket stay what they are.
func TestRefusalsAreNotRetried(t *testing.T) {
	t.Parallel()
	for code, status := range map[string]int{"AccessDenied": http.StatusForbidden, "InvalidAccessKeyId": http.StatusForbidden, "NoSuchBucket": http.StatusNotFound, "NoSuchKey": http.StatusNotFound} {
		s, way := broken(t, BreakerPolicy{}, answer(status, code))
		_, _, err := s.Get(t.Context(), "k", "")
		require.Equal(t, code != "NoSuchKey", IsPermanent(err), code)
		require.EqualValues(t, 1, way.sent.Load(), code)
	}
}

// TestRetriesTakeTheirTime: the pauses that the policy names are the ones between the
// requests.
func TestRetriesTakeTheirTime(t *testing.T) {
	t.Parallel()
	var at []time.Time
	c := newConfig(t, false)
	c.Retry = RetryPolicy{MaxAttempts: 4, InitialDelay: 40 * time.Millisecond, MaxDelay: 100 * time.Millisecond, Base: 100, Jitter: 0.1}
	c.Transport = inject(fault{on: "head", times: always, do: func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		at = append(at, time.Now())
		return unsent(r, next)
	}})
	_, err := open(t, c).Head(t.Context(), "k", "")
	require.ErrorContains(t, err, "after 4 attempts")
	require.Len(t, at, 4)
	for i, want := range []time.Duration{40 * time.Millisecond, 100 * time.Millisecond, 100 * time.Millisecond} { // not 4 s and 400 s
		require.GreaterOrEqual(t, at[i+1].Sub(at[i]), want, i)
		require.Less(t, at[i+1].Sub(at[i]), want+3*time.Second, i)
	}
}
