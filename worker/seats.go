package worker

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/audit-table-archiver/archiver/jobs"
)

// seatedDriver is River's driver for pgx whose fetches ask for no more batch jobs than
// this process has hands free, over all of its queues. River limits each queue by itself;
// a job that it fetched for a process with no hand free would hold a seat of the fleet for
// nothing. The driver is where all fetches pass. River calls this interface unstable: a
// change of it does not compile.
type seatedDriver struct {
	*riverpgxv5.Driver
	running *running
	takes   func() bool
}

func newSeatedDriver(pool *pgxpool.Pool, r *running, takes func() bool) *seatedDriver {
	return &seatedDriver{Driver: riverpgxv5.New(pool), running: r, takes: takes}
}

// GetExecutor implements riverdriver.Driver.
func (d *seatedDriver) GetExecutor() riverdriver.Executor {
	return &seatedExecutor{Executor: d.Driver.GetExecutor(), running: d.running, takes: d.takes}
}

type seatedExecutor struct {
	riverdriver.Executor
	running *running
	takes   func() bool
}

// JobGetAvailable implements riverdriver.Executor. Fetches of one process come one
// after another: each must know what the one before it has got.
func (e *seatedExecutor) JobGetAvailable(ctx context.Context, p *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	if _, ours := jobs.QueueDatabase(p.Queue); !ours {
		return e.Executor.JobGetAvailable(ctx, p)
	}
	e.running.fetching.Lock()
	defer e.running.fetching.Unlock()
	limited := *p
	limited.MaxToLock = min(p.MaxToLock, e.running.free())
	if limited.MaxToLock == 0 || !e.takes() {
		return &riverdriver.JobGetAvailableResult{}, nil
	}
	res, err := e.Executor.JobGetAvailable(ctx, &limited)
	if err != nil {
		return nil, err
	}
	for _, j := range res.Jobs {
		e.running.fetched(j.ID)
	}
	return res, nil
}
