//go:build failpoint

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/encode"
	"github.com/audit-table-archiver/archiver/internal/layout"
)

// pinned opens a session with the settings that docs/FORMAT.md names.
func (s *site) pinned(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.db.DSN)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	_, err = conn.Exec(t.Context(), `SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 1;
		SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET search_path = pg_catalog; SET client_encoding = 'UTF8'`)
	require.NoError(t, err)
	return conn
}

// textRows runs a query whose rows are one text each.
func textRows(t *testing.T, conn *pgx.Conn, sql string, args ...any) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	require.NoError(t, err, sql)
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err, sql)
	return out
}

// quoted is a table's name in SQL.
func quoted(schema, table string) string { return pgx.Identifier{schema, table}.Sanitize() }

// object is a committed object: its manifest and its lines.
type object struct {
	manifest layout.Manifest
	lines    []string
}

// objects reads all committed objects of a table, in the order of their keys. Nothing
// else may be in the table's folder.
func (s *site) objects(t *testing.T, schema, table string) []object {
	t.Helper()
	folder := layout.TablePrefix("pre", "main", schema, table) + "/"
	var out []object
	for _, key := range s.bucket.Keys(t) {
		if !layout.IsManifest(key) || !strings.HasPrefix(key, folder) {
			continue
		}
		var o object
		require.NoError(t, json.Unmarshal(s.bucket.Read(t, key), &o.manifest), key)
		require.Equal(t, []string{"main", schema, table}, []string{o.manifest.Database, o.manifest.Schema, o.manifest.Table}, key)
		require.True(t, strings.HasPrefix(o.manifest.Object, folder), key)
		r, err := encode.NewReader(bytes.NewReader(s.bucket.Read(t, o.manifest.Object)), o.manifest.Compression)
		require.NoError(t, err)
		raw, err := io.ReadAll(r)
		require.NoError(t, err)
		o.lines = strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
		require.Len(t, o.lines, int(o.manifest.Rows), key)
		out = append(out, o)
	}
	return out
}

func linesOf(objects []object) []string {
	var out []string
	for _, o := range objects {
		out = append(out, o.lines...)
	}
	return out
}

// account is what a table held before it was archived: every row as text, and which
// of them are to be archived.
type account struct{ due, kept []string }

// accountOf reads a table. due is an SQL condition on it, where r is a row.
func accountOf(t *testing.T, conn *pgx.Conn, name, due string) account {
	t.Helper()
	return account{
		due:  textRows(t, conn, `SELECT (r.*)::text FROM `+name+` r WHERE `+due),
		kept: textRows(t, conn, `SELECT (r.*)::text FROM `+name+` r WHERE (`+due+`) IS NOT TRUE`),
	}
}

// settled asserts that every row is where it belongs, once: the due ones in committed
// objects, read back by json_populate_record, the others in the table.
func (s *site) settled(t *testing.T, conn *pgx.Conn, schema, table string, before account) []object {
	t.Helper()
	name := quoted(schema, table)
	objects := s.objects(t, schema, table)
	archived := textRows(t, conn, `SELECT (json_populate_record(NULL::`+name+`, l::json))::text FROM unnest($1::text[]) l`, linesOf(objects))
	sameRows(t, before.due, archived, name+": archived rows")
	sameRows(t, before.kept, textRows(t, conn, `SELECT (r.*)::text FROM `+name+` r`), name+": rows left")
	return objects
}

// sameRows compares two lists of rows whatever their order, and shows what differs
// and not everything else.
func sameRows(t *testing.T, want, have []string, what string) {
	t.Helper()
	count := map[string]int{}
	for _, r := range want {
		count[r]++
	}
	for _, r := range have {
		count[r]--
	}
	var missing, extra []string
	for r, n := range count {
		switch {
		case n > 0:
			missing = append(missing, r)
		case n < 0:
			extra = append(extra, r)
		}
	}
	slices.Sort(missing)
	slices.Sort(extra)
	require.Empty(t, missing, "%s: missing", what)
	require.Empty(t, extra, "%s: more than there should be", what)
	require.Len(t, have, len(want), what)
}
