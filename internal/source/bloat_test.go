package source

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// bloatRows fills tables whose autovacuum would come at a time of its own.
const bloatRows = 20000

// atOnce runs statements in a session of their own, which tells the counters at its end.
func atOnce(t *testing.T, server *testkit.DB, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.DSN)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

// bloated fills a table, and deletes three rows of four from all of its pages.
func bloated(t *testing.T, server *testkit.DB, create, between string) {
	t.Helper()
	server.Exec(t, create)
	atOnce(t, server, `INSERT INTO audit SELECT i, '2020-02-01'::timestamptz + i * interval '1 second', 'user ' || i,
		CASE WHEN i % 3 = 0 THEN jsonb_build_object('n', i, 'text', repeat(md5(i::text), 8)) END FROM generate_series(1, 20000) i`)
	if between != "" {
		atOnce(t, server, between)
	}
	atOnce(t, server, `DELETE FROM audit WHERE id % 4 <> 0`)
	testkit.Eventually(t, 20*time.Second, func() bool {
		return server.Int(t, `SELECT sum(pg_stat_get_tuples_deleted(oid))::bigint`+ofAll) >= bloatRows*3/4
	}, "the rows are counted as deleted")
}

const bloatTable = `CREATE TABLE audit (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, actor text, payload jsonb) WITH (autovacuum_enabled = false)`

// ofAll is the table, or its partitions.
const ofAll = ` FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace`

// heap is the size of the table's main fork, partitions included.
func heap(t *testing.T, server *testkit.DB) int64 {
	t.Helper()
	return server.Int(t, `SELECT sum(pg_relation_size(oid))::bigint`+ofAll)
}

// threeQuarters is what is gone of a heap.
func threeQuarters(t *testing.T, heap int64, bloat *int64) {
	t.Helper()
	require.NotNil(t, bloat)
	require.InEpsilon(t, 0.75*float64(heap), float64(*bloat), 0.15)
}

// little is what the ends of pages come to, where rows are of different widths.
func little(t *testing.T, heap int64, bloat *int64) {
	t.Helper()
	require.NotNil(t, bloat)
	require.Less(t, *bloat, heap/10)
}

func vacuumed(t *testing.T, db *DB, full bool) *VacuumReport {
	t.Helper()
	report, err := db.Vacuum(t.Context(), VacuumRequest{Table: config.Table{Database: "main", Schema: "public", Name: "audit", TimestampColumn: "created_at"}, Full: full})
	require.NoError(t, err)
	return report
}

// rewritten is vacuumed with FULL, as often as it takes until somebody's snapshot, such as
// that of a session which begins, has not kept rows in the table. It returns the first report,
// which has what was before, and the last.
func rewritten(t *testing.T, server *testkit.DB, db *DB, most int64) (first, last *VacuumReport) {
	t.Helper()
	testkit.Eventually(t, 20*time.Second, func() bool {
		last = vacuumed(t, db, true)
		if first == nil {
			first = last
		}
		return heap(t, server) <= most
	}, "the rows are gone")
	return first, last
}

// sizeNow is what a vacuum would report before it begins, to the role of db.
func sizeNow(t *testing.T, server *testkit.DB, db *DB) (size vacuumSize) {
	t.Helper()
	oid := uint32(server.Int(t, `SELECT 'audit'::regclass::oid::bigint`))
	require.NoError(t, db.inTx(t.Context(), readOnly, "", func(tx *tx) (err error) {
		size, err = tx.vacuumSize(t.Context(), []uint32{oid}, false)
		return err
	}))
	return size
}

// TestBloat: a vacuum leaves as much of the heap to be used again as was deleted, FULL
// gives it back; and nothing is said before the server has any statistics.
func TestBloat(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t)
	db := openTest(t, server.DSN, 2)
	bloated(t, server, bloatTable, "")
	before := heap(t, server)
	report := vacuumed(t, db, false)
	require.Nil(t, report.BloatBefore, "the table was never analyzed")
	require.Equal(t, before, heap(t, server))
	threeQuarters(t, before, report.BloatAfter)

	first, last := rewritten(t, server, db, before/3)
	threeQuarters(t, before, first.BloatBefore)
	little(t, heap(t, server), last.BloatAfter)

	atOnce(t, server, `DELETE FROM audit`)
	_, last = rewritten(t, server, db, 0)
	require.EqualValues(t, 0, *last.BloatAfter)
}

// TestBloatBefore: the rows that were deleted since the last ANALYZE are known from the
// counters, also when these have begun again since, as after a crash.
func TestBloatBefore(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]string{"analyzed": "ANALYZE audit", "counters lost": "ANALYZE audit; SELECT pg_stat_reset()"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testkit.Postgres(t)
			db := openTest(t, server.DSN, 2)
			bloated(t, server, bloatTable, between)
			threeQuarters(t, heap(t, server), sizeNow(t, server, db).Bloat)
			server.Exec(t, `ALTER TABLE audit ADD COLUMN more text`)
			require.Nil(t, sizeNow(t, server, db).Bloat, "nobody knows how wide the new column is")
			server.Exec(t, `ALTER TABLE audit DROP COLUMN more`)
			threeQuarters(t, heap(t, server), sizeNow(t, server, db).Bloat)
			server.Exec(t, `TRUNCATE audit; INSERT INTO audit VALUES (1, now())`)
			require.Nil(t, sizeNow(t, server, db).Bloat, "nor what the statistics of other rows say of these")
		})
	}
}

// TestBloatOfPartitions sums up; the half of each page that a fillfactor leaves free is no
// bloat, and an empty partition has none.
func TestBloatOfPartitions(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t)
	db := openTest(t, server.DSN, 2)
	bloated(t, server, `
		CREATE TABLE audit (id bigint, created_at timestamptz, actor text, payload jsonb, PRIMARY KEY (created_at, id)) PARTITION BY RANGE (created_at);
		CREATE TABLE a PARTITION OF audit FOR VALUES FROM ('2020-01-01') TO ('2020-02-01 02:00') WITH (autovacuum_enabled = false);
		CREATE TABLE b PARTITION OF audit FOR VALUES FROM ('2020-02-01 02:00') TO ('2020-03-01') WITH (fillfactor = 50, autovacuum_enabled = false);
		CREATE TABLE c PARTITION OF audit DEFAULT`, "ANALYZE a")
	report := vacuumed(t, db, false)
	require.Nil(t, report.BloatBefore, "one of them was never analyzed")
	before := heap(t, server)
	threeQuarters(t, before, report.BloatAfter)
	_, last := rewritten(t, server, db, before/3)
	require.Equal(t, 3, last.Relations)
	little(t, heap(t, server), last.BloatAfter)
}

// TestBloatHidden: pg_stats shows a role what it may read.
func TestBloatHidden(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t)
	role, dsn := server.Role(t)
	bloated(t, server, bloatTable, "ANALYZE audit")
	db := openTest(t, dsn, 2)
	require.Nil(t, sizeNow(t, server, db).Bloat)
	server.Exec(t, `GRANT SELECT (id, created_at, actor) ON audit TO `+role)
	require.Nil(t, sizeNow(t, server, db).Bloat, "not all of them")
	server.Exec(t, `GRANT SELECT ON audit TO `+role)
	threeQuarters(t, heap(t, server), sizeNow(t, server, db).Bloat)
}
