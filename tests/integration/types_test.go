//go:build failpoint

package integration

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// literal is a value of a sample as SQL.
func literal(typ, value string) string {
	if expr, ok := strings.CutPrefix(value, "sql:"); ok {
		return "(" + expr + ")::" + typ
	}
	return "'" + strings.ReplaceAll(value, "'", "''") + "'::" + typ
}

// createSamples makes a table with a column for each sample and as many rows as the
// longest has values; shorter ones start again. The last row is NULL wherever the
// line can say so.
func (s *site) createSamples(t *testing.T, table string, samples []sample) {
	t.Helper()
	samples = s.taken(t, samples)
	create := "CREATE TABLE " + table + " (id int PRIMARY KEY, created_at timestamptz NOT NULL"
	longest := 0
	for i, c := range samples {
		create += fmt.Sprintf(", c%d %s", i, c.typ)
		longest = max(longest, len(c.values))
	}
	s.db.Exec(t, create+"); CREATE INDEX ON "+table+" (created_at, id)")
	for row := range longest + 1 {
		insert := fmt.Sprintf("INSERT INTO %s VALUES (%d, '2020-01-30'::date + %d", table, row, row)
		for _, c := range samples {
			if row == longest && !isDocument(c.typ) {
				insert += ", NULL"
				continue
			}
			insert += ", " + literal(c.typ, c.values[row%len(c.values)])
		}
		s.db.Exec(t, insert+")")
	}
}

// taken leaves out what servers before version 15 do not read: negative scales, and
// intervals of more hours than 2^31.
func (s *site) taken(t *testing.T, samples []sample) []sample {
	t.Helper()
	if s.db.Int(t, `SELECT current_setting('server_version_num')::int`) >= 150000 {
		return samples
	}
	var out []sample
	for _, c := range samples {
		if !strings.HasPrefix(c.typ, "numeric(") || !strings.Contains(c.typ, ",-") {
			c.values = slices.DeleteFunc(slices.Clone(c.values), func(v string) bool { return strings.HasSuffix(v, "2562047788:00:54.775807") })
			out = append(out, c)
		}
	}
	return out
}

// isDocument says whether a type is json, jsonb or a domain over one: those columns
// are left out of the line when they are NULL.
func isDocument(typ string) bool {
	return slices.Contains([]string{"json", "jsonb", `"My.Types""".doc`, `"My.Types""".docb`}, typ)
}

// TestEveryType archives a table with a column of every type that the server has,
// and of every kind that a user can make. Each line must be row_to_json's, to the
// byte, and give its row back.
func TestEveryType(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{
		"gzip":         "compression: gzip, partition_by: month",
		"none content": "compression: none, partition_by: day, delete_guard: content",
		"zstd content": "compression: zstd, partition_by: none, delete_guard: content, verify: readback",
		"gzip year":    "compression: gzip, partition_by: year, compression_level: 9",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "- {name: samples, "+settings+"}")
			s.db.Exec(t, userTypes)
			s.createSamples(t, "samples", samples)
			conn := s.pinned(t)
			want := textRows(t, conn, `SELECT row_to_json(r)::text FROM public.samples r ORDER BY id`)
			before := accountOf(t, conn, "public.samples", "true")

			s.plan(t)
			s.drain(t, nil)
			objects := s.settled(t, conn, "public", "samples", before)
			lines := linesOf(objects)
			require.Len(t, lines, len(want))
			for i := range want {
				sameLine(t, want[i], lines[i])
			}
			for _, o := range objects {
				require.Len(t, o.manifest.Columns, len(s.taken(t, samples))+2)
			}
		})
	}
}

// sameLine compares two lines to the byte, and names the column where they differ.
func sameLine(t *testing.T, want, have string) {
	t.Helper()
	if want == have {
		return
	}
	w, h := fields(t, want), fields(t, have)
	for name, v := range w {
		require.Equal(t, string(v), string(h[name]), "column %s%s", name, typeOf(name))
	}
	require.Equal(t, want, have)
}

func fields(t *testing.T, line string) map[string]json.RawMessage {
	t.Helper()
	var out map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(line), &out), line)
	return out
}

// typeOf names the type of a column of createSamples.
func typeOf(column string) string {
	var i int
	if n, err := fmt.Sscanf(column, "c%d", &i); n != 1 || err != nil || i >= len(samples) {
		return ""
	}
	return " of type " + samples[i].typ
}

