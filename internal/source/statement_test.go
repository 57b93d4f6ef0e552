package source

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

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

// TestSilentBeginning has a connection go silent at each message of its beginning: it
// must not keep its place in the pool, which holds one, for longer than it takes to give
// up connecting.
func TestSilentBeginning(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t)
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Server.Port))
	ping := func(db *DB, limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return db.Ping(ctx)
	}
	var silent atomic.Int64
	var all errgroup.Group
	for at := range int64(40) { // more than there are
		proxy := testkit.NewProxy(t, address)
		dsn := strings.Replace(server.DSN, address, proxy.Addr, 1) + "&connect_timeout=4"
		db, err := Open(t.Context(), config.Database{Name: "main", Primary: config.Secret(dsn), PoolSize: 1}, "test")
		require.NoError(t, err)
		t.Cleanup(db.Close)
		proxy.Set(testkit.Fault{Cut: at + 1, Messages: true, Hold: true})
		all.Go(func() error {
			defer proxy.Sever()
			err := ping(db, 8*time.Second)
			if proxy.Struck() {
				silent.Add(1)
				err = ping(db, time.Minute) // the driver gives up a query, and its connection, after 15 s
			}
			if err != nil {
				return fmt.Errorf("silent from message %d on: %w", at+1, err)
			}
			return nil
		})
	}
	require.NoError(t, all.Wait())
	require.Greater(t, silent.Load(), int64(17), "the question whose session it is comes last")
	require.Less(t, silent.Load(), int64(40))
}
