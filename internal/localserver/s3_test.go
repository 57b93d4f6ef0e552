package localserver_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/localserver"
)

func startS3(t *testing.T, o localserver.S3Options) *localserver.S3 {
	t.Helper()
	server, err := localserver.StartS3(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	return server
}

func TestS3ServesAndLeavesNothing(t *testing.T) {
	t.Parallel()
	server := startS3(t, localserver.S3Options{})
	require.True(t, strings.HasPrefix(server.Endpoint, "http://127.0.0.1:"), server.Endpoint)
	require.NoError(t, server.CreateBucket(t.Context(), "audit", true))
	require.NoError(t, server.CreateBucket(t.Context(), "audit", true), "a bucket that exists is kept")
	require.DirExists(t, server.ObjectPath("audit", ""))

	// Without a signature nothing is given away.
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.Endpoint+"/audit", nil)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusForbidden, answer.StatusCode)

	require.NoError(t, server.Stop())
	require.NoDirExists(t, server.Dir)
	if runtime.GOOS == "linux" {
		require.NoDirExists(t, filepath.Join("/proc", strconv.Itoa(server.Pid)))
	}
	require.NoError(t, server.Stop(), "a second call does nothing")
}

// A data folder that the caller named survives the server, and a new server on
// the same address finds its buckets.
func TestS3KeepsNamedFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := startS3(t, localserver.S3Options{Dir: dir})
	require.NoError(t, first.CreateBucket(t.Context(), "kept", false))
	require.NoError(t, first.Stop())

	second := startS3(t, localserver.S3Options{
		Dir: dir, Listen: strings.TrimPrefix(first.Endpoint, "http://"),
		AccessKey: first.AccessKey, SecretKey: first.SecretKey,
	})
	require.Equal(t, first.Endpoint, second.Endpoint)
	require.DirExists(t, second.ObjectPath("kept", ""))
}

func TestS3StartErrors(t *testing.T) {
	t.Parallel()
	taken := startS3(t, localserver.S3Options{})
	binary, err := localserver.FindS3(t.Context(), io.Discard)
	require.NoError(t, err)
	cases := map[string]struct {
		options localserver.S3Options
		says    string
	}{
		"address taken":   {localserver.S3Options{Binary: binary, Listen: strings.TrimPrefix(taken.Endpoint, "http://")}, "address already in use"},
		"no such program": {localserver.S3Options{Binary: "/nonexistent/s3dev"}, "no such file"},
		"other program":   {localserver.S3Options{Binary: echoPath(t)}, "not an s3dev program"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := localserver.StartS3(t.Context(), c.options)
			require.ErrorContains(t, err, c.says)
		})
	}
}

// The tests below change the environment or the working directory and so do not
// run in parallel.

func TestFindS3WithoutProgramSaysHowToGetIt(t *testing.T) {
	t.Setenv("ARCHIVER_S3DEV", "")
	t.Setenv("PATH", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Chdir(t.TempDir())
	_, err := localserver.StartS3(t.Context(), localserver.S3Options{})
	var missing *localserver.NotFoundError
	require.ErrorAs(t, err, &missing)
	require.NotEmpty(t, missing.Searched)
	require.ErrorContains(t, err, "ARCHIVER_S3DEV")
}

func TestFindS3ByEnvironment(t *testing.T) {
	t.Setenv("ARCHIVER_S3DEV", "/nonexistent/s3dev")
	_, err := localserver.FindS3(t.Context(), io.Discard)
	require.ErrorContains(t, err, "ARCHIVER_S3DEV=/nonexistent/s3dev is not a program")
	t.Setenv("ARCHIVER_S3DEV", echoPath(t))
	found, err := localserver.FindS3(t.Context(), io.Discard)
	require.NoError(t, err)
	require.Equal(t, echoPath(t), found)
}

// Builds at the same time end in one program, which works.
func TestBuildS3Together(t *testing.T) {
	t.Setenv("ARCHIVER_S3DEV", "") // which make sets
	t.Setenv("GOCACHE", goEnv(t, "GOCACHE"))
	t.Setenv("GOMODCACHE", goEnv(t, "GOMODCACHE"))
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache)
	var said [3]bytes.Buffer
	var paths [3]string
	var errs [3]error
	var all sync.WaitGroup
	for i := range paths {
		all.Go(func() { paths[i], errs[i] = localserver.BuildS3(t.Context(), &said[i]) })
	}
	all.Wait()
	builders := 0
	for i := range paths {
		require.NoError(t, errs[i])
		require.Equal(t, paths[0], paths[i])
		if said[i].Len() > 0 {
			builders++
			require.Contains(t, said[i].String(), "building the local S3 server")
		}
	}
	require.Equal(t, 1, builders)
	left, err := filepath.Glob(filepath.Join(filepath.Dir(paths[0]), "*.tmp*"))
	require.NoError(t, err)
	require.Empty(t, left)
	startS3(t, localserver.S3Options{Binary: paths[0]})

	// Away from the source, the program in the cache is found.
	t.Setenv("PATH", t.TempDir())
	t.Chdir(t.TempDir())
	found, err := localserver.FindS3(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, paths[0], found)
}

func echoPath(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"/bin/echo", "/usr/bin/echo"} {
		if _, err := os.Stat(name); err == nil {
			return name
		}
	}
	t.Fatal("no echo program on this machine")
	return ""
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := osexec.CommandContext(t.Context(), "go", "env", name).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}
