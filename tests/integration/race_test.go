//go:build failpoint

package integration

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/worker"
)

// TestRowsChanged changes rows after they were read: upload:done is the moment
// between the read's transaction and the delete's.
func TestRowsChanged(t *testing.T) {
	t.Parallel()
	sixth := `(SELECT created_at FROM truth WHERE id = 6)`
	cases := []struct {
		name      string
		change    string // applied to the table and to the truth
		discarded int64  // objects that were set aside: the rows were read again
		state     string
	}{
		{"row updated", `UPDATE %s SET actor = 'changed' WHERE id = 5`, 1, "archived"},
		{"row updated to what it was", `UPDATE %s SET actor = actor WHERE id = 5`, 1, "archived"},
		{"row deleted", `DELETE FROM %s WHERE id = 5`, 1, "archived"},
		{"row inserted into the range", `INSERT INTO %s SELECT 500, ` + sixth + `, 'late', NULL`, 1, "archived"},
		{"row replaced by one of the same key", `DELETE FROM %s WHERE id = 5; INSERT INTO %s SELECT 5, ` + sixth + ` - interval '10 minutes', 'new', NULL`, 1, "archived"},
		{"row moved out of the range", `UPDATE %s SET created_at = date_trunc('day', now()) WHERE id = 5`, 1, "archived"},
		{"all rows updated", `UPDATE %s SET payload = '{}'`, 1, "archived"},
		{"all rows deleted", `DELETE FROM %s`, 1, "empty"},
		{"table truncated", `TRUNCATE %s`, 1, "empty"},
		{"nothing", `SELECT FROM %s`, 0, "archived"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 10, "")
			tr.finish(changing("upload:done", func(ctx context.Context) { tr.both(ctx, c.change) }))
			tr.settledIn(map[string]int64{c.state: 1})
			require.Equal(t, c.discarded, tr.objectsIn("discarded"))
			require.Zero(t, tr.attemptsSpent(), "a change by somebody else is no error of the batch")
		})
	}
}

// TestRowsMoved gives rows another place without changing them.
func TestRowsMoved(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, sql string
		discarded int64
	}{
		{"vacuum freeze", `VACUUM (FREEZE) audit_logs`, 0},
		{"vacuum full", `VACUUM FULL audit_logs`, 1},
		{"cluster", `CLUSTER audit_logs USING backwards`, 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 12, "")
			// Holes before the batch's rows, so that they move when it is rewritten.
			tr.sql(t.Context(), `INSERT INTO audit_logs SELECT 100 + i, now(), 'young', NULL FROM generate_series(1, 50) i`)
			tr.sql(t.Context(), `UPDATE audit_logs SET actor = actor`)
			tr.sql(t.Context(), `DELETE FROM audit_logs WHERE id > 100`)
			tr.sql(t.Context(), `CREATE INDEX backwards ON audit_logs ((-id))`)
			tr.finish(changing("upload:done", func(ctx context.Context) { tr.sql(ctx, c.sql) }))
			tr.archived(2)
			require.Equal(t, c.discarded, min(tr.objectsIn("discarded"), 1))
			require.Zero(t, tr.attemptsSpent())
		})
	}
}

// TestBusyRowIsBisectedAway changes one row of a batch each time that it was read:
// the batch is halved until the row stands alone, and the others are archived.
func TestBusyRowIsBisectedAway(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	var changes atomic.Int64
	var calm atomic.Bool
	tr.finish(func(ctx context.Context, name string) error {
		switch {
		case name != "upload:done" || calm.Load():
		case tr.db.Int(t, `SELECT count(*) FROM audit_logs`) > 1:
			changes.Add(1)
			tr.both(ctx, `UPDATE %s SET payload = coalesce(payload, '{}') || '{"again": true}' WHERE id = 7`)
		default:
			calm.Store(true)
		}
		return nil
	})
	tr.settledIn(tr.states(t))
	require.Zero(t, tr.rowsLeft())
	require.GreaterOrEqual(t, changes.Load(), int64(3))
	require.GreaterOrEqual(t, tr.states(t)["archived"], int64(4), "10 rows, halved until one is left")
	require.EqualValues(t, 10, tr.count(`SELECT sum(rows)::bigint FROM {s}.batch`))
}

