package encode_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/digest"
	"github.com/audit-table-archiver/archiver/internal/encode"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// pinned are the session settings that every source transaction has.
const pinned = `SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 1;
	SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET client_encoding = 'UTF8'; SET standard_conforming_strings = on`

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	_, err = conn.Exec(t.Context(), pinned)
	require.NoError(t, err)
	return conn
}

// copyOut encodes a query without compression and returns the lines.
func copyOut(t *testing.T, conn *pgx.Conn, query string, o encode.Options) ([]string, encode.Object) {
	t.Helper()
	var spool bytes.Buffer
	o.Compression = encode.CompressionNone
	w, err := encode.NewWriter(&spool, o)
	require.NoError(t, err)
	_, err = conn.PgConn().CopyTo(t.Context(), w, "COPY ("+query+") TO STDOUT (FORMAT binary)")
	object, closeErr := w.Close()
	require.NoError(t, err)
	require.NoError(t, closeErr)
	return strings.Split(strings.TrimSuffix(spool.String(), "\n"), "\n"), object
}

func column[T any](t *testing.T, conn *pgx.Conn, query string, args ...any) []T {
	t.Helper()
	rows, err := conn.Query(t.Context(), query, args...)
	require.NoError(t, err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err)
	return got
}

// TestServerAgrees holds every fast path against the server's own row_to_json, over
// values chosen to be awkward and thousands of random ones.
func TestServerAgrees(t *testing.T) {
	t.Parallel()
	db := testkit.Postgres(t)
	r := rand.New(rand.NewPCG(7, 15))
	for _, tc := range []struct {
		sqlType string
		values  []string // as SQL text; nil: the table is filled by fill
		fill    func(t *testing.T, conn *pgx.Conn, table string)
	}{
		{sqlType: "boolean", values: []string{"true", "false"}},
		{sqlType: "smallint", values: integers(r, 16)},
		{sqlType: "integer", values: integers(r, 32)},
		{sqlType: "bigint", values: integers(r, 64)},
		{sqlType: "oid", values: []string{"0", "1", "2147483648", "4294967295"}},
		{sqlType: "numeric", values: numerics(r)},
		{sqlType: "numeric(30,10)", values: []string{"0", "1.5", "-12345678901234567890.0123456789"}},
		{sqlType: "text", values: texts(r)},
		{sqlType: "varchar", values: texts(r)[:200]},
		{sqlType: "char(9)", values: []string{"", "a", "é\t", "123456789"}},
		{sqlType: "name", values: []string{"", "a\"b", "pg_class"}},
		{sqlType: "uuid", values: uuids(r)},
		{sqlType: "bytea", values: byteas(r)},
		{sqlType: "json", values: jsons(r)},
		{sqlType: "jsonb", values: jsons(r)},
		{sqlType: "inet", values: addresses(r, false)},
		{sqlType: "cidr", values: addresses(r, true)},
		{sqlType: "date", values: []string{
			"infinity", "-infinity", "4714-11-24 BC", "0001-12-31 BC", "0001-01-01", "0044-03-15 BC", "9999-12-31",
			"10000-01-01", "5874897-12-31", "2000-01-01", "2000-02-29", "1999-12-31", "1900-02-28", "epoch",
		}, fill: sqlFill(`SELECT '4714-11-24 BC'::date + (random() * 2147400000)::int FROM generate_series(1, 3000)
			UNION ALL SELECT '0001-01-01'::date + d FROM generate_series(-1500, 1500) d
			UNION ALL SELECT '1999-01-01'::date + d FROM generate_series(0, 3000) d`)},
		{
			sqlType: "time", values: []string{"00:00:00", "24:00:00", "23:59:59.999999", "12:00:00.1", "01:02:03.000001", "10:20:30.12"},
			fill: sqlFill(`SELECT make_time(0, 0, 0) + make_interval(secs => floor(random() * 86400e6) / 1e6 * (i % 2) + floor(random() * 86400) * ((i + 1) % 2))
				FROM generate_series(1, 4000) i`),
		},
		{sqlType: "timestamp", values: timestamps, fill: sqlFill(randomTimestamps)},
		{sqlType: "timestamptz", values: timestamps, fill: sqlFill(randomTimestamps)},
		{sqlType: "float8", fill: floatFill},
		{sqlType: "float4", fill: floatFill},
	} {
		t.Run(tc.sqlType, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, db.DSN)
			table := fmt.Sprintf("%q", "t_"+tc.sqlType)
			_, err := conn.Exec(t.Context(), fmt.Sprintf("CREATE TABLE %s (id bigserial PRIMARY KEY, v %s)", table, tc.sqlType))
			require.NoError(t, err)
			_, err = conn.Exec(t.Context(), fmt.Sprintf("INSERT INTO %s (v) SELECT s::%s FROM unnest($1::text[]) s UNION ALL SELECT NULL",
				table, tc.sqlType), tc.values)
			require.NoError(t, err)
			if tc.fill != nil {
				tc.fill(t, conn, table)
			}
			oid := column[uint32](t, conn, "SELECT atttypid FROM pg_attribute WHERE attrelid = $1::text::regclass AND attname = 'v'", table)[0]
			typ, ok := encode.TypeFor(oid)
			require.True(t, ok)

			want := column[string](t, conn, fmt.Sprintf("SELECT row_to_json(x)::text FROM (SELECT v FROM %s ORDER BY id) x", table))
			got, object := copyOut(t, conn, fmt.Sprintf("SELECT tableoid, ctid, xmin, v FROM %s ORDER BY id", table),
				encode.Options{Columns: []encode.Column{{Name: "v", Type: typ}}})
			require.Len(t, got, len(want))
			require.EqualValues(t, len(want), object.Rows)
			for i := range want {
				if tc.sqlType == "json" { // the documented exception
					want[i] = strings.NewReplacer("\n", " ", "\r", " ").Replace(want[i])
				}
				require.Equal(t, want[i], got[i])
			}
			t.Logf("%d values", len(got))

			// And the line brings the value back: both tables hold the same text.
			differ := column[int64](t, conn, fmt.Sprintf(`SELECT count(*) FROM unnest($1::text[]) WITH ORDINALITY l(line, n)
				JOIN (SELECT v, row_number() OVER (ORDER BY id) AS n FROM %s) o USING (n)
				WHERE %s IS DISTINCT FROM nullif(%s, %s)`, table,
				comparable(tc.sqlType, fmt.Sprintf("(json_populate_record(NULL::%s, line::json)).v", table)), comparable(tc.sqlType, "o.v"), jsonNull(tc.sqlType)), got)
			require.Zero(t, differ[0], "values that json_populate_record does not give back")
		})
	}
}

