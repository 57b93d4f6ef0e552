package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/klauspost/compress/gzip"
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
	require.EqualValues(t, 600-report.RowsArchived, s.db.Int(t, `SELECT count(*) FROM audit_logs`), "the rows of cancelled batches are in the table")
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

// orphanLine is a line of ls --orphans --json.
type orphanLine struct {
	Key, State    string
	Bytes         int64
	LastModified  time.Time `json:"last_modified"`
	Rows, Problem *string
	CommittedKey  *string `json:"committed_key"`
}

func (s *site) orphans(t *testing.T) []orphanLine {
	t.Helper()
	return decodeLines[orphanLine](t, s.run(t, "ls", "--orphans", "--json"))
}

func (s *site) put(t *testing.T, key string, body []byte) {
	t.Helper()
	_, err := s.bucket.Client().PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(s.bucket.Name), Key: aws.String(key), Body: bytes.NewReader(body)})
	require.NoError(t, err)
}

func zipped(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func TestOrphansAreLookedUp(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.run(t, "run").expect(t, done)
	s.run(t, "ls", "--orphans").expect(t, done, "every object belongs to an archived batch")

	folder := "pre/main/public/audit_logs/year=2001/month=01/20010101T000000Z_"
	s.put(t, folder+"901_00000000000000aa.jsonl.gz", zipped(t, `{"id":1}`+"\n"))
	s.put(t, folder+"902_00000000000000aa.jsonl.gz", zipped(t, `{"id":550}`+"\n"))
	s.put(t, folder+"903_00000000000000aa.jsonl.gz", zipped(t, `{"id":550}`+"\n")[:20])
	s.put(t, folder+"904_00000000000000aa.jsonl", []byte(`{"id":1}`))
	s.put(t, folder+"905_00000000000000aa.manifest.json", []byte(`{}`))
	s.put(t, "pre/main/notes.txt", []byte("hello"))
	s.put(t, "pre/.archiver/probe-1", []byte("hello"))
	s.put(t, "elsewhere/x", []byte("hello"))
	r := s.run(t, "ls", "--orphans", "--json")
	r.expect(t, partly, "rows of 2 objects could not be looked up", "the only copy of its rows")
	found := map[string]orphanLine{}
	for _, o := range decodeLines[orphanLine](t, r) {
		require.Equal(t, "unknown", o.State)
		found[strings.TrimPrefix(o.Key, folder)] = o
	}
	require.Len(t, found, 6)
	require.Equal(t, "ABSENT from table", *found["901_00000000000000aa.jsonl.gz"].Rows)
	require.Equal(t, "in table", *found["902_00000000000000aa.jsonl.gz"].Rows)
	require.Contains(t, *found["903_00000000000000aa.jsonl.gz"].Problem, "cannot be decoded")
	require.Contains(t, *found["904_00000000000000aa.jsonl"].Problem, "no end")
	require.Nil(t, found["905_00000000000000aa.manifest.json"].Rows)
	require.Nil(t, found["pre/main/notes.txt"].Rows)
	s.run(t, "ls", "--orphans", "--table", "audit_logs", "--limit", "1").expect(t, done, "KEEP IT: MAY BE THE ONLY COPY")

	s.sourceURL = strings.Replace(s.sourceURL, s.db.Name, "nowhere", 1)
	s.configure(t)
	s.run(t, "ls", "--orphans").expect(t, partly, "not looked up", "nowhere")
}

func TestCatPrintsWhatWasArchived(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.db.Exec(t, `CREATE TABLE copy AS TABLE audit_logs`)
	s.run(t, "run").expect(t, done)
	r := s.run(t, "ls", "--json")
	lines := decodeLines[struct {
		ObjectKey string `json:"object_key"`
		Rows      int
		SHA256    string
		Bytes     int64
		To        string
	}](t, r)
	first, _, _ := strings.Cut(r.out, "\n")
	require.ElementsMatch(t, []string{"database", "schema", "table", "batch_id", "run_id", "attempt", "state", "object_key", "version_id", "rows", "bytes", "sha256", "from", "to", "archived_at"}, keysOf(t, first))
	var keys, manifests []string
	for _, l := range lines {
		require.Len(t, l.SHA256, 64)
		require.Equal(t, l.Rows, strings.Count(s.run(t, "cat", l.ObjectKey).out, "\n"))
		keys = append(keys, "s3://"+s.bucket.Name+"/"+l.ObjectKey)
		manifests = append(manifests, strings.TrimSuffix(l.ObjectKey, ".jsonl.gz")+".manifest.json")
	}
	all := s.run(t, append([]string{"cat"}, keys...)...)
	all.expect(t, done)
	require.Equal(t, 500, strings.Count(all.out, "\n"))
	require.Equal(t, all.out, s.run(t, append([]string{"cat"}, manifests...)...).out)
	s.db.Exec(t, `CREATE TABLE restored (LIKE audit_logs)`)
	for line := range strings.Lines(all.out) {
		s.db.Exec(t, `INSERT INTO restored SELECT * FROM json_populate_record(NULL::audit_logs, $1::json)`, line)
	}
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM (SELECT * FROM copy EXCEPT ALL (SELECT * FROM restored UNION ALL SELECT * FROM audit_logs)) d`))
	s.run(t, "ls", "--limit", "1").expect(t, done, "... and more", lines[0].ObjectKey)

	// Another content under the same name: whole in itself, but not what was archived.
	require.NoError(t, os.WriteFile(s.bucket.Path(lines[0].ObjectKey), zipped(t, "{}\n"), 0o600))
	s.run(t, "cat", manifests[0]).expect(t, failed, "is damaged", "do not trust")
	require.NoError(t, os.Truncate(s.bucket.Path(lines[1].ObjectKey), 30))
	require.NotEqual(t, done, s.run(t, "cat", lines[1].ObjectKey).code)
	s.put(t, "pre/cut.jsonl.gz", zipped(t, "{}\n")[:15])
	s.run(t, "cat", "pre/cut.jsonl.gz").expect(t, failed, "is damaged")
	s.put(t, "pre/x.manifest.json", []byte(`{"format_version": 9}`))
	s.run(t, "cat", "pre/x.manifest.json").expect(t, failed, "format version 9")

	s.secretKey = "wrong-secret-key"
	s.configure(t)
	s.run(t, "cat", lines[2].ObjectKey).expect(t, unreachable, "s3.secret_access_key")
	s.endpoint = "http://127.0.0.1:1"
	s.configure(t)
	s.run(t, "cat", lines[2].ObjectKey).expect(t, unreachable, "127.0.0.1:1")
}

// TestCatIntoAClosedPipe reads a little of a large object and hangs up, as head does.
func TestCatIntoAClosedPipe(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.put(t, "pre/large.jsonl.gz", zipped(t, strings.Repeat(`{"a":1}`+"\n", 1<<20)))
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), s.program, "--config", s.file, "cat", "pre/large.jsonl.gz")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = writer, &stderr
	require.NoError(t, cmd.Start())
	require.NoError(t, writer.Close())
	_, err = io.ReadFull(reader, make([]byte, 8))
	require.NoError(t, err)
	require.NoError(t, reader.Close())
	require.NoError(t, cmd.Wait(), stderr.String())
	require.Empty(t, stderr.String())
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
			r := s.run(t, strings.Fields(m[1])...)
			// The ids and keys in them are made up; all else must be right.
			if !strings.Contains(r.err, "no batch") && !strings.Contains(r.err, "there is no object") && !strings.Contains(r.err, "is in bucket audit-archive") {
				r.expect(t, done)
			}
		}
	}
}
