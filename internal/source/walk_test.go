package source

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// keyMaker makes values of a type as an SQL expression over i, with many that are
// equal, or nearly so, since borders fall between those.
type keyMaker struct{ typ, value string }

var timestampMakers = []keyMaker{
	{"timestamptz", `timestamptz '2023-12-30 23:59:59.999999+00' + (i % %d) * interval '11 hours'`},
	{"timestamptz", `CASE i % 9 WHEN 0 THEN '-infinity' WHEN 1 THEN '4714-11-24 00:00:00+00 BC' WHEN 2 THEN '0001-12-31 23:59:59+00 BC' ELSE timestamptz '2020-02-28' + (i % %d) * interval '1 day' END`},
	{"timestamp", `timestamp '2022-10-30 01:30:00' + (i % %d) * interval '17 minutes'`},
	{"timestamp(0)", `timestamp '1999-12-31 23:59:59.6' + (i % %d) * interval '0.4 seconds'`},
	{"date", `date '2024-02-27' + i % %d`},
}

var keyMakers = []keyMaker{
	{"bigint", `9223372036854775807 - i`},
	{"int", `(i * 7919) % 1000003 - 500000`},
	{"smallint", `i - 100`},
	{"uuid", `md5(i::text)::uuid`},
	{"text", `chr(33 + i % 90) || CASE i % 4 WHEN 0 THEN '' WHEN 1 THEN E'\n"\\' ELSE '''é\\' END || i`},
	{`text COLLATE "C"`, `upper(md5(i::text))`},
	{"numeric", `CASE i % 50 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE (i / 7.0)::text END::numeric + CASE WHEN i % 50 < 2 THEN 0 ELSE i END`},
	{"double precision", `0.1::float4 * i`},
	{"bytea", `decode(md5(i::text), 'hex')`},
	{"inet", `'10.0.0.0'::inet + i`},
	{"interval", `i * interval '1 mon -3 days'`},
	{"int[]", `ARRAY[i % 3, NULL, i]`},
	{"boolean", `i % 2 = 0`},
	{"char(3)", `to_char(i % 30, 'FM00')`},
}

