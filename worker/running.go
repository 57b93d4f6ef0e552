package worker

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/fleet"
)

// lostAfter is how long a job may count as running here before this process has heard
// of it, and how long after its end its outcome may take to be recorded.
const lostAfter = 15 * time.Second

// running knows the jobs that River has handed to this process. When the answer to
// River's fetch is lost, a job is `running` in the database and nowhere else: its
// worker is alive, so no lease runs out, and River's own rescuer comes much later.
type running struct {
	mu   sync.Mutex
	jobs map[int64]stay
}

// stay counts the attempts of one job that are under way: twins of it may meet in one
// process.
type stay struct {
	attempts int
	ended    time.Time // the last of them
}

func (r *running) start(id int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.jobs == nil {
		r.jobs = map[int64]stay{}
	}
	r.jobs[id] = stay{attempts: r.jobs[id].attempts + 1}
}

func (r *running) end(id int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.jobs[id] = stay{attempts: r.jobs[id].attempts - 1, ended: time.Now()}
}

// known lists the jobs that run here or have ended a moment ago.
func (r *running) known() []int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := []int64{}
	for id, s := range r.jobs {
		if s.attempts == 0 && time.Since(s.ended) > lostAfter {
			delete(r.jobs, id)
			continue
		}
		ids = append(ids, id)
	}
	return ids
}

// reclaim returns to the queue the jobs that were fetched for this replica and never
// reached it.
func (w *Worker) reclaim(ctx context.Context, self string) {
	ids, err := fleet.Reclaim(ctx, w.Ledger, self, w.running.known(), lostAfter)
	if err != nil && ctx.Err() == nil {
		w.Log.Warn("jobs that never reached this worker were not looked for", zap.Error(err))
	}
	if len(ids) > 0 {
		w.Log.Warn("jobs that never reached this worker were returned to the queue", zap.Int64s("job_ids", ids))
	}
}
