//go:build failpoint

package integration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/planner"
)

// pair is a trial whose source is a primary with a streaming standby, which is its read
// replica. The control database is elsewhere, so that the primary is as still as its
// table.
type pair struct {
	*trial
	standby *testkit.DB
	logs    *observer.ObservedLogs
}

// Further keys of the table.
const (
	fallBack = ", replica_fallback: primary"
	waits    = ", replica_fallback: wait"
)

// newPair fills the table and waits for the standby; nothing is planned.
func newPair(t *testing.T, rows int, settings map[string]string, keys string) *pair {
	t.Helper()
	cluster := testkit.Cluster(t, localserver.PostgresOptions{Settings: settings})
	p := &pair{trial: &trial{site: newSite(t, `- {name: audit_logs, batch_size: 10`+keys+`}`), t: t}}
	p.db = testkit.Database(t, cluster)
	standby := testkit.Replica(t, cluster)
	p.db.Exec(t, trialTable)
	p.db.Exec(t, fmt.Sprintf(trialRows, rows))
	p.db.Exec(t, `CREATE TABLE truth AS TABLE audit_logs`)
	p.standby = testkit.Open(t, standby, p.db.Name)
	p.cfg.Worker.ShutdownTimeout = time.Second
	p.cfg.Databases[0].Primary, p.cfg.Databases[0].Replica = config.Secret(p.db.DSN), config.Secret(p.standby.DSN)
	p.reopen()
	core, logs := observer.New(zap.InfoLevel)
	p.log, p.logs = zap.New(core), logs
	p.caughtUp()
	return p
}

// reopen connects to the servers that the configuration names now.
func (p *pair) reopen() {
	p.t.Helper()
	src, err := source.Open(p.t.Context(), p.cfg.Databases[0], "archiver worker test")
	require.NoError(p.t, err)
	p.t.Cleanup(src.Close)
	p.src = src
}

// caughtUp waits until the standby shows all that the primary has.
func (p *pair) caughtUp() {
	p.t.Helper()
	end := p.db.Text(p.t, `SELECT pg_current_wal_lsn()::text`)
	testkit.Eventually(p.t, 20*time.Second, func() bool {
		return p.standby.Int(p.t, `SELECT (pg_last_wal_replay_lsn() >= $1::text::pg_lsn)::int`, end) == 1
	}, "the standby has caught up")
}

// pause has the standby replay nothing more. It still receives.
func (p *pair) pause() {
	p.t.Helper()
	p.standby.Exec(p.t, `SELECT pg_wal_replay_pause()`)
	testkit.Eventually(p.t, 10*time.Second, func() bool { return p.standby.Text(p.t, `SELECT pg_get_wal_replay_pause_state()`) == "paused" }, "the replay pauses")
}

func (p *pair) resume() {
	p.t.Helper()
	p.standby.Exec(p.t, `SELECT pg_wal_replay_resume()`)
}

// fallBehind has the primary write more than two megabytes.
func (p *pair) fallBehind() {
	p.t.Helper()
	p.db.Exec(p.t, `SELECT pg_logical_emit_message(false, 'test', repeat('x', 3000000))`)
}

// readFrom counts the objects in storage whose rows came from a server.
func (p *pair) readFrom(server string) int64 {
	p.t.Helper()
	n := int64(0)
	for _, o := range p.objects(p.t, "public", "audit_logs") {
		if o.manifest.Source.ReadFrom == server {
			n++
		}
	}
	require.Equal(p.t, n, p.count(`SELECT count(*) FROM {s}.object WHERE state = 'committed' AND read_from = $1 AND (content_guard OR read_from = 'primary')`, server), "ledger and manifests")
	return n
}

// news are the reasons for which the replica was passed over, as logged.
func (p *pair) news() []string {
	p.t.Helper()
	var out []string
	for _, e := range p.logs.FilterMessage("the read replica is not used").All() {
		require.NotEmpty(p.t, e.ContextMap()["hint"])
		out = append(out, fmt.Sprint(e.ContextMap()["trouble"]))
	}
	return out
}

// awaitReplica waits until a batch waits for the replica, for that reason and no other.
func (p *pair) awaitReplica(reason string) {
	p.t.Helper()
	p.awaitWaiting("the read replica of database main " + reason)
}

