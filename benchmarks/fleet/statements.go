package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// statement is one kind of statement in a window.
type statement struct {
	What    string  `json:"what"`
	Calls   float64 `json:"calls_per_second"`
	Millis  float64 `json:"mean_ms"`         // planning included
	Planned float64 `json:"mean_planned_ms"` // of it, planning
	Seconds float64 `json:"seconds_per_second"`
}

// top are the statements that took the most time since pg_stat_statements was reset.
func (c *control) top(ctx context.Context, window time.Duration) ([]statement, error) {
	if !c.named {
		return nil, nil
	}
	rows, err := c.pool.Query(ctx, `SELECT query, calls, total_plan_time, total_exec_time FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_%'`)
	if err != nil {
		return nil, err
	}
	type line struct {
		query         string
		calls         int64
		planned, took float64 // milliseconds
	}
	lines, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l line, err error) {
		err = row.Scan(&l.query, &l.calls, &l.planned, &l.took)
		return l, err
	})
	if err != nil {
		return nil, err
	}
	sums := map[string]statement{}
	for _, l := range lines {
		name := nameOf(l.query)
		s := sums[name]
		s.What, s.Calls = name, s.Calls+float64(l.calls)/window.Seconds()
		s.Seconds += (l.planned + l.took) / 1000 / window.Seconds()
		s.Planned += l.planned / window.Seconds() // of all calls; see largest
		sums[name] = s
	}
	return largest(sums, 6), nil
}

// kinds names statements by what stands in them, constants left out; the first that fits.
func kinds() []struct{ part, name string } {
	return []struct{ part, name string }{
		{"database_turn", "admit"},
		{"pg_advisory_xact_lock", "admit: wait for the lock"},
		{"resumed AS", "admit: pauses"},
		{"untold AS", "admit: pauses"},
		{".pause (database", "admit: pauses"},
		{"JobGetAvailable", "fetch"},
		{"count(DISTINCT queue)", "guard"},
		{"claimed AS", "claim"},
		{"JobSetState", "complete"},
		{".object", "record"},
		{"last_delete_lsn", "record"},
		{"attempted_at = $", "fence"},
		{"dead AS", "look for dead replicas"},
		{"id <> ALL", "look for lost jobs"},
		{"max(id)", "reconcile"},
		{"FROM (SELECT id, job_id, failed", "reconcile"},
		{"b.failed AND b.state", "reconcile"},
		{"pg_try_advisory", "reconcile"},
		{"Leader", "elect a leader"},
		{"schedule", "schedules"},
	}
}

// nameOf names a statement of pg_stat_statements; one that is not known by its beginning.
func nameOf(query string) string {
	for _, k := range kinds() {
		if strings.Contains(query, k.part) {
			return k.name
		}
	}
	query = strings.Join(strings.Fields(query), " ")
	if rest, ok := strings.CutPrefix(query, "-- name: "); ok {
		query, _, _ = strings.Cut(rest, " ")
	}
	return query[:min(len(query), 48)]
}

// largest are the n statements that took the most time.
func largest(of map[string]statement, n int) []statement {
	var all []statement
	for _, s := range of {
		if s.Calls > 0 {
			s.Millis, s.Planned = s.Seconds/s.Calls*1000, s.Planned/s.Calls
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b statement) int {
		switch {
		case a.Seconds > b.Seconds:
			return -1
		case a.Seconds < b.Seconds:
			return 1
		}
		return strings.Compare(a.What, b.What)
	})
	return all[:min(n, len(all))]
}
