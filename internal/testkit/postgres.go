package testkit

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/localserver"
)

// DB is an empty database of a test's own.
type DB struct {
	DSN    string // for the superuser
	Name   string
	Pool   *pgxpool.Pool // of the superuser
	Server *localserver.Postgres
}

// Postgres creates a database on the cluster that the tests of this process share.
// It is dropped, whoever is still connected to it, when the test ends.
func Postgres(t testing.TB) *DB {
	t.Helper()
	return Database(t, sharedPostgres(t))
}

func sharedPostgres(t testing.TB) *localserver.Postgres {
	t.Helper()
	lockShared(t)
	defer shared.mu.Unlock()
	if shared.postgres == nil {
		shared.postgres = startCluster(t, localserver.PostgresOptions{})
	}
	return shared.postgres
}

// Cluster starts a cluster for one test, which may crash it, stop it, and give it
// replicas. It is stopped when the test ends.
func Cluster(t testing.TB, o localserver.PostgresOptions) *localserver.Postgres {
	t.Helper()
	p := startCluster(t, o)
	stopAfter(t, p)
	return p
}

func startCluster(t testing.TB, o localserver.PostgresOptions) *localserver.Postgres {
	t.Helper()
	if o.BinDir == "" {
		o.BinDir = os.Getenv("ARCHIVER_TEST_PG_BIN")
	}
	ctx, cancel := bounded(t, serverStartTimeout)
	defer cancel()
	p, err := localserver.StartPostgres(ctx, o)
	require.NoError(t, err)
	return p
}

// Replica starts a streaming replica of a cluster. It is stopped when the test ends.
func Replica(t testing.TB, primary *localserver.Postgres) *localserver.Postgres {
	t.Helper()
	ctx, cancel := bounded(t, serverStartTimeout)
	defer cancel()
	r, err := primary.StartReplica(ctx)
	require.NoError(t, err)
	stopAfter(t, r)
	return r
}

func stopAfter(t testing.TB, p *localserver.Postgres) {
	t.Helper()
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Errorf("stop PostgreSQL: %v", err)
		}
	})
}

// Database creates a database on a cluster. It is dropped when the test ends, if
// the cluster can still be reached by then.
func Database(t testing.TB, p *localserver.Postgres) *DB {
	t.Helper()
	d := &DB{Name: uniqueName(t), Server: p}
	d.DSN = p.DSN(d.Name)
	admin(t, p, "create database "+d.Name)

	pool, err := pgxpool.New(context.WithoutCancel(t.Context()), d.DSN)
	require.NoError(t, err)
	d.Pool = pool
	t.Cleanup(func() {
		pool.Close()
		if p.Pid() != 0 {
			admin(t, p, "drop database if exists "+d.Name+" with (force)")
		}
	})
	return d
}

// Open connects to a database that is there already, as on a replica of the cluster
// that it was created on.
func Open(t testing.TB, p *localserver.Postgres, name string) *DB {
	t.Helper()
	d := &DB{Name: name, DSN: p.DSN(name), Server: p}
	pool, err := pgxpool.New(context.WithoutCancel(t.Context()), d.DSN)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	d.Pool = pool
	return d
}

// admin runs one statement as the superuser, in the database postgres.
func admin(t testing.TB, p *localserver.Postgres, sql string) {
	t.Helper()
	ctx, cancel := bounded(t, callTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.DSN("postgres"))
	require.NoError(t, err)
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, sql)
	require.NoError(t, err, sql)
}

// uniqueName returns a name that suits a database and, with "-" for "_", a bucket:
// a number, and as much of the test's name as helps a reader.
func uniqueName(t testing.TB) string {
	t.Helper()
	lockShared(t)
	shared.next++
	n := shared.next
	shared.mu.Unlock()
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(strings.TrimPrefix(t.Name(), "Test")))
	name = fmt.Sprintf("t%d_%s", n, name)
	return strings.TrimRight(name[:min(len(name), 40)], "_")
}

// Exec runs statements as the superuser: several, separated by semicolons, if
// there are no arguments.
func (d *DB) Exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	ctx, cancel := bounded(t, callTimeout)
	defer cancel()
	_, err := d.Pool.Exec(ctx, sql, args...)
	require.NoError(t, err, sql)
}

// Int runs a query that gives one integer.
func (d *DB) Int(t testing.TB, sql string, args ...any) int64 {
	t.Helper()
	return value[int64](t, d, sql, args)
}

// Text runs a query that gives one text.
func (d *DB) Text(t testing.TB, sql string, args ...any) string {
	t.Helper()
	return value[string](t, d, sql, args)
}

func value[T any](t testing.TB, d *DB, sql string, args []any) T {
	t.Helper()
	ctx, cancel := bounded(t, callTimeout)
	defer cancel()
	var v T
	require.NoError(t, d.Pool.QueryRow(ctx, sql, args...).Scan(&v), sql)
	return v
}

// Role creates a login role without any privilege, and returns its name and the
// URL that it connects to this database with. The role goes with the test, along
// with everything it owns here and was granted here.
func (d *DB) Role(t testing.TB) (name, dsn string) {
	t.Helper()
	name = uniqueName(t) + "_role"
	d.Exec(t, "create role "+name+" login")
	t.Cleanup(func() {
		if d.Server.Pid() == 0 {
			return
		}
		ctx, cancel := bounded(t, callTimeout)
		defer cancel()
		if _, err := d.Pool.Exec(ctx, "drop owned by "+name+" cascade; drop role "+name); err != nil {
			t.Errorf("drop role %s: %v", name, err)
		}
	})
	u, err := url.Parse(d.DSN)
	require.NoError(t, err)
	u.User = url.User(name)
	return name, u.String()
}