// activity is what the database's sessions of the archiver are at, on one server.
func (p *pair) activity(db *testkit.DB) string {
	return db.Text(p.t, `SELECT coalesce(string_agg(query, E'\n'), '') FROM pg_stat_activity WHERE application_name = 'archiver worker test' AND datname = current_database()`)
}

// TestReplicaIsRead: rows and bounds are read on the replica, deleted on the primary, and
// pg_stat_activity says on both which batch is at what.
func TestReplicaIsRead(t *testing.T) {
	t.Parallel()
	p := newPair(t, 50, nil, waits)
	plan := p.plan(t)[0]
	require.Equal(t, source.ReadReplica, plan.ReadFrom)
	require.Nil(t, plan.PassedOver)
	require.EqualValues(t, 50, plan.Rows)
	var mu sync.Mutex
	seen := map[string]string{} // what each server showed at a point
	p.finish(func(_ context.Context, point string) error {
		if point == "extract:copied" || point == "delete:before-commit" {
			mu.Lock()
			defer mu.Unlock()
			seen["primary at "+point] += p.activity(p.db)
			seen["replica at "+point] += p.activity(p.standby)
		}
		return nil
	})
	p.archived(5)
	require.Zero(t, p.rowsLeft())
	require.EqualValues(t, 5, p.readFrom(source.ReadReplica))
	require.Empty(t, p.news())

	require.Regexp(t, `/\* archiver batch [1-5] read main\.public\.audit_logs \*/ COPY`, seen["replica at extract:copied"])
	require.NotContains(t, seen["primary at extract:copied"], " COPY ")
	require.Regexp(t, `/\* archiver batch [1-5] delete main\.public\.audit_logs \*/ DELETE FROM`, seen["primary at delete:before-commit"])
	require.NotContains(t, seen["replica at delete:before-commit"], "DELETE")
}

// TestReplicaLags: a replica that is too far behind is not read, until it has caught up.
func TestReplicaLags(t *testing.T) {
	t.Parallel()
	t.Run("fall back", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, 30, nil, fallBack+", max_replica_lag_mb: 1")
		p.pause()
		p.fallBehind()
		plan := p.plan(t)[0]
		require.Equal(t, source.Primary, plan.ReadFrom)
		require.ErrorContains(t, plan.PassedOver, "MB behind the primary, more than max_replica_lag_mb (1)")
		p.finish(nil)
		p.archived(3)
		require.EqualValues(t, 3, p.readFrom(source.Primary))
		require.Equal(t, []string{"lags"}, p.news(), "once, not for each batch")
		require.Zero(t, p.attemptsSpent())
	})
	t.Run("within the limit", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, 30, nil, waits+", max_replica_lag_mb: 5")
		p.plan(t)
		p.pause()
		p.fallBehind()
		p.finish(changing("extract:copied", func(context.Context) { p.resume() })) // the next must see the delete
		p.archived(3)
		require.EqualValues(t, 3, p.readFrom(source.ReadReplica))
	})
	t.Run("wait", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, 30, nil, waits+", max_replica_lag_mb: 1")
		p.plan(t)
		p.pause()
		p.fallBehind()
		_, err := planner.Make(t.Context(), p.src, p.ledger, p.cfg.Databases[0].Tables[0], planner.Options{})
		var not *source.ReplicaError
		require.ErrorAs(t, err, &not)
		require.Equal(t, source.ReplicaLags, not.Trouble)
		wait := p.start(nil)
		p.awaitReplica("is")
		p.exactlyOnce()
		require.EqualValues(t, 30, p.rowsLeft())
		p.resume()
		wait()
		p.archived(3)
		require.EqualValues(t, 3, p.readFrom(source.ReadReplica))
		require.Zero(t, p.attemptsSpent(), "waiting is no error of the batch")
	})
}

