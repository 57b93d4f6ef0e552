package cli

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

type runReport struct {
	Tables []struct {
		Database, Schema, Table string
		RowsArchived            int64 `json:"rows_archived"`
		RowsLeft                int64 `json:"rows_left"`
		BatchesArchived         int64 `json:"batches_archived"`
		BatchesFailed           int64 `json:"batches_failed"`
		BytesStored             int64 `json:"bytes_stored"`
	}
	Phases        map[string]float64
	Seconds       float64
	RowsPerSecond float64 `json:"rows_per_second"`
}

type planReport struct {
	Plans []struct {
		Database, Schema, Table string
		RunID                   *int64  `json:"run_id"`
		Cutoff                  *string `json:"cutoff"`
		EligibleRows            *int64  `json:"eligible_rows"`
		Batches                 int64
		BatchSize               int64 `json:"batch_size"`
		Enqueued                int64
		Findings                []struct{ Code, Message string }
	}
}

const openBatches = `SELECT count(*) FROM archiver.batch WHERE state IN ('planned', 'verified', 'deleting')`

func TestPlanAndDrain(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	var dry, first, second planReport
	s.json(t, &dry, "plan", "--dry-run").expect(t, done)
	require.Nil(t, dry.Plans[0].RunID)
	require.EqualValues(t, 500, *dry.Plans[0].EligibleRows)
	require.EqualValues(t, 5, dry.Plans[0].Batches)
	require.Zero(t, dry.Plans[0].Enqueued)
	require.NotNil(t, dry.Plans[0].Findings)
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM archiver.batch`), "a dry run writes nothing")

	s.json(t, &first, "plan").expect(t, done)
	require.NotNil(t, first.Plans[0].RunID)
	require.EqualValues(t, 5, first.Plans[0].Enqueued)
	s.json(t, &second, "plan").expect(t, done)
	require.Nil(t, second.Plans[0].RunID)
	require.Zero(t, second.Plans[0].Enqueued, "planning twice adds nothing")
	s.run(t, "plan").expect(t, done, "already open   5 batches with 500 rows; only what lies beyond", "nothing new was enqueued")

	s.run(t, "work", "--drain").expect(t, done, "batch archived")
	require.EqualValues(t, 100, s.db.Int(t, `SELECT count(*) FROM audit_logs`))
	s.run(t, "work", "--drain").expect(t, done)
}

func TestRun(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	var report runReport
	s.json(t, &report, "run").expect(t, done)
	require.Len(t, report.Tables, 1)
	got := report.Tables[0]
	require.Equal(t, []string{"main", "public", "audit_logs"}, []string{got.Database, got.Schema, got.Table})
	require.Equal(t, []int64{500, 0, 5, 0}, []int64{got.RowsArchived, got.RowsLeft, got.BatchesArchived, got.BatchesFailed})
	require.Equal(t, s.db.Int(t, `SELECT sum(stored_bytes)::bigint FROM archiver.object`), got.BytesStored)
	for _, phase := range []string{"query", "serialize", "compress", "upload", "verify", "delete", "vacuum"} {
		require.Contains(t, report.Phases, phase)
	}
	require.Positive(t, report.Seconds)
	require.InDelta(t, 500/report.Seconds, report.RowsPerSecond, 1)

	s.run(t, "run").expect(t, done, "nothing is old enough", "0 rows archived")
	var again runReport
	s.json(t, &again, "run").expect(t, done)
	require.Zero(t, again.Tables[0].RowsArchived, "only what this run archived")
}

func TestRunWithAnEarlierCutoff(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	cutoff := s.db.Text(t, `SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') FROM audit_logs WHERE id = 101`)
	s.run(t, "run", "--cutoff", cutoff).expect(t, done, "100 rows archived")
	require.EqualValues(t, 101, s.db.Int(t, `SELECT min(id) FROM audit_logs`))
}

