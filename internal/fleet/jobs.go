package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// JobState is what an operator wants to know of a batch: the ledger's state alone
// does not say whether anybody works on it. A finished batch has the ledger's
// state, such as "archived".
type JobState string

// The states of a batch that is not finished.
const (
	JobRunning JobState = "running" // a live worker has it
	JobWaiting JobState = "waiting" // goes on by itself: after an error, a lock, an outage
	JobQueued  JobState = "queued"  // next when a seat is free
	JobFailed  JobState = "failed"  // nothing goes on before somebody has acted
	JobStuck   JobState = "stuck"   // running, but its worker holds no live lease
	JobLost    JobState = "lost"    // its job is not in the queue (any more), though it has not failed
)

// doing is the JobState of a batch b, whose job is j and whose live worker is w.
// A failed batch whose job is live again, as after a retry in River UI, has the
// state of that job: it needs nobody.
const doing = `CASE
	WHEN b.state IN ('archived', 'empty', 'cancelled') THEN b.state
	WHEN j.state = 'running' AND w.id IS NULL THEN 'stuck'
	WHEN j.state = 'running' THEN 'running'
	WHEN j.state IN ('available', 'pending', 'scheduled', 'retryable') THEN
		CASE WHEN b.waiting_for IS NOT NULL OR j.state = 'retryable' OR j.scheduled_at > now() THEN 'waiting' ELSE 'queued' END
	WHEN b.failed THEN 'failed'
	ELSE 'lost' END`

// lastWorker is who took the job last; a NULL for one that nobody ever took.
const lastWorker = `j.attempted_by[array_upper(j.attempted_by, 1)]`

const fromBatches = `
	FROM {s}.batch b
	JOIN {s}.archive_table t ON t.id = b.table_id
	LEFT JOIN {s}.river_job j ON j.id = b.job_id
	LEFT JOIN {s}.worker w ON w.id = ` + lastWorker + ` AND w.lease_until > now()`

// Job is a batch with its place in the queue.
type Job struct {
	ID                      int64 // River's; of a job that may be gone
	BatchID, RunID          int64
	Database, Schema, Table string
	State                   JobState
	Stage                   ledger.State // how far the batch has got
	Attempt                 int          // River's count; without a job the ledger's
	MaxAttempts             *int         // nil without a job
	LedgerAttempt           int          // counts every try, also those that cost nothing
	LastError, Hint         string       // empty: none
	WaitingFor              string       // empty: for nothing
	Worker                  string       // that has it, or had it when stuck
	Since                   time.Time    // that it is in this state
	NextTry                 *time.Time   // of a waiting one
}

const selectJobs = `SELECT b.id, b.job_id, b.run_id, t.database, t.schema, t.name, ` + doing + `, b.state,
	coalesce(j.attempt, b.attempt), j.max_attempts, b.attempt,
	coalesce(b.last_error, ''), coalesce(b.last_hint, ''), coalesce(b.waiting_for, ''),
	CASE WHEN j.state = 'running' THEN coalesce(` + lastWorker + `, '') ELSE '' END,
	CASE WHEN j.state = 'running' THEN coalesce(j.attempted_at, b.updated_at) ELSE b.updated_at END,
	CASE WHEN j.finalized_at IS NULL THEN j.scheduled_at END` + fromBatches

func scanJob(row pgx.CollectableRow) (j Job, err error) {
	err = row.Scan(&j.BatchID, &j.ID, &j.RunID, &j.Database, &j.Schema, &j.Table, &j.State, &j.Stage,
		&j.Attempt, &j.MaxAttempts, &j.LedgerAttempt, &j.LastError, &j.Hint, &j.WaitingFor, &j.Worker, &j.Since, &j.NextTry)
	return j, err
}

const open = `b.state IN ('planned', 'verified', 'deleting')`

// ofTable is a ledger.Filter; its arguments are $1 to $3.
const ofTable = `($1 = '' OR t.database = $1) AND ($3 = '' OR (t.schema = $2 AND t.name = $3))`

// EachJob calls fn for the batches that are not finished and are in one of the
// states, oldest first, at most limit of them (0: all). The rows are streamed. An
// error of fn ends the walk and is returned as it is.
func EachJob(ctx context.Context, l *ledger.Ledger, f ledger.Filter, states []JobState, limit int, fn func(Job) error) error {
	rows, err := l.Pool.Query(ctx, l.SQL(selectJobs+` WHERE `+open+` AND `+ofTable+` AND `+doing+` = ANY ($4) ORDER BY b.id LIMIT nullif($5, 0)`),
		f.Database, f.Schema, f.Table, states, limit)
	if err != nil {
		return fmt.Errorf("list batches: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		j, err := scanJob(rows)
		if err != nil {
			return fmt.Errorf("list batches: %w", err)
		}
		if err := fn(j); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("list batches: %w", err)
	}
	return nil
}

// CountJobs counts the batches that are not finished by state.
func CountJobs(ctx context.Context, l *ledger.Ledger, f ledger.Filter) (map[JobState]int64, error) {
	rows, err := l.Pool.Query(ctx, l.SQL(`SELECT `+doing+`, count(*)`+fromBatches+` WHERE `+open+` AND `+ofTable+` GROUP BY 1`), f.Database, f.Schema, f.Table)
	if err != nil {
		return nil, fmt.Errorf("count batches: %w", err)
	}
	counts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		State JobState
		N     int64
	}])
	if err != nil {
		return nil, fmt.Errorf("count batches: %w", err)
	}
	out := make(map[JobState]int64, len(counts))
	for _, c := range counts {
		out[c.State] = c.N
	}
	return out, nil
}

// ErrNoJob says that no batch has the job that was asked for.
var ErrNoJob = errors.New("no batch has this job")

// BatchOfJob is the batch that a job works, by the ledger: River forgets its
// finished jobs. Without one it returns ErrNoJob.
func BatchOfJob(ctx context.Context, l *ledger.Ledger, jobID int64) (int64, error) {
	var id int64
	err := l.Pool.QueryRow(ctx, l.SQL(`SELECT id FROM {s}.batch WHERE job_id = $1`), jobID).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, ErrNoJob
	}
	if err != nil {
		return 0, fmt.Errorf("look for job %d: %w", jobID, err)
	}
	return id, nil
}

// querier is what both a pool and a transaction offer.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// FindJob reads one batch with its job, finished or not. Without such a batch it
// returns ledger.ErrNotFound.
func FindJob(ctx context.Context, l *ledger.Ledger, batchID int64) (Job, error) {
	return findJob(ctx, l, l.Pool, batchID)
}

func findJob(ctx context.Context, l *ledger.Ledger, q querier, batchID int64) (Job, error) {
	rows, err := q.Query(ctx, l.SQL(selectJobs+` WHERE b.id = $1`), batchID)
	if err != nil {
		return Job{}, fmt.Errorf("read batch %d: %w", batchID, err)
	}
	j, err := pgx.CollectExactlyOneRow(rows, scanJob)
	if errors.Is(err, pgx.ErrNoRows) {
		return j, fmt.Errorf("batch %d: %w", batchID, ledger.ErrNotFound)
	}
	if err != nil {
		return j, fmt.Errorf("read batch %d: %w", batchID, err)
	}
	return j, nil
}
