package crash

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// vacuumPoints are the places between the end of a run and that of its vacuum.
var vacuumPoints = []string{"vacuum:queued", "vacuum:begin", "vacuum:vacuumed"}

// TestKillAroundAVacuum kills the replica that ends a run, or vacuums its table. The
// next one goes on, and the run has one vacuum.
func TestKillAroundAVacuum(t *testing.T) {
	t.Parallel()
	for _, point := range vacuumPoints {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, options{})
			s.fill(t, "audit_logs", 5*batchSize)
			s.run(t, "plan")
			p := s.replica(t, at(point, "kill"))
			p.wait(t, time.Minute)
			require.True(t, p.killed(), "%v", p.surprise())
			s.oracle.check(t)
			s.run(t, "work", "--drain", "--drain-patience", "30s")
			require.EqualValues(t, 5, s.drain(t).objects)
			require.EqualValues(t, 1, s.control.Int(t, `SELECT count(*) FROM archiver.run WHERE vacuum = 'done'`))
			require.EqualValues(t, 1, s.control.Int(t, `SELECT count(*) FROM archiver.river_job WHERE kind = 'vacuum_table'`))
			require.Zero(t, s.control.Int(t, `SELECT count(*) FROM archiver.river_job WHERE finalized_at IS NULL`))
		})
	}
}
