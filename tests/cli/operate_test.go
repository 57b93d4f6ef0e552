package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// tableReport is a table of status --json.
type tableReport struct {
	Database, Schema, Table string
	Configured              bool
	Batches                 map[string]int64
	Stuck, Waiting, Lost    int64
	RowsArchived            int64    `json:"rows_archived"`
	RowsPlanned             int64    `json:"rows_planned"`
	BytesStored             int64    `json:"bytes_stored"`
	Rate                    *float64 `json:"rate_rows_per_second"`
	ETA                     *float64 `json:"eta_seconds"`
	LastArchivedAt          *string  `json:"last_archived_at"`
	Paused                  bool
	WaitingFor              *string `json:"waiting_for"`
}

// status is the report of the site's only table.
func (s *site) status(t *testing.T) tableReport {
	t.Helper()
	var report struct{ Tables []tableReport }
	s.json(t, &report, "status").expect(t, done)
	require.Len(t, report.Tables, 1)
	return report.Tables[0]
}

// jobLine is a line of jobs list --json.
type jobLine struct {
	JobID       int64 `json:"job_id"`
	BatchID     int64 `json:"batch_id"`
	Database    string
	Table       string
	State       string
	Attempt     int
	MaxAttempts *int    `json:"max_attempts"`
	LastError   *string `json:"last_error"`
	Worker      *string
	Since       time.Time
	Hint        *string
}

// jobs runs jobs list --json.
func (s *site) jobs(t *testing.T, flags ...string) []jobLine {
	t.Helper()
	return decodeLines[jobLine](t, s.run(t, append([]string{"jobs", "list", "--json"}, flags...)...))
}

func decodeLines[T any](t *testing.T, r result) []T {
	t.Helper()
	var out []T
	d := json.NewDecoder(strings.NewReader(r.out))
	for d.More() {
		var line T
		require.NoError(t, d.Decode(&line), r.out)
		out = append(out, line)
	}
	return out
}

// keys are the names in each JSON line of a command's output.
func keysOf(t *testing.T, line string) []string {
	t.Helper()
	var document map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(line), &document), line)
	var keys []string
	for k := range document {
		keys = append(keys, k)
	}
	return keys
}

// crash works until a failpoint kills the worker, and waits until it counts as dead.
func (s *site) crash(t *testing.T, point string) {
	t.Helper()
	p := s.startCommand(t, "env", "ARCHIVER_FAILPOINTS="+point+"=kill", testkit.Build(t, "./cmd/archiver", "failpoint"), "work", "--drain")
	require.Equal(t, -1, p.wait(t).code, "the worker was to be killed at %s: %s", point, p.err.String())
	s.db.Exec(t, `UPDATE archiver.worker SET lease_until = now() - interval '1 minute'`)
}

func TestStatusFollowsTheWork(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	zero := s.status(t)
	require.True(t, zero.Configured)
	require.Len(t, zero.Batches, 8)
	require.Nil(t, zero.Rate)
	s.run(t, "status").expect(t, done, "nothing was planned yet: archiver plan", "no worker is running")

	s.run(t, "plan").expect(t, done)
	planned := s.status(t)
	require.EqualValues(t, 500, planned.RowsPlanned)
	require.Equal(t, int64(len(s.jobs(t, "--all"))), planned.Batches["planned"])
	require.Empty(t, s.jobs(t), "what is simply queued is not listed")
	s.run(t, "jobs", "list").expect(t, done, "no batch is failed", "simply queued")
	s.run(t, "jobs", "list", "--all", "--limit", "2").expect(t, done, "... and")
	s.run(t, "status").expect(t, done, "for a worker: archiver work")

	line, _, _ := strings.Cut(s.run(t, "jobs", "list", "--all", "--json").out, "\n")
	require.Subset(t, keysOf(t, line), []string{"job_id", "batch_id", "database", "table", "state", "attempt", "max_attempts", "last_error", "worker", "since"})
	first := s.jobs(t, "--all", "--limit", "1")[0]
	require.Equal(t, "queued", first.State)
	require.Equal(t, "public.audit_logs", first.Table)
	require.Nil(t, first.LastError)
	require.Equal(t, 5, *first.MaxAttempts)

	s.run(t, "work", "--drain").expect(t, done)
	after := s.status(t)
	require.EqualValues(t, 500, after.RowsArchived)
	require.Zero(t, after.RowsPlanned)
	require.Equal(t, planned.Batches["planned"], after.Batches["archived"])
	require.Positive(t, *after.Rate)
	require.Positive(t, after.BytesStored)
	require.NotNil(t, after.LastArchivedAt)

	// What was archived stays visible when the table leaves the configuration.
	s.db.Exec(t, `CREATE TABLE other (LIKE audit_logs INCLUDING ALL)`)
	s.tables = "- name: other"
	s.configure(t)
	s.run(t, "status").expect(t, done, "main.public.audit_logs (not configured)")
	require.NotEmpty(t, s.run(t, "ls", "--json", "--table", "audit_logs").out)
	s.run(t, "ls", "--table", "other").expect(t, done, "nothing is archived")
	s.run(t, "ls", "--table", "nowhere").expect(t, badUsage, "no configured table", "main.public.other")
}

