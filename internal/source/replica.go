package source

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/audit-table-archiver/archiver/internal/config"
)

// The servers that rows are read from.
const (
	Primary     = "primary"
	ReadReplica = "replica"
)

const (
	// lookTimeout is how long a server may take to say where it stands.
	lookTimeout = 3 * time.Second // also of a connection to the replica
	// replayPatience is how long the replica is waited for that is a moment behind. A
	// batch often begins right after the delete of the one before it, which no standby
	// has replayed by then.
	replayPatience = 5 * time.Second
	replayPoll     = 20 * time.Millisecond
	// awayFor is how long a replica that did not answer is not asked again: an address
	// that swallows packets would cost each batch the time to connect.
	awayFor = 10 * time.Second
)

// replica is the pool to the read replica, and whether it was there.
type replica struct {
	pool *pgxpool.Pool
	mu   sync.Mutex
	away error // why it did not answer, for awayFor
}

// ReplicaTrouble is why rows are not read from the replica.
type ReplicaTrouble string

// What keeps a replica from being read, and how a read there can end.
const (
	ReplicaAway      ReplicaTrouble = "away"       // it does not answer
	ReplicaUnfit     ReplicaTrouble = "unfit"      // no standby of this primary, or on another history
	ReplicaLags      ReplicaTrouble = "lags"       // by more than max_replica_lag_mb
	ReplicaBehind    ReplicaTrouble = "behind"     // the table's last delete is not replayed there
	ReplicaConflict  ReplicaTrouble = "conflict"   // it cancelled the read: recovery went first
	ReplicaRefuses   ReplicaTrouble = "refuses"    // any other error of the read there
	ReplicaOtherRows ReplicaTrouble = "other rows" // what was read there is not what the primary holds
	ReplicaOtherForm ReplicaTrouble = "other form" // the table is not defined there as on the primary
)

// ReplicaError says why the read replica was not, or not any more, to be read. Nothing
// is known from it about the primary.
type ReplicaError struct {
	Database string
	Trouble  ReplicaTrouble
	Detail   string
	Err      error // may be nil
}

func (e *ReplicaError) Error() string {
	text := "the read replica of database " + e.Database + " " + e.Detail
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *ReplicaError) Unwrap() error { return e.Err }

// Hint is the next thing to do.
func (e *ReplicaError) Hint() string {
	switch e.Trouble {
	case ReplicaUnfit:
		return "let read_replica name a standby that follows the primary, or take it out"
	case ReplicaConflict:
		return "set hot_standby_feedback = on on the replica or raise its max_standby_streaming_delay, or set replica_fallback: primary"
	case ReplicaOtherRows:
		return "if this stays, rebuild the standby from a base backup, or set replica_fallback: primary"
	case ReplicaAway, ReplicaLags, ReplicaBehind, ReplicaRefuses, ReplicaOtherForm:
	}
	return "batches go on by themselves when it is fit; or set replica_fallback: primary"
}

// fitness is what a replica must be to be read.
type fitness struct {
	Identity     // of the primary
	floor    lsn // replayed at least up to here
}

// standing is where a server says that it stands.
type standing struct {
	Identity
	standby  bool
	known    bool // replayed is
	replayed lsn
	feedback bool   // hot_standby_feedback
	delay    string // max_standby_streaming_delay
}

// HasReplica says whether a read replica is configured.
func (d *DB) HasReplica() bool { return d.replica != nil }

// Role is the server that this DB reads from: Primary, or ReadReplica for a view.
func (d *DB) Role() string {
	if d.view != nil {
		return ReadReplica
	}
	return Primary
}

// Reader returns where rows of a table are to be read now: a view of the replica if
// there is one and it is fit, else the primary if the table's replica_fallback says so,
// together with the reason. With replica_fallback wait that reason is the error.
//
// A fit replica is a standby in recovery, of the primary's system identifier, on its
// timeline, at most max_replica_lag_mb behind it, and has replayed everything up to each
// of the positions after. One of these must be the end of the table's last recorded
// delete: rows that an earlier batch has archived would else be read once more, and if a
// crash leaves it unknown whether they were deleted, they would be found gone.
func (d *DB) Reader(ctx context.Context, c config.Table, after ...string) (from *DB, not *ReplicaError, err error) {
	if d.replica == nil {
		return d, nil, nil
	}
	from, err = d.fitReplica(doing(ctx, "look at the replica", c), c.MaxReplicaLagMB, after)
	if errors.As(err, &not) && c.ReplicaFallback == config.ReplicaFallbackPrimary {
		return d, not, nil
	}
	return from, not, err
}

