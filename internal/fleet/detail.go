package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// Detail is everything that is recorded about one batch.
type Detail struct {
	Job
	Batch      *ledger.Batch
	Errors     []rivertype.AttemptError // of the job's tries, oldest first; none without a job
	QueueState string                   // River's own word; empty without a job
	CreatedAt  time.Time
	ArchivedAt *time.Time
	Timings    *ledger.Timings // seconds of the attempt that archived it
}

// Describe reads one batch, finished or not. Without such a batch it returns
// ledger.ErrNotFound.
func Describe(ctx context.Context, l *ledger.Ledger, client *river.Client[pgx.Tx], batchID int64) (*Detail, error) {
	job, err := FindJob(ctx, l, batchID)
	if err != nil {
		return nil, err
	}
	d := &Detail{Job: job}
	if d.Batch, err = l.Get(ctx, batchID); err != nil {
		return nil, fmt.Errorf("batch %d: %w", batchID, err)
	}
	var timings []byte
	if err := l.Pool.QueryRow(ctx, l.SQL(`SELECT created_at, archived_at, timings FROM {s}.batch WHERE id = $1`), batchID).
		Scan(&d.CreatedAt, &d.ArchivedAt, &timings); err != nil {
		return nil, fmt.Errorf("read batch %d: %w", batchID, err)
	}
	if timings != nil {
		d.Timings = &ledger.Timings{}
		if err := json.Unmarshal(timings, d.Timings); err != nil {
			return nil, fmt.Errorf("read the timings of batch %d: %w", batchID, err)
		}
	}
	row, err := client.JobGet(ctx, job.ID)
	if errors.Is(err, rivertype.ErrNotFound) {
		return d, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read job %d: %w", job.ID, err)
	}
	d.Errors, d.QueueState = row.Errors, string(row.State)
	return d, nil
}
