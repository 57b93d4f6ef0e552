//go:build failpoint

package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/migrations"
	"github.com/audit-table-archiver/archiver/worker"
)

// awaitWaiting waits until a batch waits for the given reason.
func (tr *trial) awaitWaiting(reason string) {
	tr.t.Helper()
	testkit.Eventually(tr.t, 30*time.Second, func() bool {
		return tr.count(`SELECT count(*) FROM {s}.batch WHERE waiting_for LIKE '%' || $1 || '%'`, reason) > 0
	}, "no batch waits for "+reason)
}

// reopenStore has the trial use the storage that its configuration names now.
func (tr *trial) reopenStore() {
	tr.t.Helper()
	store, err := objstore.Open(tr.t.Context(), worker.StoreConfig(tr.cfg.S3))
	require.NoError(tr.t, err)
	tr.store = store
}

// TestStorageAway stops the S3 server at a point and starts it again later. Batches
// wait meanwhile, and spend no attempts.
func TestStorageAway(t *testing.T) {
	t.Parallel()
	// Before the upload, before it is read back, and before the manifest, when the
	// rows are gone.
	for _, point := range []string{"extract:copied", "upload:done", "state:deleting"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			o := localserver.S3Options{Dir: t.TempDir(), AccessKey: "key", SecretKey: "secret"}
			server, err := localserver.StartS3(t.Context(), o)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, server.Stop()) })
			o.Listen = strings.TrimPrefix(server.Endpoint, "http://")
			require.NoError(t, server.CreateBucket(t.Context(), "archive", false))

			tr := newTrial(t, 25, "")
			tr.bucket = &testkit.Bucket{Endpoint: server.Endpoint, AccessKey: "key", SecretKey: "secret", Region: "us-east-1", Name: "archive", Server: server}
			tr.cfg.S3.Endpoint, tr.cfg.S3.Bucket, tr.cfg.S3.AccessKeyID, tr.cfg.S3.SecretAccessKey = server.Endpoint, "archive", "key", "secret"
			tr.reopenStore()

			wait := tr.start(changing(point, func(context.Context) {
				if err := server.Stop(); err != nil {
					t.Errorf("stop the S3 server: %v", err)
				}
			}))
			tr.awaitWaiting("object pre/main/public/audit_logs/")
			require.Zero(t, tr.attemptsSpent())
			again, err := localserver.StartS3(t.Context(), o)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, again.Stop()) })
			wait()
			tr.archived(3)
			require.Zero(t, tr.attemptsSpent())
		})
	}
}

// TestObjectDamagedBeforeVerify flips a bit in storage between the upload and the
// verification.
func TestObjectDamagedBeforeVerify(t *testing.T) {
	t.Parallel()
	for _, verify := range []string{"decode", "readback"} {
		t.Run(verify, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 15, ", verify: "+verify)
			tr.cfg.Worker.Concurrency = 1 // else the bit may be flipped in the other's object, once that is verified
			tr.finish(changing("upload:done", func(context.Context) { flipBit(tr, tr.dataKeys()[0]) }))
			tr.exactlyOnce()
			require.Equal(t, map[string]int64{"planned": 1, "archived": 1}, tr.states(t), "the batch fails, and holds back no other")
			require.EqualValues(t, 5, tr.attemptsSpent())
			message, hint := tr.lastError()
			require.Contains(t, message, "verify pre/main/public/audit_logs/")
			require.Contains(t, message, "nothing was deleted")
			require.Contains(t, hint, "move it away")
		})
	}
}

