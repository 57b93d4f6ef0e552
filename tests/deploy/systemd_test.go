package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// exposure is the most that `systemd-analyze security` may find, in tenths: from 0, no
// access to anything, to 100.
const exposure = "20"

// analyze runs systemd-analyze on a root of a test's own and returns what it says.
func analyze(t *testing.T, root string, args ...string) (string, error) {
	t.Helper()
	program, err := exec.LookPath("systemd-analyze")
	require.NoError(t, err, "install the package systemd, as `make extras` does")
	out, err := exec.CommandContext(t.Context(), program, append([]string{"--root=" + root, "--man=no"}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// systemRoot is a file system with our units, the program, and the targets that
// every unit depends on.
func systemRoot(t *testing.T) (root string, units []string) {
	t.Helper()
	root = t.TempDir()
	dir := filepath.Join(root, "etc/systemd/system")
	bin := filepath.Join(root, "usr/local/bin")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.MkdirAll(bin, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(bin, "archiver"), []byte("#!/bin/sh\n"), 0o755))
	for _, target := range []string{"sysinit", "basic", "shutdown", "network-online", "multi-user"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, target+".target"), []byte("[Unit]\nDefaultDependencies=no\n"), 0o600))
	}
	paths, err := filepath.Glob(filepath.Join(testkit.ModuleRoot(t), "deploy/systemd/*.service"))
	require.NoError(t, err)
	require.Len(t, paths, 2)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), text, 0o600))
		units = append(units, filepath.Base(path))
	}
	return root, units
}

func TestUnitsAreSound(t *testing.T) {
	t.Parallel()
	root, units := systemRoot(t)
	for _, unit := range units {
		path := filepath.Join(root, "etc/systemd/system", unit)
		out, err := analyze(t, root, "verify", path)
		require.NoError(t, err, out)
		require.Empty(t, out, "what systemd does not know it ignores")
		out, err = analyze(t, root, "--offline=true", "--threshold="+exposure, "security", unit)
		require.NoError(t, err, out)

		// And it would say so if something were wrong.
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		broken := regexp.MustCompile(`(?m)^(?:SystemCallFilter|CapabilityBoundingSet)=.*\n`).ReplaceAllString(string(text), "")
		require.NoError(t, os.WriteFile(path, []byte(strings.Replace(broken, "ProtectHome=yes", "ProtectHom=yes", 1)), 0o600))
		out, _ = analyze(t, root, "verify", path)
		require.Contains(t, out, "ProtectHom")
		_, err = analyze(t, root, "--offline=true", "--threshold="+exposure, "security", unit)
		require.Error(t, err)
	}
}

// TestUnitsFitTheConfiguration compares the worker's unit with the defaults that hold
// where archiver.yaml says nothing.
func TestUnitsFitTheConfiguration(t *testing.T) {
	t.Parallel()
	unit := read(t, "deploy/systemd/archiver-worker@.service")
	stop := regexp.MustCompile(`(?m)^TimeoutStopSec=(\S+)$`).FindStringSubmatch(unit)
	require.NotNil(t, stop)
	limit, err := time.ParseDuration(stop[1])
	require.NoError(t, err)
	defaults := kubernetesWithout(t, "shutdown_timeout", "listen", "spool_dir")
	require.GreaterOrEqual(t, limit, defaults.Worker.ShutdownTimeout+margin)

	// Under the unit's environment, instance 3 has an address and a spool of its own.
	environ := []string{"CONTROL_URL=postgres://localhost/archiver", "ORDERS_PASSWORD=p", "UI_PASSWORD=p"}
	for _, m := range regexp.MustCompile(`(?m)^Environment=(ARCHIVER_(?:WORKER|UI|LOG)\S+)$`).FindAllStringSubmatch(unit, -1) {
		environ = append(environ, strings.NewReplacer("%i", "3", "%C", "/var/cache").Replace(m[1]))
	}
	c := load(t, "deploy/kubernetes/base/archiver.yaml", environ...)
	require.Equal(t, "127.0.0.1:8103", c.Worker.Listen)
	require.NotEqual(t, config.DefaultWorkerListen, c.Worker.Listen)
	require.Equal(t, "/var/cache/archiver-3", c.Worker.SpoolDir)
	require.False(t, c.UI.Enabled, "archiver-ui.service serves it")
	require.Contains(t, unit, "CacheDirectory=archiver-%i\n")
}

// kubernetesWithout is the base's configuration without some keys of worker.
func kubernetesWithout(t *testing.T, keys ...string) *config.Config {
	t.Helper()
	text := read(t, "deploy/kubernetes/base/archiver.yaml")
	for _, key := range keys {
		text = regexp.MustCompile(`(?m)^  `+key+`: (?:2m|":8080"|/spool)$`).ReplaceAllString(text, "")
	}
	file := filepath.Join(t.TempDir(), "archiver.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	c, err := config.Load(config.Options{File: file, Environ: []string{"CONTROL_URL=postgres://localhost/archiver", "ORDERS_PASSWORD=p", "UI_PASSWORD=p"}})
	require.NoError(t, err)
	return c
}
