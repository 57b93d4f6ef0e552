//go:build failpoint

package integration

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/planner"
	"github.com/audit-table-archiver/archiver/worker"
)

// newWindows plans rows rows in batches of ten, of which only the first five are
// enqueued: the rest is left to windows. options are keys of adaptive_batch.
func newWindows(t *testing.T, rows int, options string) *trial {
	t.Helper()
	s := newSite(t, `- {name: audit_logs, batch_size: 10, adaptive_batch: {`+options+`}}`)
	tr := &trial{site: s, t: t}
	tr.cfg.Databases[0].Concurrency, tr.cfg.Worker.ShutdownTimeout = 4, 5*time.Second
	planTrial(tr, rows, func(p *planner.Plan) {
		for _, later := range p.Pages[5:] {
			p.Later += later.Rows
		}
		p.Pages = p.Pages[:5]
	})
	return tr
}

func planTrial(tr *trial, rows int, change func(*planner.Plan)) {
	tr.t.Helper()
	tr.fill(rows)
	p, err := planner.Make(tr.t.Context(), tr.src, tr.ledger, tr.cfg.Databases[0].Tables[0], planner.Options{Concurrency: 8})
	require.NoError(tr.t, err)
	change(p)
	require.NoError(tr.t, p.Enqueue(tr.t.Context(), tr.ledger, tr.client(tr.t)))
}

// windows runs n planners of windows until the function it returns is called.
func (tr *trial) windows(n int, at failpoint.Handler) (stop func()) {
	tr.t.Helper()
	ctx, cancel := context.WithCancel(tr.t.Context())
	if at != nil {
		ctx = failpoint.With(ctx, at)
	}
	var running sync.WaitGroup
	for range n {
		w := &planner.Windows{Config: tr.cfg, Ledger: tr.ledger, Sources: map[string]*source.DB{"main": tr.src}, Queue: tr.client(tr.t), Log: tr.log}
		running.Go(func() { w.Run(ctx) })
	}
	return func() { cancel(); running.Wait() }
}