func TestFailedBatchesAreShownAndRetried(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.run(t, "plan").expect(t, done)
	s.db.Exec(t, `
		CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER keep BEFORE DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION keep()`)
	s.run(t, "work", "--drain").expect(t, partly)

	report := s.status(t)
	failures := report.Batches["failed"]
	require.Positive(t, failures)
	require.Zero(t, report.Batches["planned"])
	require.Contains(t, *report.WaitingFor, "failed: ")
	s.run(t, "status").expect(t, done, "archiver jobs list --failed")
	listed := s.jobs(t, "--failed")
	require.Len(t, listed, int(failures))
	require.Equal(t, listed, s.jobs(t), "failed batches are in the list without flags")
	require.NotEmpty(t, *listed[0].LastError)

	id := fmt.Sprint(listed[0].JobID)
	s.run(t, "jobs", "show", id).expect(t, done, "planned: its rows are in the table", "nothing was deleted", "next:       mend what the error names, then: archiver jobs retry "+id, "by (created_at, id)")
	var shown struct {
		Errors []struct{ Error string }
		Range  string
		Object *struct{}
		Next   string
	}
	s.json(t, &shown, "jobs", "show", id).expect(t, done)
	require.NotEmpty(t, shown.Errors)
	require.Nil(t, shown.Object)

	s.db.Exec(t, `DROP TRIGGER keep ON audit_logs`)
	s.run(t, "jobs", "retry", id).expect(t, done, "job "+id, "back in the queue")
	retried := s.jobs(t, "--all")
	require.Equal(t, "queued", retried[0].State)
	require.Equal(t, 5, *retried[0].MaxAttempts-retried[0].Attempt, "a retry has a full number of tries")
	s.run(t, "jobs", "retry", "--failed", "--table", "audit_logs").expect(t, done, "back in the queue")
	s.run(t, "jobs", "retry", "--failed").expect(t, done, "nothing to retry")
	s.run(t, "work", "--drain").expect(t, done)
	require.EqualValues(t, 500, s.status(t).RowsArchived)

	s.run(t, "jobs", "retry", id).expect(t, failed, "is archived, and that is final", "nothing was changed")
	s.run(t, "jobs", "show", id).expect(t, done, "archived: its rows are in the object", "archiver cat 'pre/")
}

func TestJobsUsage(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	for args, text := range map[string]string{
		"jobs retry":                   "say what to retry",
		"jobs retry x":                 `"x" is not an id`,
		"jobs retry 1 --failed":        "not both",
		"jobs retry 1 --database main": "narrow --failed",
		"jobs cancel":                  "at least 1 arg",
		"jobs show":                    "1 arg",
		"jobs list --all --failed":     "--all",
		"jobs list --limit -1":         "--limit -1",
		"jobs list --table a.b.c":      "--table a.b.c",
		"jobs frobnicate":              "frobnicate",
		"cat":                          "at least 1 arg",
		"cat notes.txt":                "not the key of an object",
		"cat s3://elsewhere/x.jsonl":   "in bucket elsewhere",
		"ls --database nowhere":        "no configured table",
	} {
		s.run(t, strings.Fields(args)...).expect(t, badUsage, text)
	}
	s.run(t, "jobs", "show", "4711").expect(t, failed, "no batch has job 4711", "archiver jobs list --all")
	s.run(t, "jobs", "retry", "--batch", "4711").expect(t, failed, "there is no batch 4711")
	s.run(t, "cat", "no/such.jsonl.gz").expect(t, failed, "there is no object no/such.jsonl.gz", "archiver ls")
}

