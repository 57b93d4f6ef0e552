//go:build failpoint

package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/worker"
)

// trial is a site with one small audit table and, beside it, the truth: a copy to
// which every change of the table is applied too. At the end each row of the truth
// must be in exactly one place, the table or one committed object.
type trial struct {
	*site
	t *testing.T
}

const trialTable = `
CREATE TABLE audit_logs (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, actor text NOT NULL, payload jsonb);
CREATE INDEX ON audit_logs (created_at, id);`

// trialRows are old enough, and all in one month, so that batches are full.
const trialRows = `
INSERT INTO audit_logs SELECT i, date_trunc('month', now() AT TIME ZONE 'UTC' - interval '4 months') AT TIME ZONE 'UTC' + i * interval '10 minutes',
	'user ' || i, jsonb_build_object('n', i) FROM generate_series(1, %d) i`

// newTrial plans rows rows in batches of ten. options are further keys of the table.
func newTrial(t *testing.T, rows int, options string) *trial {
	t.Helper()
	return planned(t, newSite(t, `- {name: audit_logs, batch_size: 10`+options+`}`), rows)
}

func planned(t *testing.T, s *site, rows int) *trial {
	t.Helper()
	tr := &trial{site: s, t: t}
	tr.fill(rows)
	tr.cfg.Worker.ShutdownTimeout = time.Second
	tr.plan(t)
	return tr
}

// fill makes the table and the truth.
func (tr *trial) fill(rows int) {
	tr.t.Helper()
	tr.db.Exec(tr.t, trialTable)
	tr.db.Exec(tr.t, fmt.Sprintf(trialRows, rows))
	tr.db.Exec(tr.t, `CREATE TABLE truth AS TABLE audit_logs`)
}

// watchLog keeps what is logged from now on.
func (tr *trial) watchLog() *observer.ObservedLogs {
	core, logs := observer.New(zap.InfoLevel)
	tr.log = zap.New(core)
	return logs
}

// both applies a change to the table and to the truth; %s is where their name goes.
// It is for failpoint handlers, which run on the worker's goroutine: trouble fails
// the test without ending that goroutine.
func (tr *trial) both(ctx context.Context, sql string) {
	for _, name := range []string{"audit_logs", "truth"} {
		tr.sql(ctx, strings.ReplaceAll(sql, "%s", name))
	}
}

// sql runs a statement from a failpoint handler.
func (tr *trial) sql(ctx context.Context, sql string, args ...any) {
	if _, err := tr.db.Pool.Exec(context.WithoutCancel(ctx), sql, args...); err != nil {
		tr.t.Errorf("%s: %v", sql, err)
	}
}

// errHere is what an interrupted operation fails with.
var errHere = errors.New("interrupted by the test")

// first makes a handler of what shall happen at the first hit of a point.
func first(point string, do func(ctx context.Context) error) failpoint.Handler {
	var done atomic.Bool
	return func(ctx context.Context, name string) error {
		if name != point || done.Swap(true) {
			return nil
		}
		return do(ctx)
	}
}

// changing makes a handler that changes things at a point and goes on.
func changing(point string, do func(ctx context.Context)) failpoint.Handler {
	return first(point, func(ctx context.Context) error { do(ctx); return nil })
}

// each does something at the first hit of each of some points, whichever batch comes
// to it.
type each struct {
	mu   sync.Mutex
	left map[string]bool
	do   func(ctx context.Context) error
}

func atEach(points []string, do func(ctx context.Context) error) *each {
	e := &each{left: map[string]bool{}, do: do}
	for _, p := range points {
		e.left[p] = true
	}
	return e
}

func (e *each) handle(ctx context.Context, name string) error {
	e.mu.Lock()
	mine := e.left[name]
	delete(e.left, name)
	e.mu.Unlock()
	if !mine {
		return nil
	}
	return e.do(ctx)
}

func (e *each) allReached(t *testing.T) {
	t.Helper()
	require.Empty(t, e.left, "points that were not reached")
}

// interrupt runs a replica that fails at a point and takes no more jobs from then
// on. It fails the test if the point is not reached.
func (tr *trial) interrupt(point string) {
	tr.t.Helper()
	ctx, cancel := context.WithTimeout(tr.t.Context(), time.Minute)
	defer cancel()
	var reached atomic.Bool
	run, stop := context.WithCancel(ctx)
	defer stop()
	err := worker.Run(failpoint.With(run, first(point, func(context.Context) error {
		reached.Store(true)
		stop()
		return errHere
	})), tr.deps(), worker.RunOptions{Drain: true, Patience: 20 * time.Second})
	require.NoError(tr.t, err)
	require.True(tr.t, reached.Load(), "the point %s was not reached", point)
}

// shutDown runs a replica that is told to stop at a point, where an attempt then
// stays until its time to finish is up.
func (tr *trial) shutDown(point string) {
	tr.t.Helper()
	ctx, cancel := context.WithTimeout(tr.t.Context(), time.Minute)
	defer cancel()
	var reached atomic.Bool
	run, stop := context.WithCancel(ctx)
	defer stop()
	err := worker.Run(failpoint.With(run, first(point, func(ctx context.Context) error {
		reached.Store(true)
		stop()
		<-ctx.Done()
		return ctx.Err()
	})), tr.deps(), worker.RunOptions{Drain: true, Patience: 20 * time.Second})
	require.NoError(tr.t, err)
	require.True(tr.t, reached.Load(), "the point %s was not reached", point)
}

