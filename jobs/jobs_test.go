package jobs_test

import (
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/jobs"
	"github.com/audit-table-archiver/archiver/migrations"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestQueueNamesADatabase(t *testing.T) {
	t.Parallel()
	database, ok := jobs.QueueDatabase(jobs.Queue("orders"))
	require.True(t, ok)
	require.Equal(t, "orders", database)
	_, ok = jobs.QueueDatabase(jobs.ControlQueue)
	require.False(t, ok)
}

func TestRetryDelayGrowsToAMinute(t *testing.T) {
	t.Parallel()
	want := map[int]time.Duration{-1: 2 * time.Second, 0: 2 * time.Second, 1: 2 * time.Second, 2: 4 * time.Second, 3: 8 * time.Second, 5: 32 * time.Second, 6: time.Minute, 7: time.Minute, 1 << 30: time.Minute}
	for attempt, delay := range want {
		require.Equal(t, delay, jobs.RetryDelay(attempt), "attempt %d", attempt)
	}
}

// TestTagsNameDatabaseTableAndRun holds the tags to the rule that River has for them,
// which it checks only when a job is inserted.
func TestTagsNameDatabaseTableAndRun(t *testing.T) {
	t.Parallel()
	rule := regexp.MustCompile(`\A[\w][\w\-]+[\w]\z`)
	tags := func(table string) []string {
		return jobs.BatchArgs{Database: "orders", Table: table, RunID: 7}.InsertOpts().Tags
	}
	require.Equal(t, []string{"db_orders", "table_public_audit_logs", "run_7"}, tags("public.audit_logs"))
	require.Equal(t, "table_audit_Change-Log", tags("audit.Change-Log")[1])
	seen := map[string]string{}
	for _, table := range []string{
		"a.b", "public.LoginEvents", "public.audit logs", "public.audit?logs", "public.журнал", "public.протоко", "public.x-", "public.\xff",
		"public." + strings.Repeat("t", 63), strings.Repeat("s", 200) + ".a", strings.Repeat("s", 200) + ".b",
	} {
		for _, tag := range tags(table) {
			require.Regexp(t, rule, tag, table)
			require.LessOrEqual(t, len(tag), 255, table)
		}
		tag := tags(table)[1]
		require.NotContains(t, seen, tag, table)
		seen[tag] = table
	}
}

// TestOneLiveJobForABatch inserts jobs for the same batch in all states of the first.
func TestOneLiveJobForABatch(t *testing.T) {
	t.Parallel()
	db := testkit.Postgres(t)
	ctx := t.Context()
	_, _, err := migrations.Up(ctx, db.Pool, "archiver", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	client, err := river.NewClient(riverpgxv5.New(db.Pool), &river.Config{Schema: "archiver"})
	require.NoError(t, err)
	insert := func(a jobs.BatchArgs) bool {
		var skipped bool
		require.NoError(t, pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
			out, err := client.InsertTx(ctx, tx, a, nil)
			if err == nil {
				skipped = out.UniqueSkippedAsDuplicate
			}
			return err
		}))
		return !skipped
	}
	args := jobs.BatchArgs{BatchID: 7, RunID: 1, Database: "main", Table: "public.audit_logs", Range: "[a .. b]"}
	require.True(t, insert(args))
	require.Equal(t, "db_main", db.Text(t, `SELECT queue FROM archiver.river_job`))
	require.EqualValues(t, jobs.MaxAttempts, db.Int(t, `SELECT max_attempts FROM archiver.river_job`))
	other := args
	other.Range, other.RunID = "only the batch decides", 2
	for _, state := range []string{"available", "pending", "running", "retryable", "scheduled"} {
		db.Exec(t, `UPDATE archiver.river_job SET state = $1`, state)
		require.False(t, insert(other), "a second job beside one that is %s", state)
	}
	other.BatchID = 8
	require.True(t, insert(other), "another batch")
	for _, state := range []string{"completed", "cancelled", "discarded"} {
		db.Exec(t, `DELETE FROM archiver.river_job WHERE (args->>'batch_id')::int <> 7`)
		db.Exec(t, `UPDATE archiver.river_job SET state = $1, finalized_at = now()`, state)
		require.True(t, insert(args), "a new job after one that is %s", state)
		db.Exec(t, `DELETE FROM archiver.river_job WHERE finalized_at IS NULL`)
	}
}
