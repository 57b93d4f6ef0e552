package fault

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/migrations"
	"github.com/audit-table-archiver/archiver/worker"
)

const advisoryLocks = `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// TestPgBouncer has both databases behind PgBouncer, for everything: migrations,
// planning, the queue, the ledger and the guarded delete. Few server sessions are
// shared by many clients, so whatever a session keeps would meet somebody else.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"transaction", "session", "none"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			src, control := testkit.Postgres(t), testkit.Postgres(t)
			if mode != "none" {
				bouncer := testkit.NewProxy(t, testkit.PgBouncer(t, src.Server, mode))
				control.DSN = through(t, bouncer, control.DSN)
				if mode == "transaction" { // in the other each client needs a session of its own
					src.DSN = through(t, bouncer, src.DSN)
				}
			}
			s := newSiteOn(t, src, control, "", "audit_logs")
			if mode == "session" {
				s.cfg.Worker.Concurrency = 1
			}
			core, logged := observer.New(zap.InfoLevel)
			s.log = zap.New(core)
			// Several at once, as replicas that start: none may wait for ever for a lock
			// that another one's session has kept.
			for range 3 {
				pool := s.openControl(control.DSN)
				_, after, err := migrations.Up(t.Context(), pool, s.cfg.Control.Schema, worker.RiverLogger(zap.NewNop()))
				require.NoError(t, err)
				require.True(t, after.Current())
				pool.Close()
			}
			testkit.Eventually(t, 30*time.Second, func() bool { return s.control.Int(t, advisoryLocks) == 0 }, "a migration has left its lock behind, in a session that others use")
			s.cfg.Databases[0].Primary = config.Secret(src.DSN)
			s.fill("audit_logs", 200, 1)
			require.EqualValues(t, 20, s.plan("audit_logs"))
			s.work(ways{})
			s.settle("audit_logs")
			s.archived("audit_logs")
			require.Zero(t, s.attempts("audit_logs"))
			testkit.Eventually(t, 30*time.Second, func() bool { return s.source.Int(t, advisoryLocks) == 0 }, "a delete, or the vacuum after it, has left its lock behind")
			require.Equal(t, mode != "none", logged.FilterMessageSnippet("behind a connection pooler").Len() == 1, "what the worker takes the server for")
		})
	}
}
