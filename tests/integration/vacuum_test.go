//go:build failpoint

package integration

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/worker"
)

// vacuum is the newest vacuum of the trial's table.
func (s *site) vacuum(t *testing.T) ledger.Vacuum {
	t.Helper()
	all, err := s.ledger.LastVacuums(t.Context(), s.ledger.Pool)
	require.NoError(t, err)
	require.Len(t, all, 1)
	return all[0]
}

// vacuums counts the vacuums by hand that the server has done of a relation.
func (s *site) vacuums(t *testing.T, relation string) (vacuums, analyzes int64) {
	t.Helper()
	return s.db.Int(t, `SELECT pg_stat_get_vacuum_count($1::regclass)`, relation), s.db.Int(t, `SELECT pg_stat_get_analyze_count($1::regclass)`, relation)
}

// vacuumUntil lets no vacuum wait for its time until one is in the given state.
func (tr *trial) vacuumUntil(state ledger.VacuumState) {
	tr.t.Helper()
	testkit.Eventually(tr.t, 50*time.Second, func() bool {
		tr.sql(tr.t.Context(), tr.ledger.SQL(`UPDATE {s}.river_job SET state = 'available', scheduled_at = now() WHERE kind = 'vacuum_table' AND state IN ('scheduled', 'retryable')`))
		return tr.vacuum(tr.t).State == state
	}, string(state))
}

// TestVacuumModes: what each setting does to the table after its run.
func TestVacuumModes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, options    string
		state            ledger.VacuumState
		vacuums, rewrite bool
	}{
		{"by default", "", ledger.VacuumDone, true, false},
		{"ANALYZE", ", vacuum_mode: ANALYZE", ledger.VacuumDone, true, false},
		{"FULL", ", vacuum_mode: FULL, allow: [vacuum_full]", ledger.VacuumDone, false, true}, // the server counts no VACUUM FULL
		{"none", ", vacuum_mode: none", ledger.VacuumNone, false, false},
		{"switched off", ", vacuum_after_archival: false", ledger.VacuumNone, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 100, c.options)
			file := tr.db.Text(t, `SELECT pg_relation_filenode('audit_logs')::text`)
			tr.finish(nil)
			tr.archived(10)
			require.Equal(t, string(c.state), tr.control().Text(t, tr.ledger.SQL(`SELECT vacuum FROM {s}.run`)))
			vacuums, analyzes := tr.vacuums(t, "audit_logs")
			require.Equal(t, c.vacuums, vacuums == 1)
			require.Equal(t, c.state == ledger.VacuumDone, analyzes == 1)
			require.Equal(t, c.rewrite, file != tr.db.Text(t, `SELECT pg_relation_filenode('audit_logs')::text`))
			if c.state != ledger.VacuumDone {
				require.Zero(t, tr.count(`SELECT count(*) FROM {s}.river_job WHERE kind = 'vacuum_table'`))
				return
			}
			v := tr.vacuum(t)
			require.Positive(t, v.Result.Seconds)
			require.Equal(t, 1, v.Result.Relations)
			require.Positive(t, v.Result.BytesBefore)
			if c.rewrite {
				require.Less(t, v.Result.BytesAfter, v.Result.BytesBefore, "no row is left")
			}
			if tr.db.Int(t, `SELECT current_setting('server_version_num')::int`) >= 150000 { // before, statistics come when they come
				require.EqualValues(t, 100, v.Result.DeadBefore) // and after it as many as somebody's snapshot still needs
			}
			require.Contains(t, tr.control().Text(t, tr.ledger.SQL(`SELECT metadata->>'output' FROM {s}.river_job WHERE kind = 'vacuum_table'`)), "vacuum done: ")
			tr.finish(nil)
			require.EqualValues(t, 1, tr.count(`SELECT count(*) FROM {s}.river_job WHERE kind = 'vacuum_table'`), "once for a run")
		})
	}
}

