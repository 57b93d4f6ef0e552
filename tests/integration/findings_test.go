//go:build failpoint

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/planner"
)

// findingCase is one way in which a table can be unfit, or a surprise, or just looks
// like one.
type findingCase struct {
	name  string
	since int    // server_version_num from which on there is such a thing
	sql   string // run after the table is made, as a superuser; $ROLE is the archiver's
	then  string // run after that, in a transaction of its own
	bare  bool   // sql makes the table
	keys  string // further keys of the table's configuration
	table string // its name, if not audit_logs
	role  bool   // look as $ROLE, which may do nothing but what sql grants
	// want lists all findings as "severity code"; says and hint are parts of what they
	// say together.
	want       []string
	says, hint string
}

// findingTable is a table about which there is nothing to say.
const findingTable = trialTable + ` INSERT INTO audit_logs SELECT i, now() - interval '90 days', 'user', NULL FROM generate_series(1, 20) i; ANALYZE audit_logs; `

const keepFunction = `CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; `

// keepTrigger keeps every row.
const keepTrigger = keepFunction + `CREATE TRIGGER k BEFORE DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION keep()`

// partedTable is partitioned twice; its leaves are p1 and p2a.
const partedTable = `CREATE TABLE audit_logs (id bigint, created_at timestamptz, actor text, PRIMARY KEY (created_at, id)) PARTITION BY RANGE (created_at);
	CREATE TABLE p1 PARTITION OF audit_logs FOR VALUES FROM (MINVALUE) TO ('2024-01-01');
	CREATE TABLE p2 PARTITION OF audit_logs FOR VALUES FROM ('2024-01-01') TO (MAXVALUE) PARTITION BY RANGE (id);
	CREATE TABLE p2a PARTITION OF p2 DEFAULT; `

// TestFindings provokes each finding on a real table, alone, and sees that nothing
// else is found; then once more with its code in allow, which works where it may and
// says so where it does not; then plans the table, which only what is left allows.
func TestFindings(t *testing.T) {
	t.Parallel()
	ledger := newSite(t, "- name: audit_logs").ledger
	covered := map[string]bool{ // by the tests below
		"open_batches_other_key": true, "parent_and_leaf": true, "sql_ascii": true, "table_locked": true, "allow_without_effect": true,
	}
	for _, c := range slices.Concat(shapeFindings, effectFindings, publishedFindings, rightsFindings) {
		for _, w := range c.want {
			covered[strings.Fields(w)[1]] = true
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := c.provoke(t)
			if f == nil {
				return // this server has no such thing
			}
			findings := f.look(t, "")
			require.Equal(t, c.want, brief(findings), "%+v", findings)
			var messages, hints string
			for _, x := range findings {
				require.NotContains(t, x.Message+x.Hint, "%!")
				require.NotEmpty(t, x.Hint, x)
				messages, hints = messages+x.Message+"\n", hints+x.Hint+"\n"
			}
			require.Contains(t, messages, c.says)
			require.Contains(t, hints, c.hint)
			p, err := planner.Make(t.Context(), f.src, ledger, f.config(t, ""), planner.Options{})
			require.NoError(t, err)
			require.Equal(t, source.Refusals(findings), p.Refused())
			if len(p.Refused()) > 0 {
				require.Empty(t, p.Pages, "a refused table was planned")
			}

			want, codes := c.allowedFindings(t)
			require.ElementsMatch(t, want, brief(f.look(t, strings.Join(codes, ", "))))
		})
	}
	for _, code := range source.Codes() {
		require.True(t, covered[code.Name], "no case provokes %s", code.Name)
	}
}

// allowedFindings is what is to be found once all that was found is allowed.
func (c findingCase) allowedFindings(t *testing.T) (want, codes []string) {
	t.Helper()
	for _, w := range c.want {
		severity, code, _ := strings.Cut(w, " ")
		i := slices.IndexFunc(source.Codes(), func(k source.Code) bool { return k.Name == code })
		require.GreaterOrEqual(t, i, 0, code)
		known := source.Codes()[i]
		require.EqualValues(t, known.Severity, severity, code)
		switch {
		case known.Allowable:
			want = append(want, "info "+code)
		case code == "table_not_found" || code == "column_not_found": // nothing else is looked at
			want = append(want, w)
		default:
			want = append(want, w, "warn allow_without_effect")
		}
		codes = append(codes, code)
	}
	return want, codes
}

func brief(findings []source.Finding) []string {
	var out []string
	for _, f := range findings {
		out = append(out, string(f.Severity)+" "+f.Code)
	}
	return out
}

// provoked is a database with a case's table.
type provoked struct {
	findingCase
	db  *testkit.DB
	dsn string
	src *source.DB
}

func (c findingCase) provoke(t *testing.T) *provoked {
	t.Helper()
	db := testkit.Postgres(t)
	if db.Int(t, `SELECT current_setting('server_version_num')::bigint`) < int64(c.since) {
		return nil
	}
	f := &provoked{findingCase: c, db: db, dsn: db.DSN}
	role, dsn := db.Role(t)
	if c.role {
		f.dsn = dsn
	}
	sql := strings.ReplaceAll(c.sql, "$ROLE", role)
	if !c.bare {
		sql = findingTable + sql
	}
	db.Exec(t, sql)
	db.Exec(t, c.then)
	database := f.load(t, "")
	var err error
	f.src, err = source.Open(t.Context(), database, "test")
	require.NoError(t, err)
	t.Cleanup(f.src.Close)
	return f
}

