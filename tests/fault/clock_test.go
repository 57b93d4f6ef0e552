package fault

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// wrapped is a folder with programs of a server that are run by the given prefix of a
// command line.
func wrapped(t *testing.T, binDir, prefix string) string {
	t.Helper()
	// Not the test's own folder, which the server's account could not enter.
	dir, err := os.MkdirTemp("", "archiver-test-wrapped-") //nolint:usetesting // see above
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	for _, name := range []string{"initdb", "postgres"} {
		script := fmt.Sprintf("#!/bin/sh\n%s exec %s \"$@\"\n", prefix, filepath.Join(binDir, name))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	return dir
}

// fakeTime finds libfaketime. The archiver itself cannot be run under it, since Go
// asks the kernel for the time; so the servers are, and the archiver is the one off.
func fakeTime(t *testing.T) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1", "/usr/lib64/faketime/libfaketime.so.1", "/opt/homebrew/lib/faketime/libfaketime.1.dylib"} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	t.Fatal("there is no libfaketime: install the system's package faketime or libfaketime (apt-get install faketime), or run make deps as root")
	return ""
}

// TestClockOff runs the archiver with a clock an hour ahead of both databases, and an
// hour behind. What is due and what may be deleted is decided by the source's clock,
// and who is alive by the control database's.
func TestClockOff(t *testing.T) {
	t.Parallel()
	library := fakeTime(t)
	binDir, err := localserver.FindPostgres(os.Getenv("ARCHIVER_TEST_PG_BIN"))
	require.NoError(t, err)
	for name, offset := range map[string]string{"ahead": "-3600s", "behind": "+3600s"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := testkit.Cluster(t, localserver.PostgresOptions{
				BinDir: wrapped(t, binDir, fmt.Sprintf("LD_PRELOAD=%s FAKETIME=%q", library, offset)),
			})
			db := testkit.Database(t, cluster)
			off := time.Since(time.UnixMilli(db.Int(t, `SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint`)))
			require.InDelta(t, time.Hour.Seconds(), off.Abs().Seconds(), 60, "the server's clock is not off")

			s := newSiteOn(t, db, testkit.Database(t, cluster), "", "audit_logs")
			s.cfg.Worker.Lease = 6 * time.Second
			s.fill("audit_logs", 1, 1)
			// Half an hour on either side of the retention of 30 days.
			for _, each := range []string{"audit_logs", "truth_audit_logs"} {
				db.Exec(t, `DELETE FROM `+each+`; INSERT INTO `+each+` SELECT i, date_trunc('second', now()) - interval '30 days' + i * interval '5 minutes', 'x' FROM generate_series(-6, 6) i WHERE i <> 0`)
			}
			s.plan("audit_logs")
			s.work(ways{})
			s.settle("audit_logs")
			s.exactlyOnce("audit_logs")
			require.EqualValues(t, 6, db.Int(t, `SELECT count(*) FROM audit_logs WHERE id > 0`), "what the source's clock says is not due")
			require.Zero(t, db.Int(t, `SELECT count(*) FROM audit_logs WHERE id < 0`), s.trouble("audit_logs"))
			require.Zero(t, s.attempts("audit_logs"))

			// A dead replica's job is returned, and a live one keeps its own for longer
			// than its lease.
			id := s.control.Text(t, s.ledger.SQL(`SELECT id FROM {s}.worker`))
			until := s.control.Text(t, s.ledger.SQL(`SELECT lease_until::text FROM {s}.worker`))
			testkit.Eventually(t, 30*time.Second, func() bool {
				return s.control.Int(t, s.ledger.SQL(`SELECT count(*) FROM {s}.worker WHERE id = $1 AND lease_until > $2::timestamptz + interval '6 seconds'`), id, until) == 1
			}, "the lease is renewed, and not taken away")
		})
	}
}

// TestOldServerIsRefused has plan meet a server that is too old: a real one when make
// matrix names it, else one that says it is.
func TestOldServerIsRefused(t *testing.T) {
	t.Parallel()
	program := testkit.Build(t, "./cmd/archiver")
	db, version := testkit.Postgres(t), "13.99"
	s := newSiteOn(t, db, testkit.Postgres(t), "", "audit_logs")
	if old := os.Getenv("ARCHIVER_TEST_OLD_PG_BIN"); old != "" {
		dir := wrapped(t, old, `case "$*" in --version) echo "postgres (PostgreSQL) 14.0"; exit;; esac;`)
		db = testkit.Database(t, testkit.Cluster(t, localserver.PostgresOptions{BinDir: dir}))
		version = db.Text(t, `SHOW server_version`)
		require.Contains(t, version, "13.")
	} else {
		db.Exec(t, `CREATE SCHEMA old; CREATE FUNCTION old.current_setting(text) RETURNS text LANGUAGE sql AS
			$$ SELECT CASE $1 WHEN 'server_version_num' THEN '130099' WHEN 'server_version' THEN '13.99' ELSE pg_catalog.current_setting($1) END $$;
			ALTER DATABASE `+db.Name+` SET search_path = old, pg_catalog, public`)
	}
	content, err := os.ReadFile(s.cfg.Path)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "archiver.yaml")
	text := string(content[:len(content)-len(tail(content))]) + fmt.Sprintf("    url: %q\n    tables: [{name: audit_logs}]\n", db.DSN)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	for _, command := range []string{"plan", "check", "run"} {
		cmd := exec.CommandContext(t.Context(), program, command)
		cmd.Env = []string{"ARCHIVER_CONFIG=" + file, "HOME=" + t.TempDir()}
		out, _ := cmd.CombinedOutput() // its code is looked at
		require.Positive(t, cmd.ProcessState.ExitCode(), "%s: %s", command, out)
		require.Contains(t, string(out), "database main runs PostgreSQL "+version+"; the archiver needs 14 or later", command)
	}
}

// tail is the part of a site's configuration that names its source.
func tail(content []byte) []byte {
	for i := range content {
		if i > 4 && string(content[i-4:i]) == "url:" && string(content[i-9:i-4]) == "\n    " {
			return content[i-8:]
		}
	}
	return nil
}