// TestVacuumOnceInTheFleet has several replicas end the last batches at the same time.
func TestVacuumOnceInTheFleet(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 200, "")
	tr.cfg.Databases[0].Concurrency = 8
	var g errgroup.Group
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 3 {
		g.Go(func() error {
			return worker.Run(ctx, tr.deps(), worker.RunOptions{Drain: true, Patience: 20 * time.Second})
		})
	}
	require.NoError(t, g.Wait())
	tr.archived(20)
	require.EqualValues(t, 1, tr.count(`SELECT count(*) FROM {s}.river_job WHERE kind = 'vacuum_table'`))
	vacuums, _ := tr.vacuums(t, "audit_logs")
	require.EqualValues(t, 1, vacuums)
}

// TestVacuumOfTouchedPartitions leaves those alone that nothing was deleted from.
func TestVacuumOfTouchedPartitions(t *testing.T) {
	t.Parallel()
	s := newSite(t, `- {name: "\"odd Parent\""}`)
	s.db.Exec(t, `
		CREATE TABLE "odd Parent" (id bigint, created_at timestamptz, PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at);
		CREATE TABLE "leaf ""1""" PARTITION OF "odd Parent" FOR VALUES FROM ('2020-01-01') TO ('2021-01-01') PARTITION BY HASH (id);
		CREATE TABLE "leaf ""1"" a" PARTITION OF "leaf ""1""" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
		CREATE TABLE "leaf ""1"" b" PARTITION OF "leaf ""1""" FOR VALUES WITH (MODULUS 2, REMAINDER 1);
		CREATE TABLE now_leaf PARTITION OF "odd Parent" DEFAULT;
		CREATE TABLE later PARTITION OF "odd Parent" FOR VALUES FROM ('2900-01-01') TO ('2901-01-01');
		CREATE INDEX ON "odd Parent" (created_at, id);
		INSERT INTO "odd Parent" SELECT i, '2020-02-01'::timestamptz + i * interval '1 second' FROM generate_series(1, 50) i`)
	s.plan(t)
	s.drain(t, nil)
	require.Equal(t, map[string]int64{"archived": 1}, s.states(t))
	for leaf, want := range map[string]int64{`"leaf ""1"" a"`: 1, `"leaf ""1"" b"`: 1, "now_leaf": 1, "later": 0} {
		vacuums, _ := s.vacuums(t, leaf)
		require.Equal(t, want, vacuums, leaf)
	}
	require.Equal(t, 3, s.vacuum(t).Result.Relations)
}

// TestVacuumByAnother runs with a role that does not own the table.
func TestVacuumByAnother(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 30, "")
	role, dsn := tr.db.Role(t)
	tr.db.Exec(t, `GRANT USAGE ON SCHEMA public TO `+role+`; GRANT SELECT, DELETE, UPDATE (id) ON audit_logs TO `+role)
	db := tr.cfg.Databases[0]
	db.Primary = config.Secret(dsn)
	limited, err := source.Open(t.Context(), db, "test")
	require.NoError(t, err)
	t.Cleanup(limited.Close)
	tr.src = limited
	tr.finish(nil)
	tr.archived(3)
	v := tr.vacuum(t)
	require.Equal(t, ledger.VacuumSkipped, v.State)
	require.Contains(t, v.Note, `neither owns "public"."audit_logs" nor may maintain it`)
	require.Contains(t, v.Hint, `GRANT MAINTAIN ON "public"."audit_logs" TO `)
}

