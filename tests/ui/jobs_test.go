package ui

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// TestJobTellsAnOperatorWhatItNeeds looks at a batch that is archived, and at one that
// has failed.
func TestJobTellsAnOperatorWhatItNeeds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(t, 0, "plan")
	s.refuseDeletes(t)
	s.serve(t, "work")
	testkit.Eventually(t, soon, func() bool {
		return s.db.Int(t, `SELECT count(*) FROM archiver.river_job WHERE state = 'cancelled'`) == 5
	}, "all batches have failed")
	batch, id := s.oldest(t)
	require.Equal(t, "planned!", s.state(t, batch))
	failed := s.job(t, id)
	var args struct{ Database, Table, Range string }
	require.NoError(t, json.Unmarshal([]byte(failed.Args), &args))
	require.Equal(t, "main", args.Database)
	require.Equal(t, "public.audit_logs", args.Table)
	require.Contains(t, args.Range, " .. ")
	require.Equal(t, "db_main", failed.Queue)
	require.Equal(t, []string{"db_main", "table_public_audit_logs", "run_1"}, failed.Tags)
	require.Len(t, failed.Errors, 1)
	for _, text := range []string{"main.public.audit_logs", "delete_trigger", "nothing was deleted", "(hint: "} {
		require.Contains(t, failed.Errors[0].Error, text)
	}
	require.Contains(t, failed.Metadata.Output, "failed while checking the table")
	require.Len(t, failed.Metadata.Log, 1)
	require.Contains(t, failed.Metadata.Log[0].Log, "ERROR  batch failed")
	require.EqualValues(t, 500, s.rows(t))

	s.allowDeletes(t)
	s.act(t, "retry", id)
	s.becomes(t, batch, "archived")
	var j job
	testkit.Eventually(t, soon, func() bool { j = s.job(t, id); return len(j.Metadata.Log) == 2 }, "the second attempt's log is there")
	require.Equal(t, "completed", j.State)
	require.Contains(t, j.Metadata.Log[1].Log, "INFO  batch archived")
	require.NotContains(t, j.Metadata.Log[1].Log, "batch_id", "the job shows what it is about")
	key := s.db.Text(t, `SELECT key FROM archiver.object WHERE batch_id = $1`, batch)
	require.Regexp(t, `^archived after [0-9.]+ s; 100 rows, [0-9.]+ kB in `+regexp.QuoteMeta(key)+`$`, j.Metadata.Output)
	require.EqualValues(t, 400, s.rows(t), "the others were not retried")
}

