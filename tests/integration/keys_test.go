//go:build failpoint

package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/planner"
)

// keyTable is one table of a site and what is special about its key.
type keyTable struct {
	name     string
	settings string // YAML of the table
	setup    string // SQL; TABLE stands for the name
	due      string // SQL condition on a row r; empty: all rows
	later    string // SQL that runs between plan and read
	laterDue string // due rows once later has run; empty: due
	batches  int    // planned; 0: not looked at
	objects  int    // committed; 0: not looked at
}

// settleKeys archives all tables in one site and holds every row against the account
// that was taken before. The delete of each batch loses its answer once, so that all
// keys are looked up in the table as well. With a cutoff the tables are planned up
// to it.
func settleKeys(t *testing.T, setup string, tables []keyTable, cutoff *time.Time) *site {
	t.Helper()
	var yaml strings.Builder
	for _, k := range tables {
		fmt.Fprintf(&yaml, "- {name: %s, batch_size: 100", k.name)
		if k.settings != "" {
			yaml.WriteString(", " + k.settings)
		}
		yaml.WriteString("}\n")
	}
	s := newSite(t, strings.ReplaceAll(yaml.String(), "batch_size: 100, batch_size", "batch_size"))
	s.db.Exec(t, setup)
	conn := s.pinned(t)
	for _, k := range tables {
		s.db.Exec(t, strings.ReplaceAll(k.setup, "TABLE_", k.name))
		s.everyKeyIsFound(t, conn, k.name)
	}
	batches := 0
	for i, table := range s.cfg.Databases[0].Tables {
		p, err := planner.Make(t.Context(), s.src, s.ledger, table, planner.Options{Cutoff: cutoff})
		require.NoError(t, err, table)
		require.Empty(t, p.Refused(), table)
		require.NoError(t, p.Enqueue(t.Context(), s.ledger, s.client(t)))
		if tables[i].batches > 0 {
			require.Len(t, p.Pages, tables[i].batches, "batches planned of %s", table)
		}
		batches += len(p.Pages)
	}
	before := make([]account, len(tables))
	for i, k := range tables {
		if k.later != "" {
			s.db.Exec(t, strings.ReplaceAll(k.later, "TABLE_", k.name))
		}
		due := k.due
		if k.laterDue != "" {
			due = k.laterDue
		}
		if due == "" {
			due = "true"
		}
		before[i] = accountOf(t, conn, quoted("public", k.name), due)
		require.NotEmpty(t, before[i].due, k.name)
	}
	s.drain(t, oncePerBatch("delete:after-commit", batches))
	for i, k := range tables {
		objects := s.settled(t, conn, "public", k.name, before[i])
		if k.objects > 0 {
			require.Len(t, objects, k.objects, k.name)
		}
		for _, o := range objects {
			inFolder(t, o)
		}
	}
	require.Empty(t, s.states(t)["failed"])
	return s
}

// everyKeyIsFound looks each row up by its line, as is done to find out whether a
// delete has happened.
func (s *site) everyKeyIsFound(t *testing.T, conn *pgx.Conn, name string) {
	t.Helper()
	table := s.cfg.Databases[0].Tables[0]
	table.Schema, table.Name = "public", name
	for _, c := range s.cfg.Databases[0].Tables {
		if c.Name == name {
			table = c
		}
	}
	lines := textRows(t, conn, `SELECT row_to_json(r)::text FROM `+quoted("public", name)+` r LIMIT 8`)
	for _, line := range lines {
		left, err := s.src.AnyLeft(t.Context(), table, &oneRow{line: line})
		require.NoError(t, err, "%s: %s", name, line)
		require.True(t, left, "%s: not found: %s", name, line)
	}
}

// oneRow is a source.RowReader of one line.
type oneRow struct{ line string }

func (r *oneRow) Next() ([]byte, error) {
	if r.line == "" {
		return nil, io.EOF
	}
	line := r.line
	r.line = ""
	return []byte(line), nil
}

