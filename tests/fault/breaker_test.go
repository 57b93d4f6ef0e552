package fault

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// outage is a store that fails every request while it is down, and counts them all.
type outage struct {
	next     http.RoundTripper
	down     atomic.Bool
	requests atomic.Int64
}

func (o *outage) RoundTrip(r *http.Request) (*http.Response, error) {
	o.requests.Add(1)
	if o.down.Load() {
		return answer(http.StatusServiceUnavailable, "SlowDown")(r, o.next)
	}
	return o.next.RoundTrip(r)
}

func (o *outage) through(c *objstore.Config) {
	c.Transport = func(next http.RoundTripper) http.RoundTripper { o.next = next; return o }
}

// why is the reason that status gives for what is queued of the table audit_logs.
func (s *site) why() string {
	s.t.Helper()
	standing, err := fleet.ReadStanding(s.t.Context(), s.ledger, s.ledger.Pool)
	require.NoError(s.t, err)
	return standing.Why("main", "public", "audit_logs")
}

// TestOpenBreaker takes storage away for longer than the breaker's recovery. While it is
// open no batch begins: no row is read, no attempt begun, and one request is sent each
// time to see whether storage is back.
func TestOpenBreaker(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", "audit_logs")
	const recovery = 2 * time.Second
	s.cfg.S3.CircuitBreaker = config.CircuitBreaker{FailureThreshold: 5, RecoveryTimeout: recovery}
	s.fill("audit_logs", 300, 1)
	s.plan("audit_logs")
	o := &outage{}
	o.down.Store(true)
	s.work(ways{store: o.through})
	testkit.Eventually(t, 20*time.Second, func() bool {
		return s.control.Int(t, `SELECT count(*) FROM archiver.worker WHERE held_for LIKE 'breaker open: storage failed 5 times in a row, no request is sent until %'`) == 1
	}, "the breaker opens")
	// Those that were at work have come back, and what was admitted waits again.
	testkit.Eventually(t, 20*time.Second, func() bool {
		return s.control.Int(t, `SELECT count(*) FROM archiver.river_job WHERE state IN ('available', 'running')`) == 0
	}, "no batch holds a seat")
	require.Contains(t, s.why(), "breaker open: storage failed ")

	begun := func() int64 { return s.control.Int(t, `SELECT sum(attempt)::bigint FROM archiver.batch`) }
	before, sent, from := begun(), o.requests.Load(), time.Now()
	testkit.Eventually(t, 20*time.Second, func() bool { return o.requests.Load() >= sent+2 }, "storage is asked again")
	require.GreaterOrEqual(t, time.Since(from), recovery, "two requests, and the whole of one recovery between them")
	require.Equal(t, before, begun(), "a batch was begun for nothing")
	require.Zero(t, s.attempts("audit_logs"))
	require.EqualValues(t, 300, s.source.Int(t, `SELECT count(*) FROM audit_logs`))
	require.Contains(t, s.trouble("audit_logs"), "SlowDown")

	o.down.Store(false)
	s.settle("audit_logs")
	s.archived("audit_logs")
	require.Zero(t, s.attempts("audit_logs"))
	require.Zero(t, s.control.Int(t, `SELECT count(*) FROM archiver.worker WHERE held_for IS NOT NULL`))
}

// TestOneReplicaCutOff: of two replicas one loses its way to storage. The other does the
// work, and the first takes none of it.
func TestOneReplicaCutOff(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", "audit_logs")
	s.cfg.S3.CircuitBreaker = config.CircuitBreaker{FailureThreshold: 1, RecoveryTimeout: time.Hour}
	s.fill("audit_logs", 50, 1)
	o := &outage{}
	o.down.Store(true)
	s.plan("audit_logs")
	s.work(ways{store: o.through})
	testkit.Eventually(t, 20*time.Second, func() bool {
		return s.control.Int(t, `SELECT count(*) FROM archiver.worker WHERE held_for IS NOT NULL`) == 1
	}, "the breaker opens")
	sent := o.requests.Load()
	s.work(ways{})
	s.settle("audit_logs")
	s.archived("audit_logs")
	require.Zero(t, s.attempts("audit_logs"))
	require.LessOrEqual(t, o.requests.Load()-sent, int64(20), "those that were on their way when it opened")
}
