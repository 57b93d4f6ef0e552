package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// fleet is replicas that are killed and started again, until enough were killed.
type fleet struct {
	s     *site
	want  int64 // kills; 0: nobody is killed, and replicas that end by themselves are replaced
	kills atomic.Int64
	stops atomic.Int64 // stopped for longer than the lease
	lost  atomic.Int64 // ended by themselves, since their lease was lost

	work sync.WaitGroup
	mu   sync.Mutex
	errs []error
}

// launch keeps n replicas alive, and a planner, each of which has its own random
// numbers, until enough were killed or ctx ends. wait must be called.
func (s *site) launch(ctx context.Context, seed uint64, n int, want int64) *fleet {
	f := &fleet{s: s, want: want}
	for i := range n {
		f.work.Go(func() { f.note(f.keep(ctx, stream(seed, i))) })
	}
	f.work.Go(func() { f.note(f.plan(ctx, stream(seed, n))) })
	return f
}

func (f *fleet) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = append(f.errs, err)
}

// wait waits until all replicas are gone.
func (f *fleet) wait() error {
	f.work.Wait()
	return errors.Join(f.errs...)
}

func (f *fleet) goesOn(ctx context.Context) bool {
	return ctx.Err() == nil && (f.want == 0 || f.kills.Load() < f.want)
}

// keep runs one replica after the other.
func (f *fleet) keep(ctx context.Context, r *rand.Rand) error {
	for f.goesOn(ctx) {
		failpoints := ""
		if f.want > 0 && r.IntN(3) > 0 { // most of the time at some point, at one of its first passes
			failpoints = fmt.Sprintf("%s,%s", passing(r, "kill"), passing(r, "error"))
		}
		p, err := f.s.start(context.WithoutCancel(ctx), failpoints, "work")
		if err != nil {
			return err
		}
		f.live(ctx, r, p)
		switch {
		case p.killed():
			f.kills.Add(1)
		case p.lostLease():
			f.lost.Add(1)
		case ctx.Err() != nil && p.cmd.ProcessState.ExitCode() <= 1:
			// The end of the test, or a shutdown that was given up.
		case f.want == 0 && p.cmd.ProcessState.ExitCode() == 13:
			// It was started while a server was down.
			pause(ctx, 300*time.Millisecond)
		default:
			return p.surprise()
		}
	}
	return nil
}

// live lets a replica live for a while.
func (f *fleet) live(ctx context.Context, r *rand.Rand, p *process) {
	life := between(r, 200*time.Millisecond, 2500*time.Millisecond)
	if f.want == 0 {
		life = time.Hour
	}
	stop := f.want > 0 && r.IntN(15) == 0
	lived, end := context.WithTimeout(ctx, life)
	defer end()
	select {
	case <-p.ended:
		return
	case <-lived.Done():
	}
	if stop {
		f.stops.Add(1)
		p.signal(syscall.SIGSTOP)
		pause(ctx, lease+lease/2)
		p.signal(syscall.SIGCONT)
		if pause(ctx, between(r, 0, 500*time.Millisecond)); f.want > 0 {
			p.signal(syscall.SIGKILL)
		}
	}
	if f.want > 0 {
		p.signal(syscall.SIGKILL)
	} else {
		p.signal(syscall.SIGTERM)
	}
	<-p.ended
}

// passing is an action at some point, at one of the first times that it is passed.
func passing(r *rand.Rand, action string) string {
	name, _, _ := strings.Cut(points[r.IntN(len(points))], "@")
	return fmt.Sprintf("%s=%s@%d", name, action, 1+r.IntN(6))
}

// plan plans what the mutators write, and is killed at it now and then.
func (f *fleet) plan(ctx context.Context, r *rand.Rand) error {
	for pause(ctx, between(r, 200*time.Millisecond, time.Second)) && f.goesOn(ctx) {
		failpoints := ""
		if f.want > 0 && r.IntN(4) == 0 {
			failpoints = at("enqueue:page", "kill")
		}
		p, err := f.s.start(context.WithoutCancel(ctx), failpoints, "plan")
		if err != nil {
			return err
		}
		<-p.ended
		switch code := p.cmd.ProcessState.ExitCode(); {
		case p.killed():
			f.kills.Add(1)
		case code == 0 || f.want == 0: // servers may be down
		case code == 3 || code == 13: // a lock was not to be had
		default:
			return p.surprise()
		}
	}
	return nil
}

// report prints what a test has been through.
func (s *site) report(t *testing.T, began time.Time, f *fleet, all []*mutator, at figures) {
	t.Helper()
	kinds := map[string]int{}
	var changes int64
	for _, m := range all {
		m.mu.Lock()
		for name, n := range m.count {
			kinds[name] += n
		}
		m.mu.Unlock()
		changes += m.done.Load()
	}
	t.Logf("survived %d kills and %d stops beyond the lease (%d replicas ended themselves); moved %d rows in %d batches and objects, while %d changes were made: %v; the oracle was asked %d times; %v",
		f.kills.Load(), f.stops.Load(), f.lost.Load(), at.rows, at.batches, changes, kinds, s.oracle.looks, time.Since(began).Round(time.Second))
}
