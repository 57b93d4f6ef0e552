// Package fault runs the whole path, plan to committed object, while something on
// the way goes wrong: requests to storage, connections to either database, clocks,
// what lies in the bucket. One oracle decides about all of it.
package fault

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/migrations"
	"github.com/audit-table-archiver/archiver/planner"
	"github.com/audit-table-archiver/archiver/worker"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// site is a source database, a control database, a bucket, and a replica that works
// them over ways that a test can disturb. The test itself goes the direct way.
type site struct {
	t       *testing.T
	source  *testkit.DB
	control *testkit.DB
	bucket  *testkit.Bucket
	cfg     *config.Config
	ledger  *ledger.Ledger
	src     *source.DB
	log     *zap.Logger
}

// ways are the replica's: a nil field means the direct one.
type ways struct {
	source, control *testkit.Proxy
	store           func(*objstore.Config)
}

// newSite migrates a fresh control database beside a fresh source. Each of tables is
// a table of the configuration; options are more keys that they all have.
func newSite(t *testing.T, options string, tables ...string) *site {
	t.Helper()
	return newSiteOn(t, testkit.Postgres(t), testkit.Postgres(t), options, tables...)
}

func newSiteOn(t *testing.T, src, control *testkit.DB, options string, tables ...string) *site {
	t.Helper()
	s := &site{t: t, source: src, control: control, bucket: testkit.S3(t), log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))}
	var yaml strings.Builder
	fmt.Fprintf(&yaml, `
control: {url: %q}
s3: {bucket: %q, prefix: pre, endpoint: %q, access_key_id: %q, secret_access_key: %q, retry: {max_attempts: 2, initial_delay: 10ms, max_delay: 20ms}, circuit_breaker: {recovery_timeout: 1s}}
defaults: {retention: 30d, batch_size: 10, concurrency: 8}
worker: {concurrency: 8, shutdown_timeout: 1s}
databases:
  - name: main
    url: %q
    tables:
`, s.control.DSN, s.bucket.Name, s.bucket.Endpoint, s.bucket.AccessKey, s.bucket.SecretKey, s.source.DSN)
	for _, name := range tables {
		fmt.Fprintf(&yaml, "      - {name: %s%s}\n", name, options)
	}
	file := filepath.Join(t.TempDir(), "archiver.yaml")
	require.NoError(t, os.WriteFile(file, []byte(yaml.String()), 0o600))
	var err error
	s.cfg, err = config.Load(config.Options{File: file, Environ: []string{}})
	require.NoError(t, err)
	_, _, err = migrations.Up(t.Context(), s.control.Pool, s.cfg.Control.Schema, worker.RiverLogger(zap.NewNop()))
	require.NoError(t, err)
	s.ledger = ledger.New(s.control.Pool, s.cfg.Control.Schema)
	s.src = s.openSource(nil)
	return s
}

// through is a DSN that goes over a proxy.
func through(t *testing.T, p *testkit.Proxy, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	u.Host = p.Addr
	return u.String()
}

// address is where a DSN connects to.
func address(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	return net.JoinHostPort(u.Hostname(), u.Port())
}

func (s *site) openSource(p *testkit.Proxy) *source.DB {
	s.t.Helper()
	database := s.cfg.Databases[0]
	if p != nil {
		database.Primary = config.Secret(through(s.t, p, s.source.DSN))
	}
	db, err := source.Open(s.t.Context(), database, "test")
	require.NoError(s.t, err)
	s.t.Cleanup(db.Close)
	return db
}

// deps are what a replica works with when it goes the given ways.
func (s *site) deps(w ways) worker.Deps {
	s.t.Helper()
	store := worker.StoreConfig(s.cfg.S3)
	if w.store != nil {
		w.store(&store)
	}
	opened, err := objstore.Open(s.t.Context(), store)
	require.NoError(s.t, err)
	s.t.Cleanup(opened.Close)
	control := s.control.DSN
	if w.control != nil {
		control = through(s.t, w.control, control)
	}
	return worker.Deps{
		ID:     worker.NewID(),
		Config: s.cfg, Ledger: ledger.New(s.openControl(control), s.cfg.Control.Schema), Store: opened,
		Sources: map[string]*source.DB{"main": s.openSource(w.source)}, Log: s.log, Version: "test",
	}
}

// openControl makes a pool as the program does, small and quick to give up.
func (s *site) openControl(dsn string) *pgxpool.Pool {
	s.t.Helper()
	pc, err := pgxpool.ParseConfig(dsn)
	require.NoError(s.t, err)
	pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	pc.ConnConfig.ConnectTimeout = 2 * time.Second
	pc.MaxConns = int32(s.cfg.Worker.Concurrency + 4)
	pool, err := pgxpool.NewWithConfig(s.t.Context(), pc)
	require.NoError(s.t, err)
	s.t.Cleanup(pool.Close)
	return pool
}

// work runs a replica until the test ends. One that gives up, as it must when its
// lease could not be renewed, is started again, as a service manager does.
func (s *site) work(w ways) {
	s.t.Helper()
	s.workAs(s.deps(w))
}

func (s *site) workAs(d worker.Deps) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	done := s.run(ctx, d)
	stop := s.hurry()
	s.t.Cleanup(func() { cancel(); <-done; stop() })
}

// run runs a replica until ctx ends; done is closed when it has.
func (s *site) run(ctx context.Context, d worker.Deps) (done chan struct{}) {
	done = make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := worker.Run(ctx, d, worker.RunOptions{}); err != nil && ctx.Err() == nil {
				s.log.Warn("the replica ended; it is started again", zap.Error(err))
				wait(ctx, 100*time.Millisecond)
				d.ID = worker.NewID() // a new process has a new name; its lease lies there until it is buried
			}
		}
	}()
	return done
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// hurry lets no job wait until the function it returns is called.
func (s *site) hurry() (stop func()) { return testkit.Hurry(s.t, s.ledger) }

