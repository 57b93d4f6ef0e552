package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/planner"
)

// schedules plans tables as they become due, from start until stop: a replica that holds
// no lease plans nothing. A stop that waits returns when no plan is at work any more.
func (a *app) schedules(ctx context.Context, cfg *config.Config) (start func(), stop func(wait bool), err error) {
	queue, err := a.queue()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &planner.Scheduler{Config: cfg, Ledger: a.ledger, Sources: a.sources, Queue: queue, Log: a.log}
	var running sync.WaitGroup
	start = func() { running.Go(func() { s.Run(ctx) }) }
	stop = func(wait bool) {
		cancel()
		if wait {
			running.Wait()
		}
	}
	return start, stop, nil
}

// startWindows plans the further windows of runs that are planned in windows, until stop.
func (a *app) startWindows(ctx context.Context, cfg *config.Config, ended <-chan struct{}) (stop func(wait bool), err error) {
	queue, err := a.queue()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &planner.Windows{Config: cfg, Ledger: a.ledger, Sources: a.sources, Queue: queue, Log: a.log, Ended: ended}
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	return func(wait bool) {
		cancel()
		if wait {
			running.Wait()
		}
	}, nil
}

// scheduleStatus says when a table is planned next. Next is in the past while a plan
// is at work or did not succeed, and null before a worker has seen the schedule.
type scheduleStatus struct {
	Spec        string  `json:"spec"`
	Next        *string `json:"next"`
	LastPlanned *string `json:"last_planned_at"`
	LastError   *string `json:"last_error"`

	next, now time.Time
	planning  bool
	hint      string
}

// addSchedule fills in what the control database knows about the table's schedule; the
// configuration's own word is there already.
func (t *tableStatus) addSchedule(s ledger.Schedule) error {
	if t.Schedule == nil {
		return nil // it was taken out of the configuration
	}
	t.Schedule.LastPlanned, t.Schedule.LastError, t.Schedule.planning = stampOf(s.PlannedAt), s.LastError, s.Claimed
	if s.LastHint != nil {
		t.Schedule.hint = *s.LastHint
	}
	if s.Spec != t.Schedule.Spec {
		return nil // and the workers have not taken notice yet
	}
	next, err := planner.NextDue(s.Spec, s.SettledTo)
	if err != nil {
		return fmt.Errorf("%s: %w", t.name(), err)
	}
	if !next.IsZero() {
		t.Schedule.Next, t.Schedule.next, t.Schedule.now = stampOf(&next), next, s.ReadAt
	}
	return nil
}

// nextPlan is the column of that name.
func (t *tableStatus) nextPlan() string {
	switch s := t.Schedule; {
	case s == nil:
		return "-"
	case s.planning:
		return "planning"
	case s.Next == nil:
		return "not known"
	case !s.next.After(s.now):
		return "due"
	default:
		return "in " + span(s.next.Sub(s.now))
	}
}

// scheduleTrouble is why the last plan of the schedule did not succeed; empty if it did.
func (t *tableStatus) scheduleTrouble() string {
	if t.Schedule == nil || t.Schedule.LastError == nil {
		return ""
	}
	text := "the scheduled plan failed: " + clip(*t.Schedule.LastError, 300)
	if t.Schedule.hint != "" {
		text += "\n  hint: " + t.Schedule.hint
	}
	return text
}
