//go:build failpoint

package integration

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRewrittenWhileTheReadWaits is the race that decides the order of the read's first
// two steps. Another session has rewritten the table and not committed when the read
// begins; it commits while the read waits for its lock. To a snapshot that was taken
// before the lock the table is empty, and the batch would be closed with nothing done.
func TestRewrittenWhileTheReadWaits(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	committed := make(chan error, 1)
	tr.finish(changing("state:planned", func(ctx context.Context) {
		other, err := tr.db.Pool.Begin(context.WithoutCancel(ctx))
		if err != nil {
			t.Errorf("begin: %v", err)
			committed <- err
			return
		}
		// The same type again, so that nothing but the place of the rows changes.
		if _, err := other.Exec(ctx, `ALTER TABLE audit_logs ALTER payload TYPE jsonb USING payload || '{}'`); err != nil {
			t.Errorf("rewrite the table: %v", err)
		}
		go func() { committed <- tr.commitOnceWaitedFor(other) }()
	}))
	require.NoError(t, <-committed)
	tr.archived(1)
	require.Zero(t, tr.attemptsSpent())
}