func TestCancelKeepsTheRows(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.run(t, "plan").expect(t, done)
	all := s.jobs(t, "--all")
	job := func(i int) string { return fmt.Sprint(all[i].JobID) }

	s.run(t, "jobs", "cancel", job(0)).expect(t, done, "job "+job(0), "cancelled")
	s.run(t, "jobs", "cancel", job(0)).expect(t, failed, "is cancelled, and that is final", "archiver plan")
	r := s.run(t, "jobs", "cancel", job(0), job(1), "--json")
	r.expect(t, partly)
	lines := decodeLines[struct {
		Done   bool
		Reason *string
	}](t, r)
	require.Len(t, lines, 2)
	require.False(t, lines[0].Done)
	require.NotEmpty(t, *lines[0].Reason)
	require.True(t, lines[1].Done)
	s.run(t, "work", "--drain").expect(t, done)
	report := s.status(t)
	require.EqualValues(t, 2, report.Batches["cancelled"])
	require.Equal(t, 600-report.RowsArchived, s.db.Int(t, `SELECT count(*) FROM audit_logs`), "the rows of cancelled batches are in the table")
	require.Less(t, report.RowsArchived, int64(500))
	s.run(t, "run").expect(t, done)
	require.EqualValues(t, 500, s.status(t).RowsArchived, "a later plan takes them up")
}

func TestCancelOfAVerifiedBatchSetsItsObjectAside(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.defaults = "retention: 30d, batch_size: 1000, partition_by: none"
	s.configure(t)
	s.run(t, "plan").expect(t, done)
	s.crash(t, "verify:recorded")
	require.Contains(t, s.orphans(t)[0].State, "in progress")

	stuck := s.jobs(t, "--stuck")
	require.Len(t, stuck, 1)
	require.NotNil(t, stuck[0].Worker)
	id := fmt.Sprint(stuck[0].JobID)
	s.run(t, "jobs", "show", id).expect(t, done, "verified: its rows are in the table, and in an object", "state          stuck")
	s.run(t, "jobs", "cancel", id).expect(t, done)
	require.EqualValues(t, 1, s.db.Int(t, `SELECT count(*) FROM archiver.object WHERE state = 'discarded'`))

	found := s.orphans(t)
	require.Len(t, found, 1)
	require.Equal(t, "discarded", found[0].State)
	require.Equal(t, "in table", *found[0].Rows)
	s.run(t, "work", "--drain").expect(t, done)
	require.EqualValues(t, 600, s.db.Int(t, `SELECT count(*) FROM audit_logs`))

	// Once the rows are archived for good, in another batch, none is left in the table.
	s.run(t, "run").expect(t, done)
	s.run(t, "ls", "--orphans").expect(t, done, "discarded", "ABSENT from table", "only copy")
}

func TestCancelOfADeletingBatchIsRefused(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.defaults = "retention: 30d, batch_size: 1000, partition_by: none"
	s.configure(t)
	s.run(t, "plan").expect(t, done)
	s.crash(t, "delete:after-commit")
	id := fmt.Sprint(s.jobs(t)[0].JobID)
	s.run(t, "jobs", "cancel", id).expect(t, failed, "its delete was begun", "nothing was changed", "archiver jobs retry "+id)
	s.run(t, "jobs", "show", id).expect(t, done, "deleting: its rows are in an object")
	require.Equal(t, "in progress", s.orphans(t)[0].State)

	s.run(t, "jobs", "retry", "--stuck").expect(t, done, "job "+id)
	require.Empty(t, s.jobs(t, "--stuck"))
	s.run(t, "work", "--drain").expect(t, done)
	require.EqualValues(t, 500, s.status(t).RowsArchived)
	require.EqualValues(t, 100, s.db.Int(t, `SELECT count(*) FROM audit_logs`))
}

