package ui

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
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

// browser is Chromium with River UI in it.
type browser struct {
	in  io.Writer
	out *bufio.Reader
}

// openBrowser starts Chromium, which make extras installs. What it sees is left in
// ARCHIVER_SCREENSHOTS, if that names a folder.
func (s *site) openBrowser(t *testing.T) *browser {
	t.Helper()
	found, err := exec.CommandContext(t.Context(), filepath.Join(testkit.ModuleRoot(t), "scripts/browser.sh"), "find").CombinedOutput()
	require.NoError(t, err, "run: make extras\n%s", found)
	chromium, playwright, _ := strings.Cut(strings.TrimSpace(string(found)), "\n")
	shots := os.Getenv("ARCHIVER_SCREENSHOTS")
	if shots == "" {
		shots = t.TempDir()
	}
	ctx, kill := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	t.Cleanup(kill)
	cmd := exec.CommandContext(ctx, "node", "browser/drive.mjs")
	cmd.Env = append(os.Environ(), "CHROMIUM="+chromium, "PLAYWRIGHT="+playwright, "SCREENSHOTS="+shots, "UI="+s.url(), "USERNAME="+username, "PASSWORD="+password)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return &browser{in: in, out: bufio.NewReader(out)}
}

// do has drive.mjs carry out a command, and returns the page's text.
func (b *browser) do(t *testing.T, format string, args ...any) string {
	t.Helper()
	command := fmt.Sprintf(format, args...)
	_, err := fmt.Fprintln(b.in, command)
	require.NoError(t, err)
	line, err := b.out.ReadBytes('\n')
	require.NoError(t, err)
	var answer struct{ Text, Error string }
	require.NoError(t, json.Unmarshal(line, &answer))
	require.Empty(t, answer.Error, command)
	return answer.Text
}

// TestBrowser does in Chromium what an operator does: it finds a failed batch and why,
// retries it, and pauses a database. Read-only, the same button changes nothing.
func TestBrowser(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(t, done, "plan")
	s.refuseDeletes(t)
	worker := s.serve(t, "work")
	testkit.Eventually(t, soon, func() bool {
		return s.db.Int(t, `SELECT count(*) FROM archiver.river_job WHERE state = 'cancelled'`) == 5
	}, "all batches have failed")
	batch, id := s.oldest(t)
	b := s.openBrowser(t)
	require.Contains(t, b.do(t, "stranger"), "ERR_INVALID_AUTH_CREDENTIALS")

	list := b.do(t, "list cancelled")
	require.Contains(t, list, "archive_batch")
	page := b.do(t, "job %d nothing was deleted", id)
	for _, text := range []string{"db_main", "table_public_audit_logs", "run_1", "public.audit_logs", " .. ", "delete_trigger", "hint:", "batch failed"} {
		require.Contains(t, page, text)
	}

	s.allowDeletes(t)
	require.Equal(t, "200", b.do(t, "press Retry"))
	s.becomes(t, batch, "archived")
	page = b.do(t, "job %d batch archived", id)
	require.Contains(t, page, s.db.Text(t, `SELECT key FROM archiver.object WHERE batch_id = $1`, batch), "the object's key")

	b.do(t, "queue db_main")
	require.Equal(t, "200", b.do(t, "press Pause"))
	testkit.Eventually(t, soon, func() bool { return s.db.Int(t, `SELECT count(*) FROM archiver.pause WHERE database = 'main'`) == 1 }, "the fleet has taken the pause over")
	require.Equal(t, "200", b.do(t, "press Resume"))
	testkit.Eventually(t, soon, func() bool { return s.db.Int(t, `SELECT count(*) FROM archiver.pause`) == 0 }, "and its end")
	require.Empty(t, b.do(t, "complaints"))

	worker.signal(t, syscall.SIGTERM)
	worker.end(t, done)
	s.ui += ", read_only: true"
	s.configure(t)
	s.serve(t, "ui")
	b.do(t, "job 2 nothing was deleted")
	require.Equal(t, "403", b.do(t, "press Retry"))
	require.Equal(t, "cancelled", s.job(t, 2).State)
}
