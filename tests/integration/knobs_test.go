//go:build failpoint

package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"path"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/failpoint"
	"github.com/audit-table-archiver/archiver/planner"
	"github.com/audit-table-archiver/archiver/worker"
)

// The tests in the files knobs_*_test.go hold that keys of the configuration change what
// happens. docs/TUNING.md names for each key the test that shows it, here or elsewhere.

// TestBatchSize: rows in one object, and in one delete.
func TestBatchSize(t *testing.T) {
	t.Parallel()
	tables := ""
	for _, size := range []int{10, 25, 100} {
		tables += fmt.Sprintf("- {name: size%d, batch_size: %d}\n", size, size)
	}
	s := newSite(t, tables)
	for _, size := range []int{10, 25, 100} {
		s.db.Exec(t, fmt.Sprintf(`CREATE TABLE size%d (id bigint PRIMARY KEY, created_at timestamptz NOT NULL); CREATE INDEX ON size%[1]d (created_at, id);
			INSERT INTO size%[1]d SELECT i, '2024-01-01' FROM generate_series(1, 100) i`, size))
	}
	s.plan(t)
	s.drain(t, nil)
	for _, size := range []int{10, 25, 100} {
		objects := s.objects(t, "public", fmt.Sprintf("size%d", size))
		require.Len(t, objects, 100/size)
		for _, o := range objects {
			require.Len(t, o.lines, size)
		}
	}
}

// TestAdaptiveBatch: after a run of slow queries the next one has smaller batches, and is
// planned in windows. Switched off, it is neither.
func TestAdaptiveBatch(t *testing.T) {
	t.Parallel()
	for enabled, want := range map[bool]struct{ size, batches, enqueued int }{true: {5, 260, 4}, false: {10, 130, 130}} {
		t.Run(fmt.Sprint(enabled), func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 30, fmt.Sprintf(", adaptive_batch: {enabled: %v, min_batch_size: 4, max_batch_size: 100, target_query_time: 1ms}", enabled))
			tr.finish(func(_ context.Context, point string) error {
				if point == "extract:copied" {
					time.Sleep(20 * time.Millisecond) // the query that this test is about
				}
				return nil
			})
			tr.archived(3)
			tr.db.Exec(t, fmt.Sprintf(trialRows, 1300))
			p, err := planner.Make(t.Context(), tr.src, tr.ledger, tr.cfg.Databases[0].Tables[0], planner.Options{})
			require.NoError(t, err)
			require.Equal(t, []int{want.size, want.batches, want.enqueued}, []int{p.BatchSize, p.Batches, len(p.Pages)})
		})
	}
}

// TestCompression archives the same rows under each compression, and under the levels at
// its ends.
func TestCompression(t *testing.T) {
	t.Parallel()
	kinds := []struct{ name, settings, extension, magic string }{
		{"plain", "compression: none", ".jsonl", "{"},
		{"gzip1", "compression: gzip, compression_level: 1", ".jsonl.gz", "\x1f\x8b"},
		{"gzip9", "compression: gzip, compression_level: 9", ".jsonl.gz", "\x1f\x8b"},
		{"zstd1", "compression: zstd, compression_level: 1", ".jsonl.zst", "\x28\xb5\x2f\xfd"},
		{"zstd22", "compression: zstd, compression_level: 22", ".jsonl.zst", "\x28\xb5\x2f\xfd"},
	}
	tables := ""
	for _, k := range kinds {
		tables += fmt.Sprintf("- {name: %s, batch_size: 1500, %s}\n", k.name, k.settings)
	}
	s := newSite(t, tables)
	for _, k := range kinds {
		s.db.Exec(t, fmt.Sprintf(`CREATE TABLE %s (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, actor text, payload jsonb); CREATE INDEX ON %[1]s (created_at, id);
			INSERT INTO %[1]s SELECT i, '2024-01-01'::timestamptz + i * interval '7 seconds', 'user ' || i * 7919 %% 101, jsonb_build_object('order', i * 31, 'note', 'changed by ' || md5((i %% 301)::text), 'old', i %% 17)
			FROM generate_series(1, 1500) i`, k.name))
	}
	s.plan(t)
	s.drain(t, nil)
	stored := map[string]int64{}
	for _, k := range kinds {
		objects := s.objects(t, "public", k.name)
		require.Len(t, objects, 1)
		m := objects[0].manifest
		require.Len(t, objects[0].lines, 1500)
		require.True(t, bytes.HasPrefix(s.bucket.Read(t, m.Object), []byte(k.magic)), k.name)
		_, extension, _ := bytes.Cut([]byte(path.Base(m.Object)), []byte(".jsonl"))
		require.Equal(t, k.extension, ".jsonl"+string(extension))
		stored[k.name] = m.StoredBytes
	}
	require.Less(t, stored["gzip1"], stored["plain"]/2)
	require.Less(t, stored["gzip9"], stored["gzip1"])
	require.Less(t, stored["zstd1"], stored["plain"]/2)
	require.Less(t, stored["zstd22"], stored["zstd1"])
}

