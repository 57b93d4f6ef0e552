//go:build failpoint

// Package chaos works a backlog of several databases with many replicas, to which
// everything happens at once that can happen to a fleet, and watches its limits.
//
// ARCHIVER_CHAOS is how long it goes on (40s; `make chaos` takes 10 minutes), and
// ARCHIVER_SEED repeats a run as far as processes can be repeated.
package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// What the fleet is allowed, and how it is made to hurry and to die.
const (
	replicas  = 6
	seats     = 3 // batches of a database at a time
	places    = 2 // databases at a time
	lease     = 5 * time.Second
	batchRows = 20
	batchTime = "700" // milliseconds that a batch is made to take at least
)

var databases = []string{"alpha", "beta", "gamma", "delta"}

var tables = []string{"audit_logs", "events"}

// site is four sources, a control database on a server of its own, and a bucket.
type site struct {
	program, file, dir string
	control            *testkit.DB
	sources            map[string]*testkit.DB
	bucket             *testkit.Bucket
	ledger             *ledger.Ledger
	queue              *river.Client[pgx.Tx] // the operator's
	rows               int                   // in each table
}

// newSite fills each table with so many batches.
func newSite(t *testing.T, batches int) *site {
	t.Helper()
	many := localserver.PostgresOptions{Settings: map[string]string{"max_connections": "300"}}
	cluster := testkit.Cluster(t, many)
	s := &site{
		program: testkit.Build(t, "./cmd/archiver", "failpoint"), dir: t.TempDir(), bucket: testkit.S3(t),
		control: testkit.Database(t, testkit.Cluster(t, many)), sources: map[string]*testkit.DB{}, rows: batches * batchRows,
	}
	s.ledger = ledger.New(s.control.Pool, "archiver")
	var yaml strings.Builder
	fmt.Fprintf(&yaml, `
control: {url: %q}
s3: {bucket: %q, prefix: pre, endpoint: %q, access_key_id: %q, secret_access_key: %q, circuit_breaker: {recovery_timeout: 2s}}
defaults: {retention: 30d, batch_size: %d, concurrency: %d, max_parallel_databases: %d, adaptive_batch: {enabled: false}, partition_by: none}
worker: {concurrency: 4, lease: %s, shutdown_timeout: 3s, batch_timeout: 2m, listen: ""}
ui: {enabled: false}
databases:
`, s.control.DSN, s.bucket.Name, s.bucket.Endpoint, s.bucket.AccessKey, s.bucket.SecretKey, batchRows, seats, places, lease)
	for _, name := range databases {
		db := testkit.Database(t, cluster)
		s.sources[name] = db
		fmt.Fprintf(&yaml, "  - {name: %s, url: %q, tables: [{name: %s}, {name: %s}]}\n", name, db.DSN, tables[0], tables[1])
		for _, table := range tables {
			db.Exec(t, fmt.Sprintf(`
				CREATE TABLE %[1]s (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, payload text NOT NULL);
				INSERT INTO %[1]s SELECT i, now() - interval '90 days' + i * interval '1 second', md5('%[2]s.%[1]s' || i) FROM generate_series(1, %[3]d) i;
				CREATE INDEX ON %[1]s (created_at, id)`, table, name, s.rows))
		}
	}
	s.file = filepath.Join(s.dir, "archiver.yaml")
	require.NoError(t, os.WriteFile(s.file, []byte(yaml.String()), 0o600))
	s.run(t, "migrate")
	s.run(t, "plan")
	var err error
	s.queue, err = river.NewClient(riverpgxv5.New(s.control.Pool), &river.Config{Schema: "archiver"})
	require.NoError(t, err)
	return s
}

func (s *site) command(ctx context.Context, failpoints string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.program, args...)
	cmd.Env = []string{"ARCHIVER_CONFIG=" + s.file, "ARCHIVER_FAILPOINTS=" + failpoints, "PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + s.dir}
	return cmd
}

// run runs the program to its end, which must be a good one.
func (s *site) run(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := s.command(ctx, "", args...).CombinedOutput()
	require.NoError(t, err, "%v:\n%s", args, tail(string(out)))
}

func tail(text string) string {
	if len(text) > 4000 {
		return "..." + text[len(text)-4000:]
	}
	return text
}

// duration is ARCHIVER_CHAOS.
func duration(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("ARCHIVER_CHAOS")
	if text == "" {
		return 40 * time.Second
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err, "ARCHIVER_CHAOS")
	return d
}

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

func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)))
}

// wait is false once ctx has ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