// load reads a configuration of the one table, as the product does.
func (f *provoked) load(t *testing.T, allow string) config.Database {
	t.Helper()
	name := f.table
	if name == "" {
		name = "audit_logs"
	}
	file := filepath.Join(t.TempDir(), "archiver.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
control: {url: %q}
s3: {bucket: unused, region: us-east-1}
defaults: {retention: 30d}
databases: [{name: main, url: %q, tables: [{name: %s, allow: [%s]%s}]}]
`, f.db.DSN, f.dsn, name, allow, f.keys), 0o600))
	cfg, err := config.Load(config.Options{File: file, Environ: []string{}})
	require.NoError(t, err)
	return cfg.Databases[0]
}

func (f *provoked) config(t *testing.T, allow string) config.Table {
	t.Helper()
	return f.load(t, allow).Tables[0]
}

func (f *provoked) look(t *testing.T, allow string) []source.Finding {
	t.Helper()
	_, findings, err := f.src.Preflight(t.Context(), f.config(t, allow))
	require.NoError(t, err)
	return findings
}

// TestFindingsSaySizes has a size in each message that is about one.
func TestFindingsSaySizes(t *testing.T) {
	t.Parallel()
	f := findingCase{sql: `
		CREATE TABLE child (audit_id bigint REFERENCES audit_logs ON DELETE CASCADE);
		INSERT INTO child SELECT i % 20 + 1 FROM generate_series(1, 12345) i; ANALYZE child;
		DROP INDEX audit_logs_created_at_id_idx`}.provoke(t)
	findings := f.look(t, "")
	require.Equal(t, []string{"refuse no_index", "refuse inbound_fk_cascade", "warn inbound_fk_unindexed"}, brief(findings))
	require.Contains(t, findings[0].Message, `"public"."audit_logs" (about 20 rows, 8192 bytes)`)
	require.Contains(t, findings[1].Message, "child (about 12,345 rows, 440 kB)")
	require.Contains(t, findings[2].Message, "each deleted row scans all of public.child (about 12,345 rows, 440 kB)")
}

// TestFindingsOfThePlan are those that a table alone does not show.
func TestFindingsOfThePlan(t *testing.T) {
	t.Parallel()
	t.Run("parent and leaf", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, "- name: audit_logs\n- name: p2a\n- name: p1")
		s.db.Exec(t, partedTable)
		tables := s.cfg.Databases[0].Tables
		for i, other := range []string{"main.public.p2a is a partition of main.public.audit_logs", "main.public.p2a is a partition of main.public.audit_logs", "main.public.p1 is a partition of main.public.audit_logs"} {
			p, err := planner.Make(t.Context(), s.src, s.ledger, tables[i], planner.Options{Siblings: tables})
			require.NoError(t, err)
			require.Equal(t, "refuse parent_and_leaf", brief(p.Refused())[0])
			require.Contains(t, p.Refused()[0].Message, other)
			require.Empty(t, p.Pages)
		}
	})
	t.Run("open batches on another key", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 20, "")
		tr.sql(t.Context(), `ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_pkey, ADD PRIMARY KEY (actor)`)
		p, err := planner.Make(t.Context(), tr.src, tr.ledger, tr.cfg.Databases[0].Tables[0], planner.Options{})
		require.NoError(t, err)
		require.Equal(t, []string{"refuse open_batches_other_key"}, brief(p.Refused()))
		require.Contains(t, p.Refused()[0].Message, "(created_at, id)")
		require.Contains(t, p.Refused()[0].Message, "(created_at, actor)")
	})
}

// TestFindingsOfTheDatabase needs a database without an encoding.
func TestFindingsOfTheDatabase(t *testing.T) {
	t.Parallel()
	db := testkit.Postgres(t)
	name := db.Name + "_ascii"
	db.Exec(t, "CREATE DATABASE "+name+" ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
	t.Cleanup(func() { db.Exec(t, "DROP DATABASE "+name+" WITH (FORCE)") })
	pool, err := pgxpool.New(t.Context(), db.Server.DSN(name))
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), findingTable)
	require.NoError(t, err)
	f := &provoked{db: db, dsn: db.Server.DSN(name)}
	f.src, err = source.Open(t.Context(), f.load(t, ""), "test")
	require.NoError(t, err)
	defer f.src.Close()
	require.Equal(t, []string{"refuse sql_ascii"}, brief(f.look(t, "")))
	require.Equal(t, []string{"info sql_ascii"}, brief(f.look(t, "sql_ascii")))
}

// TestFindingsUnderALock has another session keep the table from being asked.
func TestFindingsUnderALock(t *testing.T) {
	t.Parallel()
	f := findingCase{}.provoke(t)
	other, err := f.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer other.Rollback(t.Context()) //nolint:errcheck // it only holds a lock
	_, err = other.Exec(t.Context(), `LOCK TABLE audit_logs IN SHARE MODE`)
	require.NoError(t, err)
	require.Equal(t, []string{"warn table_locked"}, brief(f.look(t, "")))
}

// TestAllowWithoutEffect tells of words in allow that accept nothing.
func TestAllowWithoutEffect(t *testing.T) {
	t.Parallel()
	f := findingCase{sql: keepTrigger}.provoke(t)
	findings := f.look(t, "delete_triger, vacuum_full, row_security, logical_slot")
	require.Equal(t, []string{"warn allow_without_effect", "warn allow_without_effect", "refuse delete_trigger"}, brief(findings))
	require.Contains(t, findings[0].Message, "delete_triger")
	require.Contains(t, findings[1].Message, "row_security, which cannot be accepted")
}