func (d *DB) fitReplica(ctx context.Context, maxLagMB int, after []string) (*DB, error) {
	var need lsn
	for _, a := range after {
		position, err := parseLSN(a)
		if err != nil {
			return nil, err
		}
		need = max(need, position)
	}
	patience := time.NewTimer(replayPatience)
	defer patience.Stop()
	tick := time.NewTicker(replayPoll)
	defer tick.Stop()
	for {
		// The replica first: what it has replayed the primary has written by the time
		// that it is asked.
		s, err := d.lookAtReplica(ctx)
		if err != nil {
			return nil, err
		}
		primary, now, err := d.position(ctx)
		if err != nil {
			return nil, err
		}
		// A position beyond the primary's own end was lost in a failover, with the delete;
		// every other one is before that end. It is kept from the first look: the end of a
		// primary that is written to is always ahead of what its standby has replayed.
		need = min(need, now)
		not := s.unfit(d.Name, primary)
		if not == nil {
			not = s.behind(d.Name, now, need, maxLagMB)
		}
		if not == nil {
			floor := max(need, now-min(now, megabytes(maxLagMB)))
			return &DB{Name: d.Name, Pool: d.replica.pool, view: &fitness{primary, floor}}, nil
		}
		if not.Trouble != ReplicaBehind {
			return nil, not
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-patience.C:
			return nil, not
		case <-tick.C:
		}
	}
}

func megabytes(n int) lsn { return lsn(n) << 20 }

// unfit says why a server is no standby of the primary, or nil.
func (s *standing) unfit(database string, primary Identity) *ReplicaError {
	var detail string
	switch {
	case !s.standby:
		detail = "is not in recovery: it was promoted, or its address leads to a primary"
	case s.SystemID != primary.SystemID:
		detail = fmt.Sprintf("is a standby of another system (identifier %s, the primary's is %s)", s.SystemID, primary.SystemID)
	case !s.known:
		detail = "does not say what it has replayed"
	case s.Timeline != primary.Timeline:
		detail = fmt.Sprintf("follows timeline %s, and the primary is on %s", strings.TrimLeft(s.Timeline, "0"), strings.TrimLeft(primary.Timeline, "0"))
	default:
		return nil
	}
	return &ReplicaError{Database: database, Trouble: ReplicaUnfit, Detail: detail}
}

// behind says what a standby has still to replay, or nil. now is the end of the
// primary's WAL at a later moment than s.
func (s *standing) behind(database string, now, need lsn, maxLagMB int) *ReplicaError {
	switch {
	case s.replayed > now:
		return &ReplicaError{Database: database, Trouble: ReplicaUnfit, Detail: "is ahead of the primary: it follows another history"}
	case now-s.replayed > megabytes(maxLagMB):
		return &ReplicaError{
			Database: database, Trouble: ReplicaLags,
			Detail: fmt.Sprintf("is %.1f MB behind the primary, more than max_replica_lag_mb (%d)", float64(now-s.replayed)/(1<<20), maxLagMB),
		}
	case s.replayed < min(need, now):
		return &ReplicaError{Database: database, Trouble: ReplicaBehind, Detail: "has not replayed the last change of the table that the archiver knows of"}
	}
	return nil
}

// standingSQL asks a server where it stands. The timeline that a standby replays has no
// function of its own: the receiver knows it at once but tells only members of
// pg_read_all_stats, the control file follows. Each is at most the one that is replayed
// or about to be.
const standingSQL = `SELECT s.system_identifier::text, pg_catalog.pg_is_in_recovery(),
	pg_catalog.lpad(pg_catalog.upper(pg_catalog.to_hex(greatest(c.timeline_id, r.min_recovery_end_timeline, (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver)))), 8, '0'),
	coalesce(pg_catalog.pg_last_wal_replay_lsn()::text, ''),
	pg_catalog.current_setting('hot_standby_feedback')::boolean, pg_catalog.current_setting('max_standby_streaming_delay')
	FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_checkpoint() c, pg_catalog.pg_control_recovery() r`

func (c *conn) standing(ctx context.Context) (*standing, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookTimeout, fmt.Errorf("no answer within %s", lookTimeout))
	defer cancel()
	var s standing
	var replayed string
	err := c.QueryRow(ctx, standingSQL).Scan(&s.SystemID, &s.standby, &s.Timeline, &replayed, &s.feedback, &s.delay)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	s.known = replayed != ""
	s.replayed, err = parseLSN(replayed)
	return &s, err
}

// lookAtReplica asks the replica where it stands. An error is a *ReplicaError unless ctx
// has ended.
func (d *DB) lookAtReplica(ctx context.Context) (*standing, error) {
	err := d.replica.gone()
	if err == nil {
		var s *standing
		if s, err = d.replica.look(ctx); err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		d.replica.keepAway(err)
	}
	return nil, &ReplicaError{Database: d.Name, Trouble: ReplicaAway, Detail: "does not answer", Err: err}
}

// look asks over a connection of the pool, and over a fresh one should that have been cut:
// after a restart of the replica all of them are.
func (r *replica) look(ctx context.Context) (*standing, error) {
	s, err := r.ask(ctx)
	var connect *pgconn.ConnectError
	if err == nil || ctx.Err() != nil || errors.As(err, &connect) {
		return s, err
	}
	r.pool.Reset()
	return r.ask(ctx)
}

