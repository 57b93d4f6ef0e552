package localserver

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// killGrace is how long a child may take to end after each polite signal.
const killGrace = 20 * time.Second

// NotFoundError says that the program of a server is not on this machine.
type NotFoundError struct {
	What     string   // the program, for people: "PostgreSQL 14 or newer"
	Searched []string // where it was looked for, in order
	Hint     string   // how to get it
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("find %s: not in %s; %s", e.What, strings.Join(e.Searched, ", "), e.Hint)
}

// childOptions describes a process to start.
type childOptions struct {
	Path   string
	Args   []string // without the program's name
	Env    []string
	Dir    string
	Stdout io.Writer // nil: discarded
	Stderr io.Writer // nil: discarded
	// Stdin makes an open, silent pipe the child's standard input. It closes when
	// the owner dies or calls child.stop.
	Stdin bool
	// DeathSignal reaches the child when the owner dies.
	DeathSignal syscall.Signal
	// Credential is the account to run under; nil means the owner's.
	Credential *syscall.Credential
}

// child is a running process which does not outlive its owner.
type child struct {
	name  string
	cmd   *exec.Cmd
	stdin io.Closer     // nil without childOptions.Stdin
	done  chan struct{} // closed when the process has ended and was reaped
	err   error         // how it ended; read it only after done
}

// startChild starts a process in a process group of its own, so that a Ctrl-C at
// the terminal reaches the owner alone, which then stops its servers in order.
func startChild(o childOptions) (*child, error) {
	cmd := exec.Command(o.Path, o.Args...) //nolint:noctx // the child lives until stop, not for a context
	cmd.Env, cmd.Dir = o.Env, o.Dir
	cmd.Stdout, cmd.Stderr = o.Stdout, o.Stderr
	// A grandchild may hold the output pipes open; without a limit Wait would
	// wait for it, too.
	cmd.WaitDelay = 2 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: o.Credential}
	setDeathSignal(cmd.SysProcAttr, o.DeathSignal)

	c := &child{name: o.Path, cmd: cmd, done: make(chan struct{})}
	if o.Stdin {
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", o.Path, err)
		}
		c.stdin = in
	}
	started := make(chan error)
	go func() {
		// The kernel sends the death signal when the *thread* that forked ends, not
		// the process. So this thread is kept until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		unwatch := watchOwner(cmd.Process.Pid, o.DeathSignal)
		c.err = cmd.Wait()
		unwatch()
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Path, err)
	}
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// alive says whether the process has not ended yet.
func (c *child) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// stop sends the signals one after the other, each with killGrace to work, then
// SIGKILL. It returns once the process is gone; nil also if it had already ended.
// An error means that it took more than the first signal.
func (c *child) stop(signals ...syscall.Signal) error {
	if c.stdin != nil {
		_ = c.stdin.Close() // closing twice is harmless, and the signals follow
	}
	for i, sig := range append(signals, syscall.SIGKILL) {
		err := c.cmd.Process.Signal(sig)
		if err != nil && c.alive() && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop %s: %w", c.name, err)
		}
		select {
		case <-c.done:
			if i > 0 {
				return fmt.Errorf("stop %s: it ignored %v and was ended with %v", c.name, signals[0], sig)
			}
			return nil
		case <-time.After(killGrace):
		}
	}
	return fmt.Errorf("stop %s: process %d is still there after SIGKILL", c.name, c.pid())
}

// tail keeps the end of what a server writes, for error messages, and passes
// everything on to another writer.
type tail struct {
	mu   sync.Mutex
	next io.Writer // may be nil
	last []byte
}

const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, p...)
	if over := len(t.last) - tailBytes; over > 0 {
		t.last = append(t.last[:0], t.last[over:]...)
	}
	if t.next != nil {
		// A log that cannot be written must not stall or stop the server.
		_, _ = t.next.Write(p)
	}
	return len(p), nil
}

func (t *tail) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.last))
}
