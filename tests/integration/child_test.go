//go:build failpoint

package integration

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/worker"
)

// What the parent tells a child replica.
const (
	childConfig    = "ARCHIVER_TEST_CHILD_CONFIG"
	childFileLimit = "ARCHIVER_TEST_CHILD_FILE_LIMIT" // bytes; no file may grow beyond it
)

// childLease is short, so that a test does not wait long for a dead child's jobs.
const childLease = 4 * time.Second

// TestChildReplica is not a test: it is the program of the processes that tests
// start and kill, and does nothing otherwise.
func TestChildReplica(t *testing.T) {
	file := os.Getenv(childConfig)
	if file == "" {
		return
	}
	if limit, err := strconv.ParseUint(os.Getenv(childFileLimit), 10, 64); err == nil {
		signal.Ignore(syscall.SIGXFSZ) // a write then fails as it does on a full disk
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: limit}))
	}
	cfg, err := config.Load(config.Options{File: file, Environ: []string{}})
	require.NoError(t, err)
	cfg.Worker.Lease = childLease
	ctx := t.Context()
	pool, err := pgxpool.New(ctx, cfg.Control.URL.Reveal())
	require.NoError(t, err)
	defer pool.Close()
	src, err := source.Open(ctx, cfg.Databases[0], "test")
	require.NoError(t, err)
	defer src.Close()
	store, err := objstore.Open(ctx, worker.StoreConfig(cfg.S3))
	require.NoError(t, err)
	require.NoError(t, worker.Run(ctx, worker.Deps{
		ID:     worker.NewID(),
		Config: cfg, Ledger: ledger.New(pool, cfg.Control.Schema), Store: store,
		Sources: map[string]*source.DB{"main": src}, Log: zap.NewNop(), Version: "test",
	}, worker.RunOptions{Drain: true, Patience: 2 * time.Second}))
}

// child runs a replica in a process of its own until it ends, in whatever way.
func (tr *trial) child(environ ...string) (*os.ProcessState, string) {
	tr.t.Helper()
	ctx, cancel := context.WithTimeout(tr.t.Context(), time.Minute)
	defer cancel()
	program, err := os.Executable()
	require.NoError(tr.t, err)
	cmd := exec.CommandContext(ctx, program, "-test.run", "^TestChildReplica$")
	cmd.Env = append(append(os.Environ(), childConfig+"="+tr.cfg.Path), environ...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(tr.t, cmd.Start())
	_ = cmd.Wait() // how it ended is in its state
	require.NoError(tr.t, ctx.Err())
	return cmd.ProcessState, out.String()
}
