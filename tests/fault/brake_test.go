//go:build failpoint

package fault

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// TestThrottleEndsALongRead: the table may not go on any more while a read of it is under
// way. The read ends, no transaction stays open, and when the table may go on, the first
// half of what was read is read again, and the rest by a batch of its own.
func TestThrottleEndsALongRead(t *testing.T) {
	t.Parallel()
	for name, pool := range map[string]int{"": 4, "pool of one": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, `, batch_size: 60, throttle: {query: "SELECT n FROM brake"}`, "audit_logs")
			s.cfg.Databases[0].PoolSize = pool
			s.fill("audit_logs", 60, 1)
			require.EqualValues(t, 1, s.plan("audit_logs"))
			s.source.Exec(t, `CREATE TABLE brake AS SELECT 0 AS n`)
			var rows atomic.Int64
			ended := make(chan error, 1)
			ctx, cancel := context.WithCancel(failpoint.With(t.Context(), func(ctx context.Context, point string) error {
				if point != "extract:row" || rows.Add(1) != 30 {
					return nil
				}
				_, err := s.source.Pool.Exec(ctx, `UPDATE brake SET n = 1`)
				if err == nil && pool > 1 {
					<-ctx.Done()
					err = context.Cause(ctx)
				} else if err == nil { // nobody can ask, and the read goes on
					wait(ctx, 5*time.Second)
					err = ctx.Err()
				}
				ended <- err
				return err
			}))
			done := s.run(ctx, s.deps(ways{}))
			stop := s.hurry()
			t.Cleanup(func() { cancel(); <-done; stop() })
			if pool == 1 {
				require.NoError(t, <-ended, "a question that nobody answers ended the read")
				testkit.Eventually(t, 20*time.Second, func() bool { return s.count("audit_logs", `b.state = 'verified'`) == 1 }, "the batch waits before its delete")
				s.held("throttle: the query says 1 (query)")
				s.source.Exec(t, `UPDATE brake SET n = 0`)
				s.goesOn()
				return
			}
			require.ErrorContains(t, <-ended, "throttle: the query says 1 (query)")
			s.held("throttle: the query says 1 (query)")
			testkit.Eventually(t, 30*time.Second, func() bool {
				return s.source.Int(t, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'archiver%' AND xact_start IS NOT NULL`) == 0
			}, "no transaction is open")
			require.Empty(t, s.bucket.Keys(t))
			planned := s.control.Text(t, `SELECT string_agg(rows_planned::text, ' ' ORDER BY id) FROM archiver.batch`)
			require.Regexp(t, `^1[3-5] 4[5-7]$`, planned, "half of what was read, and the rest")
			s.source.Exec(t, `UPDATE brake SET n = 0`)
			s.goesOn()
			require.EqualValues(t, 2, s.count("audit_logs", `b.state = 'archived'`))
		})
	}
}