// TestReplicaBehindTheLastDelete has a standby show rows that are archived. They must not
// be planned or read again, however small the lag.
func TestReplicaBehindTheLastDelete(t *testing.T) {
	t.Parallel()
	p := newPair(t, 10, nil, fallBack)
	p.plan(t)
	p.pause()
	p.finish(nil)
	p.archived(1)
	require.EqualValues(t, 1, p.readFrom(source.ReadReplica), "nothing was deleted before it was read")
	require.EqualValues(t, 10, p.standby.Int(t, `SELECT count(*) FROM audit_logs`), "the standby shows the rows yet")
	table := p.cfg.Databases[0].Tables[0]
	plan, err := planner.Make(t.Context(), p.src, p.ledger, table, planner.Options{})
	require.NoError(t, err)
	require.Equal(t, source.ReplicaBehind, plan.PassedOver.Trouble)
	require.Empty(t, plan.Pages)
	table.ReplicaFallback = config.ReplicaFallbackWait
	_, err = planner.Make(t.Context(), p.src, p.ledger, table, planner.Options{})
	var not *source.ReplicaError
	require.ErrorAs(t, err, &not)
	require.Equal(t, source.ReplicaBehind, not.Trouble)

	// A row that arrives late has a batch made of the range that the replica still shows.
	p.both(t.Context(), `INSERT INTO %s SELECT 500, max(created_at), 'late', NULL FROM truth`)
	p.plan(t)
	p.finish(nil)
	p.archived(2)
	require.EqualValues(t, 1, p.readFrom(source.Primary))
	require.Zero(t, p.objectsIn("discarded"), "archived rows were read again")
}

// TestReplicaAfterALostPosition: after a failover that has lost WAL the position of the last
// delete can lie far beyond the primary's end. A replica that follows is read all the
// same, also while the primary is written to all the time.
func TestReplicaAfterALostPosition(t *testing.T) {
	t.Parallel()
	p := newPair(t, 10, nil, waits)
	p.plan(t)
	p.finish(nil)
	p.archived(1)
	_, err := p.ledger.Pool.Exec(t.Context(), p.ledger.SQL(`UPDATE {s}.archive_table SET last_delete_lsn = 'FFFF/0'`))
	require.NoError(t, err)
	p.standby.Exec(t, `ALTER SYSTEM SET recovery_min_apply_delay = '500ms'`) // as a standby at work has it anyway
	p.standby.Exec(t, `SELECT pg_reload_conf()`)
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	writing.Go(func() {
		for ctx.Err() == nil {
			_, _ = p.db.Pool.Exec(ctx, `SELECT pg_logical_emit_message(true, 'test', 'x')`)
		}
	})
	for range 2 {
		testkit.Eventually(t, 20*time.Second, func() bool {
			return p.standby.Int(t, `SELECT (pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()
				AND clock_timestamp() - pg_last_xact_replay_timestamp() > interval '400 ms')::int`) == 1
		}, "the delay is in force")
		plan, err := planner.Make(t.Context(), p.src, p.ledger, p.cfg.Databases[0].Tables[0], planner.Options{})
		require.NoError(t, err)
		require.Equal(t, source.ReadReplica, plan.ReadFrom)
	}
	stop()
	writing.Wait()
}

// TestWindowsOnTheReplica: the further windows of a run are planned where the first was.
func TestWindowsOnTheReplica(t *testing.T) {
	t.Parallel()
	p := newPair(t, 300, nil, waits+", adaptive_batch: {min_batch_size: 5, max_batch_size: 20}")
	plan, err := planner.Make(t.Context(), p.src, p.ledger, p.cfg.Databases[0].Tables[0], planner.Options{})
	require.NoError(t, err)
	for _, later := range plan.Pages[5:] {
		plan.Later += later.Rows
	}
	plan.Pages = plan.Pages[:5]
	require.NoError(t, plan.Enqueue(t.Context(), p.ledger, p.client(t)))
	_, err = fleet.Cancel(t.Context(), p.ledger, p.client(t), 1) // one has to have ended
	require.NoError(t, err)
	var mu sync.Mutex
	var primary, replica string
	stop := p.windows(1, func(_ context.Context, point string) error {
		if point == "window:before-commit" {
			mu.Lock()
			defer mu.Unlock()
			primary, replica = p.activity(p.db), p.activity(p.standby)
		}
		return nil
	})
	testkit.Eventually(t, 20*time.Second, func() bool { return p.count(`SELECT count(*) FROM {s}.batch`) > 5 }, "a window is planned")
	stop()
	require.Contains(t, replica, "/* archiver plan main.public.audit_logs */")
	require.NotContains(t, primary, "/* archiver plan main.public.audit_logs */")
}

// TestUnheardDeletePosition loses the connection right after the commit, before the
// position of the delete was heard: it is asked for again, since the replica is held to it.
func TestUnheardDeletePosition(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	tr.finish(changing("delete:after-commit", func(ctx context.Context) {
		tr.sql(ctx, `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'test' AND datname = current_database()`)
	}))
	tr.archived(1)
	require.EqualValues(t, 1, tr.count(`SELECT count(*) FROM {s}.archive_table a JOIN {s}.batch b ON b.table_id = a.id WHERE last_delete_lsn = delete_lsn`))
}

