package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// signalError is the cause of a context that a signal has ended.
type signalError struct{ os.Signal }

func (s signalError) Error() string { return "stopped by signal " + s.String() }

// Is makes it a cancellation like any other for those who do not ask further.
func (s signalError) Is(target error) bool { return target == context.Canceled }

// untilSignal returns a context that ends at the first SIGINT or SIGTERM. A second
// one ends the process at once, as if it had never been caught: whoever cannot
// wait for an orderly end does not have to, and loses nothing by it.
func untilSignal(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(signalError{s})
		case <-ctx.Done():
			signal.Stop(signals)
		}
	}()
	return ctx, func() { cancel(nil) }
}

// terminated says that SIGTERM ended ctx: how service managers ask for an end.
func terminated(ctx context.Context) bool {
	var s signalError
	return errors.As(context.Cause(ctx), &s) && s.Signal == syscall.SIGTERM
}
