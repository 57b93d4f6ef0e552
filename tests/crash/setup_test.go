// Package crash ends the archiver's processes, and the servers that they work
// with, at every kind of moment, and looks whether a row was lost or kept twice.
//
// The processes are real: the program, built with the tag failpoint, as several
// replicas. The judge is one oracle (oracle_test.go), which is asked again and
// again while the replicas die. Its truth is a table of every row version that
// must exist, which whoever changes the audit tables changes in the same statement
// (mutator_test.go). The archiver knows nothing of it.
//
// A random test prints its seed; ARCHIVER_SEED repeats it, as far as the timing
// of processes can be repeated. ARCHIVER_KILLS makes it longer.
package crash

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// The configuration that matters here. The lease is short, so that the jobs of the
// dead are soon taken up again, and still long enough for a machine under load.
const (
	lease     = 3 * time.Second
	batchSize = 20
)

// site is a source database with two audit tables, a control database, a bucket,
// and a configuration file for them.
type site struct {
	source, control *testkit.DB
	bucket          *testkit.Bucket
	program, file   string
	dir             string // of the processes' temporary files and logs
	oracle          *oracle
}

// options of a site. The zero value takes databases on the shared cluster.
type options struct {
	source, control *testkit.DB
	sourceAddr      string // host:port by which the archiver knows the source; "" is its own
	s3              string // more keys of s3
	concurrency     int    // batches at a time in the whole fleet; 0: 12
}

func newSite(t *testing.T, o options) *site {
	t.Helper()
	s := &site{
		source: o.source, control: o.control, bucket: testkit.S3(t),
		program: testkit.Build(t, "./cmd/archiver", "failpoint"), dir: t.TempDir(),
	}
	if s.source == nil {
		s.source = testkit.Postgres(t)
	}
	if s.control == nil {
		s.control = testkit.Postgres(t)
	}
	s.configure(t, o)
	s.source.Exec(t, schema)
	s.source.Exec(t, `ALTER DATABASE `+s.source.Name+` SET TimeZone = 'UTC'`)
	s.oracle = newOracle(s)
	s.run(t, "migrate")
	return s
}

func (s *site) configure(t *testing.T, o options) {
	t.Helper()
	source := s.source.DSN
	if o.sourceAddr != "" {
		source = s.url(t, o.sourceAddr)
	}
	yaml := fmt.Sprintf(`
control: {url: %q}
s3: {bucket: %q, prefix: pre, endpoint: %q, access_key_id: %q, secret_access_key: %q, retry: {max_attempts: 3, initial_delay: 50ms, max_delay: 200ms}, circuit_breaker: {recovery_timeout: 1s}%s}
defaults: {retention: 30d, batch_size: %d, concurrency: %d, adaptive_batch: {enabled: false}}
worker: {concurrency: 4, lease: %s, shutdown_timeout: 2s, batch_timeout: 2m}
ui: {enabled: false}
databases:
  - name: main
    url: %q
    tables: [{name: audit_logs}, {name: parted}]
`, s.control.DSN, s.bucket.Name, s.bucket.Endpoint, s.bucket.AccessKey, s.bucket.SecretKey, o.s3, batchSize, cmp.Or(o.concurrency, 12), lease, source)
	s.file = filepath.Join(s.dir, "archiver.yaml")
	require.NoError(t, os.WriteFile(s.file, []byte(yaml), 0o600))
}

// url is the source's, by another address.
func (s *site) url(t *testing.T, addr string) string {
	t.Helper()
	u, err := url.Parse(s.source.DSN)
	require.NoError(t, err)
	u.Host = addr
	return u.String()
}

// drain plans and works, undisturbed, until no old row is left in the tables, and
// has the oracle look at what became of every row.
func (s *site) drain(t *testing.T) figures {
	t.Helper()
	defer s.hurry(t)()
	old := fmt.Sprintf(`SELECT (SELECT count(*) FROM audit_logs WHERE created_at < %s) + (SELECT count(*) FROM parted WHERE created_at < %[1]s)`, `now() - interval '31 days'`)
	// What arrived late lies in ranges that are planned only when the open ones are done.
	for round := 0; ; round++ {
		require.Less(t, round, 5, "rows are left over by each plan")
		s.run(t, "work", "--drain", "--drain-patience", "30s")
		s.oracle.check(t)
		if s.source.Int(t, old) == 0 {
			break
		}
		s.run(t, "plan")
	}
	return s.oracle.settled(t)
}

// hurry lets no job wait until the function it returns is called.
func (s *site) hurry(t *testing.T) (stop func()) {
	t.Helper()
	return testkit.Hurry(t, ledger.New(s.control.Pool, "archiver"))
}

// pause waits; it is false once ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// seed is that of ARCHIVER_SEED, or a new one; it is printed.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := rand.Uint64N(1_000_000)
	if text := os.Getenv("ARCHIVER_SEED"); text != "" {
		var err error
		n, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "ARCHIVER_SEED")
	}
	t.Logf("ARCHIVER_SEED=%d", n)
	return n
}

// stream is the random numbers of one actor.
func stream(seed uint64, actor int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(actor))) }

// between is a random duration.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)))
}
