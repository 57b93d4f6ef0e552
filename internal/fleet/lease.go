package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	Limits  Limits // by its configuration
}

// Lease is a replica's claim to be alive.
type Lease struct {
	ledger *ledger.Ledger
	id     string
	ttl    time.Duration

	mu      sync.Mutex
	renewed time.Time // when the last renewal that succeeded was sent
	trouble error     // why a later one did not
	over    error     // the lease was lost or given back
}

// Join registers a replica. It must come before the replica takes its first job.
func Join(ctx context.Context, l *ledger.Ledger, w Worker, ttl time.Duration) (*Lease, error) {
	began := time.Now()
	_, err := l.Pool.Exec(ctx, l.SQL(`
		INSERT INTO {s}.worker (id, host, pid, version, lease_until, limits, tables) VALUES ($1, $2, $3, $4, now() + $5::interval, $6, coalesce($7::text[], '{}'))`),
		w.ID, w.Host, w.PID, w.Version, interval(ttl), w.Limits, w.Limits.Tables)
	if err != nil {
		return nil, fmt.Errorf("register worker %s: %w", w.ID, err)
	}
	return &Lease{ledger: l, id: w.ID, ttl: ttl, renewed: began}, nil
}

// Held is nil while this replica may count on its jobs not running elsewhere, and
// otherwise says since when not, and why. It asks no database.
func (l *Lease) Held() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	age := time.Since(l.renewed)
	switch {
	case l.over != nil:
		return l.over
	case age < l.ttl*4/5:
		return nil
	case l.trouble != nil:
		return fmt.Errorf("not renewed for %s, of %s: %w", age.Round(time.Second), l.ttl, l.trouble)
	}
	return fmt.Errorf("not renewed for %s, of %s", age.Round(time.Second), l.ttl)
}

// errGivenBack is what Held says after Leave.
var errGivenBack = errors.New("given back: this replica ends")

// note keeps what became of a renewal, and returns ErrLeaseLost when it was the last.
func (l *Lease) note(began time.Time, renewed bool, err error, last bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.over != nil: // Leave was quicker
		return nil
	case renewed:
		l.renewed, l.trouble = began, nil
		return nil
	}
	l.trouble = err
	if last {
		l.over = ErrLeaseLost
	}
	return l.over
}

// Keep renews the lease three times in its lifetime until ctx ends, and then
// returns nil. It returns ErrLeaseLost when the lease was taken away, or could
// not be renewed for four fifths of its lifetime. A renewal that fails is tried again
// a tenth of it after it began: a restart of the database would take the lease otherwise
// if it met the second of two tries. One without an answer is given up after a quarter,
// which leaves nearly as long to the next. It has a connection of its own beside the
// pool's, so that a renewal never stands in line behind the work.
func (l *Lease) Keep(ctx context.Context) error {
	r := renewal{lease: l}
	defer r.release()
	next := time.NewTimer(l.ttl / 3)
	defer next.Stop()
	for {
		l.mu.Lock()
		deadline := l.renewed.Add(l.ttl * 4 / 5)
		l.mu.Unlock()
		late := time.NewTimer(time.Until(deadline))
		select {
		case <-ctx.Done():
			late.Stop()
			return nil
		case <-next.C:
		case <-late.C: // one more try would come too late
		}
		late.Stop()
		began := time.Now()
		renewCtx, cancel := context.WithDeadline(ctx, earliest(deadline, began.Add(l.ttl/4)))
		renewed, err := r.renew(renewCtx)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			next.Reset(time.Until(began.Add(l.ttl / 3)))
		} else {
			next.Reset(time.Until(began.Add(l.ttl / 10)))
		}
		if err := l.note(began, renewed, err, err == nil || !time.Now().Before(deadline)); err != nil {
			return err
		}
	}
}

// renewal is the connection that a lease is renewed over. One that swallows what is sent
// costs a try, and the next try makes another: where one is silent those that wait in the
// pool may be silent too, and to find that out takes the rest of the lease.
type renewal struct {
	lease *Lease
	conn  *pgx.Conn
}

func (r *renewal) renew(ctx context.Context) (bool, error) {
	l := r.lease
	if r.conn == nil {
		c, err := pgx.ConnectConfig(ctx, l.ledger.Pool.Config().ConnConfig)
		if err != nil {
			return false, err
		}
		r.conn = c
	}
	tag, err := r.conn.Exec(ctx, l.ledger.SQL(`UPDATE {s}.worker SET lease_until = now() + $2::interval WHERE id = $1`), l.id, interval(l.ttl))
	if err != nil {
		r.release()
		return false, err
	}
	return tag.RowsAffected() == 1, nil
}