// TestStorageRefuses takes the whole bucket away, and gives wrong credentials:
// trouble that does not pass by itself.
func TestStorageRefuses(t *testing.T) {
	t.Parallel()
	t.Run("bucket gone", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		require.NoError(t, os.RemoveAll(tr.bucket.Dir))
		tr.finish(nil)
		require.EqualValues(t, 10, tr.rowsLeft())
		tr.refused("NoSuchBucket")
		_, hint := tr.lastError()
		require.Contains(t, hint, "there is no bucket "+tr.bucket.Name)

		require.NoError(t, tr.bucket.Server.CreateBucket(t.Context(), tr.bucket.Name, false))
		tr.retry()
		tr.finish(nil)
		tr.archived(1)
	})
	t.Run("wrong credentials", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		right := tr.cfg.S3.SecretAccessKey
		tr.cfg.S3.SecretAccessKey = "wrong"
		tr.reopenStore()
		tr.finish(nil)
		require.EqualValues(t, 10, tr.rowsLeft())
		tr.refused("SignatureDoesNotMatch")
		message, hint := tr.lastError()
		require.NotContains(t, message+hint, right.Reveal())
		require.Contains(t, hint, "s3.secret_access_key")

		tr.cfg.S3.SecretAccessKey = right
		tr.reopenStore()
		tr.retry()
		tr.finish(nil)
		tr.archived(1)
	})
}

// TestReferredRows has a child table refer to one row of a batch.
func TestReferredRows(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"", " DEFERRABLE INITIALLY DEFERRED"} { // deferred: COMMIT itself is refused
		t.Run("no action"+strings.ToLower(when), func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 25, "")
			tr.sql(t.Context(), `CREATE TABLE comments (audit_id bigint CONSTRAINT comments_audit REFERENCES audit_logs`+when+`)`)
			tr.sql(t.Context(), `INSERT INTO comments VALUES (12)`)
			tr.finish(nil)
			tr.exactlyOnce()
			require.EqualValues(t, 10, tr.rowsLeft())
			require.Equal(t, map[string]int64{"verified": 1, "archived": 2}, tr.states(t))
			tr.refused("comments_audit")
			message, _ := tr.lastError()
			require.Contains(t, message, `table "comments"`)

			tr.sql(t.Context(), `DELETE FROM comments`)
			tr.retry()
			tr.finish(nil)
			tr.archived(3)
		})
	}
}

// TestSourceCrashes has the database server crash and recover at each boundary that
// has to do with it, once with the control database beside it.
func TestSourceCrashes(t *testing.T) {
	t.Parallel()
	for _, withControl := range []bool{false, true} {
		name := "source"
		if withControl {
			name = "source and control"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := testkit.Cluster(t, localserver.PostgresOptions{})
			s := newSite(t, `- {name: audit_logs, batch_size: 10}`)
			s.db = testkit.Database(t, cluster)
			s.cfg.Databases[0].Primary = config.Secret(s.db.DSN)
			src, err := source.Open(t.Context(), s.cfg.Databases[0], "test")
			require.NoError(t, err)
			t.Cleanup(src.Close)
			s.src = src
			if withControl {
				pool, err := pgxpool.New(t.Context(), s.db.DSN)
				require.NoError(t, err)
				t.Cleanup(pool.Close)
				_, _, err = migrations.Up(t.Context(), pool, "archiver", worker.RiverLogger(zap.NewNop()))
				require.NoError(t, err)
				s.ledger = ledger.New(pool, "archiver")
			}
			tr := planned(t, s, 55)
			var one sync.Mutex
			crash := atEach([]string{"extract:copied", "upload:done", "delete:locked", "delete:before-commit", "delete:after-commit"}, func(ctx context.Context) error {
				one.Lock()
				defer one.Unlock()
				if err := cluster.Crash(); err != nil {
					t.Errorf("crash: %v", err)
				}
				if err := cluster.Restart(context.WithoutCancel(ctx)); err != nil {
					t.Errorf("restart: %v", err)
				}
				return nil
			})
			tr.finish(crash.handle)
			crash.allReached(t)
			tr.archived(6)
			require.Zero(t, tr.rowsLeft())
			require.Zero(t, tr.attemptsSpent())
		})
	}
}

// TestBackendKilled ends our sessions on the source at points of the delete.
func TestBackendKilled(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, 100, "")
	kill := atEach([]string{"delete:begun", "delete:fenced", "delete:locked", "delete:before-commit", "delete:after-commit"}, func(ctx context.Context) error {
		tr.sql(ctx, `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'archiver%'`)
		return nil
	})
	tr.finish(kill.handle)
	kill.allReached(t)
	tr.archived(10)
	require.Zero(t, tr.attemptsSpent())
}

