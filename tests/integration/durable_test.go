//go:build failpoint

package integration

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// TestCommitLostAfterTheRead has a row written with synchronous_commit = off, read,
// and the server crash: had the row been lost, the next one would have its ctid and
// its xmin, and would be deleted in its place.
func TestCommitLostAfterTheRead(t *testing.T) {
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
	late := `INSERT INTO audit_logs SELECT 500, min(created_at) + interval '1 second', $1, NULL FROM truth`
	var written, crashed atomic.Bool
	tr.finish(func(ctx context.Context, name string) error {
		switch {
		case name == "state:planned" && !written.Swap(true):
			tr.sql(ctx, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$`)
			tr.db.Pool.Reset()
			tr.sql(ctx, late, "read")
		case name == "upload:done" && !crashed.Swap(true):
			if err := cluster.Crash(); err != nil {
				t.Errorf("crash: %v", err)
			}
			if err := cluster.Restart(context.WithoutCancel(ctx)); err != nil {
				t.Errorf("restart: %v", err)
			}
			tr.db.Pool.Reset()
			tr.sql(ctx, late+` ON CONFLICT DO NOTHING`, "never read")
		}
		return nil
	})
	tr.sql(t.Context(), `INSERT INTO truth SELECT 500, min(created_at) + interval '1 second', 'read', NULL FROM truth`)
	tr.archived(1)
}

// TestLedgerIsDurable: a control database that is told to acknowledge commits before
// they are on disk does not get its way where rows depend on it.
func TestLedgerIsDurable(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 10, "")
	tr.sql(t.Context(), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$`)
	tr.sql(t.Context(), tr.ledger.SQL(`
		CREATE TABLE seen (state text, durable text);
		CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (NEW.state, current_setting('synchronous_commit')); RETURN NEW; END $$;
		CREATE TRIGGER see AFTER UPDATE OF state ON {s}.batch FOR EACH ROW EXECUTE FUNCTION see()`))
	tr.ledger.Pool.Reset()
	tr.finish(nil)
	tr.archived(1)
	require.Equal(t, "verified on, deleting on, archived on", tr.db.Text(t, `SELECT string_agg(state || ' ' || durable, ', ') FROM seen`))
}
