package objstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	"github.com/sony/gobreaker/v2"
)

// BreakerPolicy says when a store that fails is left alone for a while. The zero
// value means never.
type BreakerPolicy struct {
	Failures int           // calls in a row that failed for an outage, each after all of its retries
	Recovery time.Duration // until one call may try again
}

func (p BreakerPolicy) validate() error {
	if p.Failures < 0 || p.Failures > 0 && p.Recovery <= 0 {
		return fmt.Errorf("circuit breaker: %d failures, %s: both must be positive", p.Failures, p.Recovery)
	}
	return nil
}

// OpenError says that a call was not sent, because the calls before it failed.
type OpenError struct {
	Failures int       // calls in a row that failed before the breaker opened
	Until    time.Time // when one call may try again; in the past while that one is under way
	Last     string    // what the last of them failed with
}

func (e *OpenError) Error() string {
	text := fmt.Sprintf("breaker open: storage failed %d times in a row, no request is sent until %s", e.Failures, e.Until.UTC().Format(time.RFC3339))
	if e.Last != "" {
		text += "; last: " + e.Last
	}
	return text
}

// breaker stands before every call of the client. It counts outages only: whatever the
// store itself answers, a refusal too, shows that it is there, and a call that its
// caller gave up shows nothing. It looks at calls and not at single requests: a blip
// that the retries get over is no reason to wait for a minute.
type breaker struct {
	steps *gobreaker.TwoStepCircuitBreaker[any]

	mu   sync.Mutex
	last error     // of the calls that failed
	open OpenError // of the last time that it opened
}

// newBreaker returns nil, which lets everything through, for the zero policy.
func newBreaker(p BreakerPolicy) *breaker {
	if p.Failures == 0 {
		return nil
	}
	b := &breaker{}
	b.steps = gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     p.Recovery,
		ReadyToTrip: func(c gobreaker.Counts) bool { return int(c.ConsecutiveFailures) >= p.Failures },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				b.opened(p, from == gobreaker.StateHalfOpen)
			}
		},
		IsExcluded: func(err error) bool { return errors.Is(err, errUncounted) },
	})
	return b
}

// errUncounted ends a call that says nothing about the store.
var errUncounted = errors.New("not counted")

func (b *breaker) opened(p BreakerPolicy, again bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	failures := p.Failures
	if again {
		failures = b.open.Failures + 1
	}
	b.open = OpenError{Failures: failures, Until: time.Now().Add(p.Recovery), Last: describe(&smithy.OperationError{Err: b.last})}
}

// state is nil while calls are sent, else why not. try: the time is over, and one call
// may be sent to find out whether the store is back.
func (b *breaker) state() (open *OpenError, try bool) {
	if b == nil {
		return nil, false
	}
	now := b.steps.State()
	if now == gobreaker.StateClosed {
		return nil, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.open
	return &e, now == gobreaker.StateHalfOpen
}

// call runs one call, or fails with an *OpenError at once.
func (b *breaker) call(ctx context.Context, do func() error) error {
	if b == nil {
		return do()
	}
	done, err := b.steps.Allow()
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		e := b.open
		return &e
	}
	ended := false
	defer func() {
		if !ended { // a panic on its way up
			done(errUncounted)
		}
	}()
	err = do()
	ended = true
	switch {
	case err != nil && (ctx.Err() != nil || errors.Is(err, context.Canceled) || isUnreadable(err)):
		done(errUncounted)
	case isOutage(err):
		b.mu.Lock()
		b.last = err
		b.mu.Unlock()
		done(err)
	default:
		done(nil)
	}
	return err
}

// isUnreadable says that it was the caller's own bytes that could not be read.
func isUnreadable(err error) bool {
	var unreadable *bodyError
	return errors.As(err, &unreadable)
}

// isOutage is narrower than IsUnavailable: a store that answers with a conflict or
// refuses damaged bytes is up.
func isOutage(err error) bool {
	_, status := apiError(err)
	answered := status >= 300 && status < 500 && status != statusRequestTimeout && status != http.StatusTooManyRequests
	return !answered && IsUnavailable(err)
}

// middleware puts the breaker around an operation of the SDK, outside of its retries.
func (b *breaker) middleware(stack *middleware.Stack) error {
	guard := middleware.InitializeMiddlewareFunc("ArchiverBreaker", func(
		ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
	) (out middleware.InitializeOutput, meta middleware.Metadata, err error) {
		err = b.call(ctx, func() (err error) {
			out, meta, err = next.HandleInitialize(ctx, in)
			return err
		})
		return out, meta, err
	})
	return stack.Initialize.Add(guard, middleware.Before)
}

// Breaker says why no request is sent just now, or nil. It sends nothing.
func (s *Store) Breaker() *OpenError {
	open, _ := s.breaker.state()
	return open
}

// Recover asks the store for a sign of life if its breaker has been open for long
// enough; any answer closes it. It returns what Breaker does after that. It must be
// called now and then by whoever keeps work away while the breaker is open, or nothing
// would ever close it.
func (s *Store) Recover(ctx context.Context) *OpenError {
	open, try := s.breaker.state()
	if open == nil || !try {
		return open
	}
	// What it answers does not matter, only that it does; once, since every retry would
	// be a request to a store that is perhaps overloaded.
	_, _ = s.head(ctx, s.probeKey(), "", once)
	return s.Breaker()
}
