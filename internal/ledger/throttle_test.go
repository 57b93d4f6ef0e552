package ledger_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

func (b *bundle) credit(t *testing.T) int64 {
	t.Helper()
	return b.db.Int(t, `SELECT round(credit)::bigint FROM archiver.table_throttle`)
}

// TestPay moves the time of the last payment, in place of the clock.
func TestPay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// So many rows that the seconds which the test takes do not count.
	const slack = 60
	pay := func(rows int64, rate int) (bool, float64) {
		t.Helper()
		paid, wait, err := b.Pay(t.Context(), b.tableID, rows, rate)
		require.NoError(t, err)
		return paid, wait.Seconds()
	}
	passes := func(d string) {
		t.Helper()
		b.db.Exec(t, `UPDATE archiver.table_throttle SET credited_at = credited_at - $1::interval`, d)
	}
	paid, wait := pay(10_000, 1)
	require.True(t, paid, "the first batch begins at once, however large")
	require.Zero(t, wait)
	require.InDelta(t, -10_000, b.credit(t), slack)
	paid, wait = pay(10_000, 1)
	require.False(t, paid)
	require.InDelta(t, 10_000, wait, slack)
	paid, wait = pay(10_000, 5)
	require.False(t, paid)
	require.InDelta(t, 2_000, wait, slack, "a limit that was raised counts at once")

	passes("9000 s")
	paid, wait = pay(10_000, 1)
	require.False(t, paid)
	require.InDelta(t, 1_000, wait, slack)
	passes("1000 s")
	paid, wait = pay(10_000, 1)
	require.True(t, paid)
	require.LessOrEqual(t, wait, ledger.PaceAhead.Seconds())

	passes("10 hours")
	paid, _ = pay(5_000, 1)
	require.True(t, paid)
	require.InDelta(t, -4_998, b.credit(t), 1, "two seconds' worth is all that can be saved up")

	require.NoError(t, b.PayMore(t.Context(), b.tableID, 500))
	require.NoError(t, b.PayMore(t.Context(), b.tableID, -200))
	require.InDelta(t, -5_298, b.credit(t), 1)

	passes("-10 hours") // the clock was set back
	paid, wait = pay(1, 1)
	require.False(t, paid)
	require.InDelta(t, 5_298, wait, slack)
}

// TestPayTogether has many pay at the same time for two seconds and more.
func TestPayTogether(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const rate, rows = 1000, 20
	var total atomic.Int64
	began := time.Now()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for time.Since(began) < 2500*time.Millisecond {
				paid, wait, err := b.Pay(t.Context(), b.tableID, rows, rate)
				if err != nil {
					t.Error(err)
					return
				}
				if paid {
					total.Add(rows)
				}
				if !paid && wait < 0 {
					t.Errorf("wait %s", wait)
				}
				timer := time.NewTimer(min(wait, 20*time.Millisecond))
				<-timer.C
			}
		})
	}
	all.Wait()
	elapsed := time.Since(began).Seconds()
	// Nothing was saved up at first; one second may be paid for ahead.
	require.LessOrEqual(t, float64(total.Load()), rate*(elapsed+ledger.PaceAhead.Seconds())+rows)
	require.GreaterOrEqual(t, float64(total.Load()), rate*elapsed*0.7)
}

func TestHold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	held := func() string {
		return b.db.Text(t, `SELECT held_for || CASE WHEN held_until > now() + interval '20 seconds' THEN ' 60' ELSE ' 5' END FROM archiver.table_throttle`)
	}
	require.NoError(t, b.Hold(t.Context(), b.tableID, "short", 5*time.Second))
	require.Equal(t, "short 5", held())
	require.NoError(t, b.Hold(t.Context(), b.tableID, "long", time.Minute))
	require.Equal(t, "long 60", held())
	require.NoError(t, b.Hold(t.Context(), b.tableID, "short", 5*time.Second))
	require.Equal(t, "long 60", held(), "the longer one stands")
}