// TestNoTypeForgotten holds the samples against the server's own list of types.
func TestNoTypeForgotten(t *testing.T) {
	t.Parallel()
	s := newSite(t, `- name: samples`)
	s.db.Exec(t, userTypes)
	all := slices.Clone(samples)
	for _, e := range exceptions {
		all = append(all, sample{e.typ, []string{e.value}})
	}
	s.createSamples(t, "samples", all)
	missing := textRows(t, s.pinned(t), `
		SELECT typname FROM pg_type y WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'e', 'd', 'r', 'm')
		AND NOT EXISTS (SELECT FROM pg_type a WHERE a.typarray = y.oid) AND typname <> ALL ($1)
		AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'public.samples'::regclass AND atttypid = y.oid) ORDER BY 1`, withoutInput)
	require.Empty(t, missing, "types without a sample")
	for i, typ := range withoutInput {
		if s.db.Int(t, `SELECT count(*) FROM pg_type WHERE typname = $1`, typ) > 0 {
			s.db.Exec(t, fmt.Sprintf("CREATE TABLE no_input_%d (v %s)", i, typ))
			_, err := s.db.Pool.Exec(t.Context(), fmt.Sprintf("INSERT INTO no_input_%d VALUES ('')", i))
			require.Error(t, err, typ)
		}
	}
}

// TestTypesBeyondJSON archives the values that row_to_json would lose something of.
func TestTypesBeyondJSON(t *testing.T) {
	t.Parallel()
	s := newSite(t, `- {name: beyond, delete_guard: content}`)
	s.db.Exec(t, userTypes)
	var columns []string // the types
	create := "CREATE TABLE beyond (id int PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT '2020-01-01'"
	for _, e := range exceptions {
		if !slices.Contains(columns, e.typ) {
			create += fmt.Sprintf(", c%d %s", len(columns), e.typ)
			columns = append(columns, e.typ)
		}
	}
	s.db.Exec(t, create+"); CREATE INDEX ON beyond (created_at, id)")
	for i, e := range exceptions {
		s.db.Exec(t, fmt.Sprintf("INSERT INTO beyond (id, c%d) VALUES (%d, %s)", slices.Index(columns, e.typ), i, literal(e.typ, e.value)))
	}
	conn := s.pinned(t)
	rows := textRows(t, conn, `SELECT r::text FROM public.beyond r ORDER BY id`)

	s.plan(t)
	s.drain(t, nil)
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM beyond`))
	lines := linesOf(s.objects(t, "public", "beyond"))
	require.Len(t, lines, len(exceptions))
	for i, e := range exceptions {
		require.Equal(t, e.line(i, columns), lines[i], "%s %s", e.typ, e.value)
		if e.form == asStored {
			continue
		}
		var back string
		err := conn.QueryRow(t.Context(), `SELECT json_populate_record(NULL::public.beyond, $1::text::json)::text`, lines[i]).Scan(&back)
		require.NoError(t, err, lines[i])
		if e.form == oneLine {
			require.Contains(t, back, strings.ReplaceAll(e.want, `"`, `""`))
			continue
		}
		require.Equal(t, rows[i], back, lines[i])
	}
}

// line is the whole line of the exception with the given id.
func (e exception) line(id int, columns []string) string {
	line := fmt.Sprintf(`{"id":%d,"created_at":"2020-01-01T00:00:00+00:00"`, id)
	for i, typ := range columns {
		switch {
		case typ == e.typ && e.form != leftOut:
			line += fmt.Sprintf(`,"c%d":%s`, i, e.want)
		case isDocument(typ):
		default:
			line += fmt.Sprintf(`,"c%d":null`, i)
		}
	}
	return line + "}"
}

