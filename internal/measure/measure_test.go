package measure

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestTable measures a table whose columns the archiver reads in three ways (their own
// binary form, the label of an enum, JSON made by the server, also of a type that has no
// binary form), and looks at whether the
// floor is one of the same rows.
func TestTable(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t)
	server.Exec(t, `CREATE TYPE colour AS ENUM ('red', 'green');
		CREATE TABLE audit (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, c colour, "odd name" int[], payload jsonb, acl aclitem);
		CREATE INDEX ON audit (created_at, id);
		INSERT INTO audit SELECT i, now() - interval '90 days' + i * interval '1 second', 'green', ARRAY[i, i], jsonb_build_object('text', repeat('x', 100)), '=r/postgres' FROM generate_series(1, 2500) i;
		INSERT INTO audit SELECT i, now(), 'red' FROM generate_series(2501, 2600) i`)
	db, err := source.Open(t.Context(), config.Database{Name: "main", Primary: config.Secret(server.DSN), PoolSize: 3}, "test")
	require.NoError(t, err)
	t.Cleanup(db.Close)
	table, findings, err := db.Preflight(t.Context(), config.Table{
		Database: "main", Schema: "public", Name: "audit", TimestampColumn: "created_at", Timezone: "UTC", Retention: 30 * 24 * time.Hour,
		BatchSize: 1000, MaxBatchBytes: 1 << 30, PartitionBy: "none", Format: "jsonl", Compression: "gzip", Verify: "full",
	})
	require.NoError(t, err)
	require.Empty(t, source.Refusals(findings))

	o := Options{Rows: 2000, Workers: 2, SpoolDir: t.TempDir(), Timeout: time.Minute}
	r, err := Table(t.Context(), db, table, o)
	require.NoError(t, err)
	require.EqualValues(t, 2000, r.Rows, "two whole batches")
	require.EqualValues(t, 2, r.Batches)
	require.Positive(t, r.ReadFloorSeconds)
	require.Greater(t, r.TimesReadFloor(), 1.0)
	require.InDelta(t, r.Seconds, r.TimesReadFloor()*r.ReadFloorSeconds, 1e-9)
	require.Greater(t, r.PeakMemoryMB, 5.0)

	m := &measurement{db: db, table: table, options: Options{Rows: 1_000_000}}
	pages, err := m.plan(t.Context())
	require.NoError(t, err)
	require.Len(t, pages, 3)
	for i, want := range []int64{1000, 1000, 500} {
		rows, err := db.CopyPlain(t.Context(), table, pages[i].Range, 5000, time.Minute)
		require.NoError(t, err)
		require.Equal(t, want, rows, "all of page %d", i)
	}
	rows, err := db.CopyPlain(t.Context(), table, pages[0].Range, 7, time.Minute)
	require.NoError(t, err)
	require.EqualValues(t, 7, rows, "no more than asked for")
	require.EqualValues(t, 2600, server.Int(t, `SELECT count(*) FROM audit`))

	table.Config.Retention = 365 * 24 * time.Hour
	r, err = Table(t.Context(), db, table, o)
	require.NoError(t, err)
	require.Zero(t, r.Rows)
	require.Zero(t, r.TimesReadFloor(), "nothing was read, and nothing is divided by it")
}

func TestPeakMemory(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status string
		kb     float64
		ok     bool
	}{
		{"Name:\tx\nVmPeak:\t  99 kB\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n", 2048, true},
		{"Name:\tx\n", 0, false},
		{"VmHWM:\tmuch\n", 0, false},
	} {
		kb, ok := peakOf(tc.status)
		require.Equal(t, tc.ok, ok, tc.status)
		require.InDelta(t, tc.kb, kb, 0, tc.status)
	}
	before := peakMemoryMB()
	held := make([]byte, 64<<20)
	for i := range held {
		held[i] = byte(i) // memory that nobody writes to is none
	}
	require.GreaterOrEqual(t, peakMemoryMB(), 64.0)
	require.GreaterOrEqual(t, peakMemoryMB(), before)
	require.EqualValues(t, 255, held[255])
}
