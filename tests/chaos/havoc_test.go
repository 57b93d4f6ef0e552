//go:build failpoint

package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/audit-table-archiver/archiver/internal/fleet"
)

// havoc is everything that happens to the fleet, and how often it did.
type havoc struct {
	s    *site
	work sync.WaitGroup

	mu    sync.Mutex
	count map[string]int
	errs  []error
	alive []*replica
}

// replica is a process that is started again whenever it ends, as a service manager does.
type replica struct {
	mu      sync.Mutex
	cmd     *exec.Cmd
	stopped bool // by SIGSTOP
}

func (h *havoc) note(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count[what]++
}

func (h *havoc) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.errs = append(h.errs, err)
}

// start keeps the replicas alive until ctx ends, and then stops them in order.
func start(ctx context.Context, s *site) *havoc {
	h := &havoc{s: s, count: map[string]int{}}
	for range replicas {
		r := &replica{}
		h.alive = append(h.alive, r)
		h.work.Go(func() { h.keep(ctx, r) })
	}
	return h
}

func (h *havoc) keep(ctx context.Context, r *replica) {
	for ctx.Err() == nil {
		var out bytes.Buffer
		cmd := h.s.command(context.WithoutCancel(ctx), "extract:copied=slow@"+batchTime, "work")
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			h.fail(err)
			return
		}
		r.mu.Lock()
		r.cmd = cmd
		r.mu.Unlock()
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-ctx.Done():
			r.mu.Lock()
			_ = cmd.Process.Signal(syscall.SIGCONT)
			r.mu.Unlock()
			_ = cmd.Process.Signal(syscall.SIGTERM)
			<-ended
		}
		switch code := cmd.ProcessState.ExitCode(); {
		case code == -1: // killed
		case code == 0 && ctx.Err() != nil:
		case code == 1 && bytes.Contains(out.Bytes(), []byte("lease is lost")):
			h.note("ended itself")
		case code == 13: // the control database was away when it started
			wait(ctx, 300*time.Millisecond)
		case ctx.Err() != nil: // did not stop in time
		default:
			h.fail(fmt.Errorf("a replica ended with %v:\n%s", cmd.ProcessState, tail(out.String())))
			return
		}
	}
}

// often does something again and again, after a random time each.
func (h *havoc) often(ctx context.Context, r *rand.Rand, least, most time.Duration, do func(context.Context, *rand.Rand) error) {
	h.work.Go(func() {
		for wait(ctx, between(r, least, most)) {
			if err := do(ctx, r); err != nil && ctx.Err() == nil {
				h.note("operator met an outage")
			}
		}
	})
}

// wreak begins everything but the crashes of the control database.
func (h *havoc) wreak(ctx context.Context, seed uint64) {
	n := uint64(0)
	stream := func() *rand.Rand { n++; return rand.New(rand.NewPCG(seed, n)) }
	h.often(ctx, stream(), 10*time.Second, 30*time.Second, h.kill)
	h.often(ctx, stream(), 20*time.Second, 60*time.Second, h.freeze)
	h.often(ctx, stream(), 5*time.Second, 25*time.Second, h.pause)
	h.often(ctx, stream(), time.Second, 4*time.Second, h.retry)
	h.often(ctx, stream(), time.Second, 4*time.Second, h.deleteJob)
}

func (h *havoc) pick(r *rand.Rand) *replica { return h.alive[r.IntN(len(h.alive))] }

func (h *havoc) kill(_ context.Context, r *rand.Rand) error {
	p := h.pick(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil && !p.stopped {
		_ = p.cmd.Process.Kill()
		h.note("kill -9")
	}
	return nil
}

// freeze stops a replica, most of the time for longer than its lease.
func (h *havoc) freeze(ctx context.Context, r *rand.Rand) error {
	p := h.pick(r)
	p.mu.Lock()
	cmd := p.cmd
	if cmd == nil || p.stopped {
		p.mu.Unlock()
		return nil
	}
	p.stopped = true
	_ = cmd.Process.Signal(syscall.SIGSTOP)
	p.mu.Unlock()
	h.note("SIGSTOP")
	wait(ctx, between(r, lease/2, 3*lease))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = false
	_ = cmd.Process.Signal(syscall.SIGCONT)
	return nil
}

// pause pauses something for a while, by the archiver or in River UI's way.
func (h *havoc) pause(ctx context.Context, r *rand.Rand) error {
	scope := fleet.Scope{Database: databases[r.IntN(len(databases))]}
	queue := "db_" + scope.Database
	byHand := false
	switch r.IntN(4) {
	case 0:
		scope = fleet.Scope{}
	case 1:
		scope.Schema, scope.Table = "public", tables[r.IntN(len(tables))]
	case 2:
		byHand = true
	}
	if byHand {
		if err := h.s.queue.QueuePause(ctx, queue, &river.QueuePauseOpts{}); err != nil {
			return err
		}
	} else if _, err := fleet.Pause(ctx, h.s.ledger, scope); err != nil {
		return err
	}
	h.note("pause")
	length := between(r, 500*time.Millisecond, 5*time.Second)
	if scope.Database == "" {
		length = between(r, 500*time.Millisecond, 2*time.Second)
	}
	wait(ctx, length)
	for { // it must not stay paused, whatever is away just now
		done, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		var err error
		if byHand {
			err = h.s.queue.QueueResume(done, queue, &river.QueuePauseOpts{})
		} else {
			_, err = fleet.Resume(done, h.s.ledger, h.s.queue, scope)
		}
		cancel()
		if err == nil {
			return nil
		}
		if !wait(context.WithoutCancel(ctx), 200*time.Millisecond) {
			return errors.New("unreachable")
		}
	}
}

// retry puts jobs back into the queue in River UI's way, whatever they do just now.
func (h *havoc) retry(ctx context.Context, r *rand.Rand) error {
	ids, err := h.some(ctx, r, `state IN ('pending', 'available', 'completed')`, 1+r.IntN(20))
	for _, id := range ids {
		if _, err := h.s.queue.JobRetry(ctx, id); err != nil {
			return err
		}
		h.note("retry")
	}
	return err
}

func (h *havoc) deleteJob(ctx context.Context, r *rand.Rand) error {
	ids, err := h.some(ctx, r, `state IN ('pending', 'available')`, 1+r.IntN(3))
	for _, id := range ids {
		if _, err := h.s.queue.JobDelete(ctx, id); err == nil { // a running one is refused
			h.note("delete")
		}
	}
	return err
}

func (h *havoc) some(ctx context.Context, r *rand.Rand, which string, n int) ([]int64, error) {
	rows, err := h.s.control.Pool.Query(ctx, `SELECT id FROM archiver.river_job WHERE kind = 'archive_batch' AND `+which+`
		AND id >= (SELECT min(id) + ((max(id) - min(id)) * $1::float8)::bigint FROM archiver.river_job) ORDER BY id LIMIT $2`, r.Float64(), n)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}