func (r *replica) ask(ctx context.Context) (*standing, error) {
	c, err := r.pool.Acquire(ctx) // waits for one of the pool's; to connect has a limit of its own
	if err != nil {
		return nil, err
	}
	defer c.Release()
	return newConn(ctx, c.Conn()).standing(ctx)
}

func (r *replica) gone() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.away
}

func (r *replica) keepAway(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = err
	time.AfterFunc(awayFor, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.away = nil
	})
}

// position is the primary's identity and the end of its WAL.
func (d *DB) position(ctx context.Context) (id Identity, at lsn, err error) {
	var text string
	err = d.inTx(ctx, readOnly, "", func(t *tx) error {
		if id, err = t.identity(ctx); err != nil {
			return err
		}
		return t.conn.QueryRow(ctx, `SELECT pg_current_wal_lsn()::text`).Scan(&text)
	})
	if err != nil {
		return id, 0, fmt.Errorf("read the WAL position of database %s: %w", d.Name, err)
	}
	at, err = parseLSN(text)
	return id, at, err
}

// WALPosition is the end of the primary's WAL: what was committed before lies before it.
func (d *DB) WALPosition(ctx context.Context) (string, error) {
	_, at, err := d.position(ctx)
	return fmt.Sprintf("%X/%X", uint64(at>>32), uint64(at&0xFFFFFFFF)), err
}

// stillFit looks once more, on the connection that is about to be read from.
func (d *DB) stillFit(ctx context.Context, c *conn) error {
	s, err := c.standing(ctx)
	if err != nil {
		return &ReplicaError{Database: d.Name, Trouble: ReplicaAway, Detail: "does not answer", Err: err}
	}
	if not := s.unfit(d.Name, d.view.Identity); not != nil {
		return not
	}
	if s.replayed < d.view.floor {
		return &ReplicaError{Database: d.Name, Trouble: ReplicaBehind, Detail: "has replayed less than a moment ago: its address leads to several standbys"}
	}
	return nil
}

// identityOf is the identity of the primary, also in a view of the replica: the delete
// will compare it with the server that it runs on.
func (d *DB) identityOf(ctx context.Context, t *tx) (Identity, error) {
	if d.view != nil {
		return d.view.Identity, nil
	}
	return t.identity(ctx)
}

// blameReplica makes a *ReplicaError of an error that the replica or the way to it is to
// blame for. What the rows themselves cause (class 22), what the reader of the rows says,
// and a time limit of the batch are no faults of the replica.
func (d *DB) blameReplica(ctx context.Context, err error) error {
	var already *ReplicaError
	if err == nil || ctx.Err() != nil || errors.As(err, &already) {
		return err
	}
	not := &ReplicaError{Database: d.Name, Trouble: ReplicaRefuses, Detail: "ended the read", Err: err}
	var pg *pgconn.PgError
	var rekeyed *KeyChangedError
	var missing *NotFoundError
	switch {
	case errors.As(err, &pg):
		switch {
		case pg.Code == "40001" || pg.Code == "40P01":
			not.Trouble, not.Detail = ReplicaConflict, "cancelled the read, which stood in the way of replaying WAL"
		case pg.Code == "57014" || strings.HasPrefix(pg.Code, "22"):
			return err
		case Classify(err) == Unavailable:
			not.Trouble, not.Detail = ReplicaAway, "went away during the read"
		}
	case errors.As(err, &rekeyed), errors.As(err, &missing):
		not.Trouble, not.Detail = ReplicaOtherForm, "has another definition of the table"
	case Classify(err) == Unavailable:
		not.Trouble, not.Detail = ReplicaAway, "went away during the read"
	default:
		return err
	}
	return not
}

// ReplicaReport is what an operator wants to know about a replica.
type ReplicaReport struct {
	LagBytes int64
	Feedback bool   // hot_standby_feedback: vacuum on the primary spares what is read here
	Delay    string // max_standby_streaming_delay: how long a read may hold up replay
}

// InspectReplica looks whether the replica is a standby of the primary, and how far
// behind. What keeps it from being read at all is a *ReplicaError.
func (d *DB) InspectReplica(ctx context.Context) (ReplicaReport, error) {
	s, err := d.lookAtReplica(ctx)
	if err != nil {
		return ReplicaReport{}, err
	}
	primary, now, err := d.position(ctx)
	if err != nil {
		return ReplicaReport{}, err
	}
	not := s.unfit(d.Name, primary)
	if not == nil {
		not = s.behind(d.Name, now, 0, math.MaxInt32)
	}
	if not != nil {
		return ReplicaReport{}, not
	}
	return ReplicaReport{LagBytes: int64(now - s.replayed), Feedback: s.feedback, Delay: s.delay}, nil
}
