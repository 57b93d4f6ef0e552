package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/jobs"
)

// drainEvery is how often a drain looks at the queue while more than one job is left; for
// the last one it looks when that ends, if it is this process's own. drainShare is how much
// longer it waits than a look takes: counting a million jobs again and again would be work
// for the control database of its own.
const (
	drainEvery = 100 * time.Millisecond
	drainShare = 20
)

// Backlog counts the jobs of some databases that are not finished: batches and vacuums.
type Backlog struct {
	Running, Ready, Waiting int64 // Waiting: for a retry, a lock, an outage
}

// Left is the number of jobs that are not finished.
func (b Backlog) Left() int64 { return b.Running + b.Ready + b.Waiting }

func (w *Worker) backlog(ctx context.Context) (Backlog, error) {
	var queues []string
	for _, d := range w.Config.Databases {
		queues = append(queues, jobs.Queue(d.Name), jobs.VacuumQueue(d.Name))
	}
	var b Backlog
	err := w.Ledger.Pool.QueryRow(ctx, w.Ledger.SQL(`
		SELECT count(*) FILTER (WHERE state = 'running'), count(*) FILTER (WHERE state = 'available' AND scheduled_at <= now()),
		       count(*) FILTER (WHERE state IN ('pending', 'scheduled', 'retryable') OR (state = 'available' AND scheduled_at > now()))
		FROM {s}.river_job WHERE queue = ANY ($1) AND finalized_at IS NULL`), queues).Scan(&b.Running, &b.Ready, &b.Waiting)
	if err != nil {
		return b, fmt.Errorf("count the backlog: %w", err)
	}
	return b, nil
}

// allPaused says that a batch is left, and that every table which has one is paused.
func (w *Worker) allPaused(ctx context.Context) bool {
	var names []string
	for _, d := range w.Config.Databases {
		names = append(names, d.Name)
	}
	var paused bool
	err := w.Ledger.Pool.QueryRow(ctx, w.Ledger.SQL(`
		SELECT coalesce(bool_and({s}.is_paused(t.database, t.schema, t.name)), false) FROM {s}.archive_table t
		WHERE t.database = ANY ($1) AND EXISTS (
			SELECT FROM {s}.batch b WHERE b.table_id = t.id AND b.state IN ('planned', 'verified', 'deleting') AND NOT b.failed)`), names).Scan(&paused)
	return err == nil && paused
}

// left is the backlog, and when there is none the number of windows that are about to be
// planned.
func (w *Worker) left(ctx context.Context, tables []ledger.WindowTable) (Backlog, int64, error) {
	b, err := w.backlog(ctx)
	if err != nil || b.Left() > 0 {
		return b, 0, err
	}
	windows, err := w.Ledger.WindowsDue(ctx, tables)
	return b, windows, err
}

// holdGap is how long after its end the hold of a throttle still counts: so long it may
// take until a batch has found the reason still there.
const holdGap = "10 seconds"

// ready says that some batch could begin, but for the limits of the fleet: it is not
// paused, no throttle holds its table, it waits for no later time, and not all replicas
// keep away from storage.
func (w *Worker) ready(ctx context.Context) bool {
	var names []string
	for _, d := range w.Config.Databases {
		names = append(names, d.Name)
	}
	var ready bool
	err := w.Ledger.Pool.QueryRow(ctx, w.Ledger.SQL(`
		SELECT EXISTS (
			SELECT FROM {s}.archive_table t CROSS JOIN LATERAL (
				SELECT FROM {s}.batch b JOIN {s}.river_job j ON j.id = b.job_id
				WHERE b.table_id = t.id AND b.state IN ('planned', 'verified', 'deleting') AND NOT b.failed
					AND j.state IN ('pending', 'available') AND j.scheduled_at <= now() LIMIT 1) one
			WHERE t.database = ANY ($1) AND NOT {s}.is_paused(t.database, t.schema, t.name)
				AND NOT EXISTS (SELECT FROM {s}.table_throttle h WHERE h.table_id = t.id AND h.held_until > now() - $2::interval))
			AND EXISTS (SELECT FROM {s}.worker WHERE lease_until > now() AND held_for IS NULL)`), names, holdGap).Scan(&ready)
	return err == nil && ready
}

// drain returns when no job of the configured databases is left, whoever works
// it, or when what is left only waits and patience has run out.
func (w *Worker) drain(ctx context.Context, client *river.Client[pgx.Tx], patience time.Duration) error {
	last, since := int64(-1), time.Now()
	closed := false
	tables := fleet.WindowTables(w.Config)
	for {
		began := time.Now()
		b, windows, err := w.left(ctx, tables)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the end of ctx is none
		case err != nil && source.Classify(err) == source.Unavailable:
			w.Log.Warn("the control database is out of reach", zap.Error(err))
		case err != nil:
			return err
		case windows > 0:
		case b.Left() == 0 && closed:
			return nil
		case b.Left() == 0: // perhaps but for the vacuum of a run whose last batch was cancelled
			if closeErr := w.closeRuns(ctx, client); closeErr == nil {
				closed = true
				continue
			} else if source.Classify(closeErr) != source.Unavailable && ctx.Err() == nil {
				return closeErr
			}
		case b.Left() != last:
			last, since = b.Left(), time.Now()
		}
		closed = closed && b.Left() == 0 && windows == 0
		if err == nil && b.Running == 0 && patience > 0 && w.allPaused(ctx) {
			w.Log.Warn("drain ends: what is left is paused", zap.Int64("batches", b.Left()))
			return nil
		}
		if err == nil && b.Running == 0 && patience > 0 && time.Since(since) > patience && w.ready(ctx) {
			since = time.Now() // batches are tried, one after the other, if in vain so far
		}
		if err == nil && b.Running == 0 && patience > 0 && time.Since(since) > patience {
			w.Log.Warn("drain ends: what is left only waits", zap.Int64("jobs", b.Left()), zap.Duration("without_progress", patience))
			return nil
		}
		// While much is left no job of this process is the last one.
		ended := w.jobDone
		if err != nil || b.Left() > 1 || windows > 0 {
			ended = nil
		}
		next := time.NewTimer(max(drainEvery, drainShare*time.Since(began)))
		select {
		case <-ctx.Done():
			next.Stop()
			return nil
		case <-ended:
			next.Stop()
		case <-next.C:
		}
	}
}
