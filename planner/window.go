package planner

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/jobs"
)

const (
	// windowEvery is how late a window may be planned once it is due; batches for some
	// seconds are left then.
	windowEvery = time.Second
	// windowSoon is how often windows are looked for while batches end; small batches are
	// worked faster than once in windowEvery.
	windowSoon = 250 * time.Millisecond
	// windowLease is how long a replica that dies in the middle of it holds a window up.
	windowLease = 20 * time.Second
	// windowRetry is the wait after a window that could not be planned.
	windowRetry = 15 * time.Second
)

// Windows plans the next window of runs that are planned in windows, when few batches
// of the last one are left, with the batch size that the measured query times of the
// table ask for. Every replica has one. A window is written in one transaction that
// compare-and-sets the table's plan sequence: two replicas plan none twice, and one that
// dies in between leaves it to the next.
type Windows struct {
	Config  *config.Config
	Ledger  *ledger.Ledger
	Sources map[string]*source.DB // by database name
	Queue   *river.Client[pgx.Tx]
	Log     *zap.Logger
	Ended   <-chan struct{} // batches of this replica have ended; may be nil
}

// Run plans windows until ctx ends, and returns when those that it began have ended. A
// database that is away keeps no other waiting.
func (w *Windows) Run(ctx context.Context) {
	var plans sync.WaitGroup
	defer plans.Wait()
	tick := time.NewTicker(windowEvery)
	defer tick.Stop()
	tables := fleet.WindowTables(w.Config)
	for {
		looked := time.Now()
		due, err := w.Ledger.ClaimWindows(ctx, tables, windowLease)
		if err != nil && ctx.Err() == nil {
			w.Log.Warn("windows to plan were not looked for", zap.Error(err))
		}
		for _, d := range due {
			plans.Go(func() { w.planOne(ctx, d) })
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-w.Ended:
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(looked.Add(windowSoon))):
			}
		}
	}
}

// planOne plans a window and says what came of it.
func (w *Windows) planOne(ctx context.Context, d ledger.OpenWindow) {
	log := w.Log.With(zap.String("database", d.Name.Database), zap.String("table", d.Name.Schema+"."+d.Name.Name), zap.Int64("run_id", d.RunID))
	err := w.plan(ctx, d, log)
	switch {
	case err == nil || IsMeanwhile(err):
		return
	case ctx.Err() != nil:
		err = nil
	default:
		log.Warn("the next window was not planned; it is tried again", zap.Duration("after", windowRetry), zap.Error(err))
	}
	after, message, hint := time.Duration(0), "", ""
	if err != nil {
		after, message = windowRetry, "the next window was not planned: "+err.Error()
		var hinter interface{ Hint() string }
		if errors.As(err, &hinter) {
			hint = hinter.Hint()
		}
	}
	giveBack, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := w.Ledger.PostponeWindow(giveBack, d.RunID, after, message, hint); err != nil {
		log.Warn("the claim on the window was not given back; it runs out", zap.Error(err))
	}
}

// errEnough ends a walk when the window is full.
var errEnough = errors.New("the window is full")

// fill makes the pages of a window anew, at most most of them.
func (p *Plan) fill(ctx context.Context, from *source.DB, table *source.Table, size, most int) error {
	p.Pages, p.Rows = nil, 0
	return from.Walk(ctx, table, p.Open.PlannedTo, p.Cutoff.Value, size, func(page source.Page) error {
		if len(p.Pages) == most {
			return errEnough
		}
		p.Pages = append(p.Pages, page)
		p.Rows += page.Rows
		return nil
	})
}

