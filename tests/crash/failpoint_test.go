package crash

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// points are the places in a worker where it is killed and stopped: every stage's
// border and the inside of each. The number says at which hit, where one batch has
// many. The order matters to TestKillAtEveryFailpoint.
var points = []string{
	"split:done", // first: the batches that have to be split are
	"state:planned", "extract:locked", "extract:row@7", "extract:copied",
	"upload:read@1", "upload:read@2", "upload:done",
	"verify:done", "verify:recorded", "state:verified",
	"delete:begun", "delete:table-locked", "delete:fenced", "delete:locked", "delete:before-commit", "delete:after-commit",
	"state:deleting", "record:manifest", "record:ledger", "record:before-commit", "record:done",
	"resolve:locked", "resolve:decided", // last: they need what the others leave behind
}

// notInABatch are the failpoints elsewhere, besides vacuumPoints and windowPoints.
var notInABatch = []string{"walk:page", "enqueue:page", "schedule:claimed"}

// at is the failpoint's action in the way of ARCHIVER_FAILPOINTS.
func at(point, action string) string {
	name, n, ok := strings.Cut(point, "@")
	if !ok {
		n = "1"
	}
	return name + "=" + action + "@" + n
}

// TestEveryFailpointIsTried reads the program's source for points that are missing
// in the lists above.
func TestEveryFailpointIsTried(t *testing.T) {
	t.Parallel()
	tried := map[string]bool{}
	for _, p := range slices.Concat(points, notInABatch, vacuumPoints, windowPoints) {
		name, _, _ := strings.Cut(p, "@")
		tried[name] = true
	}
	call := regexp.MustCompile(`failpoint\.(?:Hit|Writer|ReaderAt)\(ctx, "([^"]+)"(\+)?`)
	found := 0
	err := filepath.WalkDir(testkit.ModuleRoot(t), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range call.FindAllStringSubmatch(string(text), -1) {
			found++
			if m[2] == "" { // a name that is put together is listed for each of its values
				require.True(t, tried[m[1]], "the failpoint %s in %s is tried nowhere", m[1], path)
			}
		}
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, found, 15)
}

// TestKillAtEveryFailpoint kills one replica after another, each at another point.
// What one leaves behind is taken up by those that follow.
func TestKillAtEveryFailpoint(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	s.fill(t, "audit_logs", 60*batchSize)
	for _, point := range []string{"walk:page", "enqueue:page"} {
		plan, err := s.start(t.Context(), at(point, "kill"), "plan")
		require.NoError(t, err)
		plan.wait(t, time.Minute)
		require.True(t, plan.killed(), "%s: %s", point, plan.log())
	}
	s.run(t, "plan")
	// Late rows make the first batches too large, which is what a split needs.
	s.source.Exec(t, strings.NewReplacer("{t}", "audit_logs", "1, 3)", fmt.Sprintf("1, %d)", 3*batchSize)).Replace(changes[1].sql), 0.3, "late")
	defer s.hurry(t)()
	for _, point := range points {
		p := s.replica(t, at(point, "kill"))
		p.wait(t, time.Minute)
		require.True(t, p.killed(), "%s: %v", point, p.surprise())
		s.oracle.check(t)
	}
	f := s.drain(t)
	t.Logf("%d points, %d rows in %d objects, asked %d times", len(points)+1, f.rows, f.objects, s.oracle.looks)
}

// TestKillInsideAPart kills in the middle of a multipart upload: between its parts,
// and within one.
func TestKillInsideAPart(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{s3: ", multipart_threshold_mb: 1, multipart_part_size_mb: 5"})
	// Hashes cannot be compressed: each batch is some 8 MB, two parts.
	s.source.Exec(t, `WITH changed AS (INSERT INTO audit_logs (created_at, actor)
		SELECT truth.at(nextval('truth.tick')), (SELECT string_agg(md5(random()::text || i || j), '') FROM generate_series(1, 20000) j) FROM generate_series(1, $1) i RETURNING *)`+
		strings.ReplaceAll(insertTruth, "{t}", "audit_logs"), 2*batchSize)
	s.run(t, "plan")
	defer s.hurry(t)()
	for _, n := range []int{1, 100, 300, 500} {
		p := s.replica(t, at(fmt.Sprintf("upload:read@%d", n), "kill"))
		p.wait(t, time.Minute)
		require.True(t, p.killed(), "%d: %v", n, p.surprise())
		s.oracle.check(t)
	}
	s.drain(t)
}

// TestStopLongerThanLease stops a replica at each point for longer than its lease,
// while others take its batches over, and then lets all of them go on at once: what
// they still do must not matter, nor may what they hold keep the others waiting.
func TestStopLongerThanLease(t *testing.T) {
	t.Parallel()
	// So many replicas need more connections than the shared cluster has.
	cluster := testkit.Cluster(t, localserver.PostgresOptions{Settings: map[string]string{"max_connections": "400"}})
	// And each needs a seat, which a stopped one keeps until its lease has run out.
	s := newSite(t, options{source: testkit.Database(t, cluster), control: testkit.Database(t, cluster), concurrency: 100})
	s.fill(t, "audit_logs", 60*batchSize)
	s.run(t, "plan")
	defer s.hurry(t)()
	var stopped []*process
	for _, point := range points {
		if strings.HasPrefix(point, "split") || strings.HasPrefix(point, "resolve") {
			continue // no batch comes there by itself
		}
		stopped = append(stopped, s.replica(t, at(point, "stop")))
	}
	testkit.Eventually(t, time.Minute, func() bool {
		return s.control.Int(t, `SELECT count(*) FROM archiver.worker WHERE lease_until > now()`) == 0 &&
			s.control.Int(t, `SELECT count(*) FROM archiver.worker`) > 0
	}, "all replicas are stopped")
	s.oracle.check(t)
	s.run(t, "work", "--drain", "--drain-patience", "30s")
	s.oracle.check(t)
	for _, p := range stopped {
		p.signal(syscall.SIGCONT)
	}
	for _, p := range stopped {
		p.wait(t, 20*time.Second)
		require.True(t, p.lostLease(), p.surprise())
	}
	f := s.drain(t)
	require.EqualValues(t, 60, f.objects)
}
