package cli

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// theDemo is `archiver demo` while it runs, in a temporary directory of its own.
type theDemo struct {
	cmd   *exec.Cmd
	tmp   string
	pipe  io.Closer
	lines *bufio.Scanner
	out   strings.Builder // what was read of it so far
	err   bytes.Buffer
}

// startDemo starts the demo in an environment that names other servers. env
// overrides it. In args, TMP stands for the temporary directory.
func startDemo(t *testing.T, env []string, args ...string) *theDemo {
	t.Helper()
	tmp, err := os.MkdirTemp("", "archiver-cli-demo-") //nolint:usetesting // PostgreSQL's account cannot enter that of t
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(tmp)) })
	require.NoError(t, os.Chmod(tmp, 0o755))

	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "TMP", tmp)
	}
	cmd := exec.Command(testkit.Build(t, "./cmd/archiver"), append([]string{"demo"}, args...)...) //nolint:noctx // it ends by a signal
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "ARCHIVER_S3_BUCKET=production", "ARCHIVER_CONTROL_URL=postgres://production/x",
		"AWS_ENDPOINT_URL=http://127.0.0.1:1", "AWS_PROFILE=production", "PGHOST=production", "PGOPTIONS=-c TimeZone=Asia/Tokyo")
	cmd.Env = append(cmd.Env, env...)
	d := &theDemo{cmd: cmd, tmp: tmp}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = &d.err
	d.pipe, d.lines = out, bufio.NewScanner(out)
	require.NoError(t, cmd.Start())
	// It ends at the latest with the test, and its servers with it.
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return d
}

// await reads the output up to the line that holds text.
func (d *theDemo) await(t *testing.T, text string) {
	t.Helper()
	for d.lines.Scan() {
		d.out.WriteString(d.lines.Text() + "\n")
		if strings.Contains(d.lines.Text(), text) {
			return
		}
	}
	require.Fail(t, "the demo did not say: "+text, "stdout:\n%s", d.out.String())
}

// end reads the rest and waits for the end.
func (d *theDemo) end(t *testing.T) result {
	t.Helper()
	for d.lines.Scan() {
		d.out.WriteString(d.lines.Text() + "\n")
	}
	_ = d.cmd.Wait() // the exit code says it
	return result{code: d.cmd.ProcessState.ExitCode(), out: d.out.String(), err: d.err.String()}
}

var addressPattern = regexp.MustCompile(`(?:PostgreSQL \S+|S3 server) on (127\.0\.0\.1:\d+)`)

// servers are the addresses that the demo said its servers listen on.
func (d *theDemo) servers(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, found := range addressPattern.FindAllStringSubmatch(d.out.String(), -1) {
		out = append(out, found[1])
	}
	require.Len(t, out, 2, d.out.String())
	return out
}

func answers(t *testing.T, address string) bool {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(t.Context(), "tcp", address)
	if err == nil {
		err = conn.Close()
	}
	return err == nil
}

// requireNothingLeft looks for the servers and the files of a demo that has ended.
func (d *theDemo) requireNothingLeft(t *testing.T) {
	t.Helper()
	for _, address := range d.servers(t) {
		require.False(t, answers(t, address), "a server is still up")
	}
	entries, err := os.ReadDir(d.tmp)
	require.NoError(t, err)
	require.Empty(t, entries, "files are left")
}

func TestDemoTellsTheWholeStory(t *testing.T) {
	t.Parallel()
	d := startDemo(t, nil, "--rows", "20000")
	r := d.end(t)
	r.expect(t, done,
		"filled public.audit_logs in database shop with 20,000 rows",
		"$ archiver migrate", "$ archiver check", "$ archiver plan", "archiver work --drain    # worker 2", "$ archiver status", "$ archiver ls",
		"proven: every row is in exactly one place, and none has changed",
		"bytes a row", "Seconds in each phase", "rows/s",
		"└── shop/public/audit_logs/", "month=", ".manifest.json",
		"archiver demo --keep", "nothing is left on this machine",
	)
	require.Regexp(t, `rows before +20,000\n +of them in the table now +(9,9|10,0)\d\d\n +of them in objects now +(9,9|10,0)\d\d\n`, r.out)
	for _, none := range []string{"rows in both places", "rows in neither", "rows twice in one place", "rows whose content differs from before", "rows that were not there before", "rows archived before their time"} {
		require.Regexp(t, none+` +0\n`, r.out)
	}
	require.Empty(t, r.err)
	require.NotContains(t, r.out, "\x1b", "colours in a pipe")
	d.requireNothingLeft(t)
}

