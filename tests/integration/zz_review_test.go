//go:build failpoint

package integration

import (
	"strings"
	"sync/atomic"
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

func TestZZDangerAfterClaim(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"state:planned", "extract:locked"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 10, "")
			tr.finish(changing(point, func(ctx context.Context) {
				tr.sql(ctx, `CREATE TABLE child (audit_id bigint REFERENCES audit_logs ON DELETE CASCADE); INSERT INTO child SELECT id FROM audit_logs`)
			}))
			t.Log(tr.states(t), "child rows left:", tr.db.Int(t, `SELECT count(*) FROM child`))
			require.EqualValues(t, 10, tr.db.Int(t, `SELECT count(*) FROM child`))
		})
	}
}

func TestZZLedgerDurable(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	tr.sql(t.Context(), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$`)
	tr.sql(t.Context(), tr.ledger.SQL(`CREATE TABLE seen (state text, sync text);
		CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (NEW.state, current_setting('synchronous_commit')); RETURN NEW; END $$;
		CREATE TRIGGER see AFTER UPDATE ON {s}.batch FOR EACH ROW EXECUTE FUNCTION see()`))
	tr.ledger.Pool.Reset()
	tr.finish(nil)
	require.EqualValues(t, "", tr.db.Text(t, `SELECT coalesce(string_agg(state, ' '), '') FROM seen WHERE sync <> 'on'`))
}

func TestZZTableRotated(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	tr.interrupt("delete:before-commit")
	t.Log(tr.states(t))
	tr.sql(t.Context(), `ALTER TABLE audit_logs RENAME TO audit_logs_2023; CREATE TABLE audit_logs (LIKE audit_logs_2023 INCLUDING ALL)`)
	tr.finish(nil)
	t.Log(tr.states(t), "rows in the renamed table:", tr.db.Int(t, `SELECT count(*) FROM audit_logs_2023`), "committed lines:", len(tr.committed(t)))
}

func TestZZDeletingTableRotated(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	tr.interrupt("delete:before-commit")
	_, err := tr.ledger.Pool.Exec(t.Context(), tr.ledger.SQL(`UPDATE {s}.batch SET state = 'deleting'`))
	require.NoError(t, err)
	tr.sql(t.Context(), `ALTER TABLE audit_logs RENAME TO audit_logs_2023; CREATE TABLE audit_logs (LIKE audit_logs_2023 INCLUDING ALL)`)
	tr.finish(nil)
	t.Log(tr.states(t), "rows in the renamed table:", tr.db.Int(t, `SELECT count(*) FROM audit_logs_2023`), "committed lines:", len(tr.committed(t)))
}

func TestZZCommitLostInCrash(t *testing.T) {
	t.Parallel()
	cluster := testkit.Cluster(t, localserver.PostgresOptions{Settings: map[string]string{"wal_writer_delay": "10s", "autovacuum": "off"}})
	s := newSite(t, `- {name: audit_logs, batch_size: 20}`)
	s.db = testkit.Database(t, cluster)
	s.cfg.Databases[0].Primary = config.Secret(s.db.DSN)
	src, err := source.Open(t.Context(), s.cfg.Databases[0], "test")
	require.NoError(t, err)
	t.Cleanup(src.Close)
	s.src = src
	tr := planned(t, s, 10)
	late := func(ctx context.Context, actor string) {
		tr.sql(ctx, `SET LOCAL synchronous_commit = off; INSERT INTO audit_logs SELECT 500, min(created_at) + interval '1 second', '`+actor+`', NULL FROM truth`)
	}
	var once, twice atomic.Bool
	tr.finish(func(ctx context.Context, name string) error {
		switch {
		case name == "state:planned" && !once.Swap(true):
			late(ctx, "lost in the crash")
			t.Log(tr.db.Text(t, `SELECT string_agg(concat_ws(' ', ctid, xmin, actor), ',') FROM audit_logs WHERE id = 500`))
		case name == "upload:done" && !twice.Swap(true):
			require.NoError(t, cluster.Crash())
			require.NoError(t, cluster.Restart(context.WithoutCancel(ctx)))
			tr.db.Pool.Reset()
			t.Log("after the crash:", tr.db.Int(t, `SELECT count(*) FROM audit_logs WHERE id = 500`))
			late(ctx, "written after it")
			t.Log(tr.db.Text(t, `SELECT string_agg(concat_ws(' ', ctid, xmin, actor), ',') FROM audit_logs WHERE id = 500`))
		}
		return nil
	})
	lines := strings.Join(tr.committed(t), "\n")
	t.Log(tr.states(t), "rows left", tr.rowsLeft(), "archived the lost one:", strings.Contains(lines, "lost in the crash"), "archived the new one:", strings.Contains(lines, "written after it"))
}
