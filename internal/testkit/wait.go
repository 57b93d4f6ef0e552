package testkit

import (
	"errors"
	"testing"
	"time"
)

const pollInterval = 10 * time.Millisecond

// Eventually waits until check gives true, and fails the test with msg if it has
// not by the timeout. It is for what gives no event to wait for.
func Eventually(t testing.TB, timeout time.Duration, check func() bool, msg string) {
	t.Helper()
	notYet := errors.New("not true yet")
	EventuallyNoError(t, timeout, func() error {
		if check() {
			return nil
		}
		return notYet
	}, msg)
}

// EventuallyNoError waits until check gives no error, and fails the test with msg
// and the last error if it still does at the timeout.
func EventuallyNoError(t testing.TB, timeout time.Duration, check func() error, msg string) {
	t.Helper()
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("%s: after %v: %v", msg, timeout, err)
		}
	}
}
