package main

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/audit-table-archiver/archiver/jobs"
)

// hands are how many batches a replica may work on at a time. Like the archiver's own
// replica it asks River for no more jobs than it has hands free.
type hands struct {
	fetching sync.Mutex
	mu       sync.Mutex
	free     int
	count    *counts
}

func (h *hands) take(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.free -= n
}

func (h *hands) left() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return max(h.free, 0)
}

type handedDriver struct {
	*riverpgxv5.Driver
	hands *hands
}

func newHandedDriver(pool *pgxpool.Pool, h *hands) *handedDriver {
	return &handedDriver{Driver: riverpgxv5.New(pool), hands: h}
}

// GetExecutor implements riverdriver.Driver.
func (d *handedDriver) GetExecutor() riverdriver.Executor {
	return &handedExecutor{Executor: d.Driver.GetExecutor(), hands: d.hands}
}

type handedExecutor struct {
	riverdriver.Executor
	hands *hands
}

// JobGetAvailable implements riverdriver.Executor, and counts.
func (e *handedExecutor) JobGetAvailable(ctx context.Context, p *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	if _, ours := jobs.QueueDatabase(p.Queue); !ours {
		return e.Executor.JobGetAvailable(ctx, p)
	}
	e.hands.fetching.Lock()
	defer e.hands.fetching.Unlock()
	limited := *p
	limited.MaxToLock = min(p.MaxToLock, e.hands.left())
	if limited.MaxToLock == 0 {
		return &riverdriver.JobGetAvailableResult{}, nil
	}
	res, err := e.Executor.JobGetAvailable(ctx, &limited)
	if err != nil {
		return nil, err
	}
	e.hands.take(len(res.Jobs))
	e.hands.count.fetched(len(res.Jobs))
	return res, nil
}
