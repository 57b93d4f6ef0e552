package fleet_test

import (
	"context"
	"net"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// control is a migrated control database.
func control(t *testing.T) (*testkit.DB, *ledger.Ledger) {
	t.Helper()
	q := newQueue(t)
	return q.db, q.Ledger
}

// TestBury has jobs run on workers of every kind: those of the dead come back, with
// the attempt that they had spent, and nobody else's are touched.
func TestBury(t *testing.T) {
	t.Parallel()
	db, l := control(t)
	db.Exec(t, `INSERT INTO archiver.worker (id, host, pid, version, lease_until)
		VALUES ('alive', '', 1, '', now() + interval '30 seconds'), ('dead', '', 2, '', now() - interval '2 seconds')`)
	cases := []struct {
		name, kind, state string
		takenBy           []string
		age               time.Duration // since it was taken
		back              bool
	}{
		{"on a live worker", "archive_batch", "running", []string{"alive"}, time.Hour, false},
		{"on a live worker, before that on a dead one", "archive_batch", "running", []string{"dead", "alive"}, time.Hour, false},
		{"on a worker whose lease has run out", "archive_batch", "running", []string{"dead"}, time.Hour, true},
		{"on a worker without a lease", "archive_batch", "running", []string{"gone"}, time.Hour, true},
		{"on a dead worker, before that on a live one", "archive_batch", "running", []string{"alive", "dead"}, time.Hour, true},
		// Ahead of the clock, so that the test need not be quick.
		{"taken at this moment", "archive_batch", "running", []string{"gone"}, -time.Hour, false},
		{"of another kind", "other", "running", []string{"gone"}, time.Hour, false},
		{"waiting for its next try", "archive_batch", "retryable", []string{"gone"}, time.Hour, false},
	}
	ids := make([]int64, len(cases))
	var want []int64
	for i, c := range cases {
		ids[i] = db.Int(t, `INSERT INTO archiver.river_job (kind, state, args, max_attempts, attempt, attempted_by, attempted_at, scheduled_at)
			VALUES ($1, $2, '{}', 5, 3, $3, now() - $4::interval, now() + interval '1 hour') RETURNING id`, c.kind, c.state, c.takenBy, c.age)
		if c.back {
			want = append(want, ids[i])
		}
	}
	lost, err := fleet.Bury(t.Context(), l)
	require.NoError(t, err)
	var got []int64
	for _, j := range lost {
		got = append(got, j.JobID)
	}
	require.ElementsMatch(t, want, got)
	n, err := fleet.Return(t.Context(), l, lost)
	require.NoError(t, err)
	require.Len(t, want, n)
	n, err = fleet.Return(t.Context(), l, lost)
	require.NoError(t, err)
	require.Zero(t, n, "they have moved on")
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			job := db.Text(t, `SELECT concat_ws(' ', state, attempt, CASE WHEN scheduled_at <= now() THEN 'due' END, errors[1]->>'error') FROM archiver.river_job WHERE id = $1`, ids[i])
			if c.back {
				require.Equal(t, "pending 2 due worker lost: "+c.takenBy[len(c.takenBy)-1], job)
			} else {
				state := c.state + " 3"
				if c.state == "retryable" {
					state = "pending 3 due" // as the trigger leaves it
				}
				require.Equal(t, state, job)
			}
		})
	}
	require.Equal(t, "alive", db.Text(t, `SELECT string_agg(id, ' ') FROM archiver.worker`))
}

// keep joins as a worker and keeps the lease until it is lost, or until stop is called,
// which the end of the test does too.
func keep(t *testing.T, l *ledger.Ledger, ttl time.Duration) (ended <-chan error, stop func()) {
	t.Helper()
	lease, err := fleet.Join(t.Context(), l, fleet.Worker{ID: "self"}, ttl)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	result, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		result <- lease.Keep(ctx)
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return result, stop
}

// TestKeepRenews: a replica that can reach the control database stays alive for longer
// than one lease, and ends without an error.
func TestKeepRenews(t *testing.T) {
	t.Parallel()
	db, l := control(t)
	ended, stop := keep(t, l, 6*time.Second)
	testkit.Eventually(t, 20*time.Second, func() bool {
		return db.Int(t, `SELECT count(*) FROM archiver.worker WHERE lease_until > started_at + interval '9 seconds'`) == 1
	}, "the lease is renewed")
	stop()
	require.NoError(t, <-ended)
}