// TestVacuumWaits: for the end of a pause, for the throttle, and for a lock. None of them
// costs an attempt.
func TestVacuumWaits(t *testing.T) {
	t.Parallel()
	t.Run("paused", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 30, "")
		wait := tr.start(changing("vacuum:queued", func(ctx context.Context) { // its own transaction has not ended
			tr.sql(ctx, tr.ledger.SQL(`INSERT INTO {s}.pause (database) VALUES ('main')`))
		}))
		testkit.Eventually(t, 20*time.Second, func() bool {
			return tr.count(`SELECT count(*) FROM {s}.run WHERE vacuum = 'queued' AND vacuum_note = 'paused'`) == 1
		}, "it waits, and says so")
		vacuums, _ := tr.vacuums(t, "audit_logs")
		require.Zero(t, vacuums)
		_, err := fleet.Resume(t.Context(), tr.ledger, tr.client(t), fleet.Scope{Database: "main"})
		require.NoError(t, err)
		tr.vacuumUntil(ledger.VacuumDone)
		wait()
		tr.archived(3)
		require.Zero(t, tr.attemptsSpent())
	})
	t.Run("throttled", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 30, `, throttle: {query: "SELECT EXISTS (SELECT FROM public.busy)"}`)
		tr.db.Exec(t, `CREATE TABLE busy (id int)`)
		wait := tr.start(changing("vacuum:queued", func(ctx context.Context) {
			tr.sql(ctx, `INSERT INTO busy VALUES (1)`)
			time.Sleep(1100 * time.Millisecond) // until what the batch was told is too old
		}))
		testkit.Eventually(t, 20*time.Second, func() bool {
			return tr.count(`SELECT count(*) FROM {s}.run WHERE vacuum = 'queued' AND vacuum_note = 'throttle: the query says t (query)'`) == 1
		}, "it waits, and says so")
		vacuums, _ := tr.vacuums(t, "audit_logs")
		require.Zero(t, vacuums)
		tr.db.Exec(t, `DELETE FROM busy`)
		tr.vacuumUntil(ledger.VacuumDone)
		wait()
		tr.archived(3)
		require.Zero(t, tr.attemptsSpent())
	})
	t.Run("locked", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 30, "")
		lock, err := tr.db.Pool.Begin(t.Context())
		require.NoError(t, err)
		defer lock.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // only releases the lock
		_, err = lock.Exec(t.Context(), `LOCK TABLE audit_logs IN SHARE UPDATE EXCLUSIVE MODE`)
		require.NoError(t, err)
		wait := tr.start(nil)
		testkit.Eventually(t, 30*time.Second, func() bool {
			return tr.count(`SELECT count(*) FROM {s}.run WHERE vacuum = 'queued' AND vacuum_note LIKE '%lock on the table was not to be had%'`) == 1
		}, "it gives up its place in the line for the lock")
		require.NoError(t, lock.Rollback(t.Context()))
		tr.vacuumUntil(ledger.VacuumDone)
		wait()
		tr.archived(3)
		require.Zero(t, tr.attemptsSpent())
	})
}

// slowly makes every VACUUM of the database crawl.
func (tr *trial) slowly() (undo func()) {
	tr.t.Helper()
	tr.db.Exec(tr.t, `ALTER DATABASE `+tr.db.Name+` SET vacuum_cost_delay = 100; ALTER DATABASE `+tr.db.Name+` SET vacuum_cost_page_dirty = 500; ALTER DATABASE `+tr.db.Name+` SET vacuum_cost_limit = 1`)
	return func() {
		tr.db.Exec(tr.t, `ALTER DATABASE `+tr.db.Name+` RESET vacuum_cost_delay; ALTER DATABASE `+tr.db.Name+` RESET vacuum_cost_page_dirty; ALTER DATABASE `+tr.db.Name+` RESET vacuum_cost_limit`)
	}
}

