package testkit_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestPostgresGivesADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	a, b := testkit.Postgres(t), testkit.Postgres(t)
	require.Same(t, a.Server, b.Server)
	a.Exec(t, "create table only_here (n int); insert into only_here values (1), (2)")
	require.EqualValues(t, 2, a.Int(t, "select count(*) from only_here where n < $1", 5))
	require.Empty(t, b.Text(t, "select coalesce(to_regclass('only_here')::text, '')"))
}

func TestRoleMayDoNothing(t *testing.T) {
	t.Parallel()
	db := testkit.Postgres(t)
	db.Exec(t, "create table secret (n int)")
	name, dsn := db.Role(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	_, err = conn.Exec(t.Context(), "select from secret")
	require.ErrorContains(t, err, "permission denied")
	db.Exec(t, "grant select on secret to "+name)
	_, err = conn.Exec(t.Context(), "select from secret")
	require.NoError(t, err)
}

func TestReplicaFollowsAndIsPromoted(t *testing.T) {
	t.Parallel()
	primary := testkit.Cluster(t, localserver.PostgresOptions{})
	db := testkit.Database(t, primary)
	db.Exec(t, "create table followed (n int); create table busy (n int)")

	// The primary is written to while it is copied.
	ctx, cancel := context.WithCancel(t.Context())
	written := make(chan int64, 1)
	go func() {
		var rows int64
		for ctx.Err() == nil {
			tag, err := db.Pool.Exec(t.Context(), "insert into busy select generate_series(1, 500)")
			if err != nil {
				break
			}
			rows += tag.RowsAffected()
		}
		written <- rows
	}()
	replica := testkit.Replica(t, primary)
	cancel()
	rows := <-written
	conn, err := pgx.Connect(t.Context(), replica.DSN(db.Name))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()

	db.Exec(t, "insert into followed values (7)")
	count := func() int {
		var n int
		require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from followed").Scan(&n))
		return n
	}
	testkit.Eventually(t, 30*time.Second, func() bool { return count() == 1 }, "the row is on the replica")
	var copied int64
	require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from busy").Scan(&copied))
	require.Equal(t, rows, copied)
	_, err = conn.Exec(t.Context(), "delete from followed")
	require.ErrorContains(t, err, "read-only")

	require.NoError(t, primary.Crash())
	require.NoError(t, replica.Promote(t.Context()))
	_, err = conn.Exec(t.Context(), "delete from followed")
	require.NoError(t, err)
	require.Zero(t, count())
}

func TestS3GivesABucketOfItsOwn(t *testing.T) {
	t.Parallel()
	a, b := testkit.S3(t), testkit.VersionedS3(t)
	put := func(b *testkit.Bucket, body string) {
		_, err := b.Client().PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: aws.String(b.Name), Key: aws.String("x/y=1/z"), Body: strings.NewReader(body),
		})
		require.NoError(t, err)
	}
	put(a, "one")
	require.Equal(t, []string{"x/y=1/z"}, a.Keys(t))
	require.Equal(t, "one", string(a.Read(t, "x/y=1/z")))
	require.Empty(t, b.Keys(t))
	on, err := os.ReadFile(a.Path("x/y=1/z"))
	require.NoError(t, err)
	require.Equal(t, "one", string(on))

	put(b, "one")
	put(b, "two")
	versions, err := b.Client().ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: aws.String(b.Name)})
	require.NoError(t, err)
	require.Len(t, versions.Versions, 2)
}

func TestBuildBuildsOnce(t *testing.T) {
	t.Parallel()
	program := testkit.Build(t, "./internal/testkit/testdata/hello")
	require.Equal(t, program, testkit.Build(t, "./internal/testkit/testdata/hello"))
	out, err := exec.CommandContext(t.Context(), program).Output()
	require.NoError(t, err)
	require.Equal(t, "plain\n", string(out))
	tagged := testkit.Build(t, "./internal/testkit/testdata/hello", "tagged")
	out, err = exec.CommandContext(t.Context(), tagged).Output()
	require.NoError(t, err)
	require.Equal(t, "tagged\n", string(out))
}

func TestEventuallyWaits(t *testing.T) {
	t.Parallel()
	calls := 0
	testkit.EventuallyNoError(t, 30*time.Second, func() error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return nil
	}, "three calls")
	require.Equal(t, 3, calls)
}
