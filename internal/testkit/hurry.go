package testkit

import (
	"context"
	"testing"
	"time"

	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// Hurry keeps moving jobs that wait for their time to the front, as an operator's retry
// does, until the function it returns is called.
func Hurry(t testing.TB, l *ledger.Ledger) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			// An error is none: the control database may be down on purpose.
			tag, err := l.Pool.Exec(ctx, l.SQL(`UPDATE {s}.river_job SET scheduled_at = now() WHERE state = 'pending' AND scheduled_at > now()`))
			if err == nil && tag.RowsAffected() > 0 {
				_, _ = fleet.Admit(ctx, l) // each replica does so within a second
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return func() { cancel(); <-done }
}
