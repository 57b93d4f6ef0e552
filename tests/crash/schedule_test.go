package crash

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// TestScheduledPlanOfADeadReplica ends the replica that plans what is due, at the
// points of a plan, or freezes it for longer than its claim holds. Of the others one
// takes over, and the due time has one run and no more.
func TestScheduledPlanOfADeadReplica(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ point, action string }{
		{"schedule:claimed", "kill"}, {"schedule:claimed", "stop"}, {"enqueue:page", "kill"}, {"enqueue:page", "stop"},
	} {
		t.Run(c.point+" "+c.action, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, options{})
			s.fill(t, "audit_logs", 5*batchSize)
			yaml, err := os.ReadFile(s.file)
			require.NoError(t, err)
			scheduled := strings.Replace(string(yaml), "{name: audit_logs}", "{name: audit_logs, schedule: '0 0 29 2 *'}", 1)
			require.NotEqual(t, string(yaml), scheduled)
			require.NoError(t, os.WriteFile(s.file, []byte(scheduled), 0o600))
			s.control.Exec(t, `INSERT INTO archiver.schedule (database, schema, name, spec, settled_to) VALUES ('main', 'public', 'audit_logs', '0 0 29 2 *', '2015-01-01')`)
			claims := func() int64 { return s.control.Int(t, `SELECT claim FROM archiver.schedule`) }

			first := s.replica(t, at(c.point, c.action))
			testkit.Eventually(t, 20*time.Second, func() bool { return claims() == 1 }, "the plan has begun")
			if c.action == "kill" {
				first.wait(t, 20*time.Second)
				require.True(t, first.killed(), first.log())
			}
			require.Zero(t, s.control.Int(t, `SELECT count(*) FROM archiver.run`))
			others := []*process{s.replica(t, ""), s.replica(t, "")}
			testkit.Eventually(t, time.Minute, func() bool {
				return s.control.Int(t, `SELECT count(*) FROM archiver.schedule WHERE planned_at IS NOT NULL`) == 1
			}, "another replica plans")
			if c.action == "stop" {
				first.signal(syscall.SIGCONT)
				first.wait(t, 20*time.Second)
				require.True(t, first.lostLease(), "%v", first.surprise())
			}
			testkit.Eventually(t, time.Minute, func() bool {
				return s.control.Int(t, `SELECT count(*) FROM archiver.batch WHERE state <> 'archived'`) == 0
			}, "all is archived")
			require.EqualValues(t, 1, s.control.Int(t, `SELECT count(*) FROM archiver.run`))
			require.EqualValues(t, 3, claims(), "the dead one's, that of its follower, and the settlement")
			for _, p := range others {
				p.signal(syscall.SIGTERM)
				p.wait(t, 20*time.Second)
				require.Zero(t, p.cmd.ProcessState.ExitCode(), p.log())
			}
			require.EqualValues(t, 5, s.drain(t).objects)
		})
	}
}
