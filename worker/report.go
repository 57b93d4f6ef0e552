package worker

import (
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// reportEvery is how often an attempt writes how far it is into its job, for River UI.
// Each time rewrites the job's row and its indexes, so that short batches never do.
const reportEvery = 5 * time.Second

// Stages of a running attempt, and how attempts end, as River UI shows them.
const (
	stageBegin   = "looking at the batch"
	stageRead    = "reading rows"
	stageUpload  = "uploading the object"
	stageVerify  = "reading the object back"
	stageDelete  = "deleting rows"
	stageResolve = "finding out whether the rows were deleted"
	stageRecord  = "writing the manifest"

	endWaits   = "waiting"
	endStopped = "stopped by a shutdown; goes on where it stands"
	endRetry   = "will be tried again"
	endFailed  = "failed"
)

// output is the job's output in River UI. Nothing is decided by it.
type output struct {
	Stage     string          `json:"stage"`
	Since     *time.Time      `json:"since,omitempty"` // of a stage that runs
	Reason    string          `json:"reason,omitempty"`
	Rows      int64           `json:"rows,omitempty"`
	Bytes     int64           `json:"bytes,omitempty"` // compressed
	ObjectKey string          `json:"object_key,omitempty"`
	VersionID string          `json:"version_id,omitempty"`
	Seconds   *ledger.Timings `json:"seconds,omitempty"`
}

// progress is how far an attempt is, for whoever reports it meanwhile.
type progress struct {
	spooled atomic.Int64 // bytes in the spool
	mu      sync.Mutex
	now     output
	stop    func() // ends the reporting, and waits for its end
}

// stage says what the attempt does from now on.
func (p *progress) stage(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := time.Now().UTC()
	p.now.Stage, p.now.Since = name, &since
}

// holds says what the batch's object holds, as soon as that is known.
func (p *progress) holds(rows, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.Rows, p.now.Bytes = rows, bytes
}

func (p *progress) get() output {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.now
	if o.Stage == stageRead {
		o.Bytes = p.spooled.Load()
	}
	return o
}

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

// startReport writes the attempt's progress into its job now and then, until the attempt
// reports its end or ctx ends. A batch is none the worse for a report that fails.
func (w *Worker) startReport(ctx context.Context, a *attempt) {
	a.progress.stage(stageBegin)
	client, err := river.ClientFromContextSafely[pgx.Tx](ctx)
	if err != nil {
		a.progress.stop = func() {}
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(reportEvery)
		defer tick.Stop()
		var last output
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if now := a.progress.get(); now != last {
				if _, err := client.JobUpdate(ctx, a.job.ID, &river.JobUpdateParams{Output: now}); err != nil {
					a.log.Debug("progress was not reported", zap.Error(err))
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
// both use the same part of ctx.
func (a *attempt) report(ctx context.Context, end, reason string) {
	o := a.progress.get()
	o.Stage, o.Since, o.Reason = end, nil, strings.ReplaceAll(reason, "\x00", "") // which jsonb cannot hold
	if b := a.batch; b != nil && b.Object != nil {
		o.Rows, o.Bytes, o.ObjectKey, o.VersionID = b.Object.Rows, b.Object.StoredBytes, b.Object.Key, b.Object.VersionID
	}
	t := a.timings
	t.Total = time.Since(a.began).Seconds()
	o.Seconds = &t
	if err := river.RecordOutput(ctx, o); err != nil {
		a.log.Debug("the result was not reported", zap.Error(err))
	}
}