// finish runs a fresh replica until nothing is left. Whatever waits for a retry or
// an outage is not waited for.
func (tr *trial) finish(at failpoint.Handler) {
	tr.t.Helper()
	tr.start(at)()
}

// start is finish in the background; wait waits for its end.
func (tr *trial) start(at failpoint.Handler) (wait func()) {
	tr.t.Helper()
	ctx, cancel := context.WithTimeout(tr.t.Context(), time.Minute)
	stopHurry := tr.hurry()
	run := ctx
	if at != nil {
		run = failpoint.With(ctx, at)
	}
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err = worker.Run(run, tr.deps(), worker.RunOptions{Drain: true, Patience: 20 * time.Second})
	}()
	end := sync.OnceFunc(func() {
		<-ended
		stopHurry()
		if err == nil {
			err = ctx.Err() // the drain did not end by itself
		}
		cancel()
	})
	tr.t.Cleanup(end) // the test's context has ended by then, and with it the run
	return func() {
		tr.t.Helper()
		end()
		require.NoError(tr.t, err)
	}
}

// hurry lets no job wait until the function it returns is called.
func (tr *trial) hurry() (stop func()) { return testkit.Hurry(tr.t, tr.ledger) }

// retry does what `jobs retry --failed` does.
func (tr *trial) retry() {
	tr.t.Helper()
	client := tr.client(tr.t)
	jobs, err := client.JobList(tr.t.Context(), river.NewJobListParams().States("cancelled", "discarded"))
	require.NoError(tr.t, err)
	require.NotEmpty(tr.t, jobs.Jobs, "no failed job")
	for _, j := range jobs.Jobs {
		_, err := client.JobRetry(tr.t.Context(), j.ID)
		require.NoError(tr.t, err)
	}
}

// count runs a query on the control schema that gives one number.
func (tr *trial) count(sql string, args ...any) int64 {
	tr.t.Helper()
	return tr.control().Int(tr.t, tr.ledger.SQL(sql), args...)
}

// control is the control database for queries.
func (tr *trial) control() *testkit.DB { return &testkit.DB{Pool: tr.ledger.Pool} }

// lastError is what the ledger says about the failed batch.
func (tr *trial) lastError() (message, hint string) {
	tr.t.Helper()
	err := tr.ledger.Pool.QueryRow(tr.t.Context(), tr.ledger.SQL(`SELECT coalesce(last_error, ''), coalesce(last_hint, '') FROM {s}.batch WHERE last_error IS NOT NULL ORDER BY id LIMIT 1`)).Scan(&message, &hint)
	require.NoError(tr.t, err)
	return message, hint
}

// exactlyOnce is the oracle while batches may be open or failed: each row of the
// truth is in the table or in one committed object, and nothing else is anywhere.
func (tr *trial) exactlyOnce() {
	tr.t.Helper()
	t := tr.t
	conn := tr.pinned(t)
	var archived []string
	var keys []string
	for _, o := range tr.objects(t, "public", "audit_logs") {
		keys = append(keys, o.manifest.Object)
		archived = append(archived, o.lines...)
	}
	have := append(textRows(t, conn, `SELECT r::text FROM public.audit_logs r`),
		textRows(t, conn, `SELECT json_populate_record(NULL::public.audit_logs, l::json)::text FROM unnest($1::text[]) l`, archived)...)
	sameRows(t, textRows(t, conn, `SELECT r::text FROM public.truth r`), have, "table and committed objects")

	// The ledger says the same as the bucket.
	rows, err := tr.ledger.Pool.Query(t.Context(), tr.ledger.SQL(`SELECT key FROM {s}.object WHERE state = 'committed'`))
	require.NoError(t, err)
	committed, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.ElementsMatch(t, committed, keys, "committed objects in the ledger and manifests in storage")
	require.Zero(t, tr.count(`SELECT count(*) FROM {s}.batch b WHERE (state = 'archived') <> EXISTS (SELECT FROM {s}.object o WHERE o.batch_id = b.id AND o.state = 'committed')`),
		"a batch is archived without a committed object, or the other way round")
}

// settledIn is the oracle for the end: exactlyOnce, every batch in a final state,
// and no job left.
func (tr *trial) settledIn(states map[string]int64) {
	tr.t.Helper()
	tr.exactlyOnce()
	require.Equal(tr.t, states, tr.states(tr.t))
	require.Zero(tr.t, tr.count(`SELECT count(*) FROM {s}.river_job WHERE finalized_at IS NULL`), "jobs left")
	require.Zero(tr.t, tr.count(`SELECT count(*) FROM {s}.batch WHERE failed`), "failed batches")
}

// archived is settledIn for n archived batches and nothing left in the table.
func (tr *trial) archived(n int64) {
	tr.t.Helper()
	tr.settledIn(map[string]int64{"archived": n})
}

// objectsIn counts the ledger's objects in a state.
func (tr *trial) objectsIn(state string) int64 {
	tr.t.Helper()
	return tr.count(`SELECT count(*) FROM {s}.object WHERE state = $1`, state)
}

// rowsLeft counts the table's rows.
func (tr *trial) rowsLeft() int64 {
	tr.t.Helper()
	return tr.db.Int(tr.t, `SELECT count(*) FROM audit_logs`)
}

// attemptsSpent counts the errors that River has noted for all jobs.
func (tr *trial) attemptsSpent() int64 {
	tr.t.Helper()
	return tr.count(`SELECT coalesce(sum(cardinality(errors)), 0)::bigint FROM {s}.river_job`)
}
