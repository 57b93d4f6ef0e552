//go:build failpoint

// Package integration runs the whole path, planner to committed object, on a real
// Postgres and a real S3 server.
package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
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
	"github.com/audit-table-archiver/archiver/internal/encode"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/layout"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/migrations"
	"github.com/audit-table-archiver/archiver/planner"
	"github.com/audit-table-archiver/archiver/worker"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// site is one database, used as source and as control database, and one bucket.
type site struct {
	db     *testkit.DB
	bucket *testkit.Bucket
	cfg    *config.Config
	ledger *ledger.Ledger
	store  *objstore.Store
	src    *source.DB
	log    *zap.Logger
}

// newSite migrates a fresh database. tables is YAML for databases[0].tables.
func newSite(t *testing.T, tables string) *site {
	t.Helper()
	s := &site{db: testkit.Postgres(t), bucket: testkit.S3(t), log: zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel))}
	s.configure(t, tables)
	ctx := t.Context()
	pool, err := pgxpool.New(ctx, s.cfg.Control.URL.Reveal())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	_, _, err = migrations.Up(ctx, pool, s.cfg.Control.Schema, worker.RiverLogger(zap.NewNop()))
	require.NoError(t, err)
	s.ledger = ledger.New(pool, s.cfg.Control.Schema)
	s.src, err = source.Open(ctx, s.cfg.Databases[0], "test")
	require.NoError(t, err)
	t.Cleanup(s.src.Close)
	s.store, err = objstore.Open(ctx, worker.StoreConfig(s.cfg.S3))
	require.NoError(t, err)
	return s
}

// configure loads a configuration from YAML as the product does.
func (s *site) configure(t *testing.T, tables string) {
	t.Helper()
	s.cfg = load(t, fmt.Sprintf(`
control: {url: %q}
s3: {bucket: %q, prefix: pre, endpoint: %q, access_key_id: %q, secret_access_key: %q, retry: {max_attempts: 2, initial_delay: 50ms, max_delay: 100ms}, circuit_breaker: {recovery_timeout: 1s}}
defaults: {retention: 30d, batch_size: 100}
databases:
  - name: main
    url: %q
    tables:
%s
`, s.db.DSN, s.bucket.Name, s.bucket.Endpoint, s.bucket.AccessKey, s.bucket.SecretKey, s.db.DSN, indent(tables)))
}

func load(t *testing.T, yaml string) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "archiver.yaml")
	require.NoError(t, os.WriteFile(file, []byte(yaml), 0o600))
	cfg, err := config.Load(config.Options{File: file, Environ: []string{}})
	require.NoError(t, err)
	return cfg
}

func indent(yaml string) string {
	return "      " + strings.ReplaceAll(strings.TrimSpace(yaml), "\n", "\n      ")
}

func (s *site) client(t *testing.T) *river.Client[pgx.Tx] {
	t.Helper()
	c, err := river.NewClient(riverpgxv5.New(s.ledger.Pool), &river.Config{Schema: s.ledger.Schema()})
	require.NoError(t, err)
	return c
}

// plan plans every configured table and enqueues what it finds.
func (s *site) plan(t *testing.T) []*planner.Plan {
	t.Helper()
	var out []*planner.Plan
	for _, table := range s.cfg.Databases[0].Tables {
		p, err := planner.Make(t.Context(), s.src, s.ledger, table, planner.Options{})
		require.NoError(t, err)
		require.Empty(t, p.Refused())
		require.NoError(t, p.Enqueue(t.Context(), s.ledger, s.client(t)))
		out = append(out, p)
	}
	return out
}

func (s *site) deps() worker.Deps {
	return worker.Deps{
		ID:     worker.NewID(),
		Config: s.cfg, Ledger: s.ledger, Store: s.store, Sources: map[string]*source.DB{"main": s.src},
		Log: s.log, Version: "test",
	}
}

// drain works until nothing is left. at sees every failpoint that is passed.
func (s *site) drain(t *testing.T, at failpoint.Handler) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if at != nil {
		ctx = failpoint.With(ctx, at)
	}
	require.NoError(t, worker.Run(ctx, s.deps(), worker.RunOptions{Drain: true, Patience: 20 * time.Second}))
	require.NoError(t, ctx.Err(), "the drain did not end in time")
}

// states counts the ledger's batches by state.
func (s *site) states(t *testing.T) map[string]int64 {
	t.Helper()
	rows, err := s.ledger.Pool.Query(t.Context(), s.ledger.SQL(`SELECT state, count(*) FROM {s}.batch GROUP BY 1`))
	require.NoError(t, err)
	out := map[string]int64{}
	var state string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&state, &n}, func() error { out[state] = n; return nil })
	require.NoError(t, err)
	return out
}

// committed returns the lines of all objects that have a manifest, and checks each
// manifest against its object.
func (s *site) committed(t *testing.T) []string {
	t.Helper()
	var lines []string
	for _, key := range s.bucket.Keys(t) {
		if !layout.IsManifest(key) {
			continue
		}
		var m layout.Manifest
		require.NoError(t, json.Unmarshal(s.bucket.Read(t, key), &m), key)
		body := s.bucket.Read(t, m.Object)
		require.Len(t, body, int(m.StoredBytes), m.Object)
		r, err := encode.NewReader(bytes.NewReader(body), m.Compression)
		require.NoError(t, err)
		raw, err := io.ReadAll(r)
		require.NoError(t, err)
		require.EqualValues(t, m.Rows, bytes.Count(raw, []byte("\n")), m.Object)
		require.Len(t, raw, int(m.RawBytes), m.Object)
		lines = append(lines, strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")...)
	}
	return lines
}
