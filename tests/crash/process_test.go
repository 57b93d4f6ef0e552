package crash

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// process is the program while it runs.
type process struct {
	cmd    *exec.Cmd
	output bytes.Buffer // not to be read before ended is closed
	ended  chan struct{}
}

// start starts the program with failpoints set. It is killed when ctx ends.
func (s *site) start(ctx context.Context, failpoints string, args ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(ctx, s.program, args...), ended: make(chan struct{})}
	p.cmd.Env = []string{
		"ARCHIVER_CONFIG=" + s.file, "ARCHIVER_FAILPOINTS=" + failpoints,
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + s.dir,
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %v: %w", args, err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // how it ended is in its state
	}()
	return p, nil
}

// run runs the program to its end, which must be a good one.
func (s *site) run(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	p, err := s.start(ctx, "", args...)
	require.NoError(t, err)
	<-p.ended
	require.NoError(t, ctx.Err(), "%v did not end:\n%s", args, p.log())
	require.Zero(t, p.cmd.ProcessState.ExitCode(), "%v:\n%s", args, p.log())
}

// replica starts a worker that a failpoint stops or kills.
func (s *site) replica(t *testing.T, failpoints string) *process {
	t.Helper()
	p, err := s.start(context.WithoutCancel(t.Context()), failpoints, "work")
	require.NoError(t, err)
	t.Cleanup(func() { // after a failed test
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	return p
}

// wait waits for the end.
func (p *process) wait(t *testing.T, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	select {
	case <-p.ended:
	case <-ctx.Done():
		_ = p.cmd.Process.Kill()
		<-p.ended
		require.Fail(t, "still running", "%v after %v, with %s:\n%s", p.cmd.Args, limit, p.cmd.Env[1], p.log())
	}
}

func (p *process) signal(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig) // one that has ended meanwhile is looked at as such
}

// killed says that the process, which has ended, was ended by SIGKILL.
func (p *process) killed() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// lostLease says that the process, which has ended, has stopped itself.
func (p *process) lostLease() bool {
	return p.cmd.ProcessState.ExitCode() == 1 && strings.Contains(p.output.String(), "lease is lost")
}

// log is the last of what the process, which has ended, has printed.
func (p *process) log() string {
	text := p.output.String()
	if len(text) > 8000 {
		text = "...\n" + text[len(text)-8000:]
	}
	return text
}

// surprise is an error for an end that no test has asked for.
func (p *process) surprise() error {
	return fmt.Errorf("%v ended with %v, under %s:\n%s", p.cmd.Args, p.cmd.ProcessState, p.cmd.Env[1], p.log())
}
