package localserver

import (
	"context"
	"errors"
	"io"
	"syscall"
)

// Program is a program to run to its end, beside the servers of the same owner.
type Program struct {
	Path   string
	Args   []string // without the program's name
	Env    []string
	Stdout io.Writer // nil: discarded
	Stderr io.Writer // nil: discarded
}

// Run runs the program and returns how it ended: nil, an *exec.ExitError, or why it
// could not be started. If ctx ends first, the program is asked to stop with
// SIGTERM, has 20 seconds to do so, and the error is the context's cause. It does
// not outlive this process, however that ends.
func (p Program) Run(ctx context.Context) error {
	c, err := startChild(childOptions{
		Path: p.Path, Args: p.Args, Env: p.Env, Stdout: p.Stdout, Stderr: p.Stderr,
		DeathSignal: syscall.SIGKILL,
	})
	if err != nil {
		return err
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), c.stop(syscall.SIGTERM))
	}
}
