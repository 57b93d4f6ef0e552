package fleet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/jobs"
)

// queueName is where the database's name begins in the name of its queue.
const queueName = `4` // after db_

// Limits are how many batches at a time a replica's configuration allows in the whole
// fleet. The smallest of the live replicas counts.
type Limits struct {
	Seats     map[string]int `json:"seats"`     // batches, by database
	Databases int            `json:"databases"` // databases that have any
	Tables    []string       `json:"-"`         // that it has, by plainName
}

// LimitsOf reads the limits of a configuration.
func LimitsOf(c *config.Config) Limits {
	l := Limits{Seats: map[string]int{}, Databases: c.MaxParallelDatabases}
	for _, d := range c.Databases {
		l.Seats[d.Name] = d.Concurrency
		for _, t := range d.Tables {
			l.Tables = append(l.Tables, plainName(t.Database, t.Schema, t.Name))
		}
	}
	return l
}

func plainName(database, schema, table string) string { return database + "." + schema + "." + table }

// SomebodyHas says whether a live replica has the table in its configuration. While a new
// configuration is rolled out, those that have the old one must leave its batches alone.
func SomebodyHas(ctx context.Context, l *ledger.Ledger, database, schema, table string) (bool, error) {
	var has bool
	err := l.Pool.QueryRow(ctx, l.SQL(`SELECT EXISTS (SELECT FROM {s}.worker WHERE lease_until > now() AND $1 = ANY (tables))`), plainName(database, schema, table)).Scan(&has)
	if err != nil {
		return false, fmt.Errorf("ask who has the table: %w", err)
	}
	return has, nil
}

// Claim is a job that a worker was given: River's row of it, and when it was given.
type Claim struct {
	JobID, BatchID int64
	Database       string
	At             *time.Time
}

// Guard is asked at the start of a job, when River has already counted it as running.
// It returns why the batch must not begin after all, or nothing; ledger.ErrStale says
// that somebody else has the job by now. Admission keeps within the limits by itself; the
// guard holds them also against what goes around it. It is strict without a lock: of two
// that would be one too many, each sees the other.
func Guard(ctx context.Context, l *ledger.Ledger, c Claim) (string, error) {
	var running, seats, databases, places int
	var paused, mine bool
	err := l.Pool.QueryRow(ctx, l.SQL(`
		WITH alive AS (SELECT limits FROM {s}.worker WHERE lease_until > now())
		SELECT (SELECT count(*) FROM {s}.river_job WHERE state = 'running' AND queue = $1 AND kind = 'archive_batch'),
		       (SELECT coalesce(min((limits->'seats'->>$2)::int), 0) FROM alive WHERE limits->'seats' ? $2),
		       (SELECT count(DISTINCT queue) FROM {s}.river_job WHERE state = 'running' AND kind = 'archive_batch'),
		       (SELECT coalesce(min((limits->>'databases')::int), 0) FROM alive),
		       EXISTS (SELECT FROM {s}.batch b JOIN {s}.archive_table t ON t.id = b.table_id WHERE b.id = $3 AND {s}.is_paused(t.database, t.schema, t.name)),
		       EXISTS (SELECT FROM {s}.river_job WHERE id = $4 AND state = 'running' AND attempted_at IS NOT DISTINCT FROM $5)`),
		jobs.Queue(c.Database), c.Database, c.BatchID, c.JobID, c.At).Scan(&running, &seats, &databases, &places, &paused, &mine)
	switch {
	case err != nil:
		return "", fmt.Errorf("count the seats: %w", err)
	case !mine:
		return "", fmt.Errorf("job %d was given to somebody else: %w", c.JobID, ledger.ErrStale)
	case paused:
		return "paused", nil
	case running > seats:
		return fmt.Sprintf("limit reached: %d of %s", running, plural(seats, "seat", "seats")), nil
	case databases > places:
		return fmt.Sprintf("limit reached: %s at a time", plural(places, "database", "databases")), nil
	}
	return "", nil
}

// PausedRun returns "paused" when the table of a run is, or nothing.
func PausedRun(ctx context.Context, l *ledger.Ledger, runID int64) (string, error) {
	var paused bool
	err := l.Pool.QueryRow(ctx, l.SQL(`
		SELECT EXISTS (SELECT FROM {s}.run r JOIN {s}.archive_table t ON t.id = r.table_id WHERE r.id = $1 AND {s}.is_paused(t.database, t.schema, t.name))`), runID).Scan(&paused)
	switch {
	case err != nil:
		return "", fmt.Errorf("look for a pause: %w", err)
	case paused:
		return "paused", nil
	}
	return "", nil
}

// Effective is what the live replicas allow together.
type Effective struct {
	Limits
	Live     int      // replicas
	Held     []string // why those take no batches that do not
	Disagree []string // in words, where they differ
}

// EffectiveLimits reads the limits that count now.
func EffectiveLimits(ctx context.Context, l *ledger.Ledger, q querier) (Effective, error) {
	e := Effective{Limits: Limits{Seats: map[string]int{}}}
	rows, err := q.Query(ctx, l.SQL(`SELECT id, limits, coalesce(held_for, '') FROM {s}.worker WHERE lease_until > now() ORDER BY started_at, id`))
	if err != nil {
		return e, fmt.Errorf("read the limits of the replicas: %w", err)
	}
	type view struct {
		ID      string
		Limits  Limits
		HeldFor string
	}
	views, err := pgx.CollectRows(rows, pgx.RowToStructByPos[view])
	if err != nil {
		return e, fmt.Errorf("read the limits of the replicas: %w", err)
	}
	e.Live = len(views)
	for _, v := range views {
		if v.HeldFor != "" {
			e.Held = append(e.Held, v.HeldFor)
		}
	}
	least := func(what string, of func(Limits) (int, bool)) int {
		var said []string
		var all []int
		for _, v := range views {
			if n, ok := of(v.Limits); ok {
				all, said = append(all, n), append(said, fmt.Sprintf("%d (%s)", n, v.ID))
			}
		}
		if len(all) == 0 {
			return 0
		}
		if slices.Min(all) != slices.Max(all) {
			e.Disagree = append(e.Disagree, fmt.Sprintf("replicas disagree on %s: %s; the smallest counts", what, strings.Join(said, ", ")))
		}
		return slices.Min(all)
	}
	e.Databases = least("max_parallel_databases", func(l Limits) (int, bool) { return l.Databases, true })
	for _, v := range views {
		for d := range v.Limits.Seats {
			if _, known := e.Seats[d]; !known {
				e.Seats[d] = least("concurrency of "+d, func(l Limits) (int, bool) { n, ok := l.Seats[d]; return n, ok })
			}
		}
	}
	slices.Sort(e.Disagree)
	return e, nil
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// WakeVacuums calls for the vacuums that are due and that nobody has taken: replicas ask
// their queues by themselves only every five minutes.
func WakeVacuums(ctx context.Context, l *ledger.Ledger) error {
	_, err := l.Pool.Exec(ctx, l.SQL(`
		SELECT pg_notify($1, json_build_object('queue', d.queue)::text) FROM (
			SELECT DISTINCT queue FROM {s}.river_job
			WHERE state = 'available' AND kind = 'vacuum_table' AND scheduled_at <= now()) d`), l.Schema()+".river_insert")
	if err != nil {
		return fmt.Errorf("call for vacuums: %w", err)
	}
	return nil
}
