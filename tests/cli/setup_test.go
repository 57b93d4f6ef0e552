// Package cli runs the real program as a user does, on real servers, and looks at
// its exit codes, its output and what it leaves behind.
package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// The exit codes of the contract.
const (
	done        = 0
	failed      = 1
	partly      = 3
	badUsage    = 10
	notMigrated = 11
	refused     = 12
	unreachable = 13
	interrupted = 130
)

// commandTime is more than any command of these tests takes.
const commandTime = 60 * time.Second

// site is a configuration file for one database, which is source and control
// database alike, and one bucket. Tests change fields and call configure.
type site struct {
	db      *testkit.DB
	bucket  *testkit.Bucket
	program string
	file    string

	controlURL, sourceURL string
	bucketName, endpoint  string
	accessKey, secretKey  string
	defaults              string // more keys of defaults
	tables                string // YAML for the tables of database main
	mainKeys              string // one more key of database main
	databases             string // YAML for more databases
	worker                string // keys of worker
	extra                 string // more sections
}

// newSite starts from a configuration in which all is well. Nothing is migrated.
func newSite(t *testing.T) *site {
	t.Helper()
	db, bucket := testkit.Postgres(t), testkit.S3(t)
	s := &site{
		db: db, bucket: bucket, program: testkit.Build(t, "./cmd/archiver"), file: filepath.Join(t.TempDir(), "archiver.yaml"),
		controlURL: db.DSN, sourceURL: db.DSN, bucketName: bucket.Name, endpoint: bucket.Endpoint,
		accessKey: bucket.AccessKey, secretKey: bucket.SecretKey,
		defaults: "retention: 30d, batch_size: 100", tables: "- name: audit_logs", worker: "lease: 20s, shutdown_timeout: 5s",
	}
	s.configure(t)
	return s
}

// newTable is newSite with a migrated control schema and 500 rows older than the
// retention, among 600, in audit_logs.
func newTable(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	s.createTable(t)
	require.Equal(t, done, s.run(t, "migrate").code)
	return s
}

func (s *site) createTable(t *testing.T) {
	t.Helper()
	s.db.Exec(t, `
		CREATE TABLE audit_logs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, created_at timestamptz NOT NULL, actor text, payload jsonb);
		CREATE INDEX ON audit_logs (created_at, id);
		INSERT INTO audit_logs (created_at, actor, payload)
		SELECT date_trunc('month', now()) - interval '20 days' - interval '3 months' + i * interval '1 second', 'user ' || i, jsonb_build_object('n', i) FROM generate_series(1, 500) i;
		INSERT INTO audit_logs (created_at, actor) SELECT now() - i * interval '1 minute', 'recent' FROM generate_series(1, 100) i`)
}

func (s *site) configure(t *testing.T) {
	t.Helper()
	yaml := fmt.Sprintf(`
control: {url: %q}
s3: {bucket: %q, prefix: pre, endpoint: %q, access_key_id: %q, secret_access_key: %q, retry: {max_attempts: 2, initial_delay: 50ms, max_delay: 100ms}, circuit_breaker: {recovery_timeout: 1s}}
defaults: {%s}
worker: {%s}
ui: {enabled: false}
databases:
  - name: main
    url: %q
    %s
    tables:
%s
%s
%s
`, s.controlURL, s.bucketName, s.endpoint, s.accessKey, s.secretKey, s.defaults, s.worker, s.sourceURL, s.mainKeys, indent(s.tables, 6), indent(s.databases, 2), s.extra)
	require.NoError(t, os.WriteFile(s.file, []byte(yaml), 0o600))
}

func indent(yaml string, n int) string {
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(strings.TrimSpace(yaml), "\n", "\n"+pad)
}

// result is how a command ended.
type result struct {
	code     int
	out, err string
}

// run runs the program to its end.
func (s *site) run(t *testing.T, args ...string) result {
	t.Helper()
	return s.start(t, args...).wait(t)
}

// json runs a command with --json and decodes the last line of its output.
func (s *site) json(t *testing.T, into any, args ...string) result {
	t.Helper()
	r := s.run(t, append(args, "--json")...)
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), into), "stdout: %s\nstderr: %s", r.out, r.err)
	return r
}

// process is the program while it runs.
type process struct {
	cmd      *exec.Cmd
	out, err bytes.Buffer
}

func (s *site) start(t *testing.T, args ...string) *process {
	t.Helper()
	return s.startCommand(t, s.program, args...)
}

// startCommand starts a program under the site's configuration and nothing else of
// this environment that the archiver or a client library would heed.
func (s *site) startCommand(t *testing.T, program string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), commandTime)
	t.Cleanup(cancel) // kills what a failed test left running
	p := &process{cmd: exec.CommandContext(ctx, program, args...)}
	p.cmd.Env = []string{"ARCHIVER_CONFIG=" + s.file, "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + t.TempDir()}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	require.NoError(t, p.cmd.Start())
	return p
}

// wait waits for the end. A process that a signal killed has the code -1.
func (p *process) wait(t *testing.T) result {
	t.Helper()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		require.NoError(t, err, p.cmd.Args)
	}
	return result{code: p.cmd.ProcessState.ExitCode(), out: p.out.String(), err: p.err.String()}
}

func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(sig))
}

// expect compares the exit code, and looks for texts in what was printed. Output
// that a program in distress would give must not be there.
func (r result) expect(t *testing.T, code int, texts ...string) {
	t.Helper()
	all := fmt.Sprintf("exit %d\nstdout:\n%s\nstderr:\n%s", r.code, r.out, r.err)
	require.Equal(t, code, r.code, all)
	for _, text := range texts {
		require.Contains(t, r.out+r.err, text, all)
	}
	require.NotContains(t, r.out+r.err, "goroutine ", all)
}
