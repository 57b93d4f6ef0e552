package objstore

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
)

// RetryPolicy says how often and at what distance one request is tried again.
// The zero value is five attempts, after 1 s, 2 s, 4 s and 8 s, each up to a
// tenth longer.
type RetryPolicy struct {
	MaxAttempts  int           // the first one included
	InitialDelay time.Duration // before the second attempt
	MaxDelay     time.Duration // before the jitter is added
	Base         float64       // factor from one delay to the next
	Jitter       float64       // each delay is longer by a random share of up to this, 0 to 1
}

func (p RetryPolicy) withDefaults() RetryPolicy {
	if p == (RetryPolicy{}) {
		p.Jitter = 0.1 // only here: a policy that was filled in may want none
	}
	if p.MaxAttempts == 0 {
		p.MaxAttempts = 5
	}
	if p.InitialDelay == 0 {
		p.InitialDelay = time.Second
	}
	if p.MaxDelay == 0 {
		p.MaxDelay = max(30*time.Second, p.InitialDelay)
	}
	if p.Base == 0 {
		p.Base = 2
	}
	return p
}

func (p RetryPolicy) validate() error {
	switch {
	case p.MaxAttempts < 1:
		return fmt.Errorf("retry: %d attempts: must be at least 1", p.MaxAttempts)
	case p.InitialDelay < 0 || p.MaxDelay < p.InitialDelay:
		return fmt.Errorf("retry: delays from %s to %s: the first must be the smaller one", p.InitialDelay, p.MaxDelay)
	case !(p.Base >= 1): // also refuses NaN
		return fmt.Errorf("retry: base %v: must be at least 1", p.Base)
	case !(p.Jitter >= 0 && p.Jitter <= 1):
		return fmt.Errorf("retry: jitter %v: must be from 0 to 1", p.Jitter)
	}
	return nil
}

// delay is the pause after a number of failed attempts, counted from 1.
func (p RetryPolicy) delay(failed int) time.Duration {
	exponent := float64(max(failed-1, 0))
	d := min(float64(p.InitialDelay)*math.Pow(p.Base, exponent), float64(p.MaxDelay))
	return time.Duration(d * (1 + p.Jitter*rand.Float64())) //nolint:gosec // spreading retries needs no secrecy
}

// newRetryer puts the policy into the SDK's terms. The SDK's token bucket is
// turned off: shared by all requests, it would end the retries of one batch
// because of the failures of others, at the very time they are needed.
func newRetryer(p RetryPolicy) aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = p.MaxAttempts
		o.MaxBackoff = p.MaxDelay
		o.RateLimiter = ratelimit.None
		o.Backoff = retry.BackoffDelayerFunc(func(attempt int, _ error) (time.Duration, error) {
			return p.delay(attempt), nil
		})
		// Asked in order; the first that knows decides.
		o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(retryable)}, o.Retryables...)
	})
}

// retryable adds to the SDK's rules what they leave out.
func retryable(err error) aws.Ternary {
	var unreadable *bodyError
	if errors.As(err, &unreadable) {
		return aws.FalseTernary // our own file will not read better
	}
	code, status := apiError(err)
	if damagedInFlight[code] || status == statusRequestTimeout || status == statusTooManyRequests {
		return aws.TrueTernary
	}
	return aws.UnknownTernary
}
