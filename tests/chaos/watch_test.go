//go:build failpoint

package chaos

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// watch looks at the limits again and again, and counts how many seats were taken of
// those that could have been.
type watch struct {
	s        *site
	samples  int // of the queue
	sources  int // of pg_stat_activity
	atWork   int // sessions of batches that were seen there
	breaches []string

	taken, served, possible int // seats, summed over the samples; served: by replicas that are alive
}

// queueNow is what runs, by database, and how much more could: one row for each.
const queueNow = `
	SELECT d.name,
	       (SELECT count(*) FROM archiver.river_job j WHERE j.state = 'running' AND j.queue = 'db_' || d.name),
	       (SELECT count(*) FROM archiver.river_job j JOIN archiver.worker w ON w.id = j.attempted_by[array_upper(j.attempted_by, 1)] AND w.lease_until > now()
	        WHERE j.state = 'running' AND j.queue = 'db_' || d.name),
	       (SELECT count(*) FROM (
	           SELECT FROM archiver.batch b JOIN archiver.archive_table t ON t.id = b.table_id
	           WHERE t.database = d.name AND b.state IN ('planned', 'verified', 'deleting')
	             AND NOT archiver.is_paused(t.database, t.schema, t.name)
	             AND NOT EXISTS (SELECT FROM archiver.river_queue q WHERE q.name = 'db_' || t.database AND q.paused_at IS NOT NULL)
	           LIMIT 10) s)
	FROM unnest($1::text[]) d(name)`

// queue takes one sample of the queue. An error means that the control database is away.
func (w *watch) queue(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	rows, err := w.s.control.Pool.Query(ctx, queueNow, databases)
	if err != nil {
		return err
	}
	defer rows.Close()
	var active, taken, served int
	var open []int
	for rows.Next() {
		var name string
		var running, alive, left int
		if err := rows.Scan(&name, &running, &alive, &left); err != nil {
			return err
		}
		if running > seats {
			w.breach("the queue has %d jobs of %s running", running, name)
		}
		if running > 0 {
			active++
		}
		taken, served = taken+running, served+alive
		open = append(open, min(left, seats))
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if active > places {
		w.breach("the queue has jobs of %d databases running", active)
	}
	// The places go to whoever has most to do.
	possible := 0
	for range places {
		most := 0
		for i, n := range open {
			if n > open[most] {
				most = i
			}
		}
		possible += open[most]
		open[most] = 0
	}
	w.samples++
	w.taken, w.served, w.possible = w.taken+min(taken, possible), w.served+min(served, possible), w.possible+possible
	return nil
}

// atSources counts the batches that are in a transaction on each source. What a replica
// asks on its own account when it starts, and ends of a dead one, is no batch, and neither
// is what says so itself, as a plan and a vacuum do; all else counts.
func (w *watch) atSources(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	rows, err := w.s.sources[databases[0]].Pool.Query(ctx, `
		SELECT datname, count(*), string_agg(application_name || ': ' || left(query, 60), '; ') FROM pg_stat_activity
		WHERE application_name LIKE 'archiver worker %' AND xact_start IS NOT NULL
		  AND (query NOT LIKE '/* archiver %' OR query LIKE '/* archiver batch %')
		  AND query NOT LIKE 'SELECT current_setting(''server_version_num'')%' AND query NOT LIKE '%pg_terminate_backend%'
		GROUP BY datname`)
	if err != nil {
		return err
	}
	defer rows.Close()
	active := 0
	for rows.Next() {
		var name, who string
		var n int
		if err := rows.Scan(&name, &n, &who); err != nil {
			return err
		}
		active++
		w.atWork += n
		if n > seats {
			w.breach("%d batches are at work on %s: %s", n, name, who)
		}
	}
	if active > places {
		w.breach("batches are at work on %d databases", active)
	}
	w.sources++
	return rows.Err()
}

func (w *watch) breach(format string, args ...any) {
	w.breaches = append(w.breaches, time.Now().UTC().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

func percent(part, whole int) float64 { return 100 * float64(part) / float64(max(whole, 1)) }

func (w *watch) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%d samples of the queue, %d of pg_stat_activity (%d batches seen); seats taken %.1f %%, by replicas that live %.1f %%",
		w.samples, w.sources, w.atWork, percent(w.taken, w.possible), percent(w.served, w.possible))
	return text.String()
}
