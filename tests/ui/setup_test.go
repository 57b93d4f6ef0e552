// Package ui runs the real program and uses River UI as an operator does: through its
// API, and in a browser.
package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	username = "ops"
	password = "correct horse"
	// soon is more than anything takes that an operator should see at once.
	soon = 30 * time.Second
)

// site is a migrated database, source and control database alike, with 500 old rows in
// audit_logs, and a page to look at it with.
type site struct {
	db      *testkit.DB
	bucket  *testkit.Bucket
	program string
	file    string
	listen  string
	ui      string // further keys of ui
	http    *http.Client
}

// newSite plans nothing and starts nothing.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{
		db: testkit.Postgres(t), bucket: testkit.S3(t), program: testkit.Build(t, "./cmd/archiver"),
		file: filepath.Join(t.TempDir(), "archiver.yaml"), listen: freeAddress(t),
		ui:   fmt.Sprintf(", username: %s, password: %q", username, password),
		http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: soon},
	}
	s.configure(t)
	s.db.Exec(t, `
		CREATE TABLE audit_logs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, created_at timestamptz NOT NULL, actor text, payload jsonb);
		CREATE INDEX ON audit_logs (created_at, id);
		INSERT INTO audit_logs (created_at, actor, payload)
		SELECT date_trunc('month', now()) - interval '20 days' - interval '3 months' + i * interval '1 second', 'user ' || i, jsonb_build_object('n', i) FROM generate_series(1, 500) i`)
	s.run(t, 0, "migrate")
	return s
}

func (s *site) configure(t *testing.T) {
	t.Helper()
	yaml := fmt.Sprintf(`
control: {url: %q}
s3: {bucket: %q, endpoint: %q, access_key_id: %q, secret_access_key: %q}
defaults: {retention: 30d, batch_size: 100}
worker: {lease: 20s, shutdown_timeout: 5s, listen: ""}
ui: {listen: %q%s}
databases:
  - name: main
    url: %q
    tables: [{name: audit_logs}]
`, s.db.DSN, s.bucket.Name, s.bucket.Endpoint, s.bucket.AccessKey, s.bucket.SecretKey, s.listen, s.ui, s.db.DSN)
	require.NoError(t, os.WriteFile(s.file, []byte(yaml), 0o600))
}

// freeAddress is one that nobody listens on just now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// process is the program while it runs.
type process struct {
	cmd *exec.Cmd
	out output
}

// output is what a program has printed so far, to either place.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start starts the program; the test's end tells it to stop, and waits.
func (s *site) start(t *testing.T, args ...string) *process {
	t.Helper()
	ctx, kill := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	t.Cleanup(kill)
	p := &process{cmd: exec.CommandContext(ctx, s.program, args...)}
	p.cmd.Env = []string{"ARCHIVER_CONFIG=" + s.file, "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + t.TempDir()}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
			_ = p.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("%v:\n%s", args, p.out.String())
		}
	})
	return p
}

// end waits for the process and compares its exit code.
func (p *process) end(t *testing.T, code int) string {
	t.Helper()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	require.Equal(t, code, p.cmd.ProcessState.ExitCode(), p.out.String())
	return p.out.String()
}

func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(sig))
}

// run runs the program to its end.
func (s *site) run(t *testing.T, code int, args ...string) string {
	t.Helper()
	return s.start(t, args...).end(t, code)
}

// serve starts a command that serves the page, and waits until it answers.
func (s *site) serve(t *testing.T, args ...string) *process {
	t.Helper()
	p := s.start(t, args...)
	testkit.Eventually(t, soon, func() bool {
		res, err := s.http.Do(s.request(t, http.MethodGet, "/ui/", ""))
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	}, "River UI answers")
	return p
}

func (s *site) url() string { return "http://" + s.listen + "/ui/" }

func (s *site) request(t *testing.T, method, path, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.listen+path, strings.NewReader(body))
	require.NoError(t, err)
	r.SetBasicAuth(username, password)
	return r
}

// do asks the page's API, and decodes its answer.
func (s *site) do(t *testing.T, method, path, body string, into any) int {
	t.Helper()
	res, err := s.http.Do(s.request(t, method, path, body))
	require.NoError(t, err)
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	if into != nil {
		require.NoError(t, json.Unmarshal(answer, into), "%s %s: %d %s", method, path, res.StatusCode, answer)
	}
	return res.StatusCode
}

// act presses a button of the page for a job: retry, cancel or delete.
func (s *site) act(t *testing.T, action string, job int64) {
	t.Helper()
	var answer struct{ Status, Message string }
	require.Equal(t, http.StatusOK, s.do(t, http.MethodPost, "/ui/api/jobs/"+action, fmt.Sprintf(`{"ids":["%d"]}`, job), &answer), answer.Message)
}

// job is a job as River UI shows it.
type job struct {
	State  string   `json:"state"`
	Tags   []string `json:"tags"`
	Queue  string   `json:"queue"`
	Errors []struct {
		Error string `json:"error"`
	} `json:"errors"`
	Args     string `json:"args"` // JSON
	Metadata struct {
		Output string `json:"output"`
		Log    []struct {
			Attempt int    `json:"attempt"`
			Log     string `json:"log"`
		} `json:"river:log"`
	} `json:"metadata"`
}

func (s *site) job(t *testing.T, id int64) job {
	t.Helper()
	var j job
	require.Equal(t, http.StatusOK, s.do(t, http.MethodGet, fmt.Sprintf("/ui/api/jobs/%d", id), "", &j))
	return j
}

// oldest is the oldest batch, and its job.
func (s *site) oldest(t *testing.T) (batch, job int64) {
	t.Helper()
	batch = s.db.Int(t, `SELECT min(id) FROM archiver.batch`)
	return batch, s.db.Int(t, `SELECT job_id FROM archiver.batch WHERE id = $1`, batch)
}

// state of a batch in the ledger, with a ! where it has failed.
func (s *site) state(t *testing.T, batch int64) string {
	t.Helper()
	return s.db.Text(t, `SELECT state || CASE WHEN failed THEN '!' ELSE '' END FROM archiver.batch WHERE id = $1`, batch)
}

func (s *site) becomes(t *testing.T, batch int64, state string) {
	t.Helper()
	testkit.EventuallyNoError(t, soon, func() error {
		if is := s.state(t, batch); is != state {
			return fmt.Errorf("it is %s", is)
		}
		return nil
	}, fmt.Sprintf("batch %d becomes %s", batch, state))
}

func (s *site) rows(t *testing.T) int64 {
	t.Helper()
	return s.db.Int(t, `SELECT count(*) FROM audit_logs`)
}

// refuseDeletes puts a trigger on the table that fails each batch at once, with a hint.
func (s *site) refuseDeletes(t *testing.T) {
	t.Helper()
	s.db.Exec(t, `
		CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
		CREATE TRIGGER veto BEFORE DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION veto()`)
}

func (s *site) allowDeletes(t *testing.T) {
	t.Helper()
	s.db.Exec(t, `DROP TRIGGER veto ON audit_logs`)
}