// TestLongStageIsShownWhileItRuns holds batches up in the database and looks at the job
// of an attempt that runs.
func TestLongStageIsShownWhileItRuns(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(t, 0, "plan")
	lock, err := s.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer lock.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // of a test that has failed
	_, err = lock.Exec(t.Context(), `LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	s.serve(t, "work")
	batch, id := s.oldest(t)
	testkit.EventuallyNoError(t, soon, func() error {
		if j := s.job(t, id); j.State != "running" || !strings.HasPrefix(j.Metadata.Output, "checking the table and the configuration since 2") {
			return fmt.Errorf("it is %s with %q", j.State, j.Metadata.Output)
		}
		return nil
	}, "the running job tells what it does")
	require.NoError(t, lock.Rollback(t.Context()))
	s.becomes(t, batch, "archived")
	testkit.Eventually(t, soon, func() bool { return strings.HasPrefix(s.job(t, id).Metadata.Output, "archived after ") }, "and in the end that it is done")
}

// TestDeletedJobComesBack deletes a job that waits, as River UI's button does.
func TestDeletedJobComesBack(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(t, 0, "plan")
	s.run(t, 0, "pause", "--database", "main")
	s.serve(t, "work")
	batch, old := s.oldest(t)
	s.act(t, "delete", old)
	testkit.Eventually(t, soon, func() bool {
		return s.db.Int(t, `SELECT count(*) FROM archiver.river_job j JOIN archiver.batch b ON b.job_id = j.id WHERE b.id = $1 AND j.id <> $2 AND j.state = 'pending'`, batch, old) == 1
	}, "the batch has a new job")
	require.EqualValues(t, 500, s.rows(t))
	s.run(t, 0, "resume", "--database", "main")
	s.becomes(t, batch, "archived")
	testkit.Eventually(t, soon, func() bool { return s.rows(t) == 0 }, "all is archived")
	require.EqualValues(t, 500, s.db.Int(t, `SELECT sum(rows) FROM archiver.object`), "and once")
}

// TestCancelledJobLeavesItsRows cancels a job that waits.
func TestCancelledJobLeavesItsRows(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(t, 0, "plan")
	s.run(t, 0, "pause", "--database", "main")
	s.serve(t, "work")
	batch, id := s.oldest(t)
	s.act(t, "cancel", id)
	s.becomes(t, batch, "cancelled")
	s.run(t, 0, "resume", "--database", "main")
	testkit.Eventually(t, soon, func() bool { return s.rows(t) == 100 }, "all others are archived")
	// A cancelled batch is final, so a retry of its job deletes nothing.
	s.act(t, "retry", id)
	testkit.Eventually(t, soon, func() bool { return s.job(t, id).State == "completed" }, "the retried job ends")
	require.Equal(t, "cancelled", s.state(t, batch))
	require.EqualValues(t, 100, s.rows(t))
}

// TestCancelledWhileItRuns cancels a job of a batch that is at work.
func TestCancelledWhileItRuns(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(t, 0, "plan")
	lock, err := s.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer lock.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // of a test that has failed
	_, err = lock.Exec(t.Context(), `LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	s.serve(t, "work")
	batch, id := s.oldest(t)
	testkit.Eventually(t, soon, func() bool {
		return s.db.Int(t, `SELECT count(*) FROM archiver.batch WHERE id = $1 AND attempt = 1`, batch) == 1
	}, "the batch is at work")
	s.act(t, "cancel", id)
	s.becomes(t, batch, "cancelled")
	testkit.Eventually(t, soon, func() bool { return s.job(t, id).State == "cancelled" }, "and so is its job")
	require.Contains(t, s.job(t, id).Metadata.Output, "by an operator; nothing was deleted")
	require.NoError(t, lock.Rollback(t.Context()))
	testkit.Eventually(t, soon, func() bool { return s.rows(t) == 100 }, "all others are archived")
}

// TestDeletedFailedJobIsRetriedByCommand deletes the job of a batch that has failed:
// somebody still has to say that it may be tried again.
func TestDeletedFailedJobIsRetriedByCommand(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(t, 0, "plan")
	s.refuseDeletes(t)
	s.serve(t, "work")
	testkit.Eventually(t, soon, func() bool {
		return s.db.Int(t, `SELECT count(*) FROM archiver.river_job WHERE state = 'cancelled'`) == 5
	}, "all batches have failed")
	batch, id := s.oldest(t)
	s.act(t, "delete", id)
	s.allowDeletes(t)
	require.Equal(t, "planned!", s.state(t, batch))
	s.run(t, 0, "jobs", "retry", "--failed")
	testkit.Eventually(t, soon, func() bool { return s.rows(t) == 0 }, "all is archived")
	require.Equal(t, "archived", s.state(t, batch))
}

// TestQueueIsPausedAndResumed uses the buttons on River UI's queue page.
func TestQueueIsPausedAndResumed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(t, "work")
	testkit.Eventually(t, soon, func() bool { return s.do(t, http.MethodPut, "/ui/api/queues/db_main/pause", "", nil) == http.StatusOK }, "the queue is there, and is paused")
	testkit.Eventually(t, soon, func() bool { return s.db.Int(t, `SELECT count(*) FROM archiver.pause WHERE database = 'main'`) == 1 }, "the fleet has taken it over")
	s.run(t, 0, "plan")
	require.Contains(t, s.run(t, 0, "status", "--json"), `"paused":true`)
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM archiver.river_job WHERE attempt > 0 AND kind = 'archive_batch'`))
	require.Equal(t, http.StatusOK, s.do(t, http.MethodPut, "/ui/api/queues/db_main/resume", "", nil))
	testkit.Eventually(t, soon, func() bool { return s.rows(t) == 0 }, "all is archived")
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM archiver.pause`))
}
