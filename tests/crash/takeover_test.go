package crash

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// TestTakeOverInTime has a replica die, or freeze, with a batch at work: within the lease
// and five seconds another one runs it.
func TestTakeOverInTime(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "frozen": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, options{})
			s.fill(t, "audit_logs", batchSize)
			s.run(t, "plan")
			first := s.replica(t, "extract:copied=slow@3600000")
			ran := `SELECT count(*) FROM archiver.river_job WHERE state = 'running'`
			testkit.Eventually(t, 30*time.Second, func() bool { return s.control.Int(t, ran) == 1 }, "the batch is at work")
			taken := `SELECT attempted_by[array_upper(attempted_by, 1)] FROM archiver.river_job`
			before := s.control.Text(t, taken)
			second := s.replica(t, "")
			testkit.Eventually(t, 30*time.Second, func() bool { return s.control.Int(t, `SELECT count(*) FROM archiver.worker`) == 2 }, "the second replica is there")

			first.signal(signal)
			began := time.Now()
			testkit.Eventually(t, 30*time.Second, func() bool { return s.control.Text(t, taken) != before }, "the batch is taken over")
			took := time.Since(began)
			t.Logf("%s: taken over after %v with a lease of %v", name, took.Round(time.Millisecond), lease)
			require.Less(t, took, lease+5*time.Second)

			testkit.Eventually(t, 30*time.Second, func() bool { return s.control.Int(t, ran) == 0 }, "the batch is done")
			if signal == syscall.SIGSTOP {
				require.Zero(t, s.source.Int(t, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction' AND application_name LIKE 'archiver worker %'`),
					"the frozen replica holds no transaction open")
				first.signal(syscall.SIGCONT)
				first.wait(t, 20*time.Second)
				require.True(t, first.lostLease(), "%v", first.surprise())
			}
			second.signal(syscall.SIGTERM)
			second.wait(t, 20*time.Second)
			s.drain(t)
		})
	}
}