// TestTableShapes archives tables whose rows are stored in ways that a plain table's
// are not.
func TestTableShapes(t *testing.T) {
	t.Parallel()
	wide := "CREATE TABLE wide (id int PRIMARY KEY, created_at timestamptz DEFAULT '2020-01-01' NOT NULL"
	for i := range 300 {
		wide += fmt.Sprintf(", c%d %s", i, []string{"int", "text", "numeric[]", "jsonb", `"My.Types""".pair`}[i%5])
	}
	tables := []struct{ name, setup string }{
		{"made", `CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT '2020-01-01', a int, b text,
			twice bigint GENERATED ALWAYS AS (a * 2) STORED, joined "My.Types""".pair GENERATED ALWAYS AS (ROW(a, b)::"My.Types""".pair) STORED);
			INSERT INTO made (a, b) SELECT i, 'x' || i FROM generate_series(1, 20) i`},
		{"dropped", `CREATE TABLE dropped (gone1 int, id int PRIMARY KEY, gone2 "My.Types""".nest, created_at timestamptz NOT NULL DEFAULT '2020-01-01', b text, gone3 text);
			INSERT INTO dropped VALUES (1, 1, '(,,,,,)', DEFAULT, 'b', 'c');
			ALTER TABLE dropped DROP gone1, DROP gone2, DROP gone3;
			INSERT INTO dropped VALUES (2, DEFAULT, 'b2')`},
		{"added", `CREATE TABLE added (id int PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT '2020-01-01');
			INSERT INTO added SELECT i FROM generate_series(1, 5) i;
			ALTER TABLE added ADD n int, ADD v text DEFAULT 'later' NOT NULL, ADD xs int[] DEFAULT '[0:1]={1,2}', ADD j jsonb DEFAULT 'null', ADD p "My.Types""".pair DEFAULT '(1,x)';
			ALTER TABLE added ALTER v DROP DEFAULT, ALTER xs SET DEFAULT '{}';
			INSERT INTO added (id, v) SELECT i, 'new' FROM generate_series(6, 9) i`},
		{"wide", wide + `); INSERT INTO wide (id) SELECT i FROM generate_series(1, 3) i; UPDATE wide SET c0 = 1, c1 = 'x', c2 = '{1.10}', c298 = '[1]', c299 = '(1,)' WHERE id = 2`},
		{"large", `CREATE TABLE large (id int PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT '2020-01-01', a text, b bytea, c jsonb, d text[]);
			ALTER TABLE large ALTER a SET STORAGE EXTERNAL;
			INSERT INTO large (id, a) SELECT 1, string_agg(md5(i::text), E'\n') FROM generate_series(1, 160000) i;
			INSERT INTO large (id, b, c, d) SELECT 2, decode(repeat('00ff', 500000), 'hex'), jsonb_build_object('k', repeat('v', 1000000)), array_fill('element'::text, ARRAY[50000])`},
	}
	yaml := ""
	for _, c := range tables {
		yaml += "- {name: " + c.name + ", delete_guard: content}\n"
	}
	s := newSite(t, yaml)
	s.db.Exec(t, userTypes)
	conn := s.pinned(t)
	before := map[string]account{}
	for _, c := range tables {
		s.db.Exec(t, c.setup+"; CREATE INDEX ON "+c.name+" (created_at, id)")
		before[c.name] = accountOf(t, conn, quoted("public", c.name), "true")
		require.NotEmpty(t, before[c.name].due)
	}
	s.plan(t)
	s.drain(t, nil)
	for _, c := range tables {
		if c.name != "added" { // a jsonb null comes back as NULL: see below
			s.settled(t, conn, "public", c.name, before[c.name])
		}
	}
	for _, line := range linesOf(s.objects(t, "public", "added"))[:5] {
		require.Contains(t, line, `"n":null,"v":"later","xs":"[0:1]={1,2}","j":null,"p":{"a":1,"b":"x"}}`)
	}
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM added`))
	require.Contains(t, columnOf(t, s.objects(t, "public", "made")[0], "twice"), `"generated":"s"`)
	require.Contains(t, columnOf(t, s.objects(t, "public", "made")[0], "id"), `"identity":"a"`)
}

// TestOtherEncoding archives a table of a database that is not in UTF-8: the object is.
func TestOtherEncoding(t *testing.T) {
	t.Parallel()
	const tables = `- {name: '"é"', delete_guard: content}`
	s := newSite(t, tables)
	control := s.db
	name := control.Name + "_latin1"
	control.Exec(t, "CREATE DATABASE "+name+" ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
	t.Cleanup(func() { control.Exec(t, "DROP DATABASE "+name+" WITH (FORCE)") })
	s.db = &testkit.DB{DSN: control.Server.DSN(name), Name: name, Server: control.Server}
	s.configure(t, tables)
	var err error
	s.src, err = source.Open(t.Context(), s.cfg.Databases[0], "test")
	require.NoError(t, err)
	t.Cleanup(s.src.Close)
	conn := s.pinned(t)
	_, err = conn.Exec(t.Context(), `CREATE TYPE public."ñ" AS ENUM ('ä', 'b'); CREATE TYPE public."ç" AS ("ü" text);
		CREATE TABLE public."é" (id int, "ø" text, created_at timestamptz DEFAULT '2020-01-01', c char(3), v varchar(2), j json, b jsonb, e public."ñ", p public."ç", xs text[], h bytea, PRIMARY KEY ("ø"));
		CREATE INDEX ON public."é" (created_at, "ø");
		INSERT INTO public."é" SELECT i, 'ÿ' || i, '2020-01-01', 'é', 'ßü', '{"ä": "ö"}'::json, '"é"'::jsonb, 'ä'::public."ñ", '(Ü)'::public."ç", '{é,"[é]"}'::text[], '\xe9'::bytea FROM generate_series(1, 150) i`)
	require.NoError(t, err)
	before := accountOf(t, conn, `public."é"`, "true")
	s.plan(t)
	s.drain(t, oncePerBatch("delete:after-commit", 2))
	objects := s.settled(t, conn, "public", "é", before)
	require.Len(t, objects, 2)
	for _, line := range linesOf(objects) {
		require.True(t, utf8.ValidString(line))
		require.Contains(t, line, `"c":"é  ","v":"ßü","j":{"ä": "ö"},"b":"é","e":"ä","p":{"ü":"Ü"},"xs":["é","[é]"],"h":"\\xe9"`)
	}
}

// columnOf is what a manifest says of a column.
func columnOf(t *testing.T, o object, name string) string {
	t.Helper()
	for _, c := range o.manifest.Columns {
		if c.Name == name {
			b, err := json.Marshal(c)
			require.NoError(t, err)
			return string(b)
		}
	}
	require.Fail(t, "no such column in the manifest", name)
	return ""
}