// TestSpool has the spool's folder go away, and be full.
func TestSpool(t *testing.T) {
	t.Parallel()
	t.Run("gone at start", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		file := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		tr.cfg.Worker.SpoolDir = file
		err := worker.Run(t.Context(), tr.deps(), worker.RunOptions{Drain: true})
		var spool *worker.SpoolError
		require.ErrorAs(t, err, &spool)
		require.Contains(t, spool.Error(), file)
		require.Contains(t, spool.Hint(), "worker.spool_dir")
	})
	t.Run("gone while running", func(t *testing.T) {
		t.Parallel()
		tr := newTrial(t, 10, "")
		tr.cfg.Worker.SpoolDir = filepath.Join(t.TempDir(), "spool")
		require.NoError(t, os.Mkdir(tr.cfg.Worker.SpoolDir, 0o700))
		wait := tr.start(changing("state:planned", func(context.Context) {
			if err := os.Remove(tr.cfg.Worker.SpoolDir); err != nil {
				t.Errorf("remove the spool folder: %v", err)
			}
		}))
		tr.awaitWaiting("worker.spool_dir")
		require.NoError(t, os.Mkdir(tr.cfg.Worker.SpoolDir, 0o700))
		wait()
		tr.archived(1)
		require.Zero(t, tr.attemptsSpent())
	})
	t.Run("full", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, `- {name: audit_logs, batch_size: 10, compression: none}`)
		tr := planned(t, s, 10)
		tr.both(t.Context(), `UPDATE %s SET actor = repeat('x', 10000)`)
		state, out := tr.child(childFileLimit + "=20000")
		require.True(t, state.Success(), out)
		tr.awaitWaiting("worker.spool_dir")
		tr.awaitWaiting("hint: make room")
		require.EqualValues(t, 10, tr.rowsLeft())
		require.Zero(t, tr.attemptsSpent())
		require.Equal(t, map[string]int64{"planned": 1}, tr.states(t))
		tr.finish(nil) // where there is room
		tr.archived(1)
	})
}

// TestBatchTimeout has attempts take longer than they may.
func TestBatchTimeout(t *testing.T) {
	t.Parallel()
	points := []string{"extract:copied", "upload:done", "delete:locked", "delete:after-commit"}
	tr := newTrial(t, 60, "")
	tr.cfg.Worker.BatchTimeout = 2 * time.Second
	late := atEach(points, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	tr.finish(late.handle)
	late.allReached(t)
	tr.archived(6)
	require.EqualValues(t, len(points), tr.count(`SELECT count(*) FROM {s}.river_job, unnest(errors) e WHERE e->>'error' LIKE '%not done within worker.batch_timeout (2s)%'`))
	require.EqualValues(t, len(points), tr.attemptsSpent())
}

// TestKill9 kills a replica's process at a point, five times. The jobs are running
// again elsewhere within the lease and a few seconds.
func TestKill9(t *testing.T) {
	t.Parallel()
	const batches = 16
	tr := newTrial(t, 10*batches, "")
	for _, point := range []string{"upload:done", "verify:recorded", "delete:before-commit", "delete:after-commit", "record:manifest"} {
		state, out := tr.child("ARCHIVER_FAILPOINTS=" + point + "=kill")
		status, ok := state.Sys().(syscall.WaitStatus)
		require.True(t, ok)
		require.Equal(t, syscall.SIGKILL, status.Signal(), out)
		tr.exactlyOnceUnlessDeleting()
		require.Positive(t, tr.count(`SELECT count(*) FROM {s}.river_job WHERE state = 'running'`))
	}
	died := time.Now()
	tr.finish(nil)
	tr.archived(batches)
	require.Less(t, time.Since(died), childLease+10*time.Second)
	require.EqualValues(t, 1, tr.count(`SELECT max(attempt) FROM {s}.river_job`), "dying is no error of the batch")
	require.GreaterOrEqual(t, tr.count(`SELECT count(*) FROM {s}.river_job, unnest(errors) e WHERE e->>'error' LIKE 'worker lost: %'`), int64(5))
	require.Len(t, tr.bucket.Keys(t), 2*batches)
}
