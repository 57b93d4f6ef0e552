package source

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// TestCatalogStatementsAreKept: a batch finds the statements about the catalogs prepared
// by the batch before; but not where a pooler may give it another session.
func TestCatalogStatementsAreKept(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t)
	server.Exec(t, `CREATE TABLE kept (id bigint PRIMARY KEY, ts timestamptz NOT NULL)`)
	c := config.Table{Database: "main", Schema: "public", Name: "kept", TimestampColumn: "ts"}
	pooled := strings.Replace(server.DSN, net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Server.Port)), testkit.PgBouncer(t, server.Server, "session"), 1)
	require.NotEqual(t, server.DSN, pooled)
	for _, at := range []struct {
		name, dsn string
		want      int
	}{{"direct", server.DSN, 3}, {"pooler", pooled, 0}} {
		db, err := Open(t.Context(), config.Database{Name: "main", Primary: config.Secret(at.dsn), PoolSize: 1}, "test")
		require.NoError(t, err)
		t.Cleanup(db.Close)
		kept := func() (n int) {
			require.NoError(t, db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_prepared_statements WHERE name <> ''`).Scan(&n))
			return n
		}
		_, err = db.Describe(t.Context(), c)
		require.NoError(t, err)
		require.Zero(t, kept(), "%s: no batch", at.name)
		for id := range int64(3) {
			_, err = db.Describe(WithBatch(t.Context(), id), c)
			require.NoError(t, err)
			require.Equal(t, at.want, kept(), "%s: fingerprint, columns, primary key", at.name)
		}
		// What is kept follows the catalog.
		server.Exec(t, `ALTER TABLE kept ADD COLUMN `+at.name+` text`)
		table, err := db.Describe(WithBatch(t.Context(), 4), c)
		require.NoError(t, err)
		require.Equal(t, at.name, table.Columns[len(table.Columns)-1].Name)
	}
}
