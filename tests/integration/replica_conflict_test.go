//go:build failpoint

package integration

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/planner"
)

// TestRecoveryConflict has a vacuum on the primary take rows away that a read on the
// replica could still see, so that the replica cancels the read. Half as many rows are read
// there then, and half of these, unless the primary may be read instead.
func TestRecoveryConflict(t *testing.T) {
	t.Parallel()
	const rows, bytesEach = 80, 200_000
	for _, c := range []struct {
		name, keys string
		conflicts  int
	}{{"fall back", fallBack, 1}, {"fall back, twice", fallBack, 2}, {"wait", waits, 1}, {"wait, twice", waits, 2}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			keys := c.keys
			p := newPair(t, rows, map[string]string{"max_standby_streaming_delay": "2s", "autovacuum": "off"}, keys)
			p.cfg.Databases[0].Tables[0].BatchSize = rows
			p.cfg.Worker.Concurrency = 1 // else the second conflict may be that of the other half
			// More than sockets can hold, or the read would be over before it is cancelled.
			p.db.Exec(t, fmt.Sprintf(`ALTER TABLE audit_logs ALTER payload SET STORAGE EXTERNAL;
				UPDATE audit_logs SET payload = to_jsonb(repeat('x', %d)); DROP TABLE truth; CREATE TABLE truth AS TABLE audit_logs;
				INSERT INTO audit_logs SELECT 1000 + i, now(), 'of today', NULL FROM generate_series(1, 100) i`, bytesEach))
			p.db.Exec(t, `VACUUM audit_logs`)
			p.caughtUp()
			require.EqualValues(t, rows, p.plan(t)[0].Rows)
			var conflicts atomic.Int64
			p.finish(atReads(c.conflicts, func(ctx context.Context) {
				conflicts.Add(1)
				p.sql(ctx, `DELETE FROM audit_logs WHERE actor = 'of today' AND id % 2 = $1`, conflicts.Load()-1)
				p.sql(ctx, `VACUUM audit_logs`)
				// The replay waits as long as it may, and then sends its signals.
				for _, n := range []int64{1, 0} {
					testkit.Eventually(t, 20*time.Second, func() bool {
						return p.standby.Int(t, `SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'startup' AND wait_event = 'RecoveryConflictSnapshot'`) == n
					}, "the replay waits for the read, up to max_standby_streaming_delay")
				}
			}))
			p.db.Exec(t, `DELETE FROM audit_logs WHERE actor = 'of today'`)
			p.exactlyOnce()
			require.Zero(t, p.rowsLeft())
			require.Zero(t, p.attemptsSpent())
			require.NotEmpty(t, p.news())
			for _, trouble := range p.news() { // once or, if there was more to replay, again
				require.Equal(t, "conflict", trouble)
			}
			require.EqualValues(t, c.conflicts, conflicts.Load())
			batches := p.states(t)["archived"]
			require.Greater(t, batches, int64(1))
			p.archived(batches)
			share, onPrimary := int64(rows>>c.conflicts), int64(0)
			if keys == fallBack && c.conflicts > 1 { // one more try with half of the rows was enough
				share, onPrimary = rows/2, 1
			}
			require.Equal(t, onPrimary, p.readFrom(source.Primary))
			require.Equal(t, batches-onPrimary, p.readFrom(source.ReadReplica))
			require.LessOrEqual(t, p.count(`SELECT min(rows) FROM {s}.batch`), share, "half of it is read after a conflict")
		})
	}
}

// TestRecoveryConflictWhilePlanning: a walk of the keys that the replica cancels goes on
// behind its last page, there or on the primary, and no row is in two ranges or in none.
func TestRecoveryConflictWhilePlanning(t *testing.T) {
	t.Parallel()
	for keys, server := range map[string]string{fallBack: source.Primary, waits: source.ReadReplica} {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, 50, map[string]string{"max_standby_streaming_delay": "0", "autovacuum": "off"}, keys)
			p.db.Exec(t, `INSERT INTO audit_logs SELECT 1000 + i, now(), 'of today', NULL FROM generate_series(1, 100) i`)
			p.db.Exec(t, `VACUUM audit_logs`)
			p.caughtUp()
			ctx := failpoint.With(t.Context(), changing("walk:page", func(ctx context.Context) {
				p.sql(ctx, `DELETE FROM audit_logs WHERE actor = 'of today'`)
				p.sql(ctx, `VACUUM audit_logs`)
				p.caughtUp() // past the walk, which was cancelled for that
			}))
			plan, err := planner.Make(ctx, p.src, p.ledger, p.cfg.Databases[0].Tables[0], planner.Options{})
			require.NoError(t, err)
			require.Equal(t, server, plan.ReadFrom)
			require.EqualValues(t, 50, plan.Rows)
			require.Len(t, plan.Pages, 5)
			if server == source.Primary {
				require.Equal(t, source.ReplicaConflict, plan.PassedOver.Trouble)
			}
			require.NoError(t, plan.Enqueue(t.Context(), p.ledger, p.client(t)))
			p.finish(nil)
			p.archived(5)
			require.Zero(t, p.rowsLeft())
			p.exactlyOnce()
		})
	}
}

// atReads makes a handler that does something in the middle of each of the first n reads.
func atReads(n int, do func(ctx context.Context)) failpoint.Handler {
	var reads atomic.Int64
	var due atomic.Bool
	return func(ctx context.Context, point string) error {
		switch {
		case point == "extract:locked":
			due.Store(reads.Add(1) <= int64(n))
		case point == "extract:row" && due.Swap(false):
			do(ctx)
		}
		return nil
	}
}
