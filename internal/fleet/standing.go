package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// Standing is who may run what at an instant: what the fleet allows, what is paused, and
// what runs. It is what admission goes by, for people to read.
type Standing struct {
	Limits  Effective
	Pauses  []Paused
	Held    []Held
	Running map[string]int // batches, by database
}

// ReadStanding reads it, from the pool or in a report's own snapshot.
func ReadStanding(ctx context.Context, l *ledger.Ledger, q querier) (*Standing, error) {
	s := &Standing{Running: map[string]int{}}
	var err error
	if s.Limits, err = EffectiveLimits(ctx, l, q); err != nil {
		return nil, err
	}
	if s.Pauses, err = Pauses(ctx, l, q); err != nil {
		return nil, err
	}
	if s.Held, err = HeldTables(ctx, l, q); err != nil {
		return nil, err
	}
	rows, err := q.Query(ctx, l.SQL(`SELECT substr(queue, `+queueName+`), count(*) FROM {s}.river_job WHERE state IN ('available', 'running') AND kind = 'archive_batch' GROUP BY 1`)) //nolint:rowserrcheck // ForEachRow checks it
	if err != nil {
		return nil, fmt.Errorf("count what runs: %w", err)
	}
	var database string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&database, &n}, func() error { s.Running[database] = n; return nil })
	if err != nil {
		return nil, fmt.Errorf("count what runs: %w", err)
	}
	return s, nil
}

// PausedWord begins the reason of what is paused.
const PausedWord = "paused:"

// PausedBy is the widest pause that covers a table; nil if none does.
func (s *Standing) PausedBy(database, schema, table string) *Paused {
	for i, p := range s.Pauses {
		if p.covers(Scope{Database: database, Schema: schema, Table: table}) {
			return &s.Pauses[i]
		}
	}
	return nil
}

// Why says in words what keeps the next batch of a table from beginning. It is empty
// when nothing does: it begins within a second.
func (s *Standing) Why(database, schema, table string) string {
	if p := s.PausedBy(database, schema, table); p != nil {
		return fmt.Sprintf(PausedWord+" %s, since %s", p.Scope, p.Since.UTC().Format(time.RFC3339))
	}
	if s.Limits.Live == 0 {
		return "no worker is running"
	}
	if len(s.Limits.Held) == s.Limits.Live {
		return s.Limits.Held[0]
	}
	for _, h := range s.Held {
		if h.Database == database && h.Schema == schema && h.Table == table {
			return fmt.Sprintf("%s (looked at again at %s)", h.Reason, h.Until.UTC().Format(time.RFC3339))
		}
	}
	seats, known := s.Limits.Seats[database]
	running := s.Running[database]
	switch {
	case !known:
		return "no worker that is running has database " + database + " in its configuration"
	case running >= seats:
		return fmt.Sprintf("limit reached: %d of %s of database %s taken (concurrency)", running, plural(seats, "seat", "seats"), database)
	case running == 0 && len(s.Running) >= s.Limits.Databases:
		return fmt.Sprintf("limit reached: %d of %s at a time (max_parallel_databases); its turn comes", len(s.Running), plural(s.Limits.Databases, "database", "databases"))
	}
	return ""
}

// WhyJob says in words what a job that is not at work waits for; empty for one that is,
// and for one that begins within a second.
func (s *Standing) WhyJob(j Job) string {
	switch j.State {
	case JobQueued:
		return s.Why(j.Database, j.Schema, j.Table)
	case JobWaiting:
		if p := s.PausedBy(j.Database, j.Schema, j.Table); p != nil {
			return s.Why(j.Database, j.Schema, j.Table)
		}
		why := j.WaitingFor
		switch {
		case why == "" && j.LastError == "":
			why = "its time"
		case why == "":
			why = "back-off after: " + j.LastError
		}
		if j.NextTry != nil && time.Until(*j.NextTry) > 0 {
			why += " (tried again at " + j.NextTry.UTC().Format(time.RFC3339) + ")"
		}
		return why
	case JobRunning, JobFailed, JobStuck, JobLost:
	}
	return ""
}

// Work is a batch that a live replica has.
type Work struct {
	JobID, BatchID          int64
	Database, Schema, Table string
	Stage                   ledger.State
	Since                   time.Time
}