func (s *site) table(name string) config.Table {
	s.t.Helper()
	for _, t := range s.cfg.Databases[0].Tables {
		if t.Name == name {
			return t
		}
	}
	s.t.Fatalf("no table %s in the configuration", name)
	return config.Table{}
}

// plan enqueues what there is to archive in a table, and says how many batches.
func (s *site) plan(name string) int64 {
	s.t.Helper()
	ctx := s.t.Context()
	p, err := planner.Make(ctx, s.src, s.ledger, s.table(name), planner.Options{})
	require.NoError(s.t, err)
	require.Empty(s.t, p.Refused())
	client, err := river.NewClient(riverpgxv5.New(s.ledger.Pool), &river.Config{Schema: s.ledger.Schema()})
	require.NoError(s.t, err)
	require.NoError(s.t, p.Enqueue(ctx, s.ledger, client))
	return s.count(name, `TRUE`)
}

// count counts a table's batches for which an SQL condition on b holds.
func (s *site) count(name, condition string) int64 {
	s.t.Helper()
	return s.control.Int(s.t, s.ledger.SQL(`SELECT count(*) FROM {s}.batch b JOIN {s}.archive_table a ON a.id = b.table_id WHERE a.name = $1 AND (`+condition+`)`), name)
}

// fill creates an audit table, unless it is there, with rows that are due, and the
// truth beside it: a copy of every row that ever was.
func (s *site) fill(name string, rows, from int) {
	s.t.Helper()
	for _, table := range []string{name, "truth_" + name} {
		s.source.Exec(s.t, `CREATE TABLE IF NOT EXISTS `+table+` (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, actor text NOT NULL, payload jsonb)`)
	}
	s.source.Exec(s.t, `CREATE INDEX IF NOT EXISTS `+name+`_time ON `+name+` (created_at, id)`)
	s.source.Exec(s.t, fmt.Sprintf(`WITH fresh AS (
			INSERT INTO %[1]s SELECT i, date_trunc('month', now() AT TIME ZONE 'UTC' - interval '4 months') AT TIME ZONE 'UTC' + i * interval '1 minute',
				'user ' || i, jsonb_build_object('n', i) FROM generate_series(%[2]d, %[3]d) i RETURNING *)
		INSERT INTO truth_%[1]s SELECT * FROM fresh`, name, from, from+rows-1))
}

// settle waits until no batch of a table can go on by itself.
func (s *site) settle(name string) {
	s.t.Helper()
	testkit.EventuallyNoError(s.t, time.Minute, func() error {
		if n := s.count(name, `b.state IN ('planned', 'verified', 'deleting') AND NOT b.failed`); n > 0 {
			return fmt.Errorf("%d batches are open: %s; jobs: %s", n, s.trouble(name), s.control.Text(s.t, s.ledger.SQL(
				`SELECT coalesce(string_agg(concat_ws(' ', state, attempt, scheduled_at, attempted_at, attempted_by[array_upper(attempted_by, 1)]), E'\n'), '') FROM {s}.river_job WHERE finalized_at IS NULL`)))
		}
		return nil
	}, name+" settles")
}

// trouble is what the ledger says about a table's batches.
func (s *site) trouble(name string) string {
	s.t.Helper()
	return s.control.Text(s.t, s.ledger.SQL(`SELECT coalesce(string_agg(concat_ws('; ', b.state, b.waiting_for, b.last_error, b.last_hint), E'\n'), '')
		FROM {s}.batch b JOIN {s}.archive_table a ON a.id = b.table_id WHERE a.name = $1 AND (b.waiting_for IS NOT NULL OR b.last_error IS NOT NULL)`), name)
}

// attempts counts the errors that River has noted for a table's jobs.
func (s *site) attempts(name string) int64 {
	s.t.Helper()
	return s.control.Int(s.t, s.ledger.SQL(`SELECT coalesce(sum(cardinality(j.errors)), 0)::bigint FROM {s}.river_job j
		JOIN {s}.batch b ON b.job_id = j.id JOIN {s}.archive_table a ON a.id = b.table_id WHERE a.name = $1`), name)
}

// retry does what `jobs retry --failed` does.
func (s *site) retry(name string) {
	s.t.Helper()
	// River ends a job a moment after the batch was marked as failed.
	const ended = ` FROM {s}.archive_table a, {s}.river_job j WHERE a.id = b.table_id AND a.name = $1 AND b.failed AND j.id = b.job_id AND j.finalized_at IS NOT NULL`
	testkit.Eventually(s.t, 10*time.Second, func() bool {
		return s.count(name, `b.failed`) == s.control.Int(s.t, s.ledger.SQL(`SELECT count(*) FROM {s}.batch b,`+strings.TrimPrefix(ended, ` FROM`)), name)
	}, "the failed jobs have ended")
	rows, err := s.ledger.Pool.Query(s.t.Context(), s.ledger.SQL(`UPDATE {s}.batch b SET failed = false`+ended+` RETURNING b.job_id`), name)
	require.NoError(s.t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	require.NoError(s.t, err)
	require.NotEmpty(s.t, ids)
	client, err := river.NewClient(riverpgxv5.New(s.ledger.Pool), &river.Config{Schema: s.ledger.Schema()})
	require.NoError(s.t, err)
	for _, id := range ids {
		_, err := client.JobRetry(s.t.Context(), id)
		require.NoError(s.t, err)
	}
}
