package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// ErrLeaseLost says that this replica may count as dead for the others. The
// process must end at once, without reporting results.
var ErrLeaseLost = errors.New("the worker's lease is lost: its jobs may run elsewhere now")

// Worker names a replica.
type Worker struct {
	ID      string // River's client id
	Host    string
	PID     int
	Version string
}

// Lease is a replica's claim to be alive.
type Lease struct {
	ledger *ledger.Ledger
	id     string
	ttl    time.Duration
}

// Join registers a replica. It must come before the replica takes its first job.
func Join(ctx context.Context, l *ledger.Ledger, w Worker, ttl time.Duration) (*Lease, error) {
	_, err := l.Pool.Exec(ctx, l.SQL(`
		INSERT INTO {s}.worker (id, host, pid, version, lease_until) VALUES ($1, $2, $3, $4, now() + $5::interval)`),
		w.ID, w.Host, w.PID, w.Version, interval(ttl))
	if err != nil {
		return nil, fmt.Errorf("register worker %s: %w", w.ID, err)
	}
	return &Lease{ledger: l, id: w.ID, ttl: ttl}, nil
}

// Keep renews the lease three times in its lifetime until ctx ends, and then
// returns nil. It returns ErrLeaseLost when the lease was taken away, or could
// not be renewed for four fifths of its lifetime.
func (l *Lease) Keep(ctx context.Context) error {
	tick := time.NewTicker(l.ttl / 3)
	defer tick.Stop()
	renewed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		began := time.Now()
		deadline := renewed.Add(l.ttl * 4 / 5)
		renewCtx, cancel := context.WithDeadline(ctx, deadline)
		tag, err := l.ledger.Pool.Exec(renewCtx, l.ledger.SQL(`UPDATE {s}.worker SET lease_until = now() + $2::interval WHERE id = $1`), l.id, interval(l.ttl))
		cancel()
		switch {
		case err == nil && tag.RowsAffected() == 1:
			renewed = began
		case ctx.Err() != nil:
			return nil
		case err == nil, !time.Now().Before(deadline):
			return ErrLeaseLost
		}
	}
}

// Leave gives the lease back, so that nobody waits for it to run out.
func (l *Lease) Leave(ctx context.Context) error {
	_, err := l.ledger.Pool.Exec(ctx, l.ledger.SQL(`DELETE FROM {s}.worker WHERE id = $1`), l.id)
	return err
}

// Reap removes leases that have run out and returns the running batch jobs of
// workers that hold none to the queue. The attempt is given back: dying is no
// error of the batch. It returns the ids of those jobs.
//
// The change to river_job is the one that River's own rescuer makes.
func Reap(ctx context.Context, l *ledger.Ledger) ([]int64, error) {
	lost, err := json.Marshal(map[string]any{"error": "worker lost", "trace": "", "attempt": 0, "at": time.Now().UTC()})
	if err != nil {
		return nil, err
	}
	rows, err := l.Pool.Query(ctx, l.SQL(`
		WITH dead AS (
			DELETE FROM {s}.worker WHERE lease_until < now() - interval '1 second' RETURNING id
		), alive AS (
			SELECT id FROM {s}.worker WHERE id NOT IN (SELECT id FROM dead)
		)
		UPDATE {s}.river_job SET state = 'available', scheduled_at = now(), attempt = greatest(attempt - 1, 0),
			errors = array_append(errors, $1::jsonb || jsonb_build_object('attempt', attempt, 'error', 'worker lost: ' || attempted_by[array_upper(attempted_by, 1)]))
		WHERE state = 'running' AND kind = 'archive_batch' AND attempted_at < now() - interval '1 second'
		  AND attempted_by[array_upper(attempted_by, 1)] NOT IN (SELECT id FROM alive)
		RETURNING id`), string(lost))
	if err != nil {
		return nil, fmt.Errorf("return the jobs of lost workers: %w", err)
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, fmt.Errorf("return the jobs of lost workers: %w", err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("return the jobs of lost workers: %w", err)
	}
	return ids, nil
}

// Reclaim returns to the queue the jobs that the database counts as running on a
// live replica for longer than age, and that are not among those it knows: the answer
// to the fetch that gave it the job was lost. It returns their ids.
func Reclaim(ctx context.Context, l *ledger.Ledger, worker string, known []int64, age time.Duration) ([]int64, error) {
	rows, err := l.Pool.Query(ctx, l.SQL(`
		UPDATE {s}.river_job SET state = 'available', scheduled_at = now(), attempt = greatest(attempt - 1, 0),
			errors = array_append(errors, jsonb_build_object('error', 'never reached worker ' || $1::text, 'trace', '', 'attempt', attempt, 'at', now()))
		WHERE state = 'running' AND kind = 'archive_batch' AND attempted_by[array_upper(attempted_by, 1)] = $1::text
		  AND attempted_at < now() - $3::interval AND id <> ALL ($2::bigint[])
		RETURNING id`), worker, known, interval(age))
	if err != nil {
		return nil, fmt.Errorf("return jobs that never reached this worker: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("return jobs that never reached this worker: %w", err)
	}
	return ids, nil
}

// interval is a duration as text for a parameter of that type. Before version 15 no
// field of it may exceed 2^31, so it is not in microseconds.
func interval(d time.Duration) string { return fmt.Sprintf("%.6f seconds", d.Seconds()) }
