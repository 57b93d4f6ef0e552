package cli

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// TestReplicaCommands shows a read replica in the commands: check, plan, jobs show.
func TestReplicaCommands(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cluster := testkit.Cluster(t, localserver.PostgresOptions{})
	s.db = testkit.Database(t, cluster)
	s.sourceURL = s.db.DSN
	s.createTable(t)
	standby := testkit.Replica(t, cluster)
	replica := testkit.Open(t, standby, s.db.Name)
	configure := func(replicaURL, fallback string) {
		s.tables = fmt.Sprintf("- {name: audit_logs, replica_fallback: %s, max_replica_lag_mb: 1}", fallback)
		s.mainKeys = fmt.Sprintf("read_replica: %q", replicaURL)
		s.configure(t)
	}
	configure(replica.DSN, "wait")
	s.run(t, "migrate").expect(t, done)

	var report checkReport
	s.json(t, &report, "check").expect(t, done)
	require.Contains(t, report.codes("", "info"), "replica_may_cancel")
	s.run(t, "check").expect(t, done, "hot_standby_feedback = on")
	replica.Exec(t, `ALTER SYSTEM SET hot_standby_feedback = on`)
	replica.Exec(t, `SELECT pg_reload_conf()`)
	testkit.Eventually(t, 30*time.Second, func() bool {
		report = checkReport{}
		s.json(t, &report, "check").expect(t, done)
		return !slices.Contains(report.codes("", "info"), "replica_may_cancel")
	}, "feedback is on")

	s.run(t, "plan", "--dry-run").expect(t, done, "read from      the replica")
	s.run(t, "run").expect(t, done)
	s.run(t, "jobs", "show", "--batch", "1").expect(t, done, "the read replica; the delete compares")
	var job struct {
		Object struct {
			ReadFrom string `json:"read_from"`
		} `json:"object"`
	}
	s.json(t, &job, "jobs", "show", "--batch", "1").expect(t, done)
	require.Equal(t, "replica", job.Object.ReadFrom)

	replica.Exec(t, `SELECT pg_wal_replay_pause()`)
	s.db.Exec(t, `SELECT pg_logical_emit_message(false, 'test', repeat('x', 3000000))`)
	s.json(t, &report, "check").expect(t, done)
	require.Equal(t, []string{"replica_lags"}, report.codes("", "warn"))
	s.run(t, "plan", "--dry-run").expect(t, unreachable, "more than max_replica_lag_mb (1)", "hint:")
	configure(replica.DSN, "primary")
	s.run(t, "plan", "--dry-run").expect(t, done, "read from      the primary", "more than max_replica_lag_mb (1)")

	for _, c := range []struct {
		url, code string
		exit      int // where tables wait for it
	}{
		{s.db.DSN, "replica_unfit", refused},
		{"postgres://127.0.0.1:1/" + s.db.Name, "replica_unreachable", unreachable},
	} {
		configure(c.url, "primary")
		report = checkReport{}
		s.json(t, &report, "check").expect(t, done)
		require.Equal(t, []string{c.code}, report.codes("", "warn"))
		s.run(t, "check").expect(t, done, "the primary is read instead")
		configure(c.url, "wait")
		s.run(t, "check").expect(t, c.exit, c.code, "1 table would wait for it")
	}
}
