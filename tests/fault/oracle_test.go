package fault

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/encode"
	"github.com/audit-table-archiver/archiver/internal/layout"
)

// exactlyOnce is the oracle: each row of the truth is in the table or in one object
// that speaks for it, and nothing else is anywhere. An object speaks when it has a
// manifest, or when its batch is in `deleting` and its rows have left the table: then
// a manifest is yet to come. It can be asked at any moment.
func (s *site) exactlyOnce(name string) {
	s.t.Helper()
	t := s.t
	inTable := s.rows(`SELECT r::text FROM ` + name + ` r`)
	present := map[string]bool{}
	for _, r := range inTable {
		present[r] = true
	}
	var archived []string
	var manifests []string
	folder := layout.TablePrefix("pre", "main", "public", name) + "/"
	for _, key := range s.bucket.Keys(t) {
		if !strings.HasPrefix(key, folder) || !layout.IsManifest(key) {
			continue
		}
		var m layout.Manifest
		require.NoError(t, json.Unmarshal(s.bucket.Read(t, key), &m), key)
		manifests = append(manifests, m.Object)
		lines := s.lines(m.Object, m.Compression)
		require.Len(t, lines, int(m.Rows), key)
		archived = append(archived, s.records(name, lines)...)
	}
	require.ElementsMatch(t, s.objects(name, `o.state = 'committed'`, 0), manifests, "manifests in storage and committed objects in the ledger")
	for _, object := range s.objects(name, `o.state = 'verified' AND b.state = 'deleting'`, 1) {
		key, compression, _ := strings.Cut(object, " ")
		rows := s.records(name, s.lines(key, compression))
		left := 0
		for _, r := range rows {
			if present[r] {
				left++
			}
		}
		if left == 0 {
			archived = append(archived, rows...)
		}
	}
	sameRows(t, s.rows(`SELECT r::text FROM truth_`+name+` r`), append(inTable, archived...), name+": table and objects")
}

// archived is exactlyOnce for the good end: the table is empty and no batch is open.
func (s *site) archived(name string) {
	s.t.Helper()
	require.Zero(s.t, s.count(name, `b.state NOT IN ('archived', 'empty')`), s.trouble(name))
	require.Zero(s.t, s.source.Int(s.t, `SELECT count(*) FROM `+name))
	s.exactlyOnce(name)
}

// untouched is exactlyOnce for the other one: a batch has failed, and every row is in
// the table still.
func (s *site) untouched(name string) {
	s.t.Helper()
	require.Positive(s.t, s.count(name, `b.failed`), s.trouble(name))
	require.Equal(s.t, s.source.Int(s.t, `SELECT count(*) FROM truth_`+name), s.source.Int(s.t, `SELECT count(*) FROM `+name), s.trouble(name))
	require.Contains(s.t, s.trouble(name), "nothing was deleted")
	s.exactlyOnce(name)
}

// rows runs a query on the source whose rows are one text each, with the settings
// that docs/FORMAT.md names.
func (s *site) rows(sql string, args ...any) []string {
	s.t.Helper()
	var out []string
	err := pgx.BeginFunc(s.t.Context(), s.source.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(s.t.Context(), `SET LOCAL TimeZone = 'UTC'`); err != nil {
			return err
		}
		rows, err := tx.Query(s.t.Context(), sql, args...)
		if err != nil {
			return err
		}
		out, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	require.NoError(s.t, err, sql)
	return out
}

// records reads lines back as rows of the table.
func (s *site) records(name string, lines []string) []string {
	s.t.Helper()
	return s.rows(`SELECT json_populate_record(NULL::`+name+`, l::json)::text FROM unnest($1::text[]) l`, lines)
}

// lines decodes an object, past the archiver.
func (s *site) lines(key, compression string) []string {
	s.t.Helper()
	r, err := encode.NewReader(bytes.NewReader(s.bucket.Read(s.t, key)), compression)
	require.NoError(s.t, err, key)
	raw, err := io.ReadAll(r)
	require.NoError(s.t, err, key)
	return strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
}

// objects are the keys of a table's objects in the ledger for which a condition
// holds, with more fields of theirs behind a blank.
func (s *site) objects(name, condition string, more int) []string {
	s.t.Helper()
	columns := []string{`o.key`, `o.key || ' ' || o.compression`}
	rows, err := s.ledger.Pool.Query(s.t.Context(), s.ledger.SQL(`SELECT `+columns[more]+` FROM {s}.object o JOIN {s}.batch b ON b.id = o.batch_id
		JOIN {s}.archive_table a ON a.id = b.table_id WHERE a.name = $1 AND `+condition), name)
	require.NoError(s.t, err)
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(s.t, err)
	return out
}

// sameRows compares two lists of rows whatever their order.
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
	require.Empty(t, missing, "%s: lost", what)
	require.Empty(t, extra, "%s: twice, or never were", what)
}
