package program

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	beside := filepath.Join(dir, "bash")
	require.NoError(t, os.WriteFile(beside, []byte("#!/bin/sh\n"), 0o700))
	got, err := Find("bash", dir, "")
	require.NoError(t, err)
	require.Equal(t, beside, got, "the server's own comes first")

	require.NoError(t, os.Chmod(beside, 0o600))
	got, err = Find("bash", dir, "")
	require.NoError(t, err)
	require.NotEqual(t, beside, got, "a file that is no program")

	_, err = Find("no-such-program", dir, "buy it")
	require.ErrorContains(t, err, "no-such-program is needed")
	require.ErrorContains(t, err, dir)
	require.ErrorContains(t, err, "hint: buy it")
}
