package main

import (
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/metrics"
	"github.com/audit-table-archiver/archiver/internal/telemetry"
	"github.com/audit-table-archiver/archiver/planner"
	"github.com/audit-table-archiver/archiver/worker"
)

func (a *app) newMetrics(health *telemetry.Health) (*metrics.Metrics, error) {
	c := metrics.Config{
		Build: build(), Config: a.cfg, Ledger: a.ledger, Health: health, Log: a.log, NextDue: nextDue,
		BatchSize: planner.CurrentSize, BreakerOpen: func() bool { return a.store.Breaker() != nil },
	}
	for _, r := range worker.Results() {
		c.Results = append(c.Results, string(r))
	}
	for _, k := range worker.WaitKinds() {
		c.Waits = append(c.Waits, string(k))
	}
	return metrics.New(c)
}

// nextDue is planner.NextDue in the metrics' terms.
func nextDue(s ledger.Schedule) (unix float64, ok bool) {
	at, err := planner.NextDue(s.Spec, s.SettledTo)
	return float64(at.Unix()), err == nil && !at.IsZero()
}

// attempted counts an attempt of the worker.
func (a *app) attempted(d worker.Done) {
	a.metrics.Attempted(metrics.Attempt{
		Database: d.Database, Table: d.Table, Result: string(d.Result), Wait: string(d.Wait), Archived: d.Result == worker.ResultArchived,
		Rows: d.Rows, RawBytes: d.RawBytes, StoredBytes: d.StoredBytes, Timings: d.Timings,
	})
}

// vacuumed counts a vacuum of the worker.
func (a *app) vacuumed(d worker.VacuumDone) {
	a.metrics.Vacuumed(metrics.Vacuum{
		Database: d.Database, Table: d.Table, Result: string(d.State), Done: d.State == ledger.VacuumDone,
		Seconds: d.Result.Seconds, FreedBytes: d.Result.BytesBefore - d.Result.BytesAfter, DeadRows: d.Result.DeadAfter, BloatBytes: d.Result.BloatAfter,
	})
}
