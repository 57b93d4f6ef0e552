package localserver

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakePostgres makes a directory with an initdb and a postgres that only say a version.
func fakePostgres(t *testing.T, dir, version string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	script := "#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n"
	for _, name := range []string{"initdb", "postgres"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	return dir
}

func TestNewestPostgres(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for dir, version := range map[string]string{
		"pg-9/bin": "9.6.24", "pg-13/bin": "13.23", "pg-15/bin": "15.18 (Debian 15.18-0+deb12u1)", "other/bin": "15.9",
	} {
		fakePostgres(t, filepath.Join(root, dir), version)
	}
	require.NoError(t, os.MkdirAll(filepath.Join(root, "pg-99/bin"), 0o755)) // no programs in it
	require.Equal(t, filepath.Join(root, "pg-15/bin"),
		newestPostgres([]string{filepath.Join(root, "other/bin"), filepath.Join(root, "pg-*/bin")}))
	fakePostgres(t, filepath.Join(root, "pg-19/bin"), "19beta1")
	require.Equal(t, filepath.Join(root, "pg-19/bin"), newestPostgres([]string{filepath.Join(root, "*/bin")}))
	require.Empty(t, newestPostgres([]string{filepath.Join(root, "pg-13/bin"), filepath.Join(root, "nothing")}))
}

func TestFindPostgresHoldsToWhatWasNamed(t *testing.T) {
	t.Setenv("PG_BIN", "")
	good := fakePostgres(t, filepath.Join(t.TempDir(), "bin"), "17.2")
	old := fakePostgres(t, filepath.Join(t.TempDir(), "bin"), "13.1")

	found, err := FindPostgres(good)
	require.NoError(t, err)
	require.Equal(t, good, found)
	_, err = FindPostgres(old)
	require.EqualError(t, err, "find PostgreSQL in "+old+": version 13.1 is older than 14")

	t.Setenv("PG_BIN", good)
	found, err = FindPostgres("")
	require.NoError(t, err)
	require.Equal(t, good, found)
	empty := t.TempDir()
	t.Setenv("PG_BIN", empty)
	_, err = FindPostgres("")
	require.ErrorContains(t, err, "find PostgreSQL in "+empty)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// make deps looks for the programs in bash, before there is anything built.
func TestScriptFindsTheSameAsFindPostgres(t *testing.T) {
	t.Setenv("PG_BIN", "")
	want, err := FindPostgres("")
	require.NoError(t, err)
	found, err := exec.CommandContext(t.Context(), "../../scripts/postgres.sh", "find").Output()
	require.NoError(t, err)
	require.Equal(t, want, strings.TrimSpace(string(found)))
}

func TestNotFoundErrorSaysWhereAndHow(t *testing.T) {
	t.Parallel()
	err := &NotFoundError{What: "PostgreSQL", Searched: []string{"$PG_BIN", "/usr/bin"}, Hint: "install it"}
	require.EqualError(t, err, "find PostgreSQL: not in $PG_BIN, /usr/bin; install it")
}

func TestStartPostgresExplainsAServerThatDoesNotStart(t *testing.T) {
	t.Parallel()
	_, err := StartPostgres(t.Context(), PostgresOptions{Settings: map[string]string{"shared_buffers": "many"}})
	require.ErrorContains(t, err, `invalid value for parameter "shared_buffers": "many"`)
}
