package cli

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// TestTableInSeveralDatabases has a table's name mean two tables.
func TestTableInSeveralDatabases(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.databases = fmt.Sprintf("- name: other\n  url: %q\n  tables: [{name: audit_logs}]", testkit.Postgres(t).DSN)
	s.configure(t)
	for _, command := range []string{"plan", "check"} {
		s.run(t, command, "--table", "audit_logs").expect(t, badUsage, "several databases", "--database")
	}
	require.Equal(t, int64(600), s.db.Int(t, `SELECT count(*) FROM audit_logs`))
}

// TestMisspeltAllow: check and plan both tell of a word that accepts nothing.
func TestMisspeltAllow(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.tables = "- {name: audit_logs, allow: [delete_triger]}"
	s.configure(t)
	var report checkReport
	s.json(t, &report, "check").expect(t, done)
	require.Equal(t, []string{"allow_without_effect"}, report.codes("public.audit_logs", "warn"))
	s.run(t, "check").expect(t, done, "allow names delete_triger", "docs/FINDINGS.md")
	s.run(t, "plan", "--dry-run").expect(t, done, "allow names delete_triger")
}
