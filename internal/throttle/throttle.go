package throttle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/source"
)

const (
	// lookAgain is how long a table is held before what holds it is looked at again.
	lookAgain = 5 * time.Second
	// HoldAtMost is the same for what ends at a known time: the configuration may be
	// changed meanwhile.
	HoldAtMost = time.Minute
	// keep is how long an answer is good for.
	keep = time.Second
	// patience is how long an answer may take, a connection to ask on included.
	patience = 10 * time.Second
)

// Wait says that the table must not go on now.
type Wait struct {
	Reason string        // such as "throttle: 57 sessions are active (max_active_sessions 40)"
	After  time.Duration // when to look again
}

// Source answers what can be asked about a source's load; *source.DB does.
type Source interface {
	StandbyLag(context.Context) (source.Lag, error)
	SlotLag(context.Context) (source.Lag, error)
	ActiveSessions(context.Context) (int64, error)
	Ask(ctx context.Context, query string) (positive bool, answer string, err error)
}

// Gate is asked before each step of a batch. It serves all batches of a process.
type Gate struct {
	// Now is the clock that windows go by.
	Now func(context.Context) (time.Time, error)

	mu      sync.Mutex
	answers map[question]*answer
}

// question is what is asked of a database; query is empty but for an operator's.
type question struct{ database, about, query string }

// answer is the last one that was given. Whoever holds turn may ask anew.
type answer struct {
	turn  chan struct{}
	at    time.Time
	value reading
}

// reading is a number with the words around it, or why there is none.
type reading struct {
	n    int64
	text string
	err  error
}

// Check returns nil if the table may go on, and otherwise the first reason against it.
// An error means that a database is out of reach.
func (g *Gate) Check(ctx context.Context, t config.Table, db Source) (*Wait, error) {
	if len(t.Throttle.Windows) > 0 {
		if wait, err := g.windows(ctx, t.Throttle.Windows); wait != nil || err != nil {
			return wait, err
		}
	}
	for _, l := range limits(t, db) {
		wait, err := g.limit(ctx, l)
		if wait != nil || err != nil {
			return wait, err
		}
	}
	return nil, nil
}

func (g *Gate) windows(ctx context.Context, windows []config.Window) (*Wait, error) {
	now, err := g.Now(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask for the time: %w", err)
	}
	open, next, err := Open(windows, now)
	if err != nil {
		return &Wait{Reason: "throttle: " + err.Error(), After: HoldAtMost}, nil //nolint:nilerr // it is the reason to wait
	}
	if open {
		return nil, nil
	}
	return &Wait{
		Reason: fmt.Sprintf("throttle: outside of windows %s, until %s", names(windows), next.UTC().Format(time.RFC3339)),
		After:  min(next.Sub(now), HoldAtMost),
	}, nil
}

// limit is one key that bounds one number.
type limit struct {
	key  string
	set  string // the key and its value, for a reader
	most int64  // more than this holds the table
	q    question
	read func(context.Context) reading
}

// limits lists those that are set.
func limits(t config.Table, db Source) []limit {
	var all []limit
	add := func(key string, value int, unit int64, read func(context.Context) reading) {
		if value > 0 {
			all = append(all, limit{key, fmt.Sprintf("%s %d", key, value), int64(value) * unit, question{t.Database, key, ""}, read})
		}
	}
	lag := func(ask func(context.Context) (source.Lag, error), format string) func(context.Context) reading {
		return func(ctx context.Context) reading {
			l, err := ask(ctx)
			return reading{l.Bytes, fmt.Sprintf(format, l.Name, l.Bytes/mebibyte), err}
		}
	}
	add("max_standby_lag_mb", t.Throttle.MaxStandbyLagMB, mebibyte, lag(db.StandbyLag, "standby %s is %d MB behind"))
	add("max_slot_lag_mb", t.Throttle.MaxSlotLagMB, mebibyte, lag(db.SlotLag, "replication slot %s holds back %d MB of WAL"))
	add("max_active_sessions", t.Throttle.MaxActiveSessions, 1, func(ctx context.Context) reading {
		n, err := db.ActiveSessions(ctx)
		return reading{n, fmt.Sprintf("%d sessions are active", n), err}
	})
	if query := t.Throttle.Query; query != "" {
		all = append(all, limit{"query", "query", 0, question{t.Database, "query", query}, func(ctx context.Context) reading {
			positive, said, err := db.Ask(ctx, query)
			r := reading{0, "the query says " + said, err}
			if positive {
				r.n = 1
			}
			return r
		}})
	}
	return all
}

const mebibyte = 1 << 20

func (g *Gate) limit(ctx context.Context, l limit) (*Wait, error) {
	r, err := g.ask(ctx, l.q, l.read)
	switch {
	case err != nil:
		return nil, err
	case r.err != nil:
		reason := fmt.Sprintf("throttle: nothing is archived while %s cannot be looked at: %v", l.key, r.err)
		if hidden := (*source.HiddenError)(nil); errors.As(r.err, &hidden) {
			reason += " (hint: " + hidden.Hint() + ")"
		}
		return &Wait{Reason: reason, After: lookAgain}, nil
	case r.n <= l.most:
		return nil, nil
	}
	return &Wait{Reason: fmt.Sprintf("throttle: %s (%s)", r.text, l.set), After: lookAgain}, nil
}

// ask returns the last answer if it is fresh, and else asks; one at a time, while others
// wait for what that one learns. An error is returned, and not kept, when the database is
// away or the caller has given up.
func (g *Gate) ask(ctx context.Context, q question, read func(context.Context) reading) (reading, error) {
	a := g.answer(q)
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return reading{}, ctx.Err()
	}
	defer func() { <-a.turn }()
	if time.Since(a.at) < keep {
		return a.value, nil
	}
	bounded, cancel := context.WithTimeoutCause(ctx, patience, errors.New("no answer"))
	defer cancel()
	r := read(bounded)
	if r.err != nil && (ctx.Err() != nil || source.Classify(r.err) == source.Unavailable) {
		return reading{}, r.err
	}
	a.at, a.value = time.Now(), r
	return r, nil
}

func (g *Gate) answer(q question) *answer {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.answers == nil {
		g.answers = map[question]*answer{}
	}
	a := g.answers[q]
	if a == nil {
		a = &answer{turn: make(chan struct{}, 1)}
		g.answers[q] = a
	}
	return a
}
