//go:build failpoint

package integration

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/planner"
)

// endSession makes a trigger function that ends the session in which it first runs.
// The sleep is where the server notices that.
const endSession = `
CREATE SEQUENCE public.sessions_ended;
CREATE FUNCTION public.end_session() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF nextval('public.sessions_ended') = 1 THEN
		PERFORM pg_terminate_backend(pg_backend_pid());
		PERFORM pg_sleep(60);
	END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER end_session AFTER `

// TestEnqueueIsOneTransaction ends the planner's session while it writes a page: at
// its first batch, at its first job, and in the COMMIT of all of it. A batch without a
// job would never be worked, a job without a batch would find nothing to work, and a
// plan that has moved on without either would leave rows behind.
func TestEnqueueIsOneTransaction(t *testing.T) {
	t.Parallel()
	for name, trigger := range map[string]string{
		"at the first batch": `INSERT ON {s}.batch`,
		"at the first job":   `INSERT ON {s}.river_job`,
		"at COMMIT":          `INSERT ON {s}.batch DEFERRABLE INITIALLY DEFERRED`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, `- {name: audit_logs, batch_size: 10}`)
			s.db.Exec(t, trialTable)
			s.db.Exec(t, fmt.Sprintf(trialRows, 50))
			s.db.Exec(t, `CREATE TABLE truth AS TABLE audit_logs`)
			tr := &trial{site: s, t: t}
			p, err := planner.Make(t.Context(), s.src, s.ledger, s.cfg.Databases[0].Tables[0], planner.Options{})
			require.NoError(t, err)
			s.db.Exec(t, s.ledger.SQL(endSession+trigger+` FOR EACH ROW EXECUTE FUNCTION public.end_session()`))
			require.ErrorContains(t, p.Enqueue(t.Context(), s.ledger, s.client(t)), "0 of 5 batches were enqueued")
			for _, table := range []string{"batch", "river_job", "run", "archive_table"} {
				require.Zero(t, tr.count(`SELECT count(*) FROM {s}.`+table), "%s: part of a page was written", table)
			}

			tr.plan(t)
			tr.finish(nil)
			tr.archived(5)
		})
	}
}

// TestBatchAndJobEndTogether ends the session that closes a batch: as it completes the
// job, and in the COMMIT of both. Neither is closed then. A job that is completed for
// itself leaves behind a batch that nobody works any more.
func TestBatchAndJobEndTogether(t *testing.T) {
	t.Parallel()
	for name, trigger := range map[string]string{
		"at the job": `UPDATE ON {s}.river_job FOR EACH ROW WHEN (NEW.state = 'completed')`,
		"at COMMIT":  `UPDATE ON {s}.batch DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.state = 'archived')`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 10, "")
			tr.db.Exec(t, tr.ledger.SQL(endSession+trigger+` EXECUTE FUNCTION public.end_session()`))
			var closed atomic.Int64
			tr.finish(func(_ context.Context, name string) error {
				if name == "record:manifest" {
					closed.Add(1)
				}
				return nil
			})
			tr.archived(1)
			require.EqualValues(t, 2, closed.Load(), "the batch was closed without its job")
		})
	}
}

// TestJobOfAnotherIsNotCompleted gives the job to another worker, which has not claimed
// the batch yet, just before the batch is closed.
func TestJobOfAnotherIsNotCompleted(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	tr.finish(func(ctx context.Context, name string) error {
		switch name {
		case "record:manifest":
			tr.sql(ctx, tr.ledger.SQL(`UPDATE {s}.river_job SET attempted_at = now() + interval '1 second'`))
		case "record:done":
			var state string
			if err := tr.ledger.Pool.QueryRow(ctx, tr.ledger.SQL(`SELECT state::text FROM {s}.river_job`)).Scan(&state); err != nil || state != "running" {
				t.Errorf("the other worker's job is %s: %v", state, err)
			}
		}
		return nil
	})
	tr.archived(1)
}
