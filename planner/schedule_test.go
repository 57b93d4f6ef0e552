package planner

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/migrations"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// nightly is a schedule that is never due while these tests run.
const nightly = "schedule: '0 0 29 2 *'"

// site is a database, source and control database alike, whose table audit_logs has
// 250 old rows: three batches.
type site struct {
	db     *testkit.DB
	ledger *ledger.Ledger
	logs   *observer.ObservedLogs
	log    *zap.Logger
}

func setup(t *testing.T) *site {
	t.Helper()
	s := &site{db: testkit.Postgres(t)}
	core, logs := observer.New(zap.InfoLevel)
	s.log, s.logs = zap.New(core), logs
	_, _, err := migrations.Up(t.Context(), s.db.Pool, "archiver", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	s.ledger = ledger.New(s.db.Pool, "archiver")
	s.db.Exec(t, `CREATE TABLE audit_logs (id bigint PRIMARY KEY, created_at timestamptz NOT NULL);
		CREATE INDEX ON audit_logs (created_at, id);
		INSERT INTO audit_logs SELECT i, '2020-01-15 00:00Z'::timestamptz + i * interval '1 s' FROM generate_series(1, 250) i`)
	return s
}

// replica is a scheduler with a configuration of its own. databases is YAML.
func (s *site) replica(t *testing.T, databases string) *Scheduler {
	t.Helper()
	file := filepath.Join(t.TempDir(), "archiver.yaml")
	require.NoError(t, os.WriteFile(file, []byte(fmt.Sprintf(`
control: {url: %q}
s3: {bucket: audit-archive, region: eu-central-1}
defaults: {retention: 30d, batch_size: 100}
databases:
%s
`, s.db.DSN, databases)), 0o600))
	cfg, err := config.Load(config.Options{File: file, Environ: []string{}})
	require.NoError(t, err)
	queue, err := river.NewClient(riverpgxv5.New(s.db.Pool), &river.Config{Schema: "archiver"})
	require.NoError(t, err)
	r := &Scheduler{Config: cfg, Ledger: s.ledger, Sources: map[string]*source.DB{}, Queue: queue, Log: s.log}
	for _, d := range cfg.Databases {
		db, err := source.Open(t.Context(), d, "test")
		require.NoError(t, err)
		t.Cleanup(db.Close)
		r.Sources[d.Name] = db
	}
	return r
}

// main is a replica for database main whose table audit_logs has these keys.
func (s *site) main(t *testing.T, keys string) *Scheduler {
	t.Helper()
	return s.replica(t, s.database("main", s.db.DSN, keys))
}

func (s *site) database(name, dsn, keys string) string {
	return fmt.Sprintf("  - {name: %s, url: %q, tables: [{name: audit_logs, %s}]}\n", name, dsn, keys)
}

// found is what a replica finds due, in all databases.
func found(t *testing.T, r *Scheduler) []due {
	t.Helper()
	by, err := r.look(t.Context(), r.scheduled())
	require.NoError(t, err)
	var all []due
	for _, d := range r.Config.Databases {
		all = append(all, by[d.Name]...)
	}
	return all
}

// missed moves what is settled years back: the 29th of February has passed since.
func (s *site) missed(t *testing.T) {
	t.Helper()
	s.db.Exec(t, `UPDATE archiver.schedule SET settled_to = '2015-01-01', retry_at = NULL`)
}

func (s *site) runs(t *testing.T) int64 {
	t.Helper()
	return s.db.Int(t, `SELECT count(*) FROM archiver.run`)
}

func (s *site) state(t *testing.T) ledger.Schedule {
	t.Helper()
	all, err := s.ledger.Schedules(t.Context(), s.db.Pool)
	require.NoError(t, err)
	require.Len(t, all, 1)
	return all[0]
}

// TestANewScheduleWaitsForItsTime and a missed one is caught up once, however often it
// was missed.
func TestANewScheduleWaitsForItsTime(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r := s.main(t, nightly)
	require.Empty(t, found(t, r), "a new schedule counts from now on")
	require.Empty(t, found(t, r))

	s.missed(t)
	work := found(t, r)
	require.Len(t, work, 1)
	require.Equal(t, "2016-02-29", work[0].at.Format(time.DateOnly), "the first that was missed")
	r.planOne(t.Context(), work[0])
	require.EqualValues(t, 1, s.runs(t))
	require.EqualValues(t, 3, s.db.Int(t, `SELECT count(*) FROM archiver.batch`))
	done := s.logs.FilterMessage("scheduled plan done").All()
	require.Len(t, done, 1)
	require.EqualValues(t, 250, done[0].ContextMap()["rows"])
	require.EqualValues(t, 3, done[0].ContextMap()["batches"])

	require.Empty(t, found(t, r), "two more that were missed are settled with it")
	state := s.state(t)
	require.WithinDuration(t, state.ReadAt, state.SettledTo, time.Minute)
	require.NotNil(t, state.PlannedAt)
	require.NotNil(t, state.RunID)
	require.False(t, state.Claimed)
	r.planOne(t.Context(), work[0])
	require.EqualValues(t, 1, s.runs(t), "an earlier look plans nothing any more")
}

// TestNothingToPlanSettlesToo leaves no run behind.
func TestNothingToPlanSettlesToo(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.db.Exec(t, `TRUNCATE audit_logs`)
	r := s.main(t, nightly)
	require.Empty(t, found(t, r))
	s.missed(t)
	r.planOne(t.Context(), found(t, r)[0])
	require.Empty(t, found(t, r))
	require.Zero(t, s.runs(t))
	require.NotNil(t, s.state(t).PlannedAt)
}

// TestAChangedSchedule counts from when the last replica has let go of the earlier
// one. Until then replicas that disagree do not start it afresh again and again.
func TestAChangedSchedule(t *testing.T) {
	t.Parallel()
	s := setup(t)
	before, after := s.main(t, nightly), s.main(t, "schedule: '0 0 31 12 *'")
	require.Empty(t, found(t, before))
	s.missed(t)
	require.Empty(t, found(t, after), "the schedule in use is another")
	require.Equal(t, "0 0 29 2 *", s.state(t).Spec)
	require.Len(t, found(t, before), 1)

	s.db.Exec(t, `UPDATE archiver.schedule SET seen_at = now() - interval '3 minutes'`)
	require.Empty(t, found(t, after), "it counts from now on")
	state := s.state(t)
	require.Equal(t, "0 0 31 12 *", state.Spec)
	require.WithinDuration(t, state.ReadAt, state.SettledTo, time.Minute)
	require.Empty(t, found(t, before))
	require.Zero(t, s.runs(t))

	s.db.Exec(t, `UPDATE archiver.schedule SET seen_at = now() - interval '1 day', settled_to = now() - interval '2 years'`)
	require.Len(t, found(t, after), 1, "an unchanged one is caught up although nobody was there")
}

// TestAPausedTableIsNotPlanned until it is resumed.
func TestAPausedTableIsNotPlanned(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r := s.main(t, nightly)
	require.Empty(t, found(t, r))
	s.missed(t)
	for _, pause := range []string{`'', '', ''`, `'main', '', ''`, `'main', 'public', 'audit_logs'`} {
		s.db.Exec(t, `INSERT INTO archiver.pause (database, schema, name) VALUES (`+pause+`)`)
		require.Empty(t, found(t, r), pause)
		s.db.Exec(t, `DELETE FROM archiver.pause`)
	}
	s.db.Exec(t, `INSERT INTO archiver.pause (database) VALUES ('other')`)
	require.Len(t, found(t, r), 1)
}

// TestManyReplicasPlanOnce has them all find the same table due.
func TestManyReplicasPlanOnce(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var fleet []*Scheduler
	for range 5 {
		fleet = append(fleet, s.main(t, nightly))
	}
	require.Empty(t, found(t, fleet[0]))
	for round := range int64(3) {
		s.missed(t)
		var work []due
		for _, r := range fleet {
			work = append(work, found(t, r)...)
		}
		require.Len(t, work, len(fleet))
		var all sync.WaitGroup
		for i, r := range fleet {
			all.Go(func() { r.planOne(t.Context(), work[i]) })
		}
		all.Wait()
		require.Equal(t, int(round)+1, s.logs.FilterMessage("scheduled plan done").Len())
		require.EqualValues(t, 1, s.runs(t), "the other rounds find the table's batches open")
	}
}

// TestAnOvertakenPlanWritesNothing freezes a replica in the middle of its plan until
// its claim has run out and another has planned.
func TestAnOvertakenPlanWritesNothing(t *testing.T) {
	t.Parallel()
	s := setup(t)
	slow, quick := s.main(t, nightly), s.main(t, nightly)
	require.Empty(t, found(t, slow))
	s.missed(t)
	work := found(t, slow)[0]
	claim, err := s.ledger.ClaimSchedule(t.Context(), work.state, time.Minute)
	require.NoError(t, err)
	none, err := s.ledger.ClaimSchedule(t.Context(), work.state, time.Minute)
	require.NoError(t, err)
	require.Nil(t, none, "there is one claim")
	require.True(t, s.state(t).Claimed)
	require.Empty(t, found(t, quick))
	require.NoError(t, s.ledger.RenewSchedule(t.Context(), claim, time.Minute))
	plan, err := Make(t.Context(), slow.Sources["main"], s.ledger, work.Table, Options{})
	require.NoError(t, err)

	s.db.Exec(t, `UPDATE archiver.schedule SET claimed_until = now()`)
	second, err := s.ledger.ClaimSchedule(t.Context(), work.state, time.Minute)
	require.NoError(t, err)
	require.ErrorIs(t, s.ledger.RenewSchedule(t.Context(), claim, time.Minute), ledger.ErrOvertaken)
	finish := func(ctx context.Context, tx pgx.Tx) error { return s.ledger.SettleSchedule(ctx, tx, claim, plan.RunID) }
	require.ErrorIs(t, plan.enqueueThen(t.Context(), s.ledger, slow.Queue, finish), ledger.ErrOvertaken)
	require.Zero(t, s.runs(t), "the page goes with the claim")
	require.NoError(t, s.ledger.PostponeSchedule(t.Context(), claim, time.Hour, "too late", ""))
	require.Nil(t, s.state(t).LastError)

	require.NoError(t, s.ledger.PostponeSchedule(t.Context(), second, 0, "", ""))
	quick.planOne(t.Context(), found(t, quick)[0])
	require.EqualValues(t, 1, s.runs(t))
	require.NoError(t, s.ledger.PostponeSchedule(t.Context(), second, time.Hour, "the answer to COMMIT was lost", ""))
	require.Nil(t, s.state(t).LastError)
}

// TestADatabaseThatIsAway is tried again each minute, and keeps no other waiting.
func TestADatabaseThatIsAway(t *testing.T) {
	t.Parallel()
	s := setup(t)
	away := s.database("away", "postgres://nobody@127.0.0.1:1/nothing?sslmode=disable", nightly)
	r := s.replica(t, away+s.database("main", s.db.DSN, nightly))
	require.Empty(t, found(t, r))
	s.missed(t)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	testkit.Eventually(t, 20*time.Second, func() bool {
		return s.db.Int(t, `SELECT count(*) FROM archiver.schedule WHERE (database = 'main' AND planned_at IS NOT NULL) OR (database = 'away' AND last_error IS NOT NULL)`) == 2
	}, "both are tried")
	stop()
	running.Wait()
	require.EqualValues(t, 1, s.runs(t))
	require.Contains(t, s.db.Text(t, `SELECT last_error FROM archiver.schedule WHERE database = 'away'`), "connect to database away")
	require.EqualValues(t, 1, s.db.Int(t, `SELECT count(*) FROM archiver.schedule
		WHERE database = 'away' AND settled_to = '2015-01-01' AND claimed_until IS NULL AND retry_at BETWEEN now() AND now() + interval '1 minute'`), "it is still due")
	require.Empty(t, found(t, r), "not within the minute")

	back := s.replica(t, s.database("away", s.db.DSN, nightly))
	s.db.Exec(t, `UPDATE archiver.schedule SET retry_at = now() WHERE database = 'away'`)
	back.planOne(t.Context(), found(t, back)[0])
	require.EqualValues(t, 2, s.runs(t))
	require.EqualValues(t, 2, s.db.Int(t, `SELECT count(*) FROM archiver.schedule WHERE last_error IS NULL AND planned_at IS NOT NULL`))
}

// TestARefusedTable says so until it is mended, and is due until then.
func TestARefusedTable(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.db.Exec(t, `ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_pkey`)
	r := s.main(t, nightly)
	require.Empty(t, found(t, r))
	s.missed(t)
	r.planOne(t.Context(), found(t, r)[0])
	require.Zero(t, s.runs(t))
	state := s.state(t)
	require.Contains(t, *state.LastError, "table main.public.audit_logs is refused: no_primary_key")
	require.NotEmpty(t, *state.LastHint)
	require.Nil(t, state.PlannedAt)
	require.Len(t, s.logs.FilterLevelExact(zap.WarnLevel).FilterMessage("scheduled plan failed; it is tried again").All(), 1)
	require.Empty(t, found(t, r), "not again at once")

	s.db.Exec(t, `ALTER TABLE audit_logs ADD PRIMARY KEY (id); UPDATE archiver.schedule SET retry_at = now()`)
	r.planOne(t.Context(), found(t, r)[0])
	require.EqualValues(t, 1, s.runs(t))
	require.Nil(t, s.state(t).LastError)
}

// TestAStopGivesTheClaimBack so that another replica can go on at once.
func TestAStopGivesTheClaimBack(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r := s.main(t, nightly)
	require.Empty(t, found(t, r))
	s.missed(t)
	work := found(t, r)[0]
	holder, err := pgx.Connect(t.Context(), s.db.DSN)
	require.NoError(t, err)
	_, err = holder.Exec(t.Context(), `BEGIN; LOCK TABLE archiver.archive_table`)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.planOne(ctx, work) })
	testkit.Eventually(t, 20*time.Second, func() bool { return s.state(t).Claimed }, "the plan has begun")
	stop()
	running.Wait()
	require.NoError(t, holder.Close(t.Context()))
	require.False(t, s.state(t).Claimed)
	require.Nil(t, s.state(t).LastError)
	require.Len(t, found(t, r), 1)
	require.Zero(t, s.runs(t))
}