// TestServerRow checks a whole row: hostile names, order, NULLs, types rendered by the
// server, the content hash, the digest, and the key.
func TestServerRow(t *testing.T) {
	t.Parallel()
	conn := connect(t, testkit.Postgres(t).DSN)
	_, err := conn.Exec(t.Context(), `
		CREATE TYPE mood AS ENUM ('good', 'b"ad');
		CREATE DOMAIN short AS varchar(20);
		CREATE TABLE audit (
			"at" timestamptz, id bigint, "a""b\c	d" text, "é{}," short, m mood, doc json, docb jsonb,
			tags text[], span interval, one "char", price money, PRIMARY KEY ("at", id));
		INSERT INTO audit SELECT '2024-01-01'::timestamptz + i * interval '1.5 s', i, CASE WHEN i % 3 > 0 THEN 'x' || chr(i + 1) END, 'é' || i,
			CASE i % 2 WHEN 0 THEN 'good' ELSE 'b"ad' END::mood, CASE WHEN i % 4 > 0 THEN E'{"a":\r\n1}' END::json, CASE WHEN i % 5 > 0 THEN 'null' END::jsonb,
			ARRAY['a', NULL, '"'], make_interval(mins => i), 'x', i::int::money
		FROM generate_series(1, 200) i`)
	require.NoError(t, err)
	options := encode.Options{Row: digest.Columns{Content: true}, Key: []int{0, 1}, Columns: []encode.Column{
		{Name: "at", Type: encode.TypeTimestamptz},
		{Name: "id", Type: encode.TypeInt8},
		{Name: "a\"b\\c\td", Type: encode.TypeText},
		{Name: "é{},", Type: encode.TypeText},
		{Name: "m", Type: encode.TypeText},
		{Name: "doc", Type: encode.TypeJSON},
		{Name: "docb", Type: encode.TypeJSONB},
		{Name: "tags", Type: encode.TypeRawJSON},
		{Name: "span", Type: encode.TypeRawJSON},
		{Name: "one", Type: encode.TypeRawJSON},
		{Name: "price", Type: encode.TypeRawJSON},
	}}
	const query = `SELECT tableoid, ctid, xmin, hashtextextended(t::text, 0), "at", id, "a""b\c	d", "é{},", m, doc, docb, to_json(tags), to_json(span), to_json(one), to_json(price)
		FROM audit t ORDER BY "at", id`
	want := column[string](t, conn, `SELECT translate(row_to_json(t)::text, E'\n\r', '  ') FROM audit t ORDER BY "at", id`)
	got, object := copyOut(t, conn, query, options)
	require.Equal(t, want, got)
	require.Equal(t, `["2024-01-01T00:00:01.5+00:00",1]`, fmt.Sprintf("[%s,%s]", object.First[0], object.First[1]))
	require.Equal(t, `["2024-01-01T00:05:00+00:00",200]`, fmt.Sprintf("[%s,%s]", object.Last[0], object.Last[1]))

	rows, err := conn.Query(t.Context(), `SELECT tableoid, ((ctid::text)::point)[0]::bigint, ((ctid::text)::point)[1]::int, xmin::text::bigint,
		hashtextextended(t::text, 0) FROM audit t ORDER BY random()`)
	require.NoError(t, err)
	versions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[digest.Row])
	require.NoError(t, err)
	var sum digest.Digest
	for _, v := range versions {
		sum.Add(v)
	}
	require.Equal(t, sum, object.Digest)

	// With OmitNull a JSON null and an SQL NULL stay apart; without it they do not.
	for i := range options.Columns {
		if typ := options.Columns[i].Type; typ == encode.TypeJSON || typ == encode.TypeJSONB {
			options.Columns[i].OmitNull = true
		}
	}
	got, _ = copyOut(t, conn, query, options)
	back := column[int64](t, conn, `SELECT count(*) FROM unnest($1::text[]) line, json_populate_record(NULL::audit, line::json) r JOIN audit t USING (id)
		WHERE line::jsonb ? 'doc' = (t.doc IS NOT NULL) AND line::jsonb ? 'docb' = (t.docb IS NOT NULL)
		AND to_jsonb(r) = to_jsonb(t)`, got)
	require.EqualValues(t, len(want), back[0])
}

