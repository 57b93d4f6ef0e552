package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/fleet"
)

// lostAfter is how long a job may count as running here before this process has heard
// of it, and how long after its end its outcome may take to be recorded.
const lostAfter = 15 * time.Second

// running knows the jobs that River has handed to this process, and how many more it
// may take. When the answer to River's fetch is lost, a job is `running` in the database
// and nowhere else: its worker is alive, so no lease runs out, and River's own rescuer
// comes much later.
type running struct {
	size     int        // batches at a time in this process
	fetching sync.Mutex // held while River asks for jobs

	mu   sync.Mutex
	jobs map[int64]stay
}

func newRunning(size int) *running { return &running{size: size, jobs: map[int64]stay{}} }

// stay counts the attempts of one job that are under way: twins of it may meet in one
// process.
type stay struct {
	attempts int
	fetched  time.Time // and not yet begun; else zero
	ended    time.Time // the last of them
}

// busy: at work, or about to be. One that was fetched and could not be handed to the
// worker must not hold its place for ever.
func (s stay) busy() bool { return s.attempts > 0 || time.Since(s.fetched) < lostAfter }

// free is how many more jobs this process may take.
func (r *running) free() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.size
	for _, s := range r.jobs {
		if s.busy() {
			n--
		}
	}
	return max(n, 0)
}

func (r *running) fetched(id int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.jobs[id] = stay{attempts: r.jobs[id].attempts, fetched: time.Now()}
}

func (r *running) start(id int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
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
		if !s.busy() && time.Since(s.ended) > lostAfter {
			delete(r.jobs, id)
			continue
		}
		ids = append(ids, id)
	}
	return ids
}

// reclaim returns to the queue the jobs that were fetched for this replica and never
// reached it.
func (w *Worker) reclaim(ctx context.Context) {
	ids, err := fleet.Reclaim(ctx, w.Ledger, w.ID, append(w.running.known(), w.vacuuming.known()...), lostAfter)
	if err != nil && !errors.Is(err, context.Canceled) {
		w.Log.Warn("jobs that never reached this worker were not looked for", zap.Error(err))
	}
	if len(ids) > 0 {
		w.Log.Warn("jobs that never reached this worker were returned to the queue", zap.Int64s("job_ids", ids))
	}
}
