package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/migrations"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const schema = "archiver"

func up(ctx context.Context, pool *pgxpool.Pool) (before, after migrations.Status, err error) {
	return migrations.Up(ctx, pool, schema, slog.New(slog.DiscardHandler))
}

func TestUpFromNothing(t *testing.T) {
	t.Parallel()
	db := testkit.Postgres(t)
	err := migrations.Check(t.Context(), db.Pool, schema)
	var missing *migrations.NotMigratedError
	require.ErrorAs(t, err, &missing)
	require.EqualError(t, err, `control schema "archiver" is not migrated`)
	require.Equal(t, "run: archiver migrate", missing.Hint())

	before, after, err := up(t.Context(), db.Pool)
	require.NoError(t, err)
	require.False(t, before.Current())
	require.Zero(t, before.Ledger+before.River)
	require.True(t, after.Current())
	require.NoError(t, migrations.Check(t.Context(), db.Pool, schema))

	id := db.Text(t, `SELECT id::text FROM archiver.ledger`)
	before, after, err = up(t.Context(), db.Pool)
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.Equal(t, id, db.Text(t, `SELECT id::text FROM archiver.ledger`), "the ledger keeps its name")
}

// TestUpAtOnce starts five at a time: one works, the others find it done. They have
// a pool each, as five processes do, or share a small one.
func TestUpAtOnce(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared pool %t", shared), func(t *testing.T) {
			t.Parallel()
			db := testkit.Postgres(t)
			open := func() *pgxpool.Pool {
				c, err := pgxpool.ParseConfig(db.DSN)
				require.NoError(t, err)
				c.MaxConns = 2
				pool, err := pgxpool.NewWithConfig(t.Context(), c)
				require.NoError(t, err)
				t.Cleanup(pool.Close)
				return pool
			}
			one := open()
			const processes = 5
			worked, errs := make(chan bool, processes), make(chan error, processes)
			for range processes {
				pool := one
				if !shared {
					pool = open()
				}
				go func() {
					before, after, err := up(t.Context(), pool)
					if err == nil && !after.Current() {
						err = errors.New("it is not current afterwards")
					}
					errs <- err
					worked <- !before.Current()
				}()
			}
			n := 0
			for range processes {
				require.NoError(t, <-errs)
				if <-worked {
					n++
				}
			}
			require.Equal(t, 1, n)
			require.EqualValues(t, 1, db.Int(t, `SELECT count(*) FROM archiver.ledger`))
		})
	}
}

// TestOtherReleases meets schemas of an older and of a newer binary.
func TestOtherReleases(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, sql, message, hint string
	}{
		{"newer ledger", `INSERT INTO archiver.ledger_migration VALUES (9001, 'future')`, "is newer than this binary", "later one"},
		{"newer river", `INSERT INTO archiver.river_migration (line, version) VALUES ('main', 9001)`, "is newer than this binary", "later one"},
		{"older river", `DELETE FROM archiver.river_migration WHERE version = (SELECT max(version) FROM archiver.river_migration)`, "is older than this binary", "archiver migrate"},
		{"no river", `DROP TABLE archiver.river_migration`, "is older than this binary", "archiver migrate"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := testkit.Postgres(t)
			_, _, err := up(t.Context(), db.Pool)
			require.NoError(t, err)
			db.Exec(t, c.sql)
			err = migrations.Check(t.Context(), db.Pool, schema)
			var not *migrations.NotMigratedError
			require.ErrorAs(t, err, &not)
			require.ErrorContains(t, err, c.message)
			require.Contains(t, not.Hint(), c.hint)
			if not.Status.Newer() {
				_, _, err := up(t.Context(), db.Pool)
				require.ErrorAs(t, err, &not, "a newer schema is left alone")
			}
		})
	}
}

// TestUpGoesOnWhereItStopped has a first Up die between River's migrations and ours.
func TestUpGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	db := testkit.Postgres(t)
	db.Exec(t, `CREATE SCHEMA archiver; CREATE TABLE archiver.ledger_migration (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())`)
	_, after, err := up(t.Context(), db.Pool)
	require.NoError(t, err)
	require.True(t, after.Current())
}

// TestUpWithoutRights is refused by the server, and says at what.
func TestUpWithoutRights(t *testing.T) {
	t.Parallel()
	db := testkit.Postgres(t)
	_, dsn := db.Role(t)
	pool, err := pgxpool.New(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	_, _, err = up(t.Context(), pool)
	require.ErrorContains(t, err, `create schema "archiver": ERROR: permission denied`)
}

// TestUpInASchemaOfItsOwn has no right but to the schema that it was given.
func TestUpInASchemaOfItsOwn(t *testing.T) {
	t.Parallel()
	db := testkit.Postgres(t)
	role, dsn := db.Role(t)
	db.Exec(t, `CREATE SCHEMA archiver AUTHORIZATION `+role)
	pool, err := pgxpool.New(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	for range 2 {
		_, after, err := up(t.Context(), pool)
		require.NoError(t, err)
		require.True(t, after.Current())
	}
}

func TestAllIsWellFormed(t *testing.T) {
	t.Parallel()
	all, err := migrations.All()
	require.NoError(t, err)
	require.NotEmpty(t, all)
	for i, m := range all {
		require.Equal(t, i+1, m.Version)
		require.NotEmpty(t, m.Name)
	}
}