// TestRowLocked has another session hold a row: the batch waits, and goes on once
// the row is let go.
func TestRowLocked(t *testing.T) {
	t.Parallel()
	for _, lock := range []string{"FOR UPDATE", "FOR KEY SHARE"} {
		t.Run(lock, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 10, "")
			other, err := tr.db.Pool.Begin(t.Context())
			require.NoError(t, err)
			_, err = other.Exec(t.Context(), `SELECT FROM audit_logs WHERE id = 5 `+lock)
			require.NoError(t, err)

			t.Cleanup(func() { _ = other.Rollback(context.Background()) }) // where the test has failed
			wait := tr.start(nil)
			testkit.Eventually(t, 20*time.Second, func() bool {
				return tr.count(`SELECT count(*) FROM {s}.batch WHERE waiting_for = 'rows are locked by another session' AND state = 'verified' AND attempt > 1`) == 1
			}, "the batch does not wait for the row")
			require.EqualValues(t, 10, tr.rowsLeft())
			require.Zero(t, tr.attemptsSpent())
			require.NoError(t, other.Rollback(t.Context()))
			wait()
			tr.archived(1)
			require.Zero(t, tr.attemptsSpent())
			require.EqualValues(t, 1, tr.count(`SELECT count(*) FROM {s}.object`), "the rows were read once")
		})
	}
}

// TestChangesInsideTheDelete has another session at work between the statements of
// the delete's transaction.
func TestChangesInsideTheDelete(t *testing.T) {
	t.Parallel()
	t.Run("row updated before it is locked", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		tr.finish(changing("delete:fenced", func(ctx context.Context) { tr.both(ctx, `UPDATE %s SET actor = 'changed' WHERE id = 5`) }))
		tr.archived(1)
		require.EqualValues(t, 1, tr.objectsIn("discarded"))
		require.Zero(t, tr.attemptsSpent())
	})
	t.Run("row inserted behind the snapshot", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		tr.finish(changing("delete:fenced", func(ctx context.Context) {
			tr.both(ctx, `INSERT INTO %s SELECT 500, min(created_at) + interval '1 second', 'late', NULL FROM truth`)
		}))
		tr.archived(1)
		require.EqualValues(t, 1, tr.rowsLeft(), "the late row belongs to the next run")
		tr.plan(t)
		tr.finish(nil)
		tr.archived(2)
		require.Zero(t, tr.rowsLeft())
	})
	t.Run("rows cannot be changed once they are locked", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		tr.finish(changing("delete:locked", func(ctx context.Context) {
			tr.keptWaiting(ctx, `UPDATE audit_logs SET actor = 'changed' WHERE id = 5`)
		}))
		tr.archived(1)
	})
}

func isLockTimeout(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "55P03"
}

// dangers are changes of the catalog after which rows must not be deleted.
var dangers = []struct {
	name, sql, says string
	points          []string // where it is tried
}{
	{"cascade", `CREATE TABLE child (audit_id bigint REFERENCES audit_logs ON DELETE CASCADE)`, "inbound_fk_cascade", []string{"state:planned", "extract:locked", "upload:done", "delete:begun"}},
	{"set null", `CREATE TABLE child (audit_id bigint REFERENCES audit_logs ON DELETE SET NULL)`, "inbound_fk_set_null", []string{"upload:done"}},
	{"trigger", createTrigger, "delete_trigger", []string{"state:planned", "upload:done", "delete:begun"}},
	{"rule", `CREATE RULE keep AS ON DELETE TO audit_logs DO INSTEAD NOTHING`, "delete_rule", []string{"upload:done", "delete:begun"}},
	{"inheritance", `CREATE TABLE child (secret text) INHERITS (audit_logs)`, "inheritance_children", []string{"upload:done", "delete:begun"}},
	{"timestamp column renamed", `ALTER TABLE audit_logs RENAME created_at TO at`, "has no column", []string{"delete:begun"}},
	{"table renamed", `ALTER TABLE audit_logs RENAME TO elsewhere`, "audit_logs", []string{"upload:done", "delete:begun"}},
}

// The trigger lets the rows go, so that only the catalog can tell that it is there.
const createTrigger = `
CREATE TABLE fired (id bigint);
CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.fired VALUES (OLD.id); RETURN NULL; END';
CREATE TRIGGER fire AFTER DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION fire();`