// comparable is the text by which a value is compared after its way back: of a json
// value, json_populate_record does not keep the white space around it.
func comparable(sqlType, value string) string {
	if sqlType == "json" {
		return `btrim(translate((` + value + `)::text, E'\n\r', '  '), E' \t')`
	}
	return "(" + value + ")::text"
}

// jsonNull is the text that json_populate_record turns into an SQL NULL.
func jsonNull(sqlType string) string {
	if strings.HasPrefix(sqlType, "json") {
		return "'null'"
	}
	return "NULL"
}

func sqlFill(query string) func(*testing.T, *pgx.Conn, string) {
	return func(t *testing.T, conn *pgx.Conn, table string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), "INSERT INTO "+table+" (v) "+query)
		require.NoError(t, err)
	}
}

var timestamps = []string{
	"infinity", "-infinity", "4714-11-24 00:00:00 BC", "0044-03-15 12:00:00.5 BC", "0001-12-31 23:59:59.999999 BC", "0001-01-01 00:00:00",
	"9999-12-31 23:59:59.999999", "10000-01-01 00:00:00", "294276-12-31 23:59:59.999999", "2000-01-01 00:00:00", "1999-12-31 23:59:59.999999",
	"2000-02-29 00:00:00.100000", "1900-02-28 23:59:59", "1970-01-01 00:00:00.000001", "2024-12-31 23:59:59.12",
}

const randomTimestamps = `SELECT '4714-11-24 BC'::timestamp + make_interval(days => (random() * 109203400)::int, secs => floor(random() * 86400e6) / 1e6) FROM generate_series(1, 3000)
	UNION ALL SELECT '2024-01-01'::timestamp + make_interval(secs => floor(random() * 1e6) / (10 ^ (i % 7))) FROM generate_series(1, 2000) i`

