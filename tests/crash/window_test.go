package crash

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/jobs"
)

// windowPoints are the places in the planning of a further window.
var windowPoints = []string{"window:claimed", "window:before-commit"}

// TestKillBetweenWindows kills the replicas that plan the second window of a run. The
// next one plans it, and nothing is left out or planned twice.
func TestKillBetweenWindows(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	yaml, err := os.ReadFile(s.file)
	require.NoError(t, err)
	adaptive := strings.Replace(string(yaml), "adaptive_batch: {enabled: false}", "adaptive_batch: {min_batch_size: 10, max_batch_size: 40}", 1)
	require.NotEqual(t, string(yaml), adaptive)
	require.NoError(t, os.WriteFile(s.file, []byte(adaptive), 0o600))
	first := jobs.FirstWindow(12) // what newSite configures
	rows := (first + 40) * batchSize
	s.fill(t, "audit_logs", rows)
	s.run(t, "plan")
	require.EqualValues(t, first, s.control.Int(t, `SELECT count(*) FROM archiver.batch`))
	for _, point := range windowPoints {
		p := s.replica(t, at(point, "kill"))
		p.wait(t, 2*time.Minute)
		require.True(t, p.killed(), "%s: %v", point, p.surprise())
		require.EqualValues(t, first, s.control.Int(t, `SELECT count(*) FROM archiver.batch`))
		s.oracle.check(t)
	}
	s.run(t, "work", "--drain")
	s.oracle.check(t)
	require.EqualValues(t, rows, s.control.Int(t, `SELECT sum(rows_planned)::bigint FROM archiver.batch WHERE state = 'archived'`))
	require.EqualValues(t, 1, s.control.Int(t, `SELECT count(*) FROM archiver.run WHERE NOT more AND vacuum = 'done'`))
}
