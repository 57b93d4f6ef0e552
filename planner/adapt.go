package planner

import (
	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
)

const (
	// stepShare is the part of batch_size by which a batch grows at a time.
	stepShare = 4
	// startFactor is how many times larger it becomes while queries are quick.
	startFactor = 4
)

// adapts says whether the table's batch size follows its query times. One that was
// configured outside of the bounds was chosen on purpose and stays.
func adapts(c config.Table) bool {
	return c.Adaptive.Enabled && c.Adaptive.MinBatchSize <= c.BatchSize && c.BatchSize <= c.Adaptive.MaxBatchSize
}

// CurrentSize is the batch size that earlier windows have brought about, unless
// batch_size was changed since: then adapting starts afresh from that.
func CurrentSize(c config.Table, l ledger.Pace) int {
	if !adapts(c) || l.BatchSize == 0 || l.BatchSizeFrom != c.BatchSize {
		return c.BatchSize
	}
	return min(max(l.BatchSize, c.Adaptive.MinBatchSize), c.Adaptive.MaxBatchSize)
}

// nextSize is the batch size of the next window: half of the current one where queries
// take longer than target_query_time; up to four times as much, where they would take half
// of that at most even so, as TCP starts slowly; else a quarter of batch_size more where
// they would stay within it, at most most. What decides is the measured time of a row, not
// of a batch: batches that finish now may have been planned with an earlier size, and
// must not make it shrink twice.
func nextSize(c config.Table, size, most int, l ledger.Pace) int {
	if !adapts(c) || l.QueryRows <= 0 {
		return size
	}
	target := c.Adaptive.TargetQueryTime.Seconds()
	perRow := l.QuerySeconds / l.QueryRows
	if perRow*float64(size) > target {
		return max(size/2, c.Adaptive.MinBatchSize)
	}
	roomy := min(target/2/perRow, float64(startFactor*size))
	grown := min(max(size+max(c.BatchSize/stepShare, 1), int(roomy)), most, c.Adaptive.MaxBatchSize)
	if grown > size && perRow*float64(grown) <= target {
		return grown
	}
	return size
}

// firstSize is the batch size of a new run. It shrinks where the last queries were
// slow, and recovers up to batch_size; it grows beyond that only within a run.
func firstSize(c config.Table, l ledger.Pace) int {
	size := CurrentSize(c, l)
	return nextSize(c, size, max(size, c.BatchSize), l)
}

// evenSize is the batch size of a run's last window: at most size, and small enough that
// the rows make as many batches for one seat as for another. Otherwise a seat or two would
// work on the last large batches while the others have nothing to do.
func evenSize(c config.Table, size int, rows int64, seats int) int {
	if rows == 0 {
		return size
	}
	round := int64(max(seats, 1)) // batches that are worked on at a time
	rounds := divideUp(rows, round*int64(size))
	return min(size, max(int(divideUp(rows, rounds*round)), c.Adaptive.MinBatchSize))
}

func divideUp(n, by int64) int64 { return (n + by - 1) / by }
