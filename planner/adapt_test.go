package planner

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
)

func adaptive(batchSize int) config.Table {
	return config.Table{BatchSize: batchSize, Adaptive: config.AdaptiveBatch{Enabled: true, MinBatchSize: 1000, MaxBatchSize: 50000, TargetQueryTime: 2 * time.Second}}
}

// costs is the pace of a table whose rows take so long each.
func costs(perRow time.Duration) ledger.Pace {
	return ledger.Pace{QueryRows: 1e6, QuerySeconds: 1e6 * perRow.Seconds()}
}

// TestNextSizeConverges follows windows on tables and servers of several speeds.
func TestNextSizeConverges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		perRow time.Duration
		within [2]int // after enough windows
	}{
		{"narrow rows, a fast disk", 10 * time.Microsecond, [2]int{50000, 50000}},
		{"40 us a row: the target would take 50,000", 40 * time.Microsecond, [2]int{50000, 50000}},
		{"audit rows: just within the target", 100 * time.Microsecond, [2]int{17500, 20000}},
		{"wide rows", 500 * time.Microsecond, [2]int{2500, 4000}},
		{"a database on its knees", 10 * time.Millisecond, [2]int{1000, 1000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			table, size := adaptive(10000), 10000
			for range 20 {
				next := nextSize(table, size, table.Adaptive.MaxBatchSize, costs(c.perRow))
				require.GreaterOrEqual(t, next, 1000)
				require.LessOrEqual(t, next, 50000)
				if c.perRow*time.Duration(next) > time.Second { // half of the target
					require.LessOrEqual(t, next-size, 2500, "additive increase")
				}
				require.LessOrEqual(t, next, 4*size)
				require.GreaterOrEqual(t, 2*next, size, "at most halved at a time")
				size = next
			}
			require.GreaterOrEqual(t, size, c.within[0])
			require.LessOrEqual(t, size, c.within[1])
			require.Equal(t, size, nextSize(table, size, table.Adaptive.MaxBatchSize, costs(c.perRow)), "it stays")
		})
	}
}

func TestNextSizeReacts(t *testing.T) {
	t.Parallel()
	table := adaptive(10000)
	size := 50000
	for _, want := range []int{25000, 12500, 6250, 3125, 3125} {
		size = nextSize(table, size, 50000, costs(500*time.Microsecond))
		require.Equal(t, want, size)
	}
	for _, want := range []int{12500, 50000, 50000} {
		size = nextSize(table, size, 50000, costs(10*time.Microsecond))
		require.Equal(t, want, size, "and back when it is fast again")
	}
}

func TestFirstSize(t *testing.T) {
	t.Parallel()
	fast, slow := costs(10*time.Microsecond), costs(time.Millisecond)
	with := func(p ledger.Pace, size, from int) ledger.Pace { p.BatchSize, p.BatchSizeFrom = size, from; return p }
	for _, c := range []struct {
		name  string
		table config.Table
		pace  ledger.Pace
		want  int
	}{
		{"nothing measured", adaptive(10000), ledger.Pace{}, 10000},
		{"fast: as configured", adaptive(10000), with(fast, 10000, 10000), 10000},
		{"as the last run left it", adaptive(10000), with(fast, 32500, 10000), 32500},
		{"slow", adaptive(10000), with(slow, 10000, 10000), 5000},
		{"recovers", adaptive(10000), with(costs(150*time.Microsecond), 5000, 10000), 7500},
		{"recovers at once when it is fast", adaptive(10000), with(fast, 5000, 10000), 10000},
		{"and no further", adaptive(10000), with(fast, 9000, 10000), 10000},
		{"batch_size was changed", adaptive(20000), with(fast, 32500, 10000), 20000},
		{"bounds were changed", adaptive(10000), with(fast, 90000, 10000), 50000},
		{"below the bounds: as configured", adaptive(100), with(fast, 5000, 100), 100},
		{"above the bounds: as configured", adaptive(90000), with(slow, 50000, 90000), 90000},
		{"switched off", config.Table{BatchSize: 10000}, with(slow, 5000, 10000), 10000},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, firstSize(c.table, c.pace))
		})
	}
}

// TestEvenSize: the last window gives each seat as many batches, of at most the size that
// was asked for, and with the rows of one batch too few at most.
func TestEvenSize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		size  int
		rows  int64
		seats int
		want  int
	}{
		{40000, 0, 2, 40000},
		{40000, 320000, 2, 40000},
		{40000, 320000, 3, 35556}, // nine batches, not eight
		{40000, 200000, 2, 33334}, // six, not five
		{40000, 40000, 4, 10000},
		{40000, 1, 4, 1000}, // min_batch_size
		{500, 300, 4, 500},  // which is not made larger
		{40000, 100000, 0, 33334},
	} {
		require.Equal(t, c.want, evenSize(adaptive(10000), c.size, c.rows, c.seats), "%+v", c)
	}
	for range 1000 {
		size, rows, seats := 1000+rand.IntN(50000), 1+rand.Int64N(3_000_000), 1+rand.IntN(20)
		even := evenSize(adaptive(10000), size, rows, seats)
		require.LessOrEqual(t, even, size)
		if even == 1000 {
			continue
		}
		batches := divideUp(rows, int64(even))
		require.LessOrEqual(t, batches, divideUp(divideUp(rows, int64(size)), int64(seats))*int64(seats), "no more rounds than before")
		require.Less(t, divideUp(batches, int64(seats))*int64(seats)-batches, int64(2), "%d rows, size %d, %d seats: %d batches of %d", rows, size, seats, batches, even)
	}
}
