package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Build builds a main package of this module, named by import path or relative to
// the module's root ("./cmd/archiver"), with build tags, and returns the program's
// path. The same package with the same tags is built once in a test process.
func Build(t testing.TB, pkg string, tags ...string) string {
	t.Helper()
	lockShared(t)
	defer shared.mu.Unlock()
	key := pkg + " " + strings.Join(tags, ",")
	if program, ok := shared.binaries[key]; ok {
		return program
	}
	if shared.binDir == "" {
		dir, err := os.MkdirTemp("", "archiver-test-bin-") //nolint:usetesting // it outlives this test; Main removes it
		require.NoError(t, err)
		shared.binDir, shared.binaries = dir, make(map[string]string)
	}
	program := filepath.Join(shared.binDir, strconv.Itoa(len(shared.binaries)), filepath.Base(pkg))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-tags", strings.Join(tags, ","), "-o", program, pkg)
	cmd.Dir = ModuleRoot(t)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "build %s: %s", pkg, out)
	shared.binaries[key] = program
	return program
}

// ModuleRoot is the directory of go.mod, at or above that of the test.
func ModuleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		require.NotEqual(t, parent, dir, "no go.mod above the test")
		dir = parent
	}
}