func (r *renewal) release() {
	if r.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second) // the caller's has ended
		defer cancel()
		_ = r.conn.Close(ctx)
		r.conn = nil
	}
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Leave gives the lease back, so that nobody waits for it to run out.
func (l *Lease) Leave(ctx context.Context) error {
	l.mu.Lock()
	l.over = errGivenBack
	l.mu.Unlock()
	_, err := l.ledger.Pool.Exec(ctx, l.ledger.SQL(`DELETE FROM {s}.worker WHERE id = $1`), l.id)
	return err
}

// Lost is a job that counts as running on a replica which is dead.
type Lost struct {
	JobID            int64
	Worker, Database string
}

// Bury removes leases that have run out and lists the running jobs of replicas
// that hold none. From here on such a replica stops as soon as it wakes; its sessions on
// the sources should be ended next, and its jobs given to Return.
func Bury(ctx context.Context, l *ledger.Ledger) ([]Lost, error) {
	rows, err := l.Pool.Query(ctx, l.SQL(`
		WITH dead AS (
			DELETE FROM {s}.worker WHERE lease_until < now() - interval '1 second' RETURNING id
		), alive AS (
			SELECT id FROM {s}.worker WHERE id NOT IN (SELECT id FROM dead)
		)
		SELECT j.id, `+lastWorker+`, coalesce(j.args->>'database', '') FROM {s}.river_job j
		WHERE j.state = 'running' AND j.kind IN ('archive_batch', 'vacuum_table') AND j.attempted_at < now() - interval '1 second'
			AND NOT EXISTS (SELECT FROM alive WHERE id = `+lastWorker+`) ORDER BY 1`))
	if err != nil {
		return nil, fmt.Errorf("look for lost workers: %w", err)
	}
	lost, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Lost])
	if err != nil {
		return nil, fmt.Errorf("look for lost workers: %w", err)
	}
	return lost, nil
}

// Return puts the jobs that Bury listed back into the queue, unless they have moved on
// meanwhile. The attempt is given back: dying is no error of the batch. It returns how
// many went back. The change to river_job is the one that River's own rescuer makes.
func Return(ctx context.Context, l *ledger.Ledger, lost []Lost) (int, error) {
	ids, workers := make([]int64, len(lost)), make([]string, len(lost))
	for i, j := range lost {
		ids[i], workers[i] = j.JobID, j.Worker
	}
	tag, err := l.Pool.Exec(ctx, l.SQL(`
		UPDATE {s}.river_job j SET state = 'available', scheduled_at = now(), attempt = greatest(attempt - 1, 0),
			errors = array_append(errors, jsonb_build_object('at', now(), 'attempt', attempt, 'error', 'worker lost: ' || lost.worker, 'trace', ''))
		FROM unnest($1::bigint[], $2::text[]) lost(id, worker)
		WHERE j.id = lost.id AND j.state = 'running' AND `+lastWorker+` = lost.worker
			AND NOT EXISTS (SELECT FROM {s}.worker WHERE id = lost.worker)
			-- One that somebody has locked waits for the next look.
			AND j.id IN (SELECT id FROM {s}.river_job WHERE id = ANY ($1) FOR NO KEY UPDATE SKIP LOCKED)`), ids, workers)
	if err != nil {
		return 0, fmt.Errorf("return the jobs of lost workers: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

// Reclaim returns to the queue the jobs that the database counts as running on a
// live replica for longer than age, and that are not among those it knows: the answer
// to the fetch that gave it the job was lost. It returns their ids.
func Reclaim(ctx context.Context, l *ledger.Ledger, worker string, known []int64, age time.Duration) ([]int64, error) {
	rows, err := l.Pool.Query(ctx, l.SQL(`
		UPDATE {s}.river_job SET state = 'available', scheduled_at = now(), attempt = greatest(attempt - 1, 0),
			errors = array_append(errors, jsonb_build_object('error', 'never reached worker ' || $1::text, 'trace', '', 'attempt', attempt, 'at', now()))
		WHERE id IN (
			SELECT id FROM {s}.river_job WHERE state = 'running' AND kind IN ('archive_batch', 'vacuum_table') AND attempted_by[array_upper(attempted_by, 1)] = $1::text
				AND attempted_at < now() - $3::interval AND id <> ALL ($2::bigint[]) FOR NO KEY UPDATE SKIP LOCKED)
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
