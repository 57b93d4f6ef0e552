package planner

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
)

const (
	// lookEvery is how late a plan may begin, and how soon one that a dead replica has
	// left is taken up once its claim has run out.
	lookEvery = 15 * time.Second
	// retryOutage and retryTrouble are the waits after a plan that failed: a server may
	// be back any minute, while a refused table or a missing right waits for somebody.
	retryOutage  = time.Minute
	retryTrouble = 15 * time.Minute
	// planTimeout ends a plan that hangs. It is far more than the walk along an index
	// takes, since a plan that is cut off starts from the beginning.
	planTimeout = 6 * time.Hour
)

// Scheduler plans the tables of its own configuration when their schedules are due.
//
// Every replica has one and they need no leader: a due time is settled by a
// compare-and-set in the transaction that writes the last page of its plan, whoever
// comes first. Before that a replica claims the table, so that two do not walk it at
// once; the claim of a dead one runs out. Each look is at the state in the control
// database and by its clock, so that what was due while nobody was up is found by the
// first replica that comes back, and is planned once however much was missed.
type Scheduler struct {
	Config  *config.Config
	Ledger  *ledger.Ledger
	Sources map[string]*source.DB // by database name
	Queue   *river.Client[pgx.Tx]
	Log     *zap.Logger
}

// due is a table whose schedule asks for a plan.
type due struct {
	config.Table
	state ledger.Schedule
	at    time.Time // the first due time that is not settled
}

