//go:build failpoint

package integration

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/worker"
)

// touched counts pages of the table and of the index that batches go by, found in the
// server's memory or not. Each look at a page counts.
type touched struct{ heap, index int64 }

func (tr *trial) touched() (n touched) {
	tr.t.Helper()
	require.NoError(tr.t, tr.db.Pool.QueryRow(tr.t.Context(), `SELECT t.heap_blks_read + t.heap_blks_hit, i.idx_blks_read + i.idx_blks_hit
		FROM pg_statio_user_tables t JOIN pg_statio_user_indexes i USING (relid) WHERE t.relname = 'audit_logs' AND i.indexrelname <> 'audit_logs_pkey'`).Scan(&n.heap, &n.index))
	return n
}

// counted waits until sessions have ended, and a counter of the table is what it will be:
// what they did is counted by then.
func (tr *trial) counted(session, counter string, want int64) {
	tr.t.Helper()
	testkit.Eventually(tr.t, 20*time.Second, func() bool {
		return tr.db.Int(tr.t, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1`, session) == 0 &&
			tr.db.Int(tr.t, `SELECT `+counter+` FROM pg_stat_user_tables WHERE relname = 'audit_logs'`) == want
	}, "the server has counted what "+session+" did")
}

// archiveNext archives the next batches, one at a time, and says what that has touched.
func (tr *trial) archiveNext(batches, rows int64) touched {
	tr.t.Helper()
	t := tr.t
	const session = "archiver rescan"
	before, gone := tr.touched(), tr.db.Int(t, `SELECT pg_stat_get_tuples_deleted('audit_logs'::regclass)`)
	src, err := source.Open(t.Context(), tr.cfg.Databases[0], session)
	require.NoError(t, err)
	t.Cleanup(src.Close)
	deps := tr.deps()
	deps.Sources = map[string]*source.DB{"main": src}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var archived atomic.Int64
	require.NoError(t, worker.Run(failpoint.With(ctx, func(_ context.Context, name string) error {
		switch {
		case name == "record:done" && archived.Add(1) == batches:
			stop()
		case name == "extract:locked" && archived.Load() >= batches: // it was taken meanwhile, and has read nothing
			return errHere
		}
		return nil
	}), deps, worker.RunOptions{}))
	require.Equal(t, batches, archived.Load())
	src.Close()
	tr.counted(session, "n_tup_del", gone+batches*rows)
	after := tr.touched()
	return touched{after.heap - before.heap, after.index - before.index}
}

// TestNoRescan: no stage of a batch goes again over what earlier batches deleted, which until
// a vacuum stands at the low end of the index: the last batches look at as many pages as the
// first ones. A stage without a lower bound would make a long run quadratic.
func TestNoRescan(t *testing.T) {
	t.Parallel()
	const batches, rows = 30, 500
	tr := &trial{t: t, site: newSite(t, fmt.Sprintf(`- {name: audit_logs, batch_size: %d, adaptive_batch: {enabled: false}, vacuum_mode: none}`, rows))}
	tr.cfg.Worker.ShutdownTimeout, tr.cfg.Databases[0].Concurrency = time.Second, 1
	filled, err := pgx.Connect(t.Context(), tr.db.DSN)
	require.NoError(t, err)
	_, err = filled.Exec(t.Context(), trialTable+`ALTER TABLE audit_logs SET (autovacuum_enabled = false);
		INSERT INTO audit_logs SELECT i, date_trunc('month', now() AT TIME ZONE 'UTC' - interval '4 months') AT TIME ZONE 'UTC' + i * interval '1 minute',
			'user ' || i, jsonb_build_object('n', i) FROM generate_series(1, `+fmt.Sprint(batches*rows)+`) i;
		ANALYZE audit_logs`)
	require.NoError(t, err)
	tr.plan(t)
	require.EqualValues(t, batches, tr.count(`SELECT count(*) FROM {s}.batch`))
	require.NoError(t, filled.Close(t.Context())) // it and the plan have been counted, too, when they are gone
	tr.src.Pool.Reset()
	tr.counted("test", "n_tup_ins", batches*rows)
	first := tr.archiveNext(batches/3, rows)
	middle := tr.archiveNext(batches/3, rows)
	last := tr.archiveNext(batches/3, rows)
	t.Log(first, middle, last)
	for what, n := range map[string][2]int64{"heap": {first.heap, last.heap}, "index": {first.index, last.index}} {
		require.Positive(t, n[0], what)
		require.LessOrEqual(t, float64(n[1]), 1.5*float64(n[0]), what)
	}
}
