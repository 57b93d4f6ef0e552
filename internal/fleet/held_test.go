package fleet_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

func TestHeldSaysWhatBecameOfTheLease(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	join := func(id string) *fleet.Lease {
		lease, err := fleet.Join(t.Context(), q.Ledger, fleet.Worker{ID: id, Host: "host", PID: 1, Version: "test"}, 2*time.Second)
		require.NoError(t, err)
		require.NoError(t, lease.Held())
		return lease
	}
	keep := func(l *fleet.Lease) <-chan error {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		ended := make(chan error, 1)
		go func() { ended <- l.Keep(ctx) }()
		return ended
	}

	silent := join("silent") // as in a process that was frozen: nobody renews it
	testkit.Eventually(t, 30*time.Second, func() bool { return silent.Held() != nil }, "the lease runs out")
	require.ErrorContains(t, silent.Held(), "not renewed for 2s, of 2s")

	taken := join("taken")
	ended := keep(taken)
	q.db.Exec(t, `DELETE FROM archiver.worker WHERE id = 'taken'`)
	require.ErrorIs(t, <-ended, fleet.ErrLeaseLost)
	require.ErrorIs(t, taken.Held(), fleet.ErrLeaseLost)

	left := join("left")
	ended = keep(left)
	require.NoError(t, left.Leave(t.Context()))
	require.ErrorContains(t, left.Held(), "given back")
	select { // a renewal that finds nothing to renew now is no loss
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(time.Second):
	}
}
