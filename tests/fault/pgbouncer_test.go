package fault

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/migrations"
	"github.com/audit-table-archiver/archiver/worker"
)

// TestPgBouncer has both databases behind PgBouncer, for everything: migrations,
// planning, the queue, the ledger and the guarded delete. Few server sessions are
// shared by many clients, so whatever a session keeps would meet somebody else.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"transaction", "session"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			src, control := testkit.Postgres(t), testkit.Postgres(t)
			bouncer := testkit.NewProxy(t, testkit.PgBouncer(t, src.Server, mode))
			direct := *src
			control.DSN = through(t, bouncer, control.DSN)
			src.DSN = through(t, bouncer, src.DSN)
			if mode == "session" { // each client then needs a session of its own
				src.DSN = direct.DSN
			}
			s := newSiteOn(t, src, control, "", "audit_logs")
			if mode == "session" {
				s.cfg.Worker.Concurrency = 1
			}
			// Several at once, as replicas that start: none may wait for ever for a lock
			// that another one's session has kept.
			for range 3 {
				pool := s.openControl(control.DSN)
				_, after, err := migrations.Up(t.Context(), pool, s.cfg.Control.Schema, worker.RiverLogger(zap.NewNop()))
				require.NoError(t, err)
				require.True(t, after.Current())
				pool.Close()
			}
			s.cfg.Databases[0].Primary = config.Secret(src.DSN)
			s.fill("audit_logs", 200, 1)
			require.EqualValues(t, 20, s.plan("audit_logs"))
			s.work(ways{})
			s.settle("audit_logs")
			s.archived("audit_logs")
			require.Zero(t, s.attempts("audit_logs"))
			require.Zero(t, direct.Int(t, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`), "advisory locks are left behind")
		})
	}
}
