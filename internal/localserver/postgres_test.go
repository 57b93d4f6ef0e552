package localserver_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/localserver"
)

func start(t *testing.T, o localserver.PostgresOptions) *localserver.Postgres {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p, err := localserver.StartPostgres(ctx, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Stop()) })
	return p
}

// query runs one statement on a connection of its own and returns its one value.
func query[T any](t *testing.T, p *localserver.Postgres, sql string) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.DSN("postgres"))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) }()
	var v T
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&v))
	return v
}

func exec(t *testing.T, p *localserver.Postgres, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.DSN("postgres"))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) }()
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err)
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	p := start(t, localserver.PostgresOptions{Settings: map[string]string{"work_mem": "5MB"}})
	require.Equal(t, "127.0.0.1", query[string](t, p, "show listen_addresses"))
	require.Equal(t, "logical", query[string](t, p, "show wal_level"))
	require.Equal(t, "5MB", query[string](t, p, "show work_mem"))
	exec(t, p, "create table kept (n int)")
	exec(t, p, "insert into kept select generate_series(1, 1000)")

	port := p.Port
	require.NoError(t, p.Crash())
	require.Zero(t, p.Pid())
	require.NoError(t, p.Restart(t.Context()))
	require.Equal(t, port, p.Port)
	require.Equal(t, int64(1000), query[int64](t, p, "select count(*) from kept"))
	require.NoError(t, p.Restart(t.Context()))

	dir := p.DataDir
	require.DirExists(t, dir)
	require.NoError(t, p.Stop())
	require.NoDirExists(t, dir)
	require.NoError(t, p.Stop(), "twice is harmless")
}