// floatFill inserts exact bit patterns: uniform over all bits, whole numbers, short
// decimals, and the neighbourhoods where shortest-digit algorithms differ.
func floatFill(t *testing.T, conn *pgx.Conn, table string) {
	t.Helper()
	r := rand.New(rand.NewPCG(4, 8))
	bits := 53
	column := "float8"
	if strings.Contains(table, "float4") {
		bits, column = 24, "float4"
	}
	values := []float64{
		0, math.Copysign(0, -1), 1, -1, 0.1, 0.3, 1e15, 1e14, 999999999999999, 1e20, 1e-4, 9.999e-5, 1e-5, 123456, 1234567, 1e6, 999999, 1e100, 1.5e-45, 8589934592,
		math.NaN(), math.Inf(1), math.Inf(-1), 36028797018963976, 9007199254740993, 9007199254740992,
	}
	if bits == 53 {
		values = append(values, math.MaxFloat64, math.SmallestNonzeroFloat64, 2.2250738585072014e-308)
	} else {
		values = append(values, math.MaxFloat32, math.SmallestNonzeroFloat32, 1.1754943508222875e-38)
		for i, v := range values {
			values[i] = float64(float32(v))
		}
		values = filter(values, func(v float64) bool { return v == 0 || math.Abs(v) >= math.SmallestNonzeroFloat32 || math.IsNaN(v) })
	}
	random := func() float64 {
		if bits == 53 {
			return math.Float64frombits(r.Uint64())
		}
		return float64(math.Float32frombits(r.Uint32()))
	}
	for range 3000 {
		values = append(values, random(), float64(r.IntN(1<<bits)), float64(r.IntN(1<<30))/1024)
	}
	for exp := -1074; exp < 1024; exp++ { // the gap below a power of two is half as wide
		if bits == 53 || exp >= -149 && exp < 128 {
			values = append(values, math.Ldexp(1, exp), -math.Ldexp(1, exp))
		}
	}
	for exp := -30; exp < 90; exp++ {
		top := math.Ldexp(1, exp)
		values = append(values, top, math.Nextafter(top, 0), math.Nextafter(top, math.Inf(1)))
		for range 60 { // every mantissa width, biased to even ones
			m := uint64(1)<<(bits-1) | r.Uint64N(1<<(bits-1))&^uint64(r.IntN(4))
			values = append(values, math.Ldexp(float64(m), exp-10))
		}
	}
	if bits == 53 { // floats half a gap from a decimal with a trailing zero
		for e := 54; e < 70; e++ {
			for range 40 {
				half := uint64(1) << max(e-54, 0)
				v := (uint64(1)<<min(e, 62) + r.Uint64N(1<<min(e, 62))) / 10 * 10
				values = append(values, float64(v+half), float64(v-half))
			}
		}
	} else {
		for range 1500 {
			v := uint64(r.IntN(1<<31)) / 10 * 10
			values = append(values, float64(float32(v+uint64(1)<<r.IntN(8))))
		}
		for i, v := range values {
			values[i] = float64(float32(v))
		}
	}
	_, err := conn.Exec(t.Context(), fmt.Sprintf("INSERT INTO %s (v) SELECT v::%s FROM unnest($1::float8[]) v", table, column), values)
	require.NoError(t, err)
}

func filter(in []float64, keep func(float64) bool) (out []float64) {
	for _, v := range in {
		if keep(v) {
			out = append(out, v)
		}
	}
	return out
}

func integers(r *rand.Rand, bits int) []string {
	low, high := int64(-1)<<(bits-1), int64(1)<<(bits-1)-1
	out := []string{"0", "1", "-1", fmt.Sprint(low), fmt.Sprint(high)}
	for range 2000 {
		out = append(out, fmt.Sprint(int64(r.Uint64())>>(64-bits)>>r.IntN(bits)))
	}
	return out
}

func numerics(r *rand.Rand) []string {
	out := []string{
		"0", "0.00", "-0", "NaN", "Infinity", "-Infinity", "1", "-1.10", "10000", "9999", "99999999", "100000000", "0.0001", "0.00010", "0.00001", "1e20", "1e-20", "1e400",
		"1e-400", "12345678901234567890123456789012345678901234567890.123456789012345678901234567890", strings.Repeat("9", 300) + "." + strings.Repeat("1", 200),
		"0." + strings.Repeat("0", 16000) + "7", strings.Repeat("1234567890", 13000), "1" + strings.Repeat("0", 131071),
	}
	digits := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "00123456789"[r.IntN(11)]
		}
		return string(b)
	}
	for range 5000 {
		s := []string{"", "-"}[r.IntN(2)] + "0" + digits(r.IntN(1<<r.IntN(8)))
		if n := r.IntN(1 << r.IntN(7)); n > 0 {
			s += "." + digits(n)
		}
		out = append(out, s)
	}
	return out
}