// TestCancelOfARunningBatch holds the worker up in the middle of a batch.
func TestCancelOfARunningBatch(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.defaults = "retention: 30d, batch_size: 1000, partition_by: none"
	s.configure(t)
	s.run(t, "plan").expect(t, done)
	tx, err := s.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	p := s.start(t, "work", "--drain")
	var running []jobLine
	testkit.Eventually(t, 20*time.Second, func() bool { running = s.jobs(t, "--running"); return len(running) == 1 }, "no batch is running")
	require.NotNil(t, running[0].Worker)
	var report struct {
		Workers []struct {
			ID, Host  string
			StartedAt time.Time `json:"started_at"`
			Running   int64
		}
	}
	s.json(t, &report, "status").expect(t, done)
	require.Len(t, report.Workers, 1)
	require.EqualValues(t, 1, report.Workers[0].Running)
	require.Equal(t, *running[0].Worker, report.Workers[0].ID)
	id := fmt.Sprint(running[0].JobID)
	s.run(t, "jobs", "retry", id).expect(t, failed, "is being worked on by")

	s.run(t, "jobs", "cancel", id).expect(t, done)
	require.NoError(t, tx.Rollback(t.Context()))
	p.wait(t).expect(t, done)
	require.EqualValues(t, 1, s.status(t).Batches["cancelled"])
	require.EqualValues(t, 600, s.db.Int(t, `SELECT count(*) FROM audit_logs`))
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM archiver.river_job WHERE finalized_at IS NULL`))
}

// TestCancelBeatsAWorkerThatIsAboutToDelete cancels a verified batch while the
// worker sleeps inside its delete transaction, just before the ledger is asked.
func TestCancelBeatsAWorkerThatIsAboutToDelete(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.defaults, s.worker = "retention: 30d, batch_size: 1000, partition_by: none", "lease: 1m"
	s.configure(t)
	s.run(t, "plan").expect(t, done)
	p := s.startCommand(t, "env", "ARCHIVER_FAILPOINTS=delete:table-locked=stop", testkit.Build(t, "./cmd/archiver", "failpoint"), "work", "--drain")
	testkit.Eventually(t, 20*time.Second, func() bool { return stopped(p.cmd.Process.Pid) }, "the worker did not stop")
	running := s.jobs(t, "--running")
	require.Len(t, running, 1)
	s.run(t, "jobs", "cancel", fmt.Sprint(running[0].JobID)).expect(t, done)
	p.signal(t, syscall.SIGCONT)
	p.wait(t).expect(t, done)
	require.EqualValues(t, 600, s.db.Int(t, `SELECT count(*) FROM audit_logs`), "nothing was deleted")
	require.EqualValues(t, 1, s.status(t).Batches["cancelled"])
	require.Equal(t, "discarded", s.orphans(t)[0].State)
}

// stopped says whether a signal has stopped a process.
func stopped(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "T")
}

func TestLostJobsComeBack(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.run(t, "plan").expect(t, done)
	s.db.Exec(t, `DELETE FROM archiver.river_job`)
	lost := s.jobs(t)
	require.Len(t, lost, int(s.status(t).Lost))
	require.Equal(t, "lost", lost[0].State)
	require.Nil(t, lost[0].MaxAttempts)
	s.run(t, "status").expect(t, done, "no job in the queue")
	s.run(t, "jobs", "show", fmt.Sprint(lost[0].JobID)).expect(t, done, "put it back into the queue")
	args := []string{"jobs", "retry", "--batch"}
	for _, l := range lost {
		args = append(args, fmt.Sprint(l.BatchID))
	}
	s.run(t, args...).expect(t, done)
	require.Empty(t, s.jobs(t))
	require.EqualValues(t, len(lost), s.db.Int(t, `SELECT count(*) FROM archiver.batch b JOIN archiver.river_job j ON j.id = b.job_id AND j.args->>'batch_id' = b.id::text`))

	// A job that was cancelled by hand, beside a twin that was inserted for it.
	s.db.Exec(t, `UPDATE archiver.river_job SET state = 'cancelled', finalized_at = now() WHERE id = (SELECT min(id) FROM archiver.river_job)`)
	s.db.Exec(t, `INSERT INTO archiver.river_job (kind, args, queue, max_attempts, unique_key, unique_states)
		SELECT kind, args, queue, max_attempts, unique_key, unique_states FROM archiver.river_job WHERE state = 'cancelled'`)
	twin := s.db.Int(t, `SELECT max(id) FROM archiver.river_job`)
	again := s.jobs(t)
	require.Len(t, again, 1)
	s.run(t, "jobs", "retry", fmt.Sprint(again[0].JobID)).expect(t, done, fmt.Sprintf("job %d ", twin))
	s.run(t, "work", "--drain").expect(t, done)
	require.EqualValues(t, 500, s.status(t).RowsArchived)
}

// TestExamplesOfHelp runs every example that the help of these commands gives.
func TestExamplesOfHelp(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.databases = "- {name: orders, url: \"" + s.db.DSN + "\", tables: [{name: other}]}"
	s.configure(t)
	s.run(t, "plan", "--database", "main").expect(t, done)
	example := regexp.MustCompile(`(?m)^  archiver (.+)$`)
	for _, command := range []string{"status", "jobs", "jobs list", "jobs show", "jobs retry", "jobs cancel", "ls", "cat"} {
		help := s.run(t, append(strings.Fields(command), "--help")...)
		help.expect(t, done, "Exit codes:")
		_, examples, ok := strings.Cut(help.out, "\nExample")
		require.True(t, ok, "help of %s has no example", command)
		examples, _, _ = strings.Cut(examples, "\nExit codes:")
		found := example.FindAllStringSubmatch(examples, -1)
		require.NotEmpty(t, found, command)
		for _, m := range found {
			if strings.HasSuffix(m[1], "--watch") {
				continue // does not end by itself: TestStatusWatch
			}
			r := s.run(t, strings.Fields(m[1])...)
			// The ids and keys in them are made up; all else must be right.
			if !strings.Contains(r.err, "no batch") && !strings.Contains(r.err, "there is no object") && !strings.Contains(r.err, "is in bucket audit-archive") {
				r.expect(t, done)
			}
		}
	}
}