// TestRunLeavesWhatFails: a child row keeps one batch from being deleted.
func TestRunLeavesWhatFails(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.db.Exec(t, `CREATE TABLE child (audit_id bigint REFERENCES audit_logs); CREATE INDEX ON child (audit_id); INSERT INTO child VALUES (150)`)
	var report runReport
	r := s.json(t, &report, "run")
	r.expect(t, partly, "1 batch failed", "child_audit_id_fkey")
	require.EqualValues(t, 400, report.Tables[0].RowsArchived)
	require.EqualValues(t, 100, report.Tables[0].RowsLeft)
	require.EqualValues(t, 1, report.Tables[0].BatchesFailed)
	require.Contains(t, r.jsonError(t).Hint, "archiver jobs list --failed")
	s.run(t, "work", "--drain").expect(t, partly, "1 batch failed", "archiver jobs list --failed")
}

func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	t.Run("planners", func(t *testing.T) {
		t.Parallel()
		s := newTable(t)
		s.defaults = "retention: 30d, batch_size: 5"
		s.configure(t)
		planners := []*process{s.start(t, "plan"), s.start(t, "plan"), s.start(t, "plan")}
		for _, p := range planners {
			r := p.wait(t)
			if r.code != done {
				r.expect(t, partly, "another plan of this table was written meanwhile", "run archiver plan again")
			}
		}
		require.EqualValues(t, 100, s.db.Int(t, `SELECT count(*) FROM archiver.batch`))
		require.EqualValues(t, 100, s.db.Int(t, `SELECT count(DISTINCT to_key) FROM archiver.batch`))
		require.EqualValues(t, 500, s.db.Int(t, `SELECT sum(rows_planned)::bigint FROM archiver.batch`))
	})
	t.Run("drains", func(t *testing.T) {
		t.Parallel()
		s := newTable(t)
		s.defaults = "retention: 30d, batch_size: 5"
		s.configure(t)
		s.run(t, "plan").expect(t, done)
		a, b := s.start(t, "work", "--drain"), s.start(t, "work", "--drain")
		a.wait(t).expect(t, done)
		b.wait(t).expect(t, done)
		s.requireEachRowOnce(t)
	})
	t.Run("runs", func(t *testing.T) {
		t.Parallel()
		s := newTable(t)
		a, b := s.start(t, "run"), s.start(t, "run")
		for _, p := range []*process{a, b} {
			if r := p.wait(t); r.code != done {
				r.expect(t, partly, "another plan of this table was written meanwhile")
			}
		}
		s.run(t, "work", "--drain").expect(t, done)
		s.requireEachRowOnce(t)
	})
}

// requireEachRowOnce says that all 500 old rows are gone and that as many are in
// committed objects.
func (s *site) requireEachRowOnce(t *testing.T) {
	t.Helper()
	require.Zero(t, s.db.Int(t, openBatches))
	require.EqualValues(t, 100, s.db.Int(t, `SELECT count(*) FROM audit_logs`))
	require.EqualValues(t, 500, s.db.Int(t, `SELECT sum(rows)::bigint FROM archiver.object WHERE state = 'committed'`))
}