// TestReplicaPromoted makes the replica a primary of its own in the middle of the work.
func TestReplicaPromoted(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string]string{"fall back": fallBack, "wait": waits} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, 30, nil, keys)
			p.cfg.Worker.Concurrency = 1
			p.plan(t)
			promote := changing("extract:locked", func(ctx context.Context) {
				if err := p.standby.Server.Promote(context.WithoutCancel(ctx)); err != nil {
					t.Errorf("promote: %v", err)
				}
				// Another row under another history, in the batch that is being read.
				if _, err := p.standby.Pool.Exec(context.WithoutCancel(ctx), `UPDATE audit_logs SET actor = 'of another history'`); err != nil {
					t.Errorf("change the promoted server: %v", err)
				}
			})
			wait := p.start(promote)
			if keys == waits {
				p.awaitReplica("is not in recovery")
				p.exactlyOnce()
				require.Zero(t, p.readFrom(source.Primary))
				require.EqualValues(t, 30, p.rowsLeft())
				p.cfg.Databases[0].Tables[0].ReplicaFallback = config.ReplicaFallbackPrimary // no replica comes back; let the run end
			}
			wait()
			p.archived(3)
			require.EqualValues(t, 3, p.readFrom(source.Primary))
			require.Zero(t, p.attemptsSpent())
		})
	}
}

// TestReplicaGone stops the replica between batches and in the middle of a read.
func TestReplicaGone(t *testing.T) {
	t.Parallel()
	crash := func(p *pair) {
		if err := p.standby.Server.Crash(); err != nil {
			p.t.Errorf("crash: %v", err)
		}
	}
	for _, point := range []string{"state:planned", "extract:locked"} {
		t.Run("fall back at "+point, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, 30, nil, fallBack)
			p.plan(t)
			p.finish(changing(point, func(context.Context) { crash(p) }))
			p.archived(3)
			require.Zero(t, p.attemptsSpent())
			require.Equal(t, []string{"away"}, p.news())
			plan := p.plan(t)[0]
			require.Equal(t, source.ReplicaAway, plan.PassedOver.Trouble)
		})
	}
	t.Run("wait", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, 30, nil, waits)
		p.plan(t)
		wait := p.start(changing("extract:locked", func(context.Context) { crash(p) }))
		p.awaitReplica("does not answer")
		p.exactlyOnce()
		require.NoError(t, p.standby.Server.Restart(t.Context()))
		wait()
		p.archived(3)
		require.EqualValues(t, 3, p.readFrom(source.ReadReplica))
		require.Zero(t, p.attemptsSpent())
	})
}

// TestOldTimeline: a standby that still follows the former primary is none of the new
// one; a standby of another system and a server that is no standby are none either.
func TestOldTimeline(t *testing.T) {
	t.Parallel()
	p := newPair(t, 10, nil, waits)
	other := testkit.Replica(t, p.db.Server)
	require.NoError(t, other.Promote(t.Context()))
	stranger := testkit.Replica(t, testkit.Postgres(t).Server)
	for want, c := range map[string]struct{ primary, replica string }{
		"follows timeline 1, and the primary is on 2": {other.DSN(p.db.Name), p.standby.DSN},
		"is not in recovery":                          {p.db.DSN, p.db.DSN},
		"is a standby of another system":              {p.db.DSN, stranger.DSN("postgres")},
	} {
		p.cfg.Databases[0].Primary, p.cfg.Databases[0].Replica = config.Secret(c.primary), config.Secret(c.replica)
		p.reopen()
		_, not, err := p.src.Reader(t.Context(), p.cfg.Databases[0].Tables[0], "")
		require.ErrorContains(t, err, want)
		require.Equal(t, source.ReplicaUnfit, not.Trouble)
		require.Equal(t, source.Unavailable, source.Classify(err))
		_, err = p.src.InspectReplica(t.Context())
		require.ErrorContains(t, err, want)
	}
}

