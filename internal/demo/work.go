package demo

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"

	"github.com/audit-table-archiver/archiver/internal/localserver"
)

const (
	workers       = 2
	progressEvery = time.Second
)

// work runs the workers until the queue is empty, and shows how far they are.
func (s *story) work(ctx context.Context) error {
	args := []string{"work", "--drain"}
	p := &progress{screen: s.screen, old: s.old, began: time.Now()}
	group, working := errgroup.WithContext(ctx)
	for i := range workers {
		s.command("ARCHIVER_LOG_FORMAT=json archiver %s    # worker %d, at the same time", strings.Join(args, " "), i+1)
		group.Go(func() error {
			out := &lines{show: func(line string) { s.linef("%sworker %d: %s", indent, i+1, line) }}
			log := &lines{show: func(line string) { p.logged(i, line) }}
			err := localserver.Program{
				Path: s.Archiver, Args: args, Env: s.environment("ARCHIVER_LOG_FORMAT=json"), Stdout: out, Stderr: log,
			}.Run(working)
			out.Close()
			log.Close()
			return commandError(working, args, err)
		})
	}
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { p.watch(ended) })
	err := group.Wait()
	close(ended)
	watching.Wait()
	if err != nil {
		return err
	}
	s.working = time.Since(p.began)
	for i := range workers {
		s.linef("%sworker %d archived %s", indent, i+1, p.of(i))
	}
	s.done(p.began, "both workers ended by themselves: nothing is left to do")

	began := time.Now()
	if err := s.execute(ctx, "VACUUM (ANALYZE) public.audit_logs"); err != nil {
		return err
	}
	s.done(began, "VACUUM (ANALYZE) public.audit_logs: the room of the deleted rows can be used again")
	if s.after, err = s.measure(ctx); err != nil {
		return err
	}
	return nil
}

// progress adds up what the workers log.
type progress struct {
	screen *screen
	old    int64
	began  time.Time

	mu      sync.Mutex
	batches [workers]int
	rows    [workers]int64
}

// logged takes one line of a worker's log. Batches are counted; what needs
// somebody's attention is shown.
func (p *progress) logged(worker int, line string) {
	var entry struct {
		Level   string `json:"level"`
		Msg     string `json:"msg"`
		Error   string `json:"error"`
		Records int64  `json:"records"`
	}
	if err := json.Unmarshal([]byte(line), &entry); err != nil {
		p.screen.linef("%sworker %d: %s", indent, worker+1, line)
		return
	}
	switch {
	case entry.Msg == "batch archived":
		p.mu.Lock()
		p.batches[worker]++
		p.rows[worker] += entry.Records
		p.mu.Unlock()
	case entry.Level != "info" && entry.Level != "debug":
		text := entry.Msg
		if entry.Error != "" {
			text += ": " + entry.Error
		}
		p.screen.linef("%sworker %d: %s: %s", indent, worker+1, entry.Level, text)
	}
}

// watch shows the sum now and then, when it has changed.
func (p *progress) watch(ended <-chan struct{}) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	shown := int64(-1)
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		batches, rows := 0, int64(0)
		for i := range workers {
			batches, rows = batches+p.batches[i], rows+p.rows[i]
		}
		p.mu.Unlock()
		if rows == shown {
			continue
		}
		shown = rows
		p.screen.linef("%s%5s  %s of %s rows archived, in %s", indent, seconds(time.Since(p.began)), humanize.Comma(rows), humanize.Comma(p.old), count(batches, "object"))
	}
}

// of is what one worker has archived.
func (p *progress) of(worker int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return count(p.rows[worker], "row") + " in " + count(p.batches[worker], "batch")
}
