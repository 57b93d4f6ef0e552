package cli

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPlanInWindows: a backlog of more batches than the first window has is counted
// whole, enqueued in part, and worked on to its end.
func TestPlanInWindows(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.defaults = "retention: 30d, batch_size: 3, adaptive_batch: {min_batch_size: 3, max_batch_size: 4, target_query_time: 1h}, concurrency: 8"
	s.worker += ", concurrency: 8"
	s.configure(t)
	type plans struct {
		Plans []struct {
			EligibleRows  int64 `json:"eligible_rows"`
			Batches       int64
			BatchSize     int64 `json:"batch_size"`
			Enqueued      int64
			RowsLater     int64 `json:"rows_later"`
			RowsUnplanned int64 `json:"rows_unplanned"`
		}
	}
	var first, second plans
	s.json(t, &first, "plan").expect(t, done)
	p := first.Plans[0]
	require.Equal(t, []int64{500, 167, 3, 16, 500 - 3*16}, []int64{p.EligibleRows, p.Batches, p.BatchSize, p.Enqueued, p.RowsLater})
	s.json(t, &second, "plan").expect(t, done)
	p = second.Plans[0]
	require.Equal(t, []int64{0, 0, 0, 500 - 3*16}, []int64{p.EligibleRows, p.Batches, p.Enqueued, p.RowsUnplanned}, "planning twice adds nothing")
	s.run(t, "plan").expect(t, done, "run 1           is planned to 20", "its other 452 rows, about, follow", "nothing new was enqueued")
	s.run(t, "status").expect(t, done, "run 1 is planned to 20", "about 452 rows follow")

	r := s.run(t, "work", "--drain")
	r.expect(t, done, "next window planned", "vacuum done")
	require.EqualValues(t, 100, s.db.Int(t, `SELECT count(*) FROM audit_logs`))
	s.requireEachRowOnce(t)
	s.run(t, "status").expect(t, done, "batches of 4 rows, the last query took ", "vacuum done: ANALYZE in ")
}

// TestRunVacuums: archiver run waits for the vacuum, and tells of it. How much bloat there
// was nobody knows, since the server had no statistics.
func TestRunVacuums(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.db.Exec(t, `ALTER TABLE audit_logs SET (autovacuum_enabled = false)`)
	type tables struct {
		Phases map[string]float64
		Tables []struct {
			Vacuum *struct {
				State, Mode string
				BytesBefore int64           `json:"bytes_before"`
				BloatBefore json.RawMessage `json:"bloat_bytes_before"`
				BloatAfter  *int64          `json:"bloat_bytes_after"`
			}
		}
	}
	var report, status tables
	s.json(t, &report, "run").expect(t, done, "vacuum done")
	require.Positive(t, report.Phases["vacuum"])
	require.Equal(t, "done", report.Tables[0].Vacuum.State)
	require.Equal(t, "ANALYZE", report.Tables[0].Vacuum.Mode)
	require.Positive(t, report.Tables[0].Vacuum.BytesBefore)
	require.Equal(t, "null", string(report.Tables[0].Vacuum.BloatBefore))
	require.Positive(t, *report.Tables[0].Vacuum.BloatAfter)
	s.json(t, &status, "status").expect(t, done)
	require.Equal(t, report.Tables[0].Vacuum, status.Tables[0].Vacuum)
	s.run(t, "status").expect(t, done, " dead rows, bloat unknown -> ")
	s.run(t, "run").expect(t, done, "nothing is old enough")
}