// inFolder asserts that an object holds only rows of the folder that it is in, in
// the calendar of the timestamp column.
func inFolder(t *testing.T, o object) {
	t.Helper()
	var parts []string
	for _, part := range strings.Split(path.Dir(o.manifest.Object), "/") {
		if _, value, ok := strings.Cut(part, "="); ok {
			parts = append(parts, value)
		}
	}
	want := strings.Join(parts, "-")
	for _, line := range o.lines {
		var ts string
		require.NoError(t, json.Unmarshal(fields(t, line)[o.manifest.KeyColumns[0]], &ts))
		if strings.HasSuffix(ts, " BC") {
			ts = "-" + strings.TrimPrefix(ts, "0")
		}
		require.True(t, strings.HasPrefix(ts, want), "%s is in %s", ts, o.manifest.Object)
	}
}

// TestKeyTypes breaks ranges between any two values of each type that can be a key.
func TestKeyTypes(t *testing.T) {
	t.Parallel()
	types := []sample{
		{"uuid", []string{"00000000-0000-0000-0000-000000000000", "80000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"}},
		{"text", []string{"", "_", "a", "A", "-", `q'"\`, "é", "\n", " "}},
		{`text COLLATE "C"`, []string{"b", "A", "a", "_"}},
		{"varchar(4)", []string{"a ", "a", "a  "}},
		{"char(5)", []string{"", "a", "a\tb"}},
		{"name", []string{"a", "B"}},
		{`"char"`, []string{"", "a", "B"}},
		{"public.citext", []string{"a", "B", "c", "D"}},
		{"boolean", []string{"t", "f"}},
		{"numeric", []string{"1.00", "1.10", "-1e-30", "NaN", "Infinity", "-Infinity", "123456789012345678901234567890.123"}},
		{"numeric(4,-1)", []string{"120", "1230"}},
		{"real", []string{"0.1", "0.3", "NaN", "-Infinity", "16777216", "1e-45"}},
		{"double precision", []string{"-0", "0.1", "0.30000000000000004", "0.3", "NaN", "Infinity"}},
		{"bytea", []string{"", `\x00`, `\xff5c27`, `\x5c`}},
		{"date", []string{"4714-11-24 BC", "infinity", "-infinity", "2024-01-01"}},
		{"timestamp(3)", []string{"2024-01-01 00:00:00.123", "infinity", "0044-03-15 00:00:00 BC"}},
		{"timestamptz", []string{"2024-01-01 00:00:00.000001+00", "-infinity", "294276-12-31 23:59:59.999999+00"}},
		{"time", []string{"24:00:00", "00:00:00"}},
		{"timetz", []string{"12:00:00+00", "12:00:00+01", "13:00:00+01"}},
		{"interval", []string{"1 mon -1 days", "-1 days", "2562047788:00:54.775807", "1-2"}},
		{"inet", []string{"10.0.0.1", "10.0.0.1/24", "::1", "10.0.0.0/24"}},
		{"cidr", []string{"10.0.0.0/8", "10.0.0.0/24"}},
		{"macaddr", []string{"08:00:2b:01:02:03"}},
		{"bit(4)", []string{"0000", "1000"}},
		{"varbit", []string{"", "0", "00"}},
		{"money", []string{"1.10", "-1234567.89"}},
		{"oid", []string{"0", "4294967295"}},
		{"pg_lsn", []string{"0/0", "FFFFFFFF/FFFFFFFF"}},
		{"xid8", []string{"18446744073709551615", "1"}},
		{"tid", []string{"(0,1)", "(10,2)", "(9,3)"}},
		{"int4range", []string{"empty", "[1,5)", "(,)"}},
		{"int4multirange", []string{"{}", "{[1,2),[5,6)}"}},
		{"tsvector", []string{"a b", "c:1A"}},
		{`"My.Types""".mood`, []string{"ok", "", "NULL", "😀", `back\slash`}},
		{`"My.Types""".pair`, []string{`(1,"a b")`, "(1,)", "(,)", `(2,"")`}},
		{`"My.Types""".deeper`, []string{"1", "999"}},
		{`"My.Types""".short`, []string{"", "a b"}},
		{`"My.Types""".sorted`, []string{"b", "A", "_"}},
		{`"My.Types""".sorted COLLATE "POSIX"`, []string{"b", "A", "_"}},
		{`"My.Types""".sorted COLLATE "default"`, []string{"b", "A", "_"}},
		{`"My.Types""".token`, []string{"y", "x", "z"}},
	}
	setup := userTypes + `
		CREATE DOMAIN "My.Types""".sorted AS text COLLATE "C";
		CREATE TYPE "My.Types""".token AS ENUM ('x', 'y', 'z');
		CREATE FUNCTION "My.Types""".token_text("My.Types""".token) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'a token' $$;
		CREATE CAST ("My.Types""".token AS text) WITH FUNCTION "My.Types""".token_text("My.Types""".token);`
	types = newSite(t, "- name: x").taken(t, types)
	if hasICU(t) {
		setup += `
			CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
			CREATE COLLATION german (provider = icu, locale = 'de-u-co-phonebk');`
		types = append(types, sample{"text COLLATE blind", []string{"a", "B", "ç", "_", "Z"}}, sample{"text COLLATE german", []string{"ä", "ae", "af", "a", "Z", "_"}},
			sample{"char(3) COLLATE blind", []string{"a", "B", "ç"}})
	}
	var tables []keyTable
	for i, k := range types {
		var values []string
		for _, v := range k.values {
			values = append(values, "("+literal(strings.Split(k.typ, " COLLATE ")[0], v)+")")
		}
		tables = append(tables, keyTable{
			name: fmt.Sprintf("key%d", i), settings: "batch_size: 2",
			setup: "CREATE TABLE TABLE_ (at timestamptz NOT NULL DEFAULT '2024-01-01', key " + k.typ + ", PRIMARY KEY (key));\nCREATE INDEX ON TABLE_ (at, key);\n" +
				"INSERT INTO TABLE_ (key) VALUES " + strings.Join(values, ", "),
			batches: (len(values) + 1) / 2, objects: (len(values) + 1) / 2,
		})
		tables[i].settings += ", timestamp_column: at"
	}
	settleKeys(t, setup, tables, nil)
}

func hasICU(t *testing.T) bool {
	t.Helper()
	s := newSite(t, "- name: x")
	return s.db.Int(t, `SELECT count(*) FROM pg_collation WHERE collprovider = 'i'`) > 0
}

// TestKeyShapes archives tables whose key, index or partitions are out of the
// ordinary, and rows that are not there yet when a batch is planned.
func TestKeyShapes(t *testing.T) {
	t.Parallel()
	const plain = "CREATE TABLE TABLE_ (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, v text); CREATE INDEX ON TABLE_ (created_at, id);\n"
	tables := []keyTable{
		{
			name: "ties", settings: "batch_size: 1000", batches: 5, objects: 5,
			setup: plain + "INSERT INTO TABLE_ SELECT i, '2024-01-01' FROM generate_series(1, 5000) i",
		},
		{
			name: "ties_without_index", batches: 5, objects: 5,
			setup: "CREATE TABLE TABLE_ (id bigint PRIMARY KEY, created_at timestamptz NOT NULL); CREATE INDEX ON TABLE_ (created_at);" +
				"INSERT INTO TABLE_ SELECT i, '2024-01-01' FROM generate_series(1, 500) i",
		},
		{
			name: "composite", batches: 6,
			setup: `CREATE TABLE TABLE_ (seq int, tenant text, made timestamptz NOT NULL DEFAULT now(), created_at timestamptz, u uuid, PRIMARY KEY (tenant, created_at, u, seq));
				CREATE INDEX ON TABLE_ (created_at, tenant, u, seq);
				INSERT INTO TABLE_ SELECT i % 5, 'tenant ' || i % 7, now(), '2024-01-01'::timestamptz + i % 3 * interval '20 days', md5((i % 11)::text)::uuid FROM generate_series(1, 6 * 5 * 7 * 11) i ON CONFLICT DO NOTHING;
				DELETE FROM TABLE_ WHERE ctid NOT IN (SELECT ctid FROM TABLE_ LIMIT 550)`,
		},
		{
			name: "ts_first", objects: 2,
			setup: "CREATE TABLE TABLE_ (id int, created_at timestamptz, PRIMARY KEY (created_at, id)); INSERT INTO TABLE_ SELECT i % 7, '2024-01-01'::timestamptz + i / 7 * interval '1 s' FROM generate_series(1, 150) i",
		},
		{
			name: "ts_last", objects: 2,
			setup: "CREATE TABLE TABLE_ (id int, created_at timestamptz, PRIMARY KEY (id, created_at) INCLUDE (id)); CREATE INDEX ON TABLE_ (created_at); INSERT INTO TABLE_ SELECT i % 7, '2024-01-01'::timestamptz + i / 7 * interval '1 s' FROM generate_series(1, 150) i",
		},
		{
			name: "ts_alone", objects: 2,
			setup: "CREATE TABLE TABLE_ (created_at timestamptz PRIMARY KEY); INSERT INTO TABLE_ SELECT '2024-01-01'::timestamptz + i * interval '1 us' FROM generate_series(1, 150) i",
		},
		{
			name: "nulls", due: "created_at < '2025-01-01'", objects: 2,
			setup: "CREATE TABLE TABLE_ (id int PRIMARY KEY, created_at timestamptz); CREATE INDEX ON TABLE_ (created_at DESC, id); CREATE INDEX ON TABLE_ (created_at, id);" +
				"INSERT INTO TABLE_ VALUES (1, NULL), (2, '-infinity'), (3, 'infinity'), (4, '2024-01-01'), (5, NULL), (6, '-infinity')",
		},
		{
			name: "nulls_together", settings: "timezone: UTC, partition_by: none", due: "created_at < '2025-01-01'", objects: 1,
			setup: "CREATE TABLE TABLE_ (id int PRIMARY KEY, created_at timestamp); CREATE INDEX ON TABLE_ (created_at, id);" +
				"INSERT INTO TABLE_ VALUES (1, NULL), (2, '-infinity'), (3, 'infinity'), (4, '2024-01-01'), (5, NULL), (6, '-infinity')",
		},
		{
			name: "wide_rows", settings: "max_batch_bytes: 1MB, partition_by: none", batches: 1,
			setup: plain + "INSERT INTO TABLE_ SELECT i, '2024-01-01'::timestamptz + i * interval '1 day', repeat(chr(64 + i), 150000 + i * 5000) FROM generate_series(1, 26) i",
		},
		{
			name: "one_giant_row", settings: "max_batch_bytes: 1MB", batches: 1, objects: 3,
			setup: plain + "INSERT INTO TABLE_ SELECT i, '2024-01-01', repeat('x', i * 10) FROM generate_series(1, 5) i; UPDATE TABLE_ SET v = repeat('y', 3000000) WHERE id = 3",
		},
		{
			name: "crowded", batches: 1, objects: 2,
			setup: plain + "INSERT INTO TABLE_ SELECT i * 10, '2024-01-01' FROM generate_series(1, 100) i",
			later: "INSERT INTO TABLE_ SELECT i * 10 + j, '2024-01-01' FROM generate_series(1, 75) i, generate_series(1, 2) j",
		},
		{
			name: "more_crowded", batches: 1, objects: 6,
			setup: plain + "INSERT INTO TABLE_ SELECT i * 100, '2024-01-01' FROM generate_series(1, 100) i",
			later: "INSERT INTO TABLE_ SELECT i * 100 + j, '2024-01-01' FROM generate_series(1, 75) i, generate_series(1, 14) j",
		},
		{
			name: "late", objects: 2, batches: 2,
			setup: plain + "INSERT INTO TABLE_ VALUES (1, '2024-01-10'), (2, '2024-01-20'), (3, '2024-02-10')",
			// Before its folder's first row, behind its last, and before the next folder's first.
			later: "INSERT INTO TABLE_ VALUES (4, '2024-01-01'), (5, '2024-01-25'), (6, '2024-02-01'), (7, '2023-12-31 23:59:59.999999')", laterDue: "id NOT IN (5, 7)",
		},
		{
			name: "reverse_index", objects: 1,
			setup: "CREATE TABLE TABLE_ (id bigint PRIMARY KEY, created_at timestamptz NOT NULL); CREATE INDEX ON TABLE_ (created_at DESC NULLS LAST, id DESC); INSERT INTO TABLE_ SELECT i, '2024-01-01'::timestamptz + i % 3 * interval '1 s' FROM generate_series(1, 90) i",
		},
	}
	for _, unit := range []string{"day", "month", "year"} {
		tables = append(tables, keyTable{
			name: "borders_" + unit, settings: "batch_size: 3, delete_guard: content, partition_by: " + unit,
			objects: map[string]int{"day": 9, "month": 8, "year": 6}[unit],
			setup: plain + `INSERT INTO TABLE_ SELECT row_number() OVER (ORDER BY t DESC), t::timestamptz FROM unnest(ARRAY['2023-12-31 23:59:59.999999+00', '2024-01-01 00:00:00+00', '2024-02-29 23:59:59.999999+00',
				'2024-03-01 00:00:00+00', '2024-03-31 01:30:00+00', '2024-03-31 02:30:00+02', '4714-11-24 00:00:00+00 BC', '4714-12-31 23:59:59.999999+00 BC', '0001-12-31 23:59:59.999999+00 BC', '0001-01-01 00:00:00+00']) t`,
		})
	}
	s := settleKeys(t, "", tables, nil)
	for _, o := range s.objects(t, "public", "wide_rows") {
		require.LessOrEqual(t, o.manifest.RawBytes, int64(1<<20))
	}
	// What came too late for its run is found by the next one.
	s.plan(t)
	s.drain(t, nil)
	require.Len(t, s.objects(t, "public", "late"), 4)
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM late`))
}

// TestCutoff archives rows around a cutoff, in each type of timestamp column.
func TestCutoff(t *testing.T) {
	t.Parallel()
	cutoff := time.Date(2024, 3, 31, 20, 30, 0, 0, time.UTC) // the next day already in Tokyo, and summer time in Berlin
	var tables []keyTable
	for _, c := range []struct{ typ, zone, local string }{
		{"timestamptz", "", "2024-03-31 20:30:00"},
		{"timestamptz(3)", "", "2024-03-31 20:30:00"},
		{"timestamptz(0)", "Asia/Tokyo", "2024-03-31 20:30:00"}, // says nothing about a timestamptz
		{"timestamp", "UTC", "2024-03-31 20:30:00"},
		{"timestamp(3)", "Europe/Berlin", "2024-03-31 22:30:00"},
		{"timestamp", "Asia/Tokyo", "2024-04-01 05:30:00"},
		{"date", "", "2024-03-31"},
		{"date", "Asia/Tokyo", "2024-04-01"},
	} {
		settings := "batch_size: 3"
		if c.zone != "" {
			settings += ", timezone: " + c.zone
		}
		tables = append(tables, keyTable{
			name: fmt.Sprintf("cut%d", len(tables)), settings: settings, due: "created_at < '" + c.local + "'::" + c.typ,
			setup: "CREATE TABLE TABLE_ (id int PRIMARY KEY, created_at " + c.typ + " NOT NULL); CREATE INDEX ON TABLE_ (created_at, id);" +
				"INSERT INTO TABLE_ SELECT i, ('" + c.local + "'::timestamp + CASE WHEN i % 3 = 1 THEN interval '0' ELSE (i - 10) * interval '1 millisecond' END + i / 15 * interval '1 day' - i / 18 * interval '2 days') AT TIME ZONE 'UTC' AT TIME ZONE 'UTC' FROM generate_series(1, 20) i",
		})
	}
	settleKeys(t, "", tables, &cutoff)
}

// TestPartitioned archives a partitioned table whose leaves are unlike each other.
func TestPartitioned(t *testing.T) {
	t.Parallel()
	settleKeys(t, "", []keyTable{
		{
			name: "parted", settings: "delete_guard: content", objects: 6, due: "created_at < '2025-01-01'",
			setup: `CREATE TABLE TABLE_ (id bigint GENERATED ALWAYS AS IDENTITY, gone int, kind text, created_at timestamptz, v jsonb DEFAULT '{}', xs int[], PRIMARY KEY (id, created_at, kind)) PARTITION BY RANGE (created_at);
				ALTER TABLE TABLE_ DROP gone;
				CREATE INDEX ON TABLE_ (created_at, id, kind);
				CREATE TABLE parted_01 PARTITION OF TABLE_ FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
				CREATE TABLE parted_02 PARTITION OF TABLE_ FOR VALUES FROM ('2024-02-01') TO ('2024-04-01') PARTITION BY LIST (kind);
				CREATE TABLE parted_02_a PARTITION OF parted_02 FOR VALUES IN ('a');
				CREATE TABLE parted_02_rest PARTITION OF parted_02 DEFAULT;
				CREATE TABLE parted_04 (dropped text, xs int[], created_at timestamptz NOT NULL, also int, v jsonb DEFAULT '{}', kind text NOT NULL, id bigint NOT NULL);
				ALTER TABLE parted_04 DROP dropped, DROP also;
				ALTER TABLE TABLE_ ATTACH PARTITION parted_04 FOR VALUES FROM ('2024-04-01') TO ('2024-05-01');
				CREATE TABLE parted_old PARTITION OF TABLE_ FOR VALUES FROM (MINVALUE) TO ('2023-12-01');
				CREATE TABLE parted_default PARTITION OF TABLE_ DEFAULT;
				INSERT INTO TABLE_ (kind, created_at, xs) SELECT chr(97 + i % 3), '2023-12-01'::timestamptz + i * interval '1 day', CASE i % 2 WHEN 0 THEN ARRAY[i] END FROM generate_series(0, 170) i;
				INSERT INTO TABLE_ (kind, created_at) VALUES ('now', now()), ('late', 'infinity')`,
			// The row moves between partitions and to another place in the key.
			later: `UPDATE TABLE_ SET created_at = '2024-02-10', xs = '{9}' WHERE created_at = '2024-04-10'`,
		},
		{
			name: "hashed", settings: "batch_size: 50, partition_by: none", objects: 2,
			setup: `CREATE TABLE TABLE_ (id int, created_at timestamptz, PRIMARY KEY (id)) PARTITION BY HASH (id);
				CREATE TABLE hashed_0 PARTITION OF TABLE_ FOR VALUES WITH (MODULUS 2, REMAINDER 0);
				CREATE TABLE hashed_1 PARTITION OF TABLE_ FOR VALUES WITH (MODULUS 2, REMAINDER 1);
				CREATE INDEX ON TABLE_ (created_at, id);
				INSERT INTO TABLE_ SELECT i, '2024-01-01'::timestamptz + i / 9 * interval '1 day' FROM generate_series(1, 100) i`,
		},
	}, nil)
}
