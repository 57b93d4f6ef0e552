package planner

import (
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
