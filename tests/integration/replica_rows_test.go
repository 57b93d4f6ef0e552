//go:build failpoint

package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// forge changes what a row holds on the standby's disk, and nothing else about it: same
// place, same xmin. A standby that has gone another way unnoticed looks like that.
func (p *pair) forge(from, to string) {
	p.t.Helper()
	require.Len(p.t, to, len(from))
	p.db.Exec(p.t, `CHECKPOINT`)
	p.caughtUp()
	p.standby.Exec(p.t, `CHECKPOINT`) // nothing that is replayed after a restart has an image of the page
	file := filepath.Join(p.standby.Server.DataDir, p.standby.Text(p.t, `SELECT pg_relation_filepath('audit_logs')`))
	require.NoError(p.t, p.standby.Server.Crash())
	page, err := os.ReadFile(file)
	require.NoError(p.t, err)
	require.Equal(p.t, 1, bytes.Count(page, []byte(from)))
	require.NoError(p.t, os.WriteFile(file, bytes.Replace(page, []byte(from), []byte(to), 1), 0o600))
	require.NoError(p.t, p.standby.Server.Restart(p.t.Context()))
	p.standby.Pool.Reset()
	require.EqualValues(p.t, 1, p.standby.Int(p.t, `SELECT count(*) FROM audit_logs WHERE actor = $1`, to))
	identity := `SELECT string_agg(concat_ws(' ', tableoid, ctid, xmin), ',' ORDER BY id) FROM audit_logs`
	require.Equal(p.t, p.db.Text(p.t, identity), p.standby.Text(p.t, identity), "each row has the identity that it has on the primary")
}

// TestDivergedReplica: what the guard by identity cannot see, the guard by content does.
func TestDivergedReplica(t *testing.T) {
	t.Parallel()
	// Or the first delete that is tried would send a whole image of the page, which heals.
	partial := map[string]string{"full_page_writes": "off"}
	t.Run("fall back", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, 30, partial, fallBack)
		p.plan(t)
		p.forge("user 15", "uzer 51")
		p.finish(nil)
		p.archived(3)
		require.EqualValues(t, 1, p.readFrom(source.Primary), "the batch with that row")
		require.EqualValues(t, 2, p.readFrom(source.ReadReplica))
		require.EqualValues(t, 1, p.objectsIn("discarded"))
		require.Equal(t, []string{"other rows"}, p.news())
	})
	t.Run("wait", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, 30, partial, waits)
		p.plan(t)
		p.forge("user 15", "uzer 51")
		wait := p.start(nil)
		p.awaitReplica("does not hold the rows that the primary holds")
		testkit.Eventually(t, 20*time.Second, func() bool { return p.states(t)["archived"] == 2 && p.objectsIn("discarded") >= 6 }, "the others go on, and it is tried again")
		p.exactlyOnce()
		require.EqualValues(t, 3, p.count(`SELECT count(*) FROM {s}.batch`), "nothing is halved: no row is being changed")
		p.cfg.Databases[0].Tables[0].ReplicaFallback = config.ReplicaFallbackPrimary
		wait()
		p.archived(3)
		require.Zero(t, p.attemptsSpent())
	})
}

// TestRowsChangedUnseen changes rows on the primary that the replica still shows as they
// were: the delete does not take them for what was read.
func TestRowsChangedUnseen(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string]string{"fall back": fallBack, "wait": waits} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, 10, nil, keys)
			p.plan(t)
			p.pause()
			p.both(t.Context(), `UPDATE %s SET actor = 'changed' WHERE id = 3`)
			p.both(t.Context(), `DELETE FROM %s WHERE id = 4`)
			wait := p.start(nil)
			if keys == waits {
				p.awaitReplica("has not replayed the last change of the table")
				p.exactlyOnce()
				p.resume()
			}
			wait()
			p.archived(1)
			require.EqualValues(t, 1, p.objectsIn("discarded"), "what the replica showed was set aside")
		})
	}
}

// TestEmptyOnTheReplica plans rows that the replica does not have: that it shows none is
// no proof that there is none.
func TestEmptyOnTheReplica(t *testing.T) {
	t.Parallel()
	p := newPair(t, 0, nil, fallBack)
	p.pause()
	p.db.Exec(t, fmt.Sprintf(trialRows, 20))
	p.db.Exec(t, `INSERT INTO truth TABLE audit_logs`)
	p.cfg.Databases[0].Replica = ""
	p.reopen()
	p.plan(t)
	p.cfg.Databases[0].Replica = config.Secret(p.standby.DSN)
	p.reopen()
	p.finish(nil)
	p.archived(2)
}

// TestDefinitionBehind alters the table so that the replica shows its former definition.
func TestDefinitionBehind(t *testing.T) {
	t.Parallel()
	p := newPair(t, 10, nil, fallBack)
	p.plan(t)
	p.pause()
	p.both(t.Context(), `ALTER TABLE %s ADD COLUMN reason text DEFAULT 'none'`)
	p.finish(nil)
	p.archived(1)
	require.EqualValues(t, 1, p.readFrom(source.Primary))
	require.Equal(t, []string{"other form"}, p.news())
}