// TestCatalogBecomesDangerous makes each change between the read and the delete,
// and again inside the delete's transaction, before it has locked the table; and
// some between the look that claim takes and the read's own snapshot.
func TestCatalogBecomesDangerous(t *testing.T) {
	t.Parallel()
	for _, d := range dangers {
		for _, point := range d.points {
			t.Run(d.name+" at "+point, func(t *testing.T) {
				t.Parallel()
				tr := newTrial(t, 10, "")
				tr.finish(changing(point, func(ctx context.Context) { tr.sql(ctx, d.sql) }))
				tr.refused(d.says)
				require.Empty(t, tr.objects(t, "public", "audit_logs"))
				name := "audit_logs"
				if d.name == "table renamed" {
					name = "elsewhere"
				}
				require.EqualValues(t, 10, tr.db.Int(t, `SELECT count(*) FROM `+name))
			})
		}
	}
}

// refused asserts that the one batch failed for good, and what is said about it.
func (tr *trial) refused(says string) {
	tr.t.Helper()
	require.EqualValues(tr.t, 1, tr.count(`SELECT count(*) FROM {s}.batch WHERE failed AND state IN ('planned', 'verified')`), "the batch should have failed: %v", tr.states(tr.t))
	message, hint := tr.lastError()
	require.Contains(tr.t, message, says)
	require.Contains(tr.t, message, "nothing was deleted")
	require.NotEmpty(tr.t, hint)
	require.Zero(tr.t, tr.count(`SELECT count(*) FROM {s}.river_job WHERE finalized_at IS NULL`), "it would be tried again for nothing")
}

// TestTriggerCommittedWhileTheLockIsWaitedFor is the race that decides the order of
// the delete's first two steps. The other session has created its trigger and not
// committed when our transaction begins; it commits while we wait for our lock.
// Had our snapshot been taken before the lock, the fingerprint would not show the
// trigger, and the trigger would fire.
func TestTriggerCommittedWhileTheLockIsWaitedFor(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	committed := make(chan error, 1)
	tr.finish(changing("delete:begun", func(ctx context.Context) {
		other, err := tr.db.Pool.Begin(context.WithoutCancel(ctx))
		if err != nil {
			t.Errorf("begin: %v", err)
			return
		}
		if _, err := other.Exec(ctx, createTrigger); err != nil {
			t.Errorf("create the trigger: %v", err)
		}
		go func() { committed <- tr.commitOnceWaitedFor(other) }()
	}))
	require.NoError(t, <-committed)
	require.Zero(t, tr.db.Int(t, `SELECT count(*) FROM fired`), "the trigger fired")
	tr.refused("delete_trigger")
	require.EqualValues(t, 10, tr.rowsLeft())
	require.Empty(t, tr.objects(t, "public", "audit_logs"))
}

