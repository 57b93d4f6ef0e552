//go:build failpoint

package integration

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const auditTable = `
CREATE TABLE audit_logs (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	created_at timestamptz NOT NULL,
	actor text, action varchar(20), payload jsonb, ip inet, amount numeric(12,2), ok boolean
);
CREATE INDEX ON audit_logs (created_at, id);`

const fillAudit = `
INSERT INTO audit_logs (created_at, actor, action, payload, ip, amount, ok)
SELECT now() - interval '200 days' + i * interval '6 hours', 'user ' || i, 'update', jsonb_build_object('n', i, 'text', repeat('x', i % 50)),
       ('10.0.0.' || i % 250)::inet, i * 1.10, i % 3 = 0
FROM generate_series(1, 800) i`

// TestWholePath archives a table and looks at every row afterwards.
func TestWholePath(t *testing.T) {
	t.Parallel()
	s := newSite(t, `- name: audit_logs`)
	s.db.Exec(t, auditTable)
	s.db.Exec(t, fillAudit)
	s.db.Exec(t, `CREATE TABLE copy AS TABLE audit_logs`)
	old := s.db.Int(t, `SELECT count(*) FROM audit_logs WHERE created_at < now() - interval '30 days'`)
	require.Positive(t, old)

	plan := s.plan(t)[0]
	require.Equal(t, old, plan.Rows)
	again := s.plan(t)[0]
	require.Zero(t, again.Rows, "planning twice adds nothing")

	s.drain(t, nil)
	require.Equal(t, 800-old, s.db.Int(t, `SELECT count(*) FROM audit_logs`))
	lines := s.committed(t)
	require.Len(t, lines, int(old))
	s.db.Exec(t, `CREATE TABLE restored (LIKE audit_logs)`)
	for _, l := range lines {
		s.db.Exec(t, `INSERT INTO restored SELECT * FROM json_populate_record(NULL::audit_logs, $1::json)`, l)
	}
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM (SELECT * FROM copy EXCEPT ALL (SELECT * FROM restored UNION ALL SELECT * FROM audit_logs)) d`))
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM ((SELECT * FROM restored UNION ALL SELECT * FROM audit_logs) EXCEPT ALL SELECT * FROM copy) d`))
	require.Equal(t, map[string]int64{"archived": int64(len(plan.Pages))}, s.states(t))
}