func TestKeepEndsWhenTheLeaseIsTakenAway(t *testing.T) {
	t.Parallel()
	db, l := control(t)
	ended, _ := keep(t, l, time.Second)
	db.Exec(t, `DELETE FROM archiver.worker`)
	require.ErrorIs(t, within(t, ended, 20*time.Second), fleet.ErrLeaseLost)
}

// TestKeepEndsWhenCutOff has a replica lose the control database: it has to end by itself,
// since the others give its jobs away once the lease has run out.
func TestKeepEndsWhenCutOff(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]testkit.Fault{"refused": {Refuse: true}, "silent": {Cut: 1, Hold: true, Refuse: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, l, proxy := throughProxy(t)
			const ttl = 3 * time.Second
			ended, _ := keep(t, l, ttl)
			proxy.Set(fault)
			if !fault.Hold {
				proxy.Sever()
			}
			require.ErrorIs(t, within(t, ended, 2*ttl), fleet.ErrLeaseLost)
			proxy.Sever()
		})
	}
}

// TestKeepSurvivesASilentConnection: one that swallows what is sent, as when a firewall
// has forgotten it, costs a try and not the lease.
func TestKeepSurvivesASilentConnection(t *testing.T) {
	t.Parallel()
	db, l, proxy := throughProxy(t)
	ended, stop := keep(t, l, 8*time.Second)
	proxy.Set(testkit.Fault{Cut: 1, Hold: true})
	testkit.Eventually(t, 20*time.Second, func() bool {
		return db.Int(t, `SELECT count(*) FROM archiver.worker WHERE lease_until > started_at + interval '9 seconds'`) == 1
	}, "the lease is renewed over another")
	require.True(t, proxy.Struck(), "one was silent")
	proxy.Sever()
	stop()
	require.NoError(t, <-ended)
}

// TestKeepSurvivesSilentConnections: the same of all that are open, those that wait in the
// pool too.
func TestKeepSurvivesSilentConnections(t *testing.T) {
	t.Parallel()
	db, l, proxy := throughProxy(t)
	ended, stop := keep(t, l, 10*time.Second)
	var idle []*pgxpool.Conn
	for range 3 {
		c, err := l.Pool.Acquire(t.Context())
		require.NoError(t, err)
		idle = append(idle, c)
	}
	for _, c := range idle {
		c.Release()
	}
	testkit.Eventually(t, 20*time.Second, func() bool {
		return db.Int(t, `SELECT count(*) FROM archiver.worker WHERE lease_until > started_at + interval '11 seconds'`) == 1
	}, "the lease is renewed")
	proxy.Silence()
	testkit.Eventually(t, 20*time.Second, func() bool {
		return db.Int(t, `SELECT count(*) FROM archiver.worker WHERE lease_until > started_at + interval '18 seconds'`) == 1
	}, "the lease is renewed over a new one")
	proxy.Sever()
	stop()
	require.NoError(t, <-ended)
}

// TestKeepSurvivesARestart: a control database that is away at each of the two moments at
// which a lease is renewed as a rule, but comes back before it must be given up.
func TestKeepSurvivesARestart(t *testing.T) {
	t.Parallel()
	const ttl = 10 * time.Second
	db, l, proxy := throughProxy(t)
	began := time.Now()
	ended, stop := keep(t, l, ttl)
	proxy.Set(testkit.Fault{Refuse: true})
	proxy.Sever()
	testkit.Eventually(t, ttl, func() bool { return time.Since(began) > ttl*68/100 }, "two renewals have failed")
	proxy.Set(testkit.Fault{})
	testkit.Eventually(t, 20*time.Second, func() bool {
		return db.Int(t, `SELECT count(*) FROM archiver.worker WHERE lease_until > started_at + interval '14 seconds'`) == 1
	}, "the lease is renewed")
	stop()
	require.NoError(t, <-ended)
}

// throughProxy is a control database, and a ledger that reaches it through a proxy.
func throughProxy(t *testing.T) (*testkit.DB, *ledger.Ledger, *testkit.Proxy) {
	t.Helper()
	db, _ := control(t)
	proxy := testkit.NewProxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(db.Server.Port)))
	dsn, err := url.Parse(db.DSN)
	require.NoError(t, err)
	dsn.Host = proxy.Addr
	pool, err := pgxpool.New(t.Context(), dsn.String())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return db, ledger.New(pool, "archiver"), proxy
}

// within is what comes from a channel in some time.
func within(t *testing.T, ended <-chan error, limit time.Duration) error {
	t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		require.Fail(t, "the replica goes on")
		return nil
	}
}