const vacuumsAtWork = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query LIKE '/* archiver vacuum % */ VACUUM%'`

// TestVacuumStopped stops a replica in the middle of a long vacuum: the server is told,
// the job is given back without having cost an attempt, and the next replica begins it
// again. Meanwhile it shows how far it is.
func TestVacuumStopped(t *testing.T) {
	t.Parallel()
	tr := planned(t, newSite(t, `- {name: audit_logs, batch_size: 2000}`), 6000)
	tr.cfg.Worker.ShutdownTimeout = 6 * time.Second
	undo := tr.slowly()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx, tr.deps(), worker.RunOptions{}) }()
	t.Cleanup(stop)
	testkit.Eventually(t, time.Minute, func() bool {
		return tr.count(`SELECT count(*) FROM {s}.run WHERE vacuum = 'running' AND vacuum_note LIKE '%of public.audit_logs, %\%%'`) == 1
	}, "progress is shown")
	require.EqualValues(t, 1, tr.db.Int(t, vacuumsAtWork))
	stop()
	require.NoError(t, <-ended)
	require.Zero(t, tr.db.Int(t, vacuumsAtWork), "the server goes on with it")
	require.Equal(t, ledger.VacuumQueued, tr.vacuum(t).State)
	require.Equal(t, "stopped by a shutdown", tr.vacuum(t).Note)
	require.Zero(t, tr.attemptsSpent())
	undo()
	tr.finish(nil)
	require.Equal(t, ledger.VacuumDone, tr.vacuum(t).State)
	require.EqualValues(t, 1, tr.count(`SELECT count(*) FROM {s}.river_job WHERE kind = 'vacuum_table'`))
}

// TestVacuumOneAtATime: a second vacuum on the database waits for the first, whichever
// table and whichever archiver it is of.
func TestVacuumOneAtATime(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 200, "")
	tr.db.Exec(t, `CREATE TABLE other (LIKE audit_logs INCLUDING ALL)`)
	tr.db.Exec(t, `DELETE FROM audit_logs`)
	tr.slowly()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	table := tr.cfg.Databases[0].Tables[0]
	go func() { _, err := tr.src.Vacuum(ctx, source.VacuumRequest{Table: table}); ended <- err }()
	t.Cleanup(stop)
	testkit.Eventually(t, 20*time.Second, func() bool { return tr.db.Int(t, vacuumsAtWork) == 1 }, "the first one is at work")
	table.Name = "other"
	_, err := tr.src.Vacuum(t.Context(), source.VacuumRequest{Table: table})
	require.ErrorIs(t, err, source.ErrVacuumAtWork)
	stop()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.Zero(t, tr.db.Int(t, vacuumsAtWork))
	_, err = tr.src.Vacuum(t.Context(), source.VacuumRequest{Table: table})
	require.NoError(t, err, "its place is free at once")
}

// TestVacuumFails: the batches are none the worse for it.
func TestVacuumFails(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 30, "")
	var tries atomic.Int64
	wait := tr.start(func(_ context.Context, name string) error {
		if name == "vacuum:begin" {
			tries.Add(1)
			return errHere
		}
		return nil
	})
	testkit.Eventually(t, 20*time.Second, func() bool { return tries.Load() > 0 }, "its turn has come")
	tr.vacuumUntil(ledger.VacuumFailed)
	wait()
	require.Contains(t, tr.vacuum(t).Note, errHere.Error())
	require.EqualValues(t, 3, tries.Load())
	require.Equal(t, map[string]int64{"archived": 3}, tr.states(t))
	tr.exactlyOnce()
}

// TestVacuumAfterCancel: the last batch of a run ends by an operator's hand.
func TestVacuumAfterCancel(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 30, "")
	tr.cfg.Databases[0].Concurrency = 1
	blocked := make(chan struct{})
	wait := tr.start(func(ctx context.Context, name string) error { // the last batch is in hand, and waits
		if name == "extract:locked" && tr.count(`SELECT count(*) FROM {s}.batch WHERE state = 'archived'`) == 2 {
			select {
			case <-blocked:
			case <-ctx.Done():
			}
		}
		return nil
	})
	testkit.Eventually(t, 20*time.Second, func() bool { return tr.count(`SELECT count(*) FROM {s}.batch WHERE state = 'archived'`) == 2 }, "two are archived")
	id := tr.count(`SELECT id FROM {s}.batch WHERE state = 'planned'`)
	_, err := fleet.Cancel(t.Context(), tr.ledger, tr.client(t), id)
	require.NoError(t, err)
	close(blocked)
	wait()
	require.Equal(t, map[string]int64{"archived": 2, "cancelled": 1}, tr.states(t))
	require.Equal(t, ledger.VacuumDone, tr.vacuum(t).State)
}

// TestVacuumThrownOut: somebody deletes the job of a vacuum in River UI.
func TestVacuumThrownOut(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 30, "")
	tr.sql(t.Context(), tr.ledger.SQL(`UPDATE {s}.run SET vacuum = 'queued', vacuum_job_id = 4711, vacuum_at = now() - interval '1 minute'`))
	tr.finish(nil)
	require.Equal(t, ledger.VacuumFailed, tr.vacuum(t).State)
	require.Contains(t, tr.vacuum(t).Note, "cancelled or deleted in the queue")
}
