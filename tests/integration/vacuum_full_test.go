//go:build failpoint

package integration

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/worker"
)

// fullInLine counts the VACUUM FULL that waits for its lock on the table.
const fullInLine = `SELECT count(*) FROM pg_locks WHERE relation = 'audit_logs'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted`

// lockTable holds a lock on the trial's table until the function it returns is called.
func (tr *trial) lockTable(mode string) (release func()) {
	tr.t.Helper()
	lock, err := tr.db.Pool.Begin(tr.t.Context())
	require.NoError(tr.t, err)
	tr.t.Cleanup(func() { _ = lock.Rollback(context.WithoutCancel(tr.t.Context())) })
	_, err = lock.Exec(tr.t.Context(), `LOCK TABLE audit_logs IN `+mode+` MODE`)
	require.NoError(tr.t, err)
	return func() { require.NoError(tr.t, lock.Rollback(tr.t.Context())) }
}

// readWithin reads the table, and fails if that takes longer than a limit of SQL's.
func (tr *trial) readWithin(limit string) {
	tr.t.Helper()
	err := pgx.BeginFunc(tr.t.Context(), tr.db.Pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(tr.t.Context(), `SET LOCAL statement_timeout = '`+limit+`'; SELECT count(*) FROM audit_logs`)
		return err
	})
	require.NoError(tr.t, err, "somebody who reads the table")
}

// TestVacuumFullGivesWay: whoever reads the table keeps VACUUM FULL from its lock, and it
// keeps others from reading while it stands in the line: for five seconds. Then it lets them
// through, and comes again half a minute later, as often as it takes.
func TestVacuumFullGivesWay(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 30, ", vacuum_mode: FULL, allow: [vacuum_full]")
	logs := tr.watchLog()
	file := tr.db.Text(t, `SELECT pg_relation_filenode('audit_logs')::text`)
	release := tr.lockTable("ACCESS SHARE") // a long report, say
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx, tr.deps(), worker.RunOptions{}) }()
	t.Cleanup(stop)
	testkit.Eventually(t, 30*time.Second, func() bool { return tr.db.Int(t, fullInLine) == 1 }, "it asks for its lock")
	tr.readWithin("9s") // five, and what a slow machine adds
	testkit.Eventually(t, 20*time.Second, func() bool {
		return tr.count(`SELECT count(*) FROM {s}.run WHERE vacuum = 'queued' AND vacuum_note LIKE '%lock on the table was not to be had%'`) == 1
	}, "it says why it waits")
	testkit.Eventually(t, 20*time.Second, func() bool {
		return tr.count(`SELECT count(*) FROM {s}.river_job WHERE kind = 'vacuum_table' AND state = 'scheduled' AND scheduled_at BETWEEN attempted_at + interval '30 seconds' AND now() + interval '30 seconds'`) == 1
	}, "it comes again half a minute later")
	require.Zero(t, tr.db.Int(t, fullInLine))
	tr.readWithin("3s")
	require.Equal(t, file, tr.db.Text(t, `SELECT pg_relation_filenode('audit_logs')::text`))
	warnings := logs.FilterMessageSnippet("FULL locks the table against reading and writing").FilterLevelExact(zap.WarnLevel)
	require.Equal(t, 1, warnings.Len(), "it warns before it asks")

	release()
	tr.vacuumUntil(ledger.VacuumDone)
	require.NotEqual(t, file, tr.db.Text(t, `SELECT pg_relation_filenode('audit_logs')::text`))
	require.Equal(t, "FULL", tr.vacuum(t).Result.Mode)
	stop()
	require.NoError(t, <-ended)
	tr.archived(3)
	require.Zero(t, tr.attemptsSpent())
}

// TestVacuumWithItsJobLocked: a session that has the job's row locked keeps the vacuum from
// completing its job. Its result is recorded all the same, and it is not run again.
func TestVacuumWithItsJobLocked(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 30, "")
	locks := make(chan pgx.Tx, 1)
	wait := tr.start(changing("vacuum:vacuumed", func(ctx context.Context) {
		lock, err := tr.ledger.Pool.Begin(context.WithoutCancel(ctx))
		if err == nil {
			_, err = lock.Exec(ctx, tr.ledger.SQL(`SELECT FROM {s}.river_job WHERE kind = 'vacuum_table' FOR UPDATE`))
		}
		if err != nil {
			t.Error(err)
			return
		}
		locks <- lock
	}))
	testkit.Eventually(t, 30*time.Second, func() bool { return len(locks) == 1 }, "the vacuum is done")
	lock := <-locks
	t.Cleanup(func() { _ = lock.Rollback(context.WithoutCancel(t.Context())) })
	testkit.Eventually(t, 40*time.Second, func() bool { return tr.count(`SELECT count(*) FROM {s}.run WHERE vacuum = 'done'`) == 1 }, "the result is recorded")
	require.EqualValues(t, 1, tr.count(`SELECT count(*) FROM {s}.river_job WHERE kind = 'vacuum_table' AND state = 'running'`), "its job is locked")
	require.Positive(t, tr.vacuum(t).Result.BytesBefore)
	require.NoError(t, lock.Rollback(t.Context()))
	wait()
	tr.archived(3)
	vacuums, _ := tr.vacuums(t, "audit_logs")
	require.EqualValues(t, 1, vacuums)
	require.Zero(t, tr.attemptsSpent())
}