// block locks the table, so that a batch that is at work stays so until release.
func (s *site) block(t *testing.T) (release func()) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, s.db.DSN)
	require.NoError(t, err)
	_, err = conn.Exec(ctx, `BEGIN; LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	release = func() { _ = conn.Close(ctx) }
	t.Cleanup(release)
	return release
}

func (s *site) waitForRunningJob(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, 20*time.Second, func() bool {
		return s.db.Int(t, `SELECT count(*) FROM archiver.river_job WHERE state = 'running'`) > 0 &&
			s.db.Int(t, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) > 0
	}, "no batch came to work")
}

func TestStopInOrder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args   []string
		signal syscall.Signal
		code   int
	}{
		"SIGTERM":        {[]string{"work"}, syscall.SIGTERM, done},
		"Ctrl-C":         {[]string{"work"}, syscall.SIGINT, interrupted},
		"SIGTERM, drain": {[]string{"work", "--drain"}, syscall.SIGTERM, interrupted},
		"Ctrl-C, run":    {[]string{"run"}, syscall.SIGINT, interrupted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTable(t)
			s.run(t, "plan").expect(t, done)
			release := func() {}
			if c.args[0] == "work" {
				release = s.block(t)
			} else { // run reads the table before it works
				s.db.Exec(t, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN OLD; END $$;
					CREATE TRIGGER slow BEFORE DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION slow()`)
				s.defaults += ", allow: [delete_trigger]"
				s.configure(t)
			}
			p := s.start(t, c.args...)
			if c.args[0] == "work" {
				s.waitForRunningJob(t)
			} else {
				testkit.Eventually(t, 20*time.Second, func() bool {
					return s.db.Int(t, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`) > 0
				}, "no batch came to its delete")
			}
			began := time.Now()
			p.signal(t, c.signal)
			r := p.wait(t)
			r.expect(t, c.code, "worker stopping", "stopped before the batch was done")
			require.Less(t, time.Since(began), 13*time.Second) // not until the batch is done
			require.EqualValues(t, 600, s.count(t, release), "nothing was deleted")
			require.Zero(t, s.db.Int(t, `SELECT count(*) FROM archiver.river_job WHERE state = 'running'`), "the jobs are back in the queue")
			require.Zero(t, s.db.Int(t, `SELECT count(*) FROM archiver.worker`), "the lease was given back")
			s.db.Exec(t, `DROP FUNCTION IF EXISTS slow CASCADE`)
			s.run(t, "work", "--drain").expect(t, done)
			s.requireEachRowOnce(t)
		})
	}
}

func (s *site) count(t *testing.T, release func()) int64 {
	t.Helper()
	release()
	return s.db.Int(t, `SELECT count(*) FROM audit_logs`)
}

// TestSecondSignal ends the program at once, in the middle of its orderly end.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.worker = "lease: 20s, shutdown_timeout: 50s"
	s.configure(t)
	s.run(t, "plan").expect(t, done)
	s.block(t)
	p := s.start(t, "work")
	s.waitForRunningJob(t)
	began := time.Now()
	p.signal(t, syscall.SIGTERM)
	stopping := time.NewTicker(20 * time.Millisecond)
	defer stopping.Stop()
	ended := make(chan error)
	go func() { ended <- p.cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			require.EqualError(t, err, "signal: terminated")
			require.Less(t, time.Since(began), 20*time.Second)
			return
		case <-stopping.C:
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
		}
	}
}

func TestKilledWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.worker = "lease: 6s, shutdown_timeout: 2s" // for as long the next one waits
	s.configure(t)
	s.run(t, "plan").expect(t, done)
	release := s.block(t)
	p := s.start(t, "work")
	s.waitForRunningJob(t)
	p.signal(t, syscall.SIGKILL)
	require.Equal(t, -1, p.wait(t).code)
	require.Positive(t, s.db.Int(t, `SELECT count(*) FROM archiver.river_job WHERE state = 'running'`))
	release()

	began := time.Now()
	s.run(t, "work", "--drain").expect(t, done, "lost worker")
	require.Less(t, time.Since(began), 19*time.Second)
	s.requireEachRowOnce(t)
}

// TestLostLease: a worker that may count as dead ends at once, though a batch of
// its own is still at work.
func TestLostLease(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.worker = "lease: 6s, shutdown_timeout: 50s"
	s.configure(t)
	s.run(t, "plan").expect(t, done)
	s.block(t)
	p := s.start(t, "work")
	s.waitForRunningJob(t)
	s.db.Exec(t, `DELETE FROM archiver.worker`)
	began := time.Now()
	p.wait(t).expect(t, failed, "lease is lost", "worker.lease")
	require.Less(t, time.Since(began), 10*time.Second)
}

// TestSourceDownWhileWorking: its batches wait and cost no attempt; a drain ends
// when its patience does.
func TestSourceDownWhileWorking(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.run(t, "plan").expect(t, done)
	s.sourceURL = "postgres://nobody@127.0.0.1:1/none?sslmode=disable"
	s.configure(t)
	s.run(t, "work", "--drain", "--drain-patience", "500ms").expect(t, partly, "a source database is away", "5 batches left, waiting", "archiver jobs list --waiting")
	s.sourceURL = s.db.DSN
	s.configure(t)
	s.run(t, "run").expect(t, done)
	s.requireEachRowOnce(t)
}
