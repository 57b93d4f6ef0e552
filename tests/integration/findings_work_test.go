//go:build failpoint

package integration

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/worker"
)

// TestRefusedBetweenPlanAndWork makes a table unfit after it was planned. A worker
// looks before the first row is read: it stops with the finding, and nothing has
// happened. Once that is settled, a retry archives everything.
func TestRefusedBetweenPlanAndWork(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, sql, code, undo string }{
		{"cascade", `CREATE TABLE child (audit_id bigint REFERENCES audit_logs ON DELETE CASCADE)`, "inbound_fk_cascade", `DROP TABLE child`},
		{"trigger", keepTrigger, "delete_trigger", `ALTER TABLE audit_logs DISABLE TRIGGER k`},
		{"rule", `CREATE RULE keep AS ON DELETE TO audit_logs DO INSTEAD NOTHING`, "delete_rule", `DROP RULE keep ON audit_logs`},
		{"inheritance", `CREATE TABLE child (secret text) INHERITS (audit_logs)`, "inheritance_children", `ALTER TABLE child NO INHERIT audit_logs`},
		{"index dropped", `DROP INDEX audit_logs_created_at_id_idx`, "no_index", `CREATE INDEX ON audit_logs (created_at, id)`},
		{"published without replica identity", `ALTER TABLE audit_logs REPLICA IDENTITY NOTHING; CREATE PUBLICATION feed FOR TABLE audit_logs`, "no_replica_identity", `DROP PUBLICATION feed`},
		{"published with a row filter", `CREATE PUBLICATION feed FOR TABLE audit_logs WHERE (actor = 'x')`, "delete_rejected", `DROP PUBLICATION feed`},
		{"right revoked", `REVOKE DELETE ON audit_logs FROM $ROLE`, "missing_privilege", `GRANT DELETE ON audit_logs TO $ROLE`},
		{"column hidden", `REVOKE SELECT ON audit_logs FROM $ROLE; GRANT SELECT (id, created_at, payload) ON audit_logs TO $ROLE`, "missing_privilege", `GRANT SELECT ON audit_logs TO $ROLE`},
		{"policy", `ALTER TABLE audit_logs ENABLE ROW LEVEL SECURITY; CREATE POLICY odd ON audit_logs USING (id % 2 = 1)`, "row_security", `ALTER TABLE audit_logs DISABLE ROW LEVEL SECURITY`},
		{"zone lost", `ALTER TABLE audit_logs ALTER created_at TYPE timestamp USING created_at AT TIME ZONE 'UTC'`, "timezone_undeclared", `ALTER TABLE audit_logs ALTER created_at TYPE timestamptz USING created_at AT TIME ZONE 'UTC'`},
		{"timestamp dropped", `ALTER TABLE audit_logs RENAME created_at TO at`, "no column", `ALTER TABLE audit_logs RENAME at TO created_at`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 10, "")
			if c.code == "delete_rejected" && tr.db.Int(t, `SELECT current_setting('server_version_num')::bigint`) < 150000 {
				return // no row filters yet
			}
			sql := tr.asRole(`GRANT SELECT, DELETE ON audit_logs TO $ROLE`)
			sql(c.sql)
			tr.finish(nil)
			tr.refused(c.code)
			require.EqualValues(t, 10, tr.rowsLeft())
			require.Empty(t, tr.bucket.Keys(t), "rows were read before the table was looked at")
			sql(c.undo)
			tr.retry()
			tr.finish(nil)
			tr.archived(1)
			require.Zero(t, tr.rowsLeft())
		})
	}
}

// TestHarmlessBetweenPlanAndWork changes the table after it was planned in ways that
// do not stand in the way: each row goes into an object in the shape that it has now.
func TestHarmlessBetweenPlanAndWork(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"column added":              `ALTER TABLE %s ADD note text DEFAULT 'none'`,
		"column dropped":            `ALTER TABLE %s DROP payload`,
		"column type changed":       `ALTER TABLE %s ALTER payload TYPE text`,
		"key type changed":          `ALTER TABLE %s ALTER id TYPE text`,
		"timestamp rounded":         `ALTER TABLE %s ALTER created_at TYPE timestamptz(0)`,
		"constraint added":          `ALTER TABLE %s ADD CHECK (actor <> '')`,
		"constraint that is broken": `ALTER TABLE %s ADD CHECK (id > 20) NOT VALID`,
		"unlogged":                  `ALTER TABLE %s SET UNLOGGED`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 25, "")
			tr.both(t.Context(), sql)
			tr.finish(nil)
			tr.archived(3)
			require.Zero(t, tr.rowsLeft())
		})
	}
}

// TestRekeyedBetweenPlanAndWork gives the table another primary key: ranges over the
// old one mean nothing any more, so the batches are given up and planned anew.
func TestRekeyedBetweenPlanAndWork(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 25, "")
	tr.sql(t.Context(), `ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_pkey, ADD PRIMARY KEY (actor)`)
	tr.finish(nil)
	tr.settledIn(map[string]int64{"cancelled": 3})
	require.EqualValues(t, 25, tr.rowsLeft())
	require.EqualValues(t, 3, tr.count(`SELECT count(*) FROM {s}.batch WHERE last_error LIKE '%(created_at, id)%(created_at, actor)%'`))
	tr.plan(t)
	tr.finish(nil)
	tr.settledIn(map[string]int64{"cancelled": 3, "archived": 3})
	require.Zero(t, tr.rowsLeft())
}

// TestAllowedFindingsAreWorked accepts a danger on purpose, and the worker goes by
// that too. Accepting a trigger that keeps rows does not make them count as deleted.
func TestAllowedFindingsAreWorked(t *testing.T) {
	t.Parallel()
	t.Run("cascade", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, ", allow: [inbound_fk_cascade]")
		tr.sql(t.Context(), `CREATE TABLE child (audit_id bigint REFERENCES audit_logs ON DELETE CASCADE); INSERT INTO child VALUES (3)`)
		tr.finish(nil)
		tr.archived(1)
		require.Zero(t, tr.db.Int(t, `SELECT count(*) FROM child`))
	})
	t.Run("trigger that keeps the rows", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 2, ", allow: [delete_trigger]")
		tr.sql(t.Context(), keepTrigger)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, worker.Run(ctx, tr.deps(), worker.RunOptions{Drain: true, Patience: time.Second}))
		tr.exactlyOnce()
		require.EqualValues(t, 2, tr.rowsLeft())
		require.Zero(t, tr.objectsIn("committed"))
	})
}

// asRole has the workers use a role of their own. The returned function runs SQL as a
// superuser, with $ROLE for the role.
func (tr *trial) asRole(grants string) func(sql string) {
	tr.t.Helper()
	role, dsn := tr.db.Role(tr.t)
	database := tr.cfg.Databases[0]
	database.Primary = config.Secret(dsn)
	src, err := source.Open(tr.t.Context(), database, "test")
	require.NoError(tr.t, err)
	tr.t.Cleanup(src.Close)
	tr.src = src
	run := func(sql string) { tr.db.Exec(tr.t, strings.ReplaceAll(sql, "$ROLE", role)) }
	run(grants)
	return run
}