// commitOnceWaitedFor commits tx as soon as somebody waits for a lock on the table.
func (tr *trial) commitOnceWaitedFor(tx pgx.Tx) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		var waiting bool
		err := tr.db.Pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE NOT l.granted AND c.relname = 'audit_logs' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))`).Scan(&waiting)
		if err != nil {
			return errors.Join(err, tx.Rollback(context.Background()))
		}
		if waiting {
			return tx.Commit(ctx)
		}
	}
}

// TestNoTriggerOnceTheTableIsLocked shows the other half: from the lock on nobody
// can change what a delete means.
func TestNoTriggerOnceTheTableIsLocked(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	tr.finish(changing("delete:table-locked", func(ctx context.Context) {
		for _, d := range dangers {
			if d.name != "inheritance" { // takes no lock that conflicts; our statements say ONLY
				tr.keptWaiting(ctx, d.sql)
			}
		}
	}))
	tr.archived(1)
}

// TestDefinitionIsLockedWhileRowsAreRead: a table that is rewritten after the read's
// snapshot was taken would look empty.
func TestDefinitionIsLockedWhileRowsAreRead(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	tr.finish(changing("extract:locked", func(ctx context.Context) {
		tr.keptWaiting(ctx, `ALTER TABLE audit_logs ALTER payload TYPE text`)
		tr.keptWaiting(ctx, `TRUNCATE audit_logs`)
		tr.keptWaiting(ctx, `ALTER TABLE audit_logs DROP payload`)
	}))
	tr.archived(1)
}

// keptWaiting asserts that a statement cannot get the lock that it needs.
func (tr *trial) keptWaiting(ctx context.Context, sql string) {
	if _, err := tr.db.Pool.Exec(ctx, `SET lock_timeout = '50ms'; `+sql); !isLockTimeout(err) {
		tr.t.Errorf("%s: was not kept waiting: %v", sql, err)
	}
}

// TestCatalogChangesHarmlessly changes the table, again and again, so that rows
// must be read again in their new shape.
func TestCatalogChangesHarmlessly(t *testing.T) {
	t.Parallel()
	reread := []string{ // applied to the truth as well
		`ALTER TABLE %s ADD note text`,
		`ALTER TABLE %s ADD origin text DEFAULT 'none'`,
		`ALTER TABLE %s RENAME actor TO who`,
		`ALTER TABLE %s ALTER who TYPE varchar`,
		`ALTER TABLE %s ALTER payload TYPE text`,
		`ALTER TABLE %s DROP payload`,
	}
	ignored := []string{
		`CREATE INDEX ON %s (actor)`,
		`COMMENT ON TABLE %s IS 'audit'`,
		`GRANT SELECT ON %s TO pg_monitor`,
		`ANALYZE %s`,
	}
	for name, changes := range map[string][]string{"read again": reread, "ignored": ignored} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 100, "")
			var inOrder sync.Mutex // batches side by side must not overtake one another here
			next := 0
			tr.finish(func(ctx context.Context, name string) error {
				if name == "upload:done" {
					inOrder.Lock()
					defer inOrder.Unlock()
					if next < len(changes) {
						tr.both(ctx, changes[next])
						next++
					}
				}
				return nil
			})
			tr.archived(10)
			require.Zero(t, tr.attemptsSpent())
			if name == "ignored" {
				require.Zero(t, tr.objectsIn("discarded"))
			} else {
				require.GreaterOrEqual(t, tr.objectsIn("discarded"), int64(len(changes)))
			}
		})
	}
}

// TestPartitionAttached has a partition with rows in the batch's range attached
// after the read.
func TestPartitionAttached(t *testing.T) {
	t.Parallel()
	s := newSite(t, `- {name: audit_logs}`)
	base := `date_trunc('month', now() - interval '4 months')`
	s.db.Exec(t, `
		CREATE TABLE audit_logs (id bigint, created_at timestamptz, actor text, PRIMARY KEY (created_at, id)) PARTITION BY RANGE (created_at);
		DO $$ BEGIN
			EXECUTE format('CREATE TABLE p1 PARTITION OF audit_logs FOR VALUES FROM (%L) TO (%L)', `+base+`, `+base+` + interval '1 hour');
			EXECUTE format('CREATE TABLE p3 PARTITION OF audit_logs FOR VALUES FROM (%L) TO (%L)', `+base+` + interval '2 hours', `+base+` + interval '3 hours');
		END $$;
		CREATE TABLE p2 (LIKE audit_logs INCLUDING ALL);
		INSERT INTO audit_logs SELECT i, `+base+` + i * interval '10 minutes', 'user' FROM generate_series(0, 17) i WHERE i NOT BETWEEN 6 AND 11;
		INSERT INTO p2 SELECT i, `+base+` + i * interval '10 minutes', 'user' FROM generate_series(6, 11) i;
		CREATE TABLE truth AS SELECT * FROM audit_logs UNION ALL SELECT * FROM p2`)
	tr := &trial{site: s, t: t}
	tr.plan(t)
	tr.finish(changing("upload:done", func(ctx context.Context) {
		tr.sql(ctx, `DO $$ BEGIN EXECUTE format('ALTER TABLE audit_logs ATTACH PARTITION p2 FOR VALUES FROM (%L) TO (%L)', `+base+` + interval '1 hour', `+base+` + interval '2 hours'); END $$`)
	}))
	tr.archived(1)
	require.EqualValues(t, 1, tr.objectsIn("discarded"))
	require.EqualValues(t, 18, tr.count(`SELECT rows FROM {s}.batch`))
	require.Zero(t, tr.rowsLeft())
}

// TestRowSecurityEnabled turns row-level security on under a role that it applies to.
func TestRowSecurityEnabled(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"upload:done", "delete:begun"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 10, "")
			role, dsn := tr.db.Role(t)
			tr.sql(t.Context(), `GRANT SELECT, DELETE ON audit_logs TO `+role)
			database := tr.cfg.Databases[0]
			database.Primary = config.Secret(dsn)
			src, err := source.Open(t.Context(), database, "test")
			require.NoError(t, err)
			t.Cleanup(src.Close)
			tr.src = src
			tr.finish(changing(point, func(ctx context.Context) {
				tr.sql(ctx, `ALTER TABLE audit_logs ENABLE ROW LEVEL SECURITY; CREATE POLICY odd ON audit_logs USING (id % 2 = 1)`)
			}))
			tr.refused("row_security")
			require.EqualValues(t, 10, tr.rowsLeft())
			tr.sql(t.Context(), `ALTER TABLE audit_logs DISABLE ROW LEVEL SECURITY`)
			tr.retry()
			tr.finish(nil)
			tr.archived(1)
		})
	}
}

// TestTwins gives a job that is at work to a second replica, as River's rescuer
// would, at each boundary of the first. One of the two archives the batch.
func TestTwins(t *testing.T) {
	t.Parallel()
	for _, point := range boundaries {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 10, "")
			twin := make(chan error, 1)
			locked := point == "delete:fenced" || point == "delete:locked" || point == "delete:before-commit"
			tr.finish(changing(point, func(ctx context.Context) {
				tr.sql(ctx, tr.ledger.SQL(`UPDATE {s}.river_job SET state = 'available', scheduled_at = now() WHERE state = 'running'`))
				ctx, cancel := context.WithTimeout(failpoint.With(context.WithoutCancel(ctx), nothing), time.Minute)
				go func() {
					defer cancel()
					twin <- worker.Run(ctx, tr.deps(), worker.RunOptions{Drain: true, Patience: 20 * time.Second})
				}()
				if !locked { // the twin can go all the way while the first one stands still
					err := <-twin
					twin <- err
					return
				}
				// The first one holds the batch's lock: the twin sees that, and waits.
				waiting := func() (n int, err error) {
					err = tr.ledger.Pool.QueryRow(ctx, tr.ledger.SQL(`SELECT count(*) FROM {s}.batch WHERE attempt > 1 AND waiting_for = $1`), source.TwinAtWork.String()).Scan(&n)
					return n, err
				}
				for {
					if n, err := waiting(); err != nil || n > 0 {
						if err != nil {
							t.Errorf("wait for the twin: %v", err)
						}
						return
					}
				}
			}))
			require.NoError(t, <-twin)
			tr.archived(1)
			require.Zero(t, tr.rowsLeft())
			require.Zero(t, tr.objectsIn("superseded")+tr.objectsIn("discarded"))
			require.Len(t, tr.bucket.Keys(t), 2, "both uploaded the same bytes to the same key")
			require.Zero(t, tr.attemptsSpent())
		})
	}
}

// TestOvertakenTwinKeepsOffTheJob gives a running job to a second attempt once, where
// each attempt takes longer than the overtaken one's snooze (which hurry cuts short): it
// must not send a third after the second, and so on without end.
func TestOvertakenTwinKeepsOffTheJob(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	var uploads atomic.Int64
	tr.finish(func(ctx context.Context, name string) error {
		if name == "upload:done" {
			if uploads.Add(1) == 1 {
				tr.sql(ctx, tr.ledger.SQL(`UPDATE {s}.river_job SET state = 'available', scheduled_at = now() WHERE state = 'running'`))
			}
			time.Sleep(time.Second)
		}
		return nil
	})
	tr.archived(1)
	require.LessOrEqual(t, uploads.Load(), int64(2))
	require.Zero(t, tr.attemptsSpent())
}

func nothing(context.Context, string) error { return nil }

// TestOvertaken raises the attempt in the ledger behind the workers' backs, at each
// boundary once: whatever an attempt was about to do, it stops without a change.
func TestOvertaken(t *testing.T) {
	t.Parallel()
	const batches = 15
	tr := newTrial(t, 10*batches, "")
	overtake := atEach(boundaries[:len(boundaries)-1], func(ctx context.Context) error {
		tr.sql(ctx, tr.ledger.SQL(`UPDATE {s}.batch SET attempt = attempt + 1`))
		return nil
	})
	tr.finish(overtake.handle)
	overtake.allReached(t)
	tr.archived(batches)
	require.Zero(t, tr.attemptsSpent())
	require.Zero(t, tr.objectsIn("discarded")+tr.objectsIn("superseded"))
	require.Len(t, tr.bucket.Keys(t), 2*batches)
}
