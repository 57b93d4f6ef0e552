//go:build failpoint

package failpoint

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Enabled says whether failpoints were compiled in.
const Enabled = true

type key struct{}

// Handler is called at every point that is reached under a context made by With.
type Handler func(ctx context.Context, name string) error

// With returns a context under which h sees every point that is hit.
func With(ctx context.Context, h Handler) context.Context {
	return context.WithValue(ctx, key{}, h)
}

// Hit marks a point. The error that a handler returns is to be treated as if the
// operation at that point had failed with it.
func Hit(ctx context.Context, name string) error {
	if h, ok := ctx.Value(key{}).(Handler); ok {
		if err := h(ctx, name); err != nil {
			return err
		}
	}
	return fromEnvironment(name)
}

// Writer returns a writer that hits the point before each write to w.
func Writer(ctx context.Context, name string, w io.Writer) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		if err := Hit(ctx, name); err != nil {
			return 0, err
		}
		return w.Write(p)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// ReaderAt returns a reader that hits the point before each read of r.
func ReaderAt(ctx context.Context, name string, r io.ReaderAt) io.ReaderAt {
	return readerAtFunc(func(p []byte, offset int64) (int, error) {
		if err := Hit(ctx, name); err != nil {
			return 0, err
		}
		return r.ReadAt(p, offset)
	})
}

type readerAtFunc func([]byte, int64) (int, error)

func (f readerAtFunc) ReadAt(p []byte, offset int64) (int, error) { return f(p, offset) }

var (
	once  sync.Once
	mu    sync.Mutex
	rules map[string]*rule
)

type rule struct {
	action string
	nth    int
	hits   int
}

func fromEnvironment(name string) error {
	once.Do(func() { rules = parse(os.Getenv("ARCHIVER_FAILPOINTS")) })
	r, ok := rules[name]
	if !ok {
		return nil
	}
	if r.action == "slow" {
		time.Sleep(time.Duration(r.nth) * time.Millisecond)
		return nil
	}
	mu.Lock()
	defer mu.Unlock()
	r.hits++
	if r.hits != r.nth {
		return nil
	}
	switch r.action {
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal ends the process before anything else can run
	case "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		// Another thread may be the one that handles it, a moment later: what comes after
		// this point must not come before the stop.
		time.Sleep(100 * time.Millisecond)
	case "error":
		return fmt.Errorf("failpoint %s", name)
	}
	return nil
}

func parse(list string) map[string]*rule {
	out := make(map[string]*rule)
	for item := range strings.SplitSeq(list, ",") {
		name, action, ok := strings.Cut(strings.TrimSpace(item), "=")
		if !ok {
			continue
		}
		nth := 1
		if a, n, ok := strings.Cut(action, "@"); ok {
			action = a
			if v, err := strconv.Atoi(n); err == nil {
				nth = v
			}
		}
		out[name] = &rule{action: action, nth: nth}
	}
	return out
}
