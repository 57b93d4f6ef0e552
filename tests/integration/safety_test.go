//go:build failpoint

package integration

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/worker"
)

// TestMinRetentionIsInTheDelete has a configuration slip past its own checks: the
// floor stands in the DELETE itself, by the server's clock.
func TestMinRetentionIsInTheDelete(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 2, "")
	tr.cfg.Databases[0].Tables[0].MinRetention = 1000 * 24 * time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, worker.Run(ctx, tr.deps(), worker.RunOptions{Drain: true, Patience: time.Second}))
	require.EqualValues(t, 2, tr.rowsLeft())
	tr.exactlyOnce()
}

// TestOtherTimeline resumes a batch whose rows were read on another timeline, or on
// another server, with the same row versions in place: they are read again.
func TestOtherTimeline(t *testing.T) {
	t.Parallel()
	for _, column := range []string{"timeline", "system_identifier"} {
		t.Run(column, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 10, "")
			tr.interrupt("verify:recorded")
			_, err := tr.ledger.Pool.Exec(t.Context(), tr.ledger.SQL(`UPDATE {s}.object SET `+column+` = '0000000F'`))
			require.NoError(t, err)
			tr.finish(nil)
			tr.archived(1)
			require.EqualValues(t, 1, tr.objectsIn("discarded"))
		})
	}
}

// TestHostileSettings gives the role every setting that changes the text of a
// value, or what a name means. Objects hold what they always hold.
func TestHostileSettings(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	tr.both(t.Context(), `ALTER TABLE %s ADD f float8 DEFAULT 0.1::float8 + 0.2, ADD day date DEFAULT '2024-02-01', ADD took interval DEFAULT '1 mon -1 day',
		ADD b bytea DEFAULT '\x00ff5c', ADD z timestamptz DEFAULT '2024-03-31 01:30+00', ADD m money DEFAULT 12345.67, ADD days date[] DEFAULT '{2024-02-01}', ADD span tstzrange DEFAULT '[2024-03-31 01:30+00,)'`)
	sql := tr.asRole(`GRANT SELECT, DELETE ON audit_logs TO $ROLE;
		CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO $ROLE;
		CREATE FUNCTION evil.format(text, anyelement) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$;
		CREATE FUNCTION evil.to_json(anyelement) RETURNS json LANGUAGE sql AS $$ SELECT '"evil"'::json $$;
		CREATE FUNCTION evil.count() RETURNS bigint LANGUAGE sql AS $$ SELECT 0::bigint $$;
		CREATE TABLE evil.pg_class (oid oid, relkind "char"); CREATE TABLE evil.audit_logs (id int)`)
	for _, setting := range []string{
		`search_path = evil, pg_catalog, public`, `"TimeZone" = 'Asia/Kathmandu'`, `"DateStyle" = 'German, DMY'`, `"IntervalStyle" = 'sql_standard'`, `extra_float_digits = -15`,
		`bytea_output = 'escape'`, `client_encoding = 'LATIN1'`, `standard_conforming_strings = off`, `default_transaction_isolation = 'serializable'`,
		`row_security = on`, `enable_indexscan = off`, `quote_all_identifiers = on`, `synchronous_commit = off`, `jit = on`, `jit_above_cost = 0`,
	} {
		sql(`ALTER ROLE $ROLE SET ` + setting)
	}
	var style string
	require.NoError(t, tr.src.Pool.QueryRow(t.Context(), `SELECT pg_catalog.current_setting('DateStyle')`).Scan(&style))
	require.Equal(t, "German, DMY", style)
	tr.finish(nil)
	tr.archived(1)
	require.Zero(t, tr.db.Int(t, `SELECT count(*) FROM public.audit_logs`))
}