func texts(r *rand.Rand) []string {
	out := []string{"", " ", "\\", "\"", "\\\\\"\"", "\u2028\u2029", "é", "😀", "\x7f", "</script>", "a\u0085b", strings.Repeat("x", 300000) + "\n"}
	for c := 1; c < 128; c++ {
		for pad := range 9 {
			out = append(out, strings.Repeat("p", pad)+string(rune(c))+"tail-tail-tail"[:pad])
		}
	}
	alphabet := []string{"a", "b", "xyz", "\"", "\\", "\n", "\t", "\r", "\x01", "\x1f", " ", "!", "#", "[", "]", "é", "€", "😀", "\u007f", "\u0080"}
	for range 4000 {
		var b strings.Builder
		for range r.IntN(40) {
			b.WriteString(alphabet[r.IntN(len(alphabet))])
		}
		out = append(out, b.String())
	}
	return out
}

func uuids(r *rand.Rand) []string {
	out := []string{"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"}
	for range 1000 {
		out = append(out, fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64()))
	}
	return out
}

func byteas(r *rand.Rand) []string {
	out := []string{`\x`, `\x00`, `\xdeadbeef`}
	for range 2000 {
		b := make([]byte, r.IntN(100))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		out = append(out, fmt.Sprintf(`\x%x`, b))
	}
	return out
}

func jsons(r *rand.Rand) []string {
	out := []string{
		"null", "true", "1", `""`, "{}", "[]", ` { "a" : 1 , "a" : 2 } `, "{\n\t\"b\":\r\n[1,\n2]\r}", `{"k":"line\nbreak\u0001 \\ \" é 😀 \u00e9"}`, `9007199254740993`,
		`12345678901234567890.123456789012345678901234567890`, `-0.0`, `1.10`, `[null,true,false]`, "\"\u2028\"", `1e10`,
	}
	space := []string{"", " ", "\n", "\r\n", "\t"}
	var value func(depth int) string
	value = func(depth int) string {
		s := space[r.IntN(len(space))]
		if k := r.IntN(6); depth == 0 || k < 3 {
			return s + []string{"null", "true", "-12.50", `"x\"y\\z\n"`, `"é"`, "123456789012345678901234567890"}[r.IntN(6)] + s
		} else if k < 5 {
			return s + `{"a` + fmt.Sprint(r.IntN(3)) + `":` + value(depth-1) + `,"b":` + value(depth-1) + "}" + s
		}
		return s + "[" + value(depth-1) + "," + value(depth-1) + "]" + s
	}
	for range 3000 {
		out = append(out, value(4))
	}
	return out
}

func addresses(r *rand.Rand, cidr bool) []string {
	out := []string{"0.0.0.0", "255.255.255.255", "127.0.0.1", "10.0.0.0/8", "0.0.0.0/0", "::/0", "::", "::1", "::2", "::ffff", "::1.2.3.4", "::ffff:1.2.3.4", "::ffff:0:0", "1::", "::1:0", "::1:0:0", "fe80::1", "2001:db8::"}
	if !cidr {
		out = append(out, "192.168.1.5/24", "::1/64", "2001:db8::1/127")
	}
	for range 6000 {
		if r.IntN(4) == 0 {
			out = append(out, fmt.Sprintf("%d.%d.%d.%d", r.IntN(256), r.IntN(256), r.IntN(256), r.IntN(256)))
			continue
		}
		groups := make([]string, 8)
		mostlyZero := r.IntN(4)
		for i := range groups {
			groups[i] = []string{"0", "ffff", "1", fmt.Sprintf("%x", r.IntN(1<<16)), "a0"}[max(0, r.IntN(9)-1-mostlyZero)%5]
		}
		out = append(out, strings.Join(groups, ":"))
	}
	for i, a := range out[18:] {
		full := 32
		if strings.Contains(a, ":") {
			full = 128
		}
		if !strings.Contains(a, "/") && !cidr && i%3 == 0 {
			out[18+i] = fmt.Sprintf("%s/%d", a, r.IntN(full+1))
		}
	}
	return out
}
