//go:build failpoint

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/digest"
	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/internal/layout"
)

// hostileNames are names that SQL, JSON, a format string or a path could take for
// something else. Some differ only in what an escape might lose.
var hostileNames = []string{
	`quo"te`, `"`, `""`, `'`, `'; DROP TABLE x; --`, `do.t`, `.`, `..`, `sp ace`, ` `, ` lead`, `trail `, `ünï 😀`, `back\slash`, `\`, `per%cent %s %d %`, "new\nline", "tab\t",
	`$1`, `$$`, `${X}`, `{s}`, `a/b`, `a%2Fb`, `a%2fb`, `/`, `*`, `;`, `--`, `/*`, `\u0041`, `null`, `select`, `Table`, `table`, `TABLE`, `1st`, `year=2024`,
	strings.Repeat("x", 63), strings.Repeat("x", 62) + "y", strings.Repeat("€", 21), "\u2028", "é", "e\u0301",
}

// aliases are names that our own statements give to something, or that the server
// almost has for a column of its own.
var aliases = []string{
	`t`, `k`, `n`, `s`, `p`, `e`, `v`, `l`, `u`, `c`, `b`, `i`, `r`, `k0`, `k1`, `Ctid`, `ctid `, ` xmin`, `TABLEOID`, `tableoid `, `count`, `only`, `user`, `true`, "\u00a0", `{}`, `_`, `-`,
}

// TestHostileNames archives a table for each hostile name, which stands for a schema
// and a table once, and like the aliases for a timestamp or key column, and in each
// table for some column. Each delete's answer is lost once, so that the rows are looked
// up by their key as well.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	columns := slices.Concat(hostileNames, aliases)
	require.LessOrEqual(t, len(columns), 2*len(hostileNames), "each name is to be a timestamp or key column once")
	name := func(i int) string { return hostileNames[i%len(hostileNames)] }
	ts := func(i int) string { return columns[2*i%len(columns)] }
	key := func(i int) string { return columns[(2*i+1)%len(columns)] }
	var yaml strings.Builder
	for i := range hostileNames {
		settings, err := json.Marshal(map[string]any{ // JSON is YAML too
			"name": strings.ReplaceAll(quoted(name(i), name(i+1)), "${", "$${"), "timestamp_column": strings.ReplaceAll(pgx.Identifier{ts(i)}.Sanitize(), "${", "$${"),
			"delete_guard": []string{"identity", "content"}[i%2],
		})
		require.NoError(t, err)
		fmt.Fprintf(&yaml, "- %s\n", settings)
	}
	s := newSite(t, yaml.String())
	conn := s.pinned(t)
	before := make([]account, len(hostileNames))
	var setup strings.Builder
	for i := range hostileNames {
		setup.WriteString(createHostile(name(i), name(i+1), ts(i), key(i), columns))
	}
	s.db.Exec(t, setup.String())
	for i := range hostileNames {
		before[i] = accountOf(t, conn, quoted(name(i), name(i+1)), "r."+pgx.Identifier{ts(i)}.Sanitize()+" < '2021-01-01'")
		require.Len(t, before[i].due, 3)
		require.Len(t, before[i].kept, 1)
	}
	for _, p := range s.plan(t) {
		require.EqualValues(t, 3, p.Rows, p.Table)
	}
	s.drain(t, oncePerBatch("delete:after-commit", len(hostileNames)))

	folders := map[string]string{}
	for i := range hostileNames {
		objects := s.settled(t, conn, name(i), name(i+1), before[i])
		require.Len(t, objects, 1)
		folder := layout.TablePrefix("pre", "main", name(i), name(i+1))
		require.Empty(t, folders[folder], "two tables share a folder")
		require.Equal(t, 4, strings.Count(folder, "/")+1, folder)
		folders[folder] = name(i)
		var archived []string
		for _, c := range objects[0].manifest.Columns {
			archived = append(archived, c.Name)
		}
		require.Equal(t, columns, archived)
		require.Equal(t, []string{ts(i), key(i)}, objects[0].manifest.KeyColumns)
	}
	require.Equal(t, map[string]int64{"archived": int64(len(hostileNames))}, s.states(t))
}

// createHostile makes a table with a column of every hostile name, of types whose
// values are read by different expressions, and puts four rows into it.
func createHostile(schema, table, ts, key string, all []string) string {
	types := []string{"text", "int[]", "json[]", "jsonb", `comp`, "timestamp"}
	values := []string{"'a'", "'{1,NULL}'", `'{"null",1}'`, "'{}'", "'(1,\"[0:1]={1,2}\")'", "'2020-01-01'"}
	var columns, names, row []string
	for j, n := range all {
		q := pgx.Identifier{n}.Sanitize()
		typ, value := types[j%len(types)], values[j%len(types)]
		if typ == "comp" {
			typ = quoted(schema, "type")
		}
		switch n {
		case ts:
			typ, value = "timestamptz NOT NULL", "'2020-01-01'::timestamptz + i * interval '1 day' + i / 9 * interval '400 years'"
		case key:
			typ, value = "bigint PRIMARY KEY", "i"
		}
		columns, names, row = append(columns, q+" "+typ), append(names, q), append(row, value)
	}
	attributes := fmt.Sprintf("%s int, %s int[]", pgx.Identifier{ts}.Sanitize(), pgx.Identifier{key}.Sanitize())
	name := quoted(schema, table)
	return "CREATE SCHEMA " + pgx.Identifier{schema}.Sanitize() + ";\nCREATE TYPE " + quoted(schema, "type") + " AS (" + attributes + ");\n" +
		"CREATE TABLE " + name + " (" + strings.Join(columns, ", ") + ");\n" +
		"CREATE INDEX ON " + name + " (" + pgx.Identifier{ts}.Sanitize() + ", " + pgx.Identifier{key}.Sanitize() + ");\n" +
		"INSERT INTO " + name + " (" + strings.Join(names, ", ") + ") SELECT " + strings.Join(row, ", ") + " FROM (VALUES (0), (1), (2), (9)) r (i);\n"
}

// oncePerBatch fails the first n passes of a failpoint.
func oncePerBatch(point string, n int) failpoint.Handler {
	var mu sync.Mutex
	return func(_ context.Context, name string) error {
		mu.Lock()
		defer mu.Unlock()
		if name != point || n == 0 {
			return nil
		}
		n--
		return errors.New("the connection broke here")
	}
}

// TestContentGuardSeesEveryColumn computes a batch's digest a second time, on a table
// with a column that has the name of our own alias.
func TestContentGuardSeesEveryColumn(t *testing.T) {
	t.Parallel()
	s := newSite(t, `- {name: guarded, delete_guard: content}`)
	s.db.Exec(t, `CREATE TABLE guarded (t int, id int PRIMARY KEY, created_at timestamptz NOT NULL, other text);
		CREATE INDEX ON guarded (created_at, id);
		INSERT INTO guarded SELECT 1, i, '2020-01-01', 'row ' || i FROM generate_series(1, 10) i`)
	conn := s.pinned(t)
	want := digestOf(t, conn, `SELECT tableoid, ctid, xmin, hashtextextended((r.*)::text, 0) FROM public.guarded r`)
	s.plan(t)
	s.drain(t, nil)
	require.Equal(t, want, s.objects(t, "public", "guarded")[0].manifest.Source.RowDigest)
}

// digestOf computes the digest over a query's tableoid, ctid, xmin and content hash.
func digestOf(t *testing.T, conn *pgx.Conn, query string) string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT tableoid, ctid, xmin::text::bigint, hash FROM (`+query+`) r (tableoid, ctid, xmin, hash)`)
	require.NoError(t, err)
	var d digest.Digest
	var table uint32
	var tid pgtype.TID
	var xmin, hash int64
	_, err = pgx.ForEachRow(rows, []any{&table, &tid, &xmin, &hash}, func() error {
		d.Add(digest.Row{TableOID: table, Block: tid.BlockNumber, Offset: tid.OffsetNumber, Xmin: uint32(xmin), Content: hash})
		return nil
	})
	require.NoError(t, err)
	return d.String()
}
