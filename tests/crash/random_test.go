package crash

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRandomKills kills replicas and planners at random moments and points, while
// the audit tables are written to, locked, rewritten and changed.
func TestRandomKills(t *testing.T) {
	t.Parallel()
	kills := int64(40)
	if text := os.Getenv("ARCHIVER_KILLS"); text != "" {
		var err error
		kills, err = strconv.ParseInt(text, 10, 64)
		require.NoError(t, err, "ARCHIVER_KILLS")
	}
	began, seed := time.Now(), seed(t)
	s := newSite(t, options{})
	s.fill(t, "audit_logs", 40*batchSize)
	s.fill(t, "parted", 40*batchSize)
	s.run(t, "plan")
	stopHurry := s.hurry(t)
	all, stopMutators := mutate(t, seed, 2, s.source.DSN)
	f := s.launch(t.Context(), seed, 3, kills)
	ended := make(chan error, 1)
	go func() { ended <- f.wait() }()
	var err error
	for going := true; going; {
		s.oracle.check(t)
		select {
		case err = <-ended:
			going = false
		case <-time.After(300 * time.Millisecond):
		}
	}
	require.NoError(t, err)
	stopMutators()
	stopHurry()
	// A batch that came to five of the errors that were strewn in waits for an operator.
	if n := s.control.Int(t, `SELECT count(*) FROM archiver.batch WHERE failed`); n > 0 {
		t.Logf("%d batches have failed", n)
		s.run(t, "jobs", "retry", "--failed")
	}
	at := s.drain(t)
	s.report(t, began, f, all, at)
	for _, m := range all {
		require.Positive(t, m.done.Load(), "no change was made: %v", m.trouble())
	}
}