func (w *Windows) plan(ctx context.Context, d ledger.OpenWindow, log *zap.Logger) (err error) {
	defer func() { // it must not take the batches of this process with it
		if r := recover(); r != nil {
			log.Error("panic", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	database := w.Config.Database(d.Name.Database)
	at := slices.IndexFunc(database.Tables, func(t config.Table) bool { return t.Schema == d.Name.Schema && t.Name == d.Name.Name })
	c := database.Tables[at] // only the tables of this configuration are claimed
	db := w.Sources[d.Name.Database]
	table, err := db.Describe(ctx, c)
	if err != nil {
		return err
	}
	// A run cannot go on by another key, as the workers cancel its batches for that; and
	// while it is there nothing else of the table is planned.
	goesOn := !d.GivenUp && table.SameKey(d.KeyColumns) == nil
	if goesOn {
		if goesOn, err = db.PastRetention(ctx, table, d.CutoffValue); err != nil {
			return err
		}
	}
	if !goesOn {
		log.Info("the run ends where it is planned to: its last window was cancelled, the retention was raised, or the table has another key", zap.Int64("rows_left", d.RowsLeft))
		return w.Ledger.EndWindows(ctx, d.RunID)
	}
	if err := failpoint.Hit(ctx, "window:claimed"); err != nil {
		return err
	}
	before := CurrentSize(c, d.Pace)
	size := nextSize(c, before, c.Adaptive.MaxBatchSize, d.Pace)
	p := &Plan{
		Table: c, Cutoff: source.Cutoff{At: d.Cutoff, Value: d.CutoffValue}, BatchSize: size, RunID: d.RunID,
		Open: ledger.Table{ID: d.TableID, PlanSeq: d.PlanSeq, PlannedTo: d.PlannedTo}, keyColumns: d.KeyColumns,
	}
	most := jobs.Window(database.Concurrency)
	walk := func(from *source.DB) error {
		err := p.fill(ctx, from, table, size, most)
		if even := evenSize(c, size, p.Rows, database.Concurrency); err == nil && even < size {
			err = p.fill(ctx, from, table, even, math.MaxInt) // the end is in sight
		}
		return err
	}
	// From the replica where it is fit, as the first window: see Plan.walk.
	last, err := w.Ledger.LastDelete(ctx, d.TableID)
	if err != nil {
		return err
	}
	from, _, err := db.Reader(ctx, c, last)
	if err != nil {
		return err
	}
	err = walk(from)
	var not *source.ReplicaError
	if errors.As(err, &not) && c.ReplicaFallback == config.ReplicaFallbackPrimary {
		err = walk(db)
	}
	more := errors.Is(err, errEnough)
	if err != nil && !more {
		return err
	}
	next := ledger.Window{RunID: d.RunID, TableID: d.TableID, More: more, RowsLeft: max(d.RowsLeft-p.Rows, 1), BatchSize: size, BatchSizeFrom: c.BatchSize}
	err = p.enqueueThen(ctx, w.Ledger, w.Queue, func(ctx context.Context, tx pgx.Tx) error {
		if len(p.Pages) == 0 { // else the first page has done so
			if err := w.Ledger.AdvancePlan(ctx, tx, d.TableID, d.PlanSeq, d.PlannedTo); err != nil {
				return err
			}
		}
		next.From = p.firstBatch
		if err := w.Ledger.RecordWindow(ctx, tx, next); err != nil {
			return err
		}
		return failpoint.Hit(ctx, "window:before-commit")
	})
	if err != nil {
		return err
	}
	fields := []zap.Field{zap.Int("batches", p.Enqueued), zap.Int64("rows", p.Rows), zap.Int("batch_size", size), zap.Int("batch_size_before", before), zap.Bool("last", !more)}
	if d.Pace.LastQuery != nil {
		fields = append(fields, zap.Float64("last_query_seconds", *d.Pace.LastQuery))
	}
	log.Info("next window planned", fields...)
	// Seats may be free by now, and nobody else looks for up to a second.
	if _, err := fleet.Refill(ctx, w.Ledger, []string{d.Name.Database}); err != nil && ctx.Err() == nil {
		log.Warn("free seats were not filled", zap.Error(err))
	}
	return nil
}
