package worker

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"go.uber.org/zap"
)

// reportEvery is how often an attempt writes how far it is into its job, for River UI.
// Each time rewrites the job's row and its indexes, so that short batches never do.
const reportEvery = 5 * time.Second

// Stages of a running attempt, and how attempts end, as River UI shows them.
const (
	stageBegin   = "checking the table and the configuration"
	stageRead    = "reading rows"
	stageUpload  = "uploading the object"
	stageVerify  = "reading the object back"
	stageDelete  = "deleting rows"
	stageResolve = "finding out whether the rows were deleted"
	stageRecord  = "writing the manifest"

	endWaits   = "waiting"
	endStopped = "stopped by a shutdown"
	endRetry   = "to be tried again, as it failed while"
	endFailed  = "failed while"
)

// progress is how far an attempt is, for whoever reports it meanwhile.
type progress struct {
	stop    func()       // ends the reporting, and waits for its end
	spooled atomic.Int64 // bytes in the spool

	mu          sync.Mutex
	stage       string
	since       time.Time
	rows, bytes int64 // of the object, as soon as they are known
}

// at says what the attempt does from now on.
func (p *progress) at(stage string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stage, p.since = stage, time.Now()
}

// where is the stage that the attempt is at.
func (p *progress) where() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stage
}

// holds says what the batch's object holds.
func (p *progress) holds(rows, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rows, p.bytes = rows, bytes
}

// String is what an attempt that runs shows.
func (p *progress) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := p.stage + " since " + p.since.UTC().Format(time.RFC3339)
	switch {
	case p.stage == stageRead:
		text += ", " + size(p.spooled.Load()) + " compressed so far"
	case p.rows > 0:
		text += ": " + humanize.Comma(p.rows) + " rows, " + size(p.bytes)
	}
	return text
}

func size(bytes int64) string { return humanize.Bytes(uint64(max(bytes, 0))) }

// counted counts what is written to w as spooled.
func (p *progress) counted(w io.Writer) io.Writer {
	p.spooled.Store(0)
	return spoolCounter{w, &p.spooled}
}

type spoolCounter struct {
	io.Writer
	n *atomic.Int64
}

func (c spoolCounter) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// startReport writes the attempt's progress into its job now and then, until
// progress.stop. A batch is none the worse for a report that fails.
func (w *Worker) startReport(ctx context.Context, a *attempt) {
	a.progress.at(stageBegin)
	client, err := river.ClientFromContextSafely[pgx.Tx](ctx)
	if err != nil {
		a.progress.stop = func() {}
		return
	}
	log := a.log // which claim replaces
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(reportEvery)
		defer tick.Stop()
		var last string
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if now := a.progress.String(); now != last {
				if _, err := client.JobUpdate(ctx, a.job.ID, &river.JobUpdateParams{Output: now}); err != nil {
					log.Debug("progress was not reported", zap.Error(err))
					continue
				}
				last = now
			}
		}
	})
	a.progress.stop = func() { cancel(); wg.Wait() }
}

// report gives the job its last output of this attempt. River stores it together with
// the job's next state, so it costs nothing more. Reporting progress must have stopped:
// both use the same part of ctx. An empty reason is left out.
func (a *attempt) report(ctx context.Context, end, reason string) {
	text := fmt.Sprintf("%s after %.2f s", end, time.Since(a.began).Seconds())
	if reason != "" {
		text += ": " + strings.ReplaceAll(reason, "\x00", "") // which jsonb cannot hold
	}
	if b := a.batch; b != nil && b.Object != nil {
		text += fmt.Sprintf("; %s rows, %s in %s", humanize.Comma(b.Object.Rows), size(b.Object.StoredBytes), b.Object.Key)
	}
	if err := river.RecordOutput(ctx, text); err != nil {
		a.log.Debug("the result was not reported", zap.Error(err))
	}
}