// TestWalkIsAPartition cuts random tables into pages: whatever the key's types, the
// order of the columns and the size of a page, the pages are in order, share no row,
// miss none that is due, and hold no more than they may; and each stays in its folder.
func TestWalkIsAPartition(t *testing.T) {
	t.Parallel()
	rounds, seed := 12, uint64(time.Now().UnixNano())
	if text := os.Getenv("ARCHIVER_TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	if text := os.Getenv("ARCHIVER_TEST_ROUNDS"); text != "" {
		var err error
		rounds, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	t.Logf("ARCHIVER_TEST_SEED=%d repeats this", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	server := testkit.Postgres(t)
	db, err := Open(t.Context(), config.Database{Name: "main", Primary: config.Secret(server.DSN), PoolSize: 2}, "test")
	require.NoError(t, err)
	t.Cleanup(db.Close)
	for n := range rounds {
		name := fmt.Sprintf("walked_%d", n)
		create, partition := randomTable(random, name)
		server.Exec(t, create)
		c := config.Table{Database: "main", Schema: "public", Name: name, TimestampColumn: "ts", PartitionBy: partition, Timezone: "UTC"}
		walkedOnce(t, db, c, 1+random.IntN(40), create)
	}
}

// randomTable is the SQL for a table with some hundred rows, and how it is foldered.
func randomTable(random *rand.Rand, name string) (create, partition string) {
	ts := timestampMakers[random.IntN(len(timestampMakers))]
	columns, key := []string{"ts"}, []string{"ts"}
	types, values := []string{"ts " + ts.typ + " NOT NULL"}, []string{strings.ReplaceAll(ts.value, "%d", strconv.Itoa(1+random.IntN(80)))}
	for i, k := range random.Perm(len(keyMakers))[:1+random.IntN(3)] {
		c := fmt.Sprintf("k%d", i)
		columns, key = append(columns, c), append(key, c)
		types, values = append(types, c+" "+keyMakers[k].typ+" NOT NULL"), append(values, keyMakers[k].value)
	}
	// A last one makes the key unique whatever the others are.
	columns, key = append(columns, "n"), append(key, "n")
	types, values = append(types, "n int NOT NULL"), append(values, "i")
	primary := slices.Clone(key[1:])
	random.Shuffle(len(primary), func(i, j int) { primary[i], primary[j] = primary[j], primary[i] })
	return fmt.Sprintf(`CREATE TABLE %[1]s (%[2]s, PRIMARY KEY (%[3]s)); CREATE INDEX ON %[1]s (ts);
			INSERT INTO %[1]s (%[4]s) SELECT %[5]s FROM generate_series(1, %[6]d) i ON CONFLICT DO NOTHING`,
			name, strings.Join(types, ", "), strings.Join(primary, ", "), strings.Join(columns, ", "), strings.Join(values, ", "), 50+random.IntN(400)),
		[]string{config.PartitionByNone, config.PartitionByYear, config.PartitionByMonth, config.PartitionByDay}[random.IntN(4)]
}

func walkedOnce(t *testing.T, db *DB, c config.Table, size int, about string) {
	t.Helper()
	ctx := t.Context()
	table, err := db.Describe(ctx, c)
	require.NoError(t, err, about)
	about = fmt.Sprintf("pages of %d, partition_by %s: %s", size, c.PartitionBy, about)
	// rows reads n and the folder of the rows for which a condition holds, in key order.
	rows := func(where func(*tx) (string, error)) (ns, folders []string) {
		err := db.inTx(ctx, readOnly, "", func(t *tx) error {
			condition, err := where(t)
			if err != nil {
				return err
			}
			folder := `''`
			if c.PartitionBy != config.PartitionByNone {
				folder = `CASE WHEN isfinite(ts) THEN date_trunc('` + c.PartitionBy + `', ts + interval '0')::text ELSE ts::text END`
				if c.PartitionBy != config.PartitionByDay { // older than date_trunc can tell
					folder = `CASE WHEN isfinite(ts) AND ts < '4712-01-01 BC' THEN 'first' ELSE ` + folder + ` END`
				}
			}
			found, err := t.conn.Query(ctx, `SELECT n::text, `+folder+` FROM `+table.name()+` WHERE `+condition+` ORDER BY `+table.order())
			if err != nil {
				return err
			}
			var n, f string
			_, err = pgx.ForEachRow(found, []any{&n, &f}, func() error { ns, folders = append(ns, n), append(folders, f); return nil })
			return err
		})
		require.NoError(t, err, about)
		return ns, folders
	}
	var cutoff string
	require.NoError(t, db.inTx(ctx, readOnly, "", func(t *tx) error {
		return t.conn.QueryRow(ctx, `SELECT ts::text FROM `+table.name()+` ORDER BY ts DESC, n OFFSET 5 LIMIT 1`).Scan(&cutoff)
	}), about)
	due, _ := rows(func(t *tx) (string, error) {
		lit, err := t.keyLiterals(ctx, table.Key[:1], []string{cutoff})
		return table.timestamp() + " < " + strings.Join(lit, ""), err
	})

	var seen []string
	require.NoError(t, db.Walk(ctx, table, nil, cutoff, size, func(p Page) error {
		ns, folders := rows(func(t *tx) (string, error) { return t.predicate(ctx, table, p.Range) })
		require.NotEmpty(t, ns, "an empty page: %s", about)
		require.LessOrEqual(t, len(ns), size, about)
		require.EqualValues(t, len(ns), p.Rows, about)
		slices.Sort(folders)
		require.Len(t, slices.Compact(folders), 1, "page %s in %s spans folders: %s", p.Range, p.Partition, about)
		seen = append(seen, ns...)
		return nil
	}), about)
	// Complete, disjoint and in order, all at once: pages follow each other as rows do.
	require.Equal(t, due, seen, about)
}
