package throttle

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/source"
)

// scripted answers as it is told and counts what it is asked. What real servers answer
// is tested in package source; here it is what becomes of an answer.
type scripted struct {
	mu             sync.Mutex
	standby, slot  source.Lag
	sessions       int64
	positive       bool
	answer         string
	err            error
	asked          int
	hold, arrived  chan struct{}
	lastDeadlineIn time.Duration
}

func (s *scripted) note(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if at, ok := ctx.Deadline(); ok {
		s.lastDeadlineIn = time.Until(at)
	}
	return s.err
}

func (s *scripted) StandbyLag(ctx context.Context) (source.Lag, error) { return s.standby, s.note(ctx) }

func (s *scripted) SlotLag(ctx context.Context) (source.Lag, error) { return s.slot, s.note(ctx) }

func (s *scripted) ActiveSessions(ctx context.Context) (int64, error) {
	err := s.note(ctx)
	if s.hold != nil {
		s.arrived <- struct{}{}
		<-s.hold
	}
	return s.sessions, err
}

func (s *scripted) Ask(ctx context.Context, _ string) (bool, string, error) {
	return s.positive, s.answer, s.note(ctx)
}

func TestOneReason(t *testing.T) {
	t.Parallel()
	const mb = 1 << 20
	all := config.Throttle{MaxStandbyLagMB: 64, MaxSlotLagMB: 1024, MaxActiveSessions: 40, Query: "SELECT 1"}
	for name, c := range map[string]struct {
		throttle config.Throttle
		src      *scripted
		want     string // empty: go on
	}{
		"nothing set":  {config.Throttle{}, &scripted{standby: source.Lag{Name: "s", Bytes: 1 << 40}, sessions: 999, positive: true}, ""},
		"at the limit": {all, &scripted{standby: source.Lag{Name: "s", Bytes: 64 * mb}, slot: source.Lag{Name: "s", Bytes: 1024 * mb}, sessions: 40}, ""},
		"nobody there": {all, &scripted{standby: source.Lag{Bytes: -1}, slot: source.Lag{Bytes: -1}}, ""},
		"standby":      {all, &scripted{standby: source.Lag{Name: "replica1", Bytes: 812*mb + 5}, sessions: 99}, "throttle: standby replica1 is 812 MB behind (max_standby_lag_mb 64)"},
		"slot":         {all, &scripted{slot: source.Lag{Name: "cdc", Bytes: 2000 * mb}, sessions: 99}, "throttle: replication slot cdc holds back 2000 MB of WAL (max_slot_lag_mb 1024)"},
		"sessions":     {all, &scripted{sessions: 57}, "throttle: 57 sessions are active (max_active_sessions 40)"},
		"query":        {all, &scripted{positive: true, answer: "3"}, "throttle: the query says 3 (query)"},
		"blind":        {all, &scripted{err: &source.HiddenError{What: "the lag of its standbys", Role: "archiver"}}, `throttle: nothing is archived while max_standby_lag_mb cannot be looked at: role archiver cannot see the lag of its standbys (hint: GRANT pg_monitor TO "archiver")`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wait, err := (&Gate{}).Check(t.Context(), config.Table{Database: "main", Throttle: c.throttle}, c.src)
			require.NoError(t, err)
			if c.want == "" {
				require.Nil(t, wait)
				return
			}
			require.Equal(t, &Wait{Reason: c.want, After: lookAgain}, wait)
		})
	}
}

// TestWindowsByTheGivenClock: the gate closes and opens as the clock goes on, and asks the
// source nothing while it is closed.
func TestWindowsByTheGivenClock(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 15, 21, 0, 0, 0, time.UTC)
	g := &Gate{Now: func(context.Context) (time.Time, error) { return now, nil }}
	src := &scripted{}
	table := config.Table{Throttle: config.Throttle{Windows: []config.Window{{Start: 22 * 60, End: 5 * 60}}, MaxActiveSessions: 1}}
	wait, err := g.Check(t.Context(), table, src)
	require.NoError(t, err)
	require.Equal(t, &Wait{Reason: "throttle: outside of windows 22:00-05:00, until 2026-01-15T22:00:00Z", After: HoldAtMost}, wait)
	now = time.Date(2026, 1, 15, 21, 59, 50, 0, time.UTC)
	wait, err = g.Check(t.Context(), table, src)
	require.NoError(t, err)
	require.Equal(t, 10*time.Second, wait.After)
	require.Zero(t, src.asked)
	now = now.Add(10 * time.Second)
	wait, err = g.Check(t.Context(), table, src)
	require.NoError(t, err)
	require.Nil(t, wait)
	require.Equal(t, 1, src.asked)

	g.Now = func(context.Context) (time.Time, error) { return now, errors.New("away") }
	_, err = g.Check(t.Context(), table, src)
	require.ErrorContains(t, err, "away", "the control database is away, which is no reason of the throttle")
}

// TestAnswersAreShared: many batches at the same time ask once.
func TestAnswersAreShared(t *testing.T) {
	t.Parallel()
	src := &scripted{sessions: 9, hold: make(chan struct{}), arrived: make(chan struct{})}
	g := &Gate{}
	table := config.Table{Database: "main", Throttle: config.Throttle{MaxActiveSessions: 1}}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			wait, err := g.Check(t.Context(), table, src)
			if err != nil || wait == nil {
				t.Errorf("got %v, %v", wait, err)
			}
		})
	}
	<-src.arrived
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := g.Check(cancelled, table, src)
	require.ErrorIs(t, err, context.Canceled, "one who waits for the answer can give up")
	close(src.hold)
	all.Wait()
	require.Equal(t, 1, src.asked)
	require.LessOrEqual(t, src.lastDeadlineIn, patience)

	// Another database's answer is another one.
	src.hold = nil
	table.Database = "other"
	_, err = g.Check(t.Context(), table, src)
	require.NoError(t, err)
	require.Equal(t, 2, src.asked)
}

// TestAwayIsNoReason: a source that is away is an outage, and is asked again at once.
func TestAwayIsNoReason(t *testing.T) {
	t.Parallel()
	src := &scripted{err: &source.StandbyError{}}
	g := &Gate{}
	table := config.Table{Throttle: config.Throttle{MaxActiveSessions: 1}}
	for n := range 2 {
		wait, err := g.Check(t.Context(), table, src)
		require.Nil(t, wait)
		require.Equal(t, source.Unavailable, source.Classify(err))
		require.Equal(t, n+1, src.asked)
	}
}
