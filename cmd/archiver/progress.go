package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// How often progress is read from the ledger, and how often a line is printed
// where there is no terminal.
const (
	progressEvery     = 500 * time.Millisecond
	progressLineEvery = 5 * time.Second
)

// progress shows on stderr how far a run is: a bar on a terminal, else a line now
// and then. It is also where the log goes meanwhile, so that log lines come above
// the bar and do not tear it.
type progress struct {
	out      io.Writer
	terminal bool

	lined int64 // lines that were due when the last was printed

	mu    sync.Mutex
	bars  *mpb.Progress // while a bar is shown
	state progressState
}

type progressState struct {
	total, done, failed int64 // rows, rows, batches
	began, at           time.Time
}

// String is what people read: 1,000 of 5,000 rows, 20%, 500 rows/s, 8.0s left.
func (s progressState) String() string {
	text := fmt.Sprintf("%s of %s rows, %d%%", humanize.Comma(s.done), humanize.Comma(s.total), 100*s.done/max(s.total, 1))
	if seconds := s.at.Sub(s.began).Seconds(); s.done > 0 && seconds > 0 {
		rate := float64(s.done) / seconds
		text += fmt.Sprintf(", %s rows/s, %s left", humanize.Comma(int64(rate)), span(time.Duration(float64(s.total-s.done)/rate*float64(time.Second))))
	}
	if s.failed > 0 {
		text += fmt.Sprintf(", %s failed", plural(s.failed, "batch", "batches"))
	}
	return text
}

func newProgress(out io.Writer) *progress {
	f, ok := out.(*os.File)
	return &progress{out: out, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

// Write implements io.Writer. It must not hold the lock while it waits for the
// bar, which takes the lock to draw itself.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	bars := p.bars
	p.mu.Unlock()
	if bars != nil {
		if n, err := bars.Write(b); !errors.Is(err, mpb.ErrDone) {
			return n, err
		}
	}
	return p.out.Write(b)
}

// follow shows progress until ctx ends. read returns the rows that are left, and
// the batches that have failed; total is what was left in the beginning.
func (p *progress) follow(ctx context.Context, total int64, read func(context.Context) (left, failed int64, err error)) {
	if total == 0 {
		return
	}
	began := time.Now()
	p.set(progressState{total: total, began: began, at: began})
	show, finish := p.lines, func() {}
	if p.terminal {
		show, finish = p.bar(total)
	}
	defer finish()
	update := func(ctx context.Context) {
		left, failed, err := read(ctx)
		if err != nil {
			return // the worker says what is wrong with the control database
		}
		// A split or a late arrival can make more rows than were counted at first.
		p.set(progressState{total: total, done: max(total-left, 0), failed: failed, began: began, at: time.Now()})
	}
	wait := progressEvery
	for {
		next := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			next.Stop()
			update(last)
			return
		case <-next.C:
			looked := time.Now()
			update(ctx)
			wait = max(progressEvery, 20*time.Since(looked)) // a million batches take a while to sum up
			show()
		}
	}
}

func (p *progress) set(s progressState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = s
}

func (p *progress) get() progressState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// lines prints the state, but not more often than progressLineEvery.
func (p *progress) lines() {
	s := p.get()
	if n := int64(s.at.Sub(s.began) / progressLineEvery); n > p.lined {
		p.lined = n
		fmt.Fprintf(p, "progress: %s\n", s)
	}
}

// bar shows a bar; finish leaves its last state on the screen.
func (p *progress) bar(total int64) (show, finish func()) {
	bars := mpb.New(mpb.WithOutput(p.out), mpb.WithWidth(40))
	bar := bars.AddBar(total, mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + p.get().String() })))
	p.mu.Lock()
	p.bars = bars
	p.mu.Unlock()
	show = func() { bar.SetCurrent(min(p.get().done, total-1)) } // at its total it would end
	finish = func() {
		bar.SetCurrent(p.get().done)
		bar.Abort(false)
		bars.Wait()
		p.mu.Lock()
		p.bars = nil
		p.mu.Unlock()
	}
	return show, finish
}

// span writes a duration for people, to the second.
func span(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}