// sizes are the largest batches planned, window by window.
func (tr *trial) sizes() []int64 {
	tr.t.Helper()
	rows, err := tr.ledger.Pool.Query(tr.t.Context(), tr.ledger.SQL(`SELECT rows_planned FROM {s}.batch ORDER BY id`))
	require.NoError(tr.t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	require.NoError(tr.t, err)
	var out []int64
	for _, n := range all[:len(all)-1] { // the last one is what was left
		if len(out) == 0 || out[len(out)-1] != n {
			out = append(out, n)
		}
	}
	return out
}

// whole is the oracle for the end of a run in windows.
func (tr *trial) whole(rows int64) {
	tr.t.Helper()
	tr.exactlyOnce()
	require.Zero(tr.t, tr.rowsLeft())
	require.Equal(tr.t, map[string]int64{"archived": tr.count(`SELECT count(*) FROM {s}.batch`)}, tr.states(tr.t))
	require.Equal(tr.t, rows, tr.count(`SELECT sum(rows_planned)::bigint FROM {s}.batch`), "no range is planned twice")
	require.Equal(tr.t, tr.count(`SELECT count(*) FROM {s}.batch`), tr.count(`SELECT count(DISTINCT to_key) FROM {s}.batch`))
	require.EqualValues(tr.t, 1, tr.count(`SELECT count(*) FROM {s}.run WHERE NOT more AND rows_left = 0`))
	require.EqualValues(tr.t, 1, tr.count(`SELECT count(*) FROM {s}.river_job WHERE kind = 'vacuum_table'`), "one vacuum, after the last window")
	require.Equal(tr.t, ledger.VacuumDone, tr.vacuum(tr.t).State)
}

// TestWindowsGrow: queries are far below the target, so that each window's batches are
// four times as large, up to the bound; those of the last one come out even.
func TestWindowsGrow(t *testing.T) {
	t.Parallel()
	tr := newWindows(t, 1700, "min_batch_size: 5, max_batch_size: 100, target_query_time: 1h")
	left, err := tr.ledger.Left(t.Context(), []ledger.TableName{{Database: "main", Schema: "public", Name: "audit_logs"}})
	require.NoError(t, err)
	require.Equal(t, ledger.Left{Batches: 5, Rows: 1700, Unplanned: 1650}, left[ledger.TableName{Database: "main", Schema: "public", Name: "audit_logs"}])

	p, err := planner.Make(t.Context(), tr.src, tr.ledger, tr.cfg.Databases[0].Tables[0], planner.Options{})
	require.NoError(t, err)
	require.Empty(t, p.Pages, "planning twice adds nothing")
	require.NoError(t, p.Enqueue(t.Context(), tr.ledger, tr.client(t)))
	require.EqualValues(t, 1650, p.Open.UnplannedRows)

	due := func() int64 {
		n, err := tr.ledger.WindowsDue(t.Context(), fleet.WindowTables(tr.cfg))
		require.NoError(t, err)
		return n
	}
	waits := func(reason any) {
		_, err := tr.ledger.Pool.Exec(t.Context(), tr.ledger.SQL(`UPDATE {s}.batch SET waiting_for = $1 WHERE id = 5`), reason)
		require.NoError(t, err)
	}
	require.Zero(t, due(), "few batches are open, but none has told yet what its query took")
	waits("rows are locked")
	require.EqualValues(t, 1, due(), "others can go on where one waits")
	waits(nil)

	stop := tr.windows(1, nil)
	tr.finish(nil) // which ends with the last window, and not before
	stop()
	tr.whole(1700)
	sizes := tr.sizes()
	require.Equal(t, []int64{10, 40, 85}, sizes, "the last 1010 rows are three rounds of four batches: not eleven of 100")
	paces, err := tr.ledger.Paces(t.Context(), tr.ledger.Pool)
	require.NoError(t, err)
	pace := paces[ledger.TableName{Database: "main", Schema: "public", Name: "audit_logs"}]
	require.Equal(t, 100, pace.BatchSize, "remembered for the next run")
	require.NotNil(t, pace.LastQuery)
}

// TestWindowsShrink: the database answers slowly, so that batches are halved down to the
// bound, and not below.
func TestWindowsShrink(t *testing.T) {
	t.Parallel()
	tr := newWindows(t, 700, "min_batch_size: 4, max_batch_size: 100, target_query_time: 1ms")
	stop := tr.windows(1, nil)
	tr.finish(func(_ context.Context, name string) error {
		if name == "extract:copied" {
			time.Sleep(20 * time.Millisecond) // the query that this test is about
		}
		return nil
	})
	stop()
	tr.whole(700)
	require.Equal(t, []int64{10, 5, 4}, tr.sizes())
}

// TestWindowsOfManyPlanners: of several replicas each window is planned by one.
func TestWindowsOfManyPlanners(t *testing.T) {
	t.Parallel()
	tr := newWindows(t, 900, "min_batch_size: 5, max_batch_size: 20, target_query_time: 1h")
	// Claims that are ignored leave only the plan sequence between them.
	stop := tr.windows(4, func(ctx context.Context, name string) error {
		if name == "window:claimed" {
			tr.sql(ctx, tr.ledger.SQL(`UPDATE {s}.run SET claimed_until = NULL WHERE more`))
		}
		return nil
	})
	tr.finish(nil)
	stop()
	tr.whole(900)
}

// TestWindowsAfterDeath: a planner that dies before a window is written, or while it is,
// leaves it to the next look.
func TestWindowsAfterDeath(t *testing.T) {
	t.Parallel()
	tr := newWindows(t, 700, "min_batch_size: 5, max_batch_size: 20, target_query_time: 1h")
	// Nobody wants to wait for as long as a window is left alone after an error.
	_, err := tr.ledger.Pool.Exec(t.Context(), tr.ledger.SQL(`
		CREATE FUNCTION {s}.hurry() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.claimed_until := NULL; RETURN NEW; END';
		CREATE TRIGGER hurry BEFORE UPDATE ON {s}.run FOR EACH ROW WHEN (NEW.window_error IS NOT NULL) EXECUTE FUNCTION {s}.hurry()`), pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	var claimed, begun atomic.Int64
	stop := tr.windows(1, func(_ context.Context, name string) error {
		fails := (name == "window:claimed" && claimed.Add(1) == 1) || (name == "window:before-commit" && begun.Add(1) == 1)
		if !fails {
			return nil
		}
		return errHere
	})
	tr.finish(nil)
	stop()
	tr.whole(700)
	require.Positive(t, begun.Load())
}

// TestWindowsFillSeats: who plans a window gives its batches the free seats at once. No
// worker runs that could do so; there is only the word of one that it has seats.
func TestWindowsFillSeats(t *testing.T) {
	t.Parallel()
	tr := newWindows(t, 300, "min_batch_size: 5, max_batch_size: 20, target_query_time: 1h")
	idle := fleet.Worker{ID: "idle", Host: "host", PID: 1, Version: "test", Limits: fleet.Limits{Seats: map[string]int{"main": 8}, Databases: 1}}
	_, err := fleet.Join(t.Context(), tr.ledger, idle, time.Hour)
	require.NoError(t, err)
	// Batches of the database were at work a moment ago.
	_, err = tr.ledger.Pool.Exec(t.Context(), tr.ledger.SQL(`INSERT INTO {s}.database_turn (database, began, admitted) VALUES ('main', now(), now())`))
	require.NoError(t, err)
	for id := range int64(4) { // and not the fifth: the run is not given up
		_, err := fleet.Cancel(t.Context(), tr.ledger, tr.client(t), id+1)
		require.NoError(t, err)
	}
	available := func() int64 { return tr.count(`SELECT count(*) FROM {s}.river_job WHERE state = 'available'`) }
	require.Zero(t, available())
	stop := tr.windows(1, nil)
	defer stop()
	testkit.Eventually(t, 20*time.Second, func() bool { return available() == 8 }, "the free seats are given away")
}

// TestWindowsEnd: what operators do ends a run where it is planned to. The next plan
// finds the rest.
func TestWindowsEnd(t *testing.T) {
	t.Parallel()
	const options = "min_batch_size: 5, max_batch_size: 20, target_query_time: 1h"
	ended := func(tr *trial) {
		tr.t.Helper()
		stop := tr.windows(1, nil)
		tr.finish(nil)
		stop()
		require.Zero(tr.t, tr.count(`SELECT count(*) FROM {s}.run WHERE more`))
		require.EqualValues(tr.t, 5, tr.count(`SELECT count(*) FROM {s}.batch`))
		p, err := planner.Make(tr.t.Context(), tr.src, tr.ledger, tr.cfg.Databases[0].Tables[0], planner.Options{})
		require.NoError(tr.t, err)
		require.Equal(tr.t, tr.rowsLeft(), p.Rows)
	}
	t.Run("all batches cancelled", func(t *testing.T) {
		t.Parallel()
		tr := newWindows(t, 300, options)
		for id := range int64(5) {
			_, err := fleet.Cancel(t.Context(), tr.ledger, tr.client(t), id+1)
			require.NoError(t, err)
		}
		ended(tr)
		require.EqualValues(t, 300, tr.rowsLeft())
	})
	t.Run("key changed", func(t *testing.T) {
		t.Parallel()
		tr := newWindows(t, 300, options)
		for id := range int64(4) { // and not the fifth: the window is not given up
			_, err := fleet.Cancel(t.Context(), tr.ledger, tr.client(t), id+1)
			require.NoError(t, err)
		}
		require.NoError(t, worker.Run(t.Context(), tr.deps(), worker.RunOptions{Drain: true, Patience: time.Second}))
		require.Equal(t, map[string]int64{"cancelled": 4, "archived": 1}, tr.states(t))
		tr.db.Exec(t, `ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_pkey, ADD PRIMARY KEY (id, actor)`)
		stop := tr.windows(1, nil)
		defer stop()
		testkit.Eventually(t, 20*time.Second, func() bool { return tr.count(`SELECT count(*) FROM {s}.run WHERE more`) == 0 }, "the run ends")
		p, err := planner.Make(t.Context(), tr.src, tr.ledger, tr.cfg.Databases[0].Tables[0], planner.Options{})
		require.NoError(t, err)
		require.Equal(t, tr.rowsLeft(), p.Rows, "the next plan goes by the new key, and finds the rest")
	})
	t.Run("retention raised", func(t *testing.T) {
		t.Parallel()
		tr := newWindows(t, 300, options)
		for i := range tr.cfg.Databases[0].Tables {
			tr.cfg.Databases[0].Tables[i].Retention = 100 * 365 * 24 * time.Hour
		}
		stop := tr.windows(1, nil)
		tr.finish(nil)
		stop()
		require.Equal(t, map[string]int64{"cancelled": 5}, tr.states(t))
		require.Zero(t, tr.count(`SELECT count(*) FROM {s}.run WHERE more`))
	})
}

// TestSlowQueryWarns gives the advice for a query that takes longer than it should,
// whether or not it is given up in the end; and not for a lock that was waited for.
func TestSlowQueryWarns(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	warned := tr.watchLog()
	var failed, locked atomic.Bool
	const long = 5100 * time.Millisecond // what is warned of takes 5 s
	tr.finish(func(_ context.Context, name string) error {
		switch {
		case name == "extract:locked" && !locked.Swap(true):
			time.Sleep(long)
			return errHere
		case name != "extract:copied":
			return nil
		}
		time.Sleep(long)
		if !failed.Swap(true) {
			return errHere
		}
		return nil
	})
	tr.archived(1)
	slow := warned.FilterMessage("slow query").All()
	require.Len(t, slow, 2)
	require.Contains(t, slow[0].ContextMap()["error"], errHere.Error())
	require.NotContains(t, slow[1].ContextMap(), "error")
	for _, entry := range slow {
		for _, advice := range []string{"index", "batch_size", "read_replica"} {
			require.Contains(t, entry.ContextMap()["hint"], advice)
		}
	}
}

// TestThrottledBeforeTheSecondRead: rows that changed under a batch are to be read again,
// and by then the table may not go on. They are not read before it may.
func TestThrottledBeforeTheSecondRead(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, `, throttle: {query: "SELECT EXISTS (SELECT FROM public.busy)"}`)
	tr.db.Exec(t, `CREATE TABLE busy (id int)`)
	var reads atomic.Int64
	var changed, braked atomic.Bool
	wait := tr.start(func(ctx context.Context, point string) error {
		switch {
		case point == "extract:locked":
			reads.Add(1)
		case point == "verify:recorded" && !changed.Swap(true):
			tr.both(ctx, `UPDATE %s SET actor = 'changed' WHERE id = 3`)
		case point == "delete:begun" && !braked.Swap(true):
			tr.sql(ctx, `INSERT INTO busy VALUES (1)`)
			time.Sleep(1100 * time.Millisecond) // until the answer before the delete is too old
		}
		return nil
	})
	tr.awaitWaiting("throttle: the query says t (query)")
	require.EqualValues(t, 1, reads.Load())
	require.EqualValues(t, 1, tr.count(`SELECT count(*) FROM {s}.batch WHERE state = 'planned'`))
	require.EqualValues(t, 10, tr.rowsLeft())
	tr.db.Exec(t, `DELETE FROM busy`)
	wait()
	tr.archived(1)
	require.EqualValues(t, 2, reads.Load())
	require.Zero(t, tr.attemptsSpent())
}
