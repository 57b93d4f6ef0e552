package localserver_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// ownerEnv makes the test binary an owner of servers, to be killed.
const ownerEnv = "ARCHIVER_TEST_OWNER"

func TestMain(m *testing.M) { testkit.Main(m) }

// owned is what an owner says about its servers.
type owned struct {
	Pids []int    // of the servers and of a backend that is at work
	Dirs []string // run directories
}

// TestOwner is the body of the process that TestServersDieWithTheirOwner kills.
func TestOwner(t *testing.T) {
	if os.Getenv(ownerEnv) == "" {
		t.Skip("only as a child process of TestServersDieWithTheirOwner")
	}
	p := start(t, localserver.PostgresOptions{})
	s := startS3(t, localserver.S3Options{})
	conn, err := pgx.Connect(t.Context(), p.DSN("postgres"))
	require.NoError(t, err)
	go func() { _, _ = conn.Exec(t.Context(), "select pg_sleep(600)") }()
	said, err := json.Marshal(owned{
		Pids: []int{p.Pid(), s.Pid, int(conn.PgConn().PID())},
		Dirs: []string{filepath.Dir(p.DataDir), s.Dir},
	})
	require.NoError(t, err)
	fmt.Fprintf(os.Stderr, "owned %s\n", said)
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent kills us, or is gone itself
}

func TestServersDieWithTheirOwner(t *testing.T) {
	t.Parallel()
	cmd := osexec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOwner$")
	cmd.Env = append(os.Environ(), ownerEnv+"=1")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())

	var all owned
	var said strings.Builder
	lines := bufio.NewScanner(io.TeeReader(stderr, &said))
	for all.Pids == nil && lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "owned "); ok {
			require.NoError(t, json.Unmarshal([]byte(text), &all))
		}
	}
	require.Len(t, all.Pids, 3, "the owner said: %s", &said)
	for _, pid := range all.Pids {
		require.True(t, running(pid), "process %d", pid)
	}

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	for _, pid := range all.Pids {
		testkit.Eventually(t, 30*time.Second, func() bool { return !running(pid) }, fmt.Sprintf("process %d ends", pid))
	}

	// The next owner clears up after the dead one, and leaves the living alone.
	living := start(t, localserver.PostgresOptions{})
	startS3(t, localserver.S3Options{})
	for _, dir := range all.Dirs {
		require.NoDirExists(t, dir)
	}
	require.DirExists(t, living.DataDir)
}

// running says whether a process exists and is more than a zombie, which an orphan
// may remain where process 1 does not wait for it.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return runtime.GOOS != "linux" // elsewhere there is no /proc, and the signal's answer must do
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}
