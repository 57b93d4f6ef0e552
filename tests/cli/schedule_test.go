package cli

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// scheduleReport is the schedule of a table in status --json.
type scheduleReport struct {
	Spec        string
	Next        *time.Time
	LastPlanned *time.Time `json:"last_planned_at"`
	LastError   *string    `json:"last_error"`
}

func (s *site) schedule(t *testing.T) *scheduleReport {
	t.Helper()
	var report struct {
		Tables []struct{ Schedule *scheduleReport }
	}
	s.json(t, &report, "status").expect(t, done)
	require.Len(t, report.Tables, 1)
	return report.Tables[0].Schedule
}

// TestWorkFollowsSchedules starts three replicas and nothing else: what was missed
// while none was up is planned once, worked on, and not planned again.
func TestWorkFollowsSchedules(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	require.Nil(t, s.schedule(t))
	const spec = "CRON_TZ=Europe/Berlin 0 0 29 2 *"
	s.tables = "- {name: audit_logs, schedule: '" + spec + "'}"
	s.configure(t)
	s.run(t, "check").expect(t, done)
	require.Equal(t, scheduleReport{Spec: spec}, *s.schedule(t), "no worker has seen it yet")
	s.run(t, "status").expect(t, done, "NEXT PLAN", "not known")

	s.run(t, "work", "--drain").expect(t, done)
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM archiver.schedule`), "a drain follows no schedule")

	s.db.Exec(t, `INSERT INTO archiver.schedule (database, schema, name, spec, settled_to) VALUES ('main', 'public', 'audit_logs', $1, '2015-01-01')`, spec)
	s.run(t, "status").expect(t, done, "due")
	require.Equal(t, "2016-02-28T23:00:00Z", s.schedule(t).Next.UTC().Format(time.RFC3339))
	fleet := []*process{s.start(t, "work"), s.start(t, "work"), s.start(t, "work")}
	testkit.Eventually(t, commandTime, func() bool {
		return s.db.Int(t, `SELECT count(*) FROM archiver.batch WHERE state = 'archived'`) == 5
	}, "the table is planned and archived")
	for _, p := range fleet {
		p.signal(t, syscall.SIGTERM)
	}
	planned := 0
	for _, p := range fleet {
		r := p.wait(t)
		r.expect(t, done)
		planned += strings.Count(r.err, "scheduled plan done")
	}
	require.Equal(t, 1, planned)
	require.EqualValues(t, 1, s.db.Int(t, `SELECT count(*) FROM archiver.run`))
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM audit_logs WHERE created_at < now() - interval '30 days'`))
	after := s.schedule(t)
	require.True(t, after.Next.After(time.Now()))
	require.WithinDuration(t, time.Now(), *after.LastPlanned, time.Minute)
	s.run(t, "status").expect(t, done, "in ")
}

// TestScheduledPlanOfARefusedTable shows in status with what to do about it.
func TestScheduledPlanOfARefusedTable(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.db.Exec(t, `ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_pkey`)
	s.tables = "- {name: audit_logs, schedule: '@yearly'}"
	s.configure(t)
	s.db.Exec(t, `INSERT INTO archiver.schedule (database, schema, name, spec, settled_to) VALUES ('main', 'public', 'audit_logs', '@yearly', '2015-01-01')`)
	w := s.start(t, "work")
	testkit.Eventually(t, commandTime, func() bool {
		return s.db.Int(t, `SELECT count(*) FROM archiver.schedule WHERE last_error IS NOT NULL`) == 1
	}, "the plan is refused")
	s.run(t, "status").expect(t, done, "due", "main.public.audit_logs: the scheduled plan failed: table main.public.audit_logs is refused: no_primary_key", "hint: ")
	require.Contains(t, *s.schedule(t).LastError, "no_primary_key")
	w.signal(t, syscall.SIGTERM)
	w.wait(t).expect(t, done, "scheduled plan failed; it is tried again")
}