func TestDemoKeepsTheServersUntilItIsStopped(t *testing.T) {
	t.Parallel()
	d := startDemo(t, nil, "--rows", "1000", "--keep")
	d.await(t, "PostgreSQL is process")
	for _, address := range d.servers(t) {
		require.True(t, answers(t, address), "a server is down")
	}
	// What it says about connecting works as it stands.
	config := regexp.MustCompile(`export (ARCHIVER_CONFIG=\S+)`).FindStringSubmatch(d.out.String())
	require.NotNil(t, config, d.out.String())
	ls := exec.CommandContext(t.Context(), d.cmd.Path, "ls", "--json")
	ls.Env = []string{config[1]}
	listed, err := ls.Output()
	require.NoError(t, err)
	require.Contains(t, string(listed), `"object_key"`)
	cat := regexp.MustCompile(`archiver cat (\S+\.gz)`).FindStringSubmatch(d.out.String())
	require.NotNil(t, cat, d.out.String())
	rows := exec.CommandContext(t.Context(), d.cmd.Path, "cat", cat[1])
	rows.Env = ls.Env
	shown, err := rows.Output()
	require.NoError(t, err)
	require.Contains(t, string(shown), `{"id":1,`)

	require.NoError(t, d.cmd.Process.Signal(syscall.SIGTERM))
	d.end(t).expect(t, done, "Stopping the servers.", "nothing is left on this machine")
	d.requireNothingLeft(t)
}

func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]syscall.Signal{"Ctrl-C": syscall.SIGINT, "closed terminal": syscall.SIGHUP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDemo(t, nil, "--rows", "1000")
			d.await(t, "archiver check")
			require.NoError(t, d.cmd.Process.Signal(sig))
			_ = d.cmd.Process.Signal(sig) // an impatient second one; it may be over already
			d.end(t).expect(t, interrupted, "error: interrupted")
			d.requireNothingLeft(t)
		})
	}
}

func TestDemoKilled(t *testing.T) {
	t.Parallel()
	d := startDemo(t, nil, "--rows", "1000", "--keep")
	d.await(t, "PostgreSQL is process")
	require.NoError(t, d.cmd.Process.Kill())
	d.end(t)
	for _, address := range d.servers(t) {
		testkit.Eventually(t, 20*time.Second, func() bool { return !answers(t, address) }, "a server outlives a killed demo")
	}
}

func TestDemoWhoseReaderGoesAway(t *testing.T) {
	t.Parallel()
	d := startDemo(t, nil, "--rows", "1000")
	d.await(t, "bucket audit-archive")
	require.NoError(t, d.pipe.Close())
	d.end(t).expect(t, failed, "nobody reads the output")
	d.requireNothingLeft(t)
}

func TestDemoWithoutPostgres(t *testing.T) {
	t.Parallel()
	d := startDemo(t, []string{"PG_BIN=" + t.TempDir(), "PATH="})
	d.end(t).expect(t, unreachable, "find PostgreSQL in", "nothing was started", "--pg-bin", "apt-get install postgresql", "brew install")
	entries, err := os.ReadDir(d.tmp)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestDemoUsage(t *testing.T) {
	t.Parallel()
	full := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(full, "precious"), nil, 0o600))
	startDemo(t, nil, "--rows", "5").end(t).expect(t, badUsage, "--rows 5: must be 1000 to 5000000")
	startDemo(t, nil, "--dir", full).end(t).expect(t, badUsage, "is not empty", "nothing was started")
	startDemo(t, nil, "extra").end(t).expect(t, badUsage)
	require.FileExists(t, filepath.Join(full, "precious"))
}

func TestDemoLeavesTheFilesInANamedDirectory(t *testing.T) {
	t.Parallel()
	d := startDemo(t, nil, "--rows", "1000", "--dir", "TMP/work")
	work := filepath.Join(d.tmp, "work")
	d.end(t).expect(t, done, "the files are in "+work)
	for _, address := range d.servers(t) {
		require.False(t, answers(t, address), "a server is still up")
	}
	require.FileExists(t, filepath.Join(work, "archiver.yaml"))
	require.FileExists(t, filepath.Join(work, "postgres", "PG_VERSION"))
	objects, err := filepath.Glob(filepath.Join(work, "s3", "buckets", "audit-archive", "demo", "shop", "public", "audit_logs", "*", "*", "*.jsonl.gz"))
	require.NoError(t, err)
	require.NotEmpty(t, objects)
}
