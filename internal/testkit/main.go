package testkit

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/audit-table-archiver/archiver/internal/localserver"
)

const (
	// A first start may have to build the S3 server, which takes a minute or more.
	serverStartTimeout = 5 * time.Minute
	callTimeout        = 30 * time.Second
)

// shared holds what the tests of one process have in common. It is the package's
// one global: the tests of a package have nothing else to carry it in.
var shared struct {
	mu       sync.Mutex
	active   bool // Main is running, and will stop what is started here
	postgres *localserver.Postgres
	s3       *localserver.S3
	binDir   string
	binaries map[string]string
	next     int // number of the next database or bucket
}

// Main runs the tests of a package, stops the shared servers, fails the run if
// goroutines were left behind, and exits. The options are for goroutines that a
// library is known to leave.
func Main(m *testing.M, ignore ...goleak.Option) {
	shared.active = true
	code := m.Run()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, "testkit:", err)
		code = max(code, 1)
	}
	if code == 0 && !fuzzing() {
		if err := goleak.Find(append(ignore, idleConnections()...)...); err != nil {
			fmt.Fprintln(os.Stderr, "testkit:", err)
			code = 1
		}
	}
	os.Exit(code) //nolint:forbidigo // a TestMain ends like this
}

// fuzzing says whether this process is a fuzzing coordinator or worker, both of
// which keep goroutines of their own.
func fuzzing() bool {
	for _, name := range []string{"test.fuzz", "test.fuzzworker"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" && f.Value.String() != "false" {
			return true
		}
	}
	return false
}

// idleConnections are the goroutines of keep-alive connections, which net/http
// ends in its own time.
func idleConnections() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
	}
}

func stopShared() error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	var errs []error
	if shared.postgres != nil {
		errs = append(errs, shared.postgres.Stop())
	}
	if shared.s3 != nil {
		errs = append(errs, shared.s3.Stop())
	}
	if shared.binDir != "" {
		errs = append(errs, os.RemoveAll(shared.binDir))
	}
	return errors.Join(errs...)
}

// lockShared locks shared for a test. The caller must unlock it.
func lockShared(t testing.TB) {
	t.Helper()
	shared.mu.Lock()
	if !shared.active {
		shared.mu.Unlock()
		t.Fatal("testkit: this package needs `func TestMain(m *testing.M) { testkit.Main(m) }`, or its servers would never be stopped")
	}
}

// bounded returns a context for one call to a server. It does not follow the
// test's, which is already cancelled when cleanups run.
func bounded(t testing.TB, limit time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeoutCause(context.WithoutCancel(t.Context()), limit, fmt.Errorf("testkit: no answer after %v", limit))
}