// TestReplicaBehindPgBouncer has both servers behind PgBouncer in transaction mode.
func TestReplicaBehindPgBouncer(t *testing.T) {
	t.Parallel()
	p := newPair(t, 50, nil, waits)
	for server, url := range map[*localserver.Postgres]*config.Secret{p.db.Server: &p.cfg.Databases[0].Primary, p.standby.Server: &p.cfg.Databases[0].Replica} {
		dsn := url.Reveal()
		was := fmt.Sprintf("127.0.0.1:%d", server.Port)
		require.Contains(t, dsn, was)
		*url = config.Secret(strings.Replace(dsn, was, testkit.PgBouncer(t, server, "transaction"), 1))
	}
	p.reopen()
	p.plan(t)
	p.finish(nil)
	p.archived(5)
	require.EqualValues(t, 5, p.readFrom(source.ReadReplica))
}

// TestPoolSize counts connections while more batches are at work than may have one.
func TestPoolSize(t *testing.T) {
	t.Parallel()
	most := map[int]map[string]int64{}
	p := newPair(t, 150, nil, waits)
	for round, size := range []int{1, 4} {
		if round == 1 {
			p.db.Exec(t, `INSERT INTO audit_logs SELECT id + 1000, created_at, actor, payload FROM truth; INSERT INTO truth TABLE audit_logs`)
			p.src.Close()
		}
		p.cfg.Databases[0].PoolSize, p.cfg.Databases[0].Concurrency, p.cfg.Worker.Concurrency = size, 8, 8
		p.reopen()
		p.plan(t)
		at := map[string]int64{}
		var mu sync.Mutex
		p.finish(func(_ context.Context, point string) error {
			if !strings.HasPrefix(point, "extract:") && !strings.HasPrefix(point, "delete:") || point == "extract:row" {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			for server, db := range map[string]*testkit.DB{"primary": p.db, "replica": p.standby} {
				at[server] = max(at[server], db.Int(t, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'archiver worker test' AND datname = current_database()`))
			}
			return nil
		})
		p.archived(15 * int64(round+1))
		most[size] = at
	}
	require.Equal(t, map[string]int64{"primary": 1, "replica": 1}, most[1])
	for server, n := range most[4] {
		require.LessOrEqual(t, n, int64(4), server)
		require.Greater(t, n, int64(1), server)
	}
}

// TestEndSessionsOnBoth ends what a dead worker holds on either server.
func TestEndSessionsOnBoth(t *testing.T) {
	t.Parallel()
	p := newPair(t, 1, nil, waits)
	dead, err := source.Open(t.Context(), p.cfg.Databases[0], source.WorkerSession("dead"))
	require.NoError(t, err)
	t.Cleanup(dead.Close)
	_, _, err = dead.Reader(t.Context(), p.cfg.Databases[0].Tables[0]) // connects to both
	require.NoError(t, err)
	const held = `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'archiver worker dead'`
	require.EqualValues(t, 1, p.db.Int(t, held))
	require.EqualValues(t, 1, p.standby.Int(t, held))
	require.NoError(t, p.src.EndSessions(t.Context(), []string{"dead"}))
	require.Zero(t, p.db.Int(t, held))
	require.Zero(t, p.standby.Int(t, held))
	require.NoError(t, p.standby.Server.Crash())
	require.ErrorContains(t, p.src.EndSessions(t.Context(), []string{"dead"}), "on the read replica")
}

// TestHostileComment: a table's name cannot get out of the comment.
func TestHostileComment(t *testing.T) {
	t.Parallel()
	s := newSite(t, `- {name: 'public."a*/; DROP TABLE t; /*\n"', batch_size: 10}`)
	s.db.Exec(t, `CREATE TABLE t (); CREATE TABLE "a*/; DROP TABLE t; /*\n" (id bigint PRIMARY KEY, created_at timestamptz NOT NULL);
		CREATE INDEX ON "a*/; DROP TABLE t; /*\n" (created_at, id); INSERT INTO "a*/; DROP TABLE t; /*\n" VALUES (1, '2020-01-01')`)
	s.plan(t)
	var query string
	s.drain(t, first("extract:copied", func(ctx context.Context) error {
		return s.db.Pool.QueryRow(ctx, `SELECT string_agg(query, '') FROM pg_stat_activity WHERE query LIKE '%COPY%' AND datname = current_database() AND pid <> pg_backend_pid()`).Scan(&query)
	}))
	require.Contains(t, query, `/* archiver batch 1 read main.public."a??; DROP TABLE t; ??\n" */ COPY`)
	require.Equal(t, map[string]int64{"archived": 1}, s.states(t))
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM t`))
}
