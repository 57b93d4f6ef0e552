//go:build failpoint

package integration

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/planner"
	"github.com/audit-table-archiver/archiver/worker"
)

// newDatabases is a site whose configuration has three databases, a, b and c, each with a
// table of its own and four batches planned of it. defaults and worker are keys of these
// sections, and databases further keys of a database by its name.
func newDatabases(t *testing.T, defaults, workers string, databases map[string]string) (*site, map[string]*source.DB) {
	t.Helper()
	s := newSite(t, "- {name: unused}")
	yaml := fmt.Sprintf(`
control: {url: %q}
s3: {bucket: %q, endpoint: %q, access_key_id: %q, secret_access_key: %q}
defaults: {retention: 30d, batch_size: 10, vacuum_mode: none%s}
worker: {%s}
databases:
`, s.db.DSN, s.bucket.Name, s.bucket.Endpoint, s.bucket.AccessKey, s.bucket.SecretKey, defaults, workers)
	for _, name := range []string{"a", "b", "c"} {
		yaml += fmt.Sprintf("  - {name: %s, url: %q, tables: [{name: audit_%[1]s}]%[3]s}\n", name, s.db.DSN, databases[name])
		s.db.Exec(t, fmt.Sprintf(`CREATE TABLE audit_%s (id bigint PRIMARY KEY, created_at timestamptz NOT NULL); CREATE INDEX ON audit_%[1]s (created_at, id);
			INSERT INTO audit_%[1]s SELECT i, '2024-01-01' FROM generate_series(1, 40) i`, name))
	}
	s.cfg = load(t, yaml)
	sources := map[string]*source.DB{}
	for _, d := range s.cfg.Databases {
		db, err := source.Open(t.Context(), d, "limits "+d.Name)
		require.NoError(t, err)
		t.Cleanup(db.Close)
		sources[d.Name] = db
		p, err := planner.Make(t.Context(), db, s.ledger, d.Tables[0], planner.Options{})
		require.NoError(t, err)
		require.Len(t, p.Pages, 4)
		require.NoError(t, p.Enqueue(t.Context(), s.ledger, s.client(t)))
	}
	return s, sources
}

// most works all batches and returns the most that a query, whose rows are a name and a
// number, gives meanwhile for each name. A batch is held at work until want was seen, for
// some moments at least, and not for ever: what may begin beside it does so meanwhile.
func (s *site) most(t *testing.T, sources map[string]*source.DB, query string, want map[string]int64) map[string]int64 {
	t.Helper()
	var mu sync.Mutex
	seen := map[string]int64{}
	look := func() (all bool) {
		mu.Lock()
		defer mu.Unlock()
		rows, err := s.db.Pool.Query(t.Context(), query)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			return true
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			var n int64
			if err := rows.Scan(&name, &n); err != nil {
				t.Errorf("%s: %v", query, err)
				return true
			}
			seen[name] = max(seen[name], n)
		}
		for name, n := range want {
			if seen[name] < n {
				return false
			}
		}
		return true
	}
	deps := s.deps()
	deps.Sources = sources
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ctx = failpoint.With(ctx, func(_ context.Context, point string) error {
		if point != "extract:copied" {
			return nil
		}
		began := time.Now()
		for all := false; !all || time.Since(began) < 50*time.Millisecond; {
			if all = look(); time.Since(began) > 2*time.Second {
				break
			}
			time.Sleep(10 * time.Millisecond) // between two looks
		}
		return nil
	})
	require.NoError(t, worker.Run(ctx, deps, worker.RunOptions{Drain: true, Patience: 20 * time.Second}))
	require.Equal(t, map[string]int64{"archived": 12}, s.states(t))
	return seen
}

// TestLimits: what each limit lets run at a time, of three databases with four batches each.
func TestLimits(t *testing.T) {
	t.Parallel()
	const (
		batches   = `SELECT queue, count(*) FROM archiver.river_job WHERE state = 'running' AND kind = 'archive_batch' GROUP BY 1`
		databases = `SELECT 'databases', count(DISTINCT queue) FROM archiver.river_job WHERE state = 'running' AND kind = 'archive_batch'`
		all       = `SELECT 'all', count(*) FROM archiver.river_job WHERE state = 'running' AND kind = 'archive_batch'`
	)
	for name, c := range map[string]struct {
		defaults, worker string
		a                string // keys of database a
		query            string
		want             map[string]int64
	}{
		"concurrency":            {", concurrency: 1, max_parallel_databases: 3", "concurrency: 12", ", concurrency: 3", batches, map[string]int64{"db_a": 3, "db_b": 1, "db_c": 1}},
		"parallel_databases":     {", concurrency: 2, parallel_databases: false, max_parallel_databases: 3", "concurrency: 12", "", databases, map[string]int64{"databases": 1}},
		"max_parallel_databases": {", concurrency: 2, parallel_databases: true, max_parallel_databases: 2", "concurrency: 12", "", databases, map[string]int64{"databases": 2}},
		"all databases":          {", concurrency: 2, max_parallel_databases: 3", "concurrency: 12", "", databases, map[string]int64{"databases": 3}},
		"worker.concurrency":     {", concurrency: 3, max_parallel_databases: 3", "concurrency: 2", "", all, map[string]int64{"all": 2}},
		"many hands":             {", concurrency: 3, max_parallel_databases: 3", "concurrency: 9", "", all, map[string]int64{"all": 9}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, sources := newDatabases(t, c.defaults, c.worker, map[string]string{"a": c.a})
			require.Equal(t, c.want, s.most(t, sources, c.query, c.want))
		})
	}
}

// TestPoolSizeOfADatabase: the default, and what a database has instead. TestPoolSize has
// the same for a read replica.
func TestPoolSizeOfADatabase(t *testing.T) {
	t.Parallel()
	s, sources := newDatabases(t, ", concurrency: 6, connection_pool_size: 1", "concurrency: 18", map[string]string{"b": ", connection_pool_size: 3"})
	want := map[string]int64{"limits a": 1, "limits b": 3, "limits c": 1}
	require.Equal(t, want, s.most(t, sources, `SELECT application_name, count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'limits %' GROUP BY 1`, want))
}
