package ledger_test

import (
	"context"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

func TestClaim(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, state := range states {
		t.Run(string(state), func(t *testing.T) {
			batch := b.in(t, state)
			require.NoError(t, b.Failed(t.Context(), batch.ID, batch.Attempt, "broken", "", true))
			again, err := b.Claim(t.Context(), batch.ID)
			require.NoError(t, err)
			require.Equal(t, state, again.State, "a claim moves no batch")
			require.Equal(t, batch.Object, again.Object)
			require.False(t, again.Failed)
			want := batch.Attempt + 1
			if state.Final() {
				want = batch.Attempt
			}
			require.Equal(t, want, again.Attempt)
		})
	}
	_, err := b.Claim(t.Context(), 1<<40)
	require.ErrorIs(t, err, ledger.ErrNotFound)
}

// TestClaimAtOnce: no two attempts ever have the same number, so of any number of
// twins one can pass each fence.
func TestClaimAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.in(t, ledger.Verified).ID
	const twins = 12
	var mu sync.Mutex
	var wg sync.WaitGroup
	seen := map[int]bool{}
	passed := 0
	for range twins {
		wg.Go(func() {
			batch, err := b.Claim(t.Context(), id)
			if err != nil {
				t.Errorf("claim: %v", err)
				return
			}
			err = b.StartDelete(t.Context(), batch)
			mu.Lock()
			defer mu.Unlock()
			seen[batch.Attempt] = true
			if err == nil {
				passed++
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, twins)
	require.LessOrEqual(t, passed, 1)
}

func TestFindTable(t *testing.T) {
	t.Parallel()
	b := setup(t)
	none, err := b.FindTable(t.Context(), "main", "public", "nobody")
	require.NoError(t, err)
	require.Zero(t, none)
	for _, s := range states {
		b.in(t, s)
	}
	found, err := b.FindTable(t.Context(), "main", "public", "audit_logs")
	require.NoError(t, err)
	require.Equal(t, ledger.Table{ID: b.tableID, OpenBatches: 3, OpenRows: 27, OpenKeyColumns: []string{"created_at", "id"}, LastDelete: "0/1"}, found)
	last, err := b.LastDelete(t.Context(), b.tableID)
	require.NoError(t, err)
	require.Equal(t, found.LastDelete, last)
	b.tx(t, func(ctx context.Context, tx pgx.Tx) error {
		id, err := b.EnsureTable(ctx, tx, "main", "public", "audit_logs")
		require.Equal(t, b.tableID, id, "a table has one row")
		return err
	})
}

// TestAdvancePlan has two planners write a page each for the same table: the later
// one waits for the earlier, and then writes nothing.
func TestAdvancePlan(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	first, err := b.Pool.Begin(ctx)
	require.NoError(t, err)
	require.NoError(t, b.AdvancePlan(ctx, first, b.tableID, 0, []string{"a", "1"}))
	second := make(chan error, 1)
	go func() {
		second <- pgx.BeginFunc(ctx, b.Pool, func(tx pgx.Tx) error { return b.AdvancePlan(ctx, tx, b.tableID, 0, []string{"b", "2"}) })
	}()
	require.NoError(t, first.Commit(ctx))
	require.ErrorIs(t, <-second, ledger.ErrPlannedMeanwhile)
	found, err := b.FindTable(ctx, "main", "public", "audit_logs")
	require.NoError(t, err)
	require.EqualValues(t, 1, found.PlanSeq)
	require.Equal(t, []string{"a", "1"}, found.PlannedTo)
}

func TestID(t *testing.T) {
	t.Parallel()
	b, other := setup(t), setup(t)
	id, err := b.ID(t.Context())
	require.NoError(t, err)
	again, err := b.ID(t.Context())
	require.NoError(t, err)
	require.Equal(t, id, again)
	different, err := other.ID(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, id, different, "two ledgers never share an advisory lock")
}