// Run looks for due tables until ctx ends, and returns when the plans that it began
// have ended. The databases are planned side by side, each by one goroutine: one that
// is away, or has a huge table, keeps no other waiting.
func (s *Scheduler) Run(ctx context.Context) {
	tables := s.scheduled()
	if len(tables) == 0 {
		return
	}
	var plans sync.WaitGroup
	defer plans.Wait()
	var busy sync.Map // database -> is being planned by this process
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		found, err := s.look(ctx, tables)
		if err != nil && ctx.Err() == nil {
			s.Log.Warn("schedules were not looked at", zap.Error(err))
		}
		for database, work := range found {
			if _, already := busy.LoadOrStore(database, true); already {
				continue
			}
			plans.Go(func() {
				defer busy.Delete(database)
				for _, d := range work {
					s.planOne(ctx, d)
				}
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Scheduler) scheduled() map[ledger.TableName]config.Table {
	tables := map[ledger.TableName]config.Table{}
	for _, d := range s.Config.Databases {
		for _, t := range d.Tables {
			if t.Schedule != "" {
				tables[ledger.TableName{Database: t.Database, Schema: t.Schema, Name: t.Name}] = t
			}
		}
	}
	return tables
}

// look returns the tables that are due by database.
func (s *Scheduler) look(ctx context.Context, tables map[ledger.TableName]config.Table) (map[string][]due, error) {
	var specs []ledger.TableSpec
	for name, t := range tables {
		specs = append(specs, ledger.TableSpec{TableName: name, Spec: t.Schedule})
	}
	if err := s.Ledger.KeepSchedules(ctx, specs); err != nil {
		return nil, err
	}
	states, err := s.Ledger.Schedules(ctx, s.Ledger.Pool)
	if err != nil {
		return nil, err
	}
	found := map[string][]due{}
	for _, state := range states {
		t, mine := tables[state.TableName]
		// Another spec than ours is in use as long as some replica has it.
		if !mine || state.Spec != t.Schedule || state.Claimed || state.Held {
			continue
		}
		at, err := NextDue(state.Spec, state.SettledTo)
		if err != nil {
			return nil, err
		}
		if !at.IsZero() && !at.After(state.ReadAt) {
			found[t.Database] = append(found[t.Database], due{Table: t, state: state, at: at})
		}
	}
	return found, nil
}

// planOne claims a due table, plans it, and says what came of it.
func (s *Scheduler) planOne(ctx context.Context, d due) {
	if ctx.Err() != nil {
		return
	}
	lease := s.Config.Worker.Lease
	// A stop must not leave it unknown whether the table is claimed: nobody could give the
	// claim back, and the other replicas would wait until it has run out.
	claimCtx, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	claim, err := s.Ledger.ClaimSchedule(claimCtx, d.state, lease)
	done()
	log := s.Log.With(zap.String("database", d.Database), zap.String("table", d.Schema+"."+d.Name), zap.Time("due", d.at))
	switch {
	case err != nil:
		log.Warn("scheduled plan not begun", zap.Error(err))
		return
	case claim == nil: // another replica came first
		return
	}
	began := time.Now()
	planCtx, cancel := context.WithTimeoutCause(ctx, planTimeout, fmt.Errorf("the plan did not end within %s", planTimeout))
	defer cancel()
	held, lose := context.WithCancelCause(planCtx)
	var keeper sync.WaitGroup
	keeper.Go(func() { s.keep(held, claim, lease, lose) })
	plan, err := s.plan(held, d, claim)
	if err != nil && ctx.Err() == nil && context.Cause(held) != nil {
		err = fmt.Errorf("plan %s: %w", d.Table, context.Cause(held))
	}
	lose(nil)
	keeper.Wait()
	if err == nil {
		log.Info("scheduled plan done", zap.Int64("run_id", plan.RunID), zap.Int("batches", plan.Enqueued), zap.Int64("rows", plan.Rows), zap.String("read_from", plan.ReadFrom),
			zap.Int64("batches_open_before", plan.Open.OpenBatches), zap.Duration("duration", time.Since(began)))
		return
	}
	s.postpone(ctx, claim, err, log)
}

// plan is one plan of one table, as `archiver plan` makes it.
func (s *Scheduler) plan(ctx context.Context, d due, claim *ledger.ScheduleClaim) (p *Plan, err error) {
	defer func() { // it must not take the batches of this process with it
		if r := recover(); r != nil {
			s.Log.Error("panic", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			err = fmt.Errorf("plan %s: panic: %v", d.Table, r)
		}
	}()
	if err := failpoint.Hit(ctx, "schedule:claimed"); err != nil {
		return nil, err
	}
	db := s.Sources[d.Database]
	if err := db.Ping(ctx); err != nil {
		return nil, err
	}
	database := s.Config.Database(d.Database)
	if p, err = Make(ctx, db, s.Ledger, d.Table, Options{Siblings: database.Tables, Concurrency: database.Concurrency}); err != nil {
		return nil, fmt.Errorf("plan %s: %w", d.Table, err)
	}
	if refused := p.Refused(); len(refused) > 0 {
		return nil, &source.RefusedError{Table: d.String(), Findings: refused}
	}
	err = p.enqueueThen(ctx, s.Ledger, s.Queue, func(ctx context.Context, tx pgx.Tx) error {
		if err := p.recordWindow(ctx, s.Ledger, tx); err != nil {
			return err
		}
		return s.Ledger.SettleSchedule(ctx, tx, claim, p.RunID)
	})
	return p, err
}

// keep renews the claim until ctx ends, and ends the plan when it is lost. A renewal
// that fails is tried again: should the claim run out meanwhile, the plan that comes
// second cannot be written.
func (s *Scheduler) keep(ctx context.Context, claim *ledger.ScheduleClaim, lease time.Duration, lose context.CancelCauseFunc) {
	tick := time.NewTicker(lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.Ledger.RenewSchedule(ctx, claim, lease); errors.Is(err, ledger.ErrOvertaken) {
			lose(err)
			return
		}
	}
}

// postpone gives the claim back and leaves the due time open.
func (s *Scheduler) postpone(ctx context.Context, claim *ledger.ScheduleClaim, cause error, log *zap.Logger) {
	var after time.Duration
	var message, hint string
	switch {
	case ctx.Err() != nil: // another replica may go on at once
		log.Info("scheduled plan interrupted")
	case errors.Is(cause, ledger.ErrOvertaken):
		log.Info("scheduled plan left to another replica", zap.Error(cause))
		return
	case IsMeanwhile(cause):
		// Perhaps only a part of the table was planned, so that it is still due.
		after = retryOutage
		log.Info("another planner was at work on the table; it is looked at again", zap.Duration("after", after))
	default:
		after, message = retryTrouble, cause.Error()
		if source.Classify(cause) == source.Unavailable {
			after = retryOutage
		}
		var hinter interface{ Hint() string }
		if errors.As(cause, &hinter) {
			hint = hinter.Hint()
		}
		log.Warn("scheduled plan failed; it is tried again", zap.Duration("after", after), zap.Error(cause), zap.String("hint", hint))
	}
	giveBack, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.Ledger.PostponeSchedule(giveBack, claim, after, message, hint); err != nil {
		log.Warn("the claim on the schedule was not given back; it runs out", zap.Error(err))
	}
}