// TestVerify has the recorded object be one that has its length and its hash, and no rows
// in it, as an encoder at fault would make it. Only who decodes it finds that out.
func TestVerify(t *testing.T) {
	t.Parallel()
	for verify, left := range map[string]int64{"readback": 0, "decode": 10} {
		t.Run(verify, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 10, ", verify: "+verify)
			tr.interrupt("verify:recorded")
			junk := []byte("these are no rows")
			sum := sha256.Sum256(junk)
			_, err := tr.bucket.Client().PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(tr.bucket.Name), Key: aws.String(tr.dataKeys()[0]), Body: bytes.NewReader(junk)})
			require.NoError(t, err)
			_, err = tr.ledger.Pool.Exec(t.Context(), tr.ledger.SQL(`UPDATE {s}.object SET sha256 = $1, stored_bytes = $2`), sum[:], len(junk))
			require.NoError(t, err)
			tr.finish(nil)
			require.Equal(t, left, tr.rowsLeft())
		})
	}
}

// TestDeleteGuard changes what rows hold without changing their versions: the label of an
// enum that they refer to. Only a guard that looks at the content notices.
func TestDeleteGuard(t *testing.T) {
	t.Parallel()
	for guard, label := range map[string]string{"identity": "before", "content": "after"} {
		t.Run(guard, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "- {name: guarded, delete_guard: "+guard+"}")
			s.db.Exec(t, `CREATE TYPE kind AS ENUM ('before'); CREATE TABLE guarded (id int PRIMARY KEY, created_at timestamptz NOT NULL, k kind);
				CREATE INDEX ON guarded (created_at, id); INSERT INTO guarded SELECT i, '2024-01-01', 'before' FROM generate_series(1, 10) i`)
			s.plan(t)
			s.drain(t, first("upload:done", func(ctx context.Context) error {
				_, err := s.db.Pool.Exec(ctx, `ALTER TYPE kind RENAME VALUE 'before' TO 'after'`)
				return err
			}))
			require.Zero(t, s.db.Int(t, `SELECT count(*) FROM guarded`))
			lines := linesOf(s.objects(t, "public", "guarded"))
			require.Len(t, lines, 10)
			require.Contains(t, lines[0], `"k":"`+label+`"`)
		})
	}
}

// TestShutdownTimeout stops a replica while a batch is at work that takes another half a
// second.
func TestShutdownTimeout(t *testing.T) {
	t.Parallel()
	for timeout, state := range map[time.Duration]string{200 * time.Millisecond: "planned", 20 * time.Second: "archived"} {
		t.Run(timeout.String(), func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 10, "")
			tr.cfg.Worker.ShutdownTimeout = timeout
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var reached atomic.Bool
			require.NoError(t, worker.Run(failpoint.With(ctx, first("extract:copied", func(ctx context.Context) error {
				reached.Store(true)
				stop()
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(500 * time.Millisecond): // the rest of its work
					return nil
				}
			})), tr.deps(), worker.RunOptions{}))
			require.True(t, reached.Load())
			require.Equal(t, map[string]int64{state: 1}, tr.states(t))
			require.Zero(t, tr.attemptsSpent())
			tr.exactlyOnce()
		})
	}
}
