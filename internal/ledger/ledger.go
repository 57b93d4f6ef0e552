package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// State is the stage that a batch has durably reached.
type State string

// The states of a batch; see the package comment for the transitions.
const (
	Planned   State = "planned"
	Verified  State = "verified"
	Deleting  State = "deleting"
	Archived  State = "archived"
	Empty     State = "empty"
	Cancelled State = "cancelled"
)

// Final says that nothing will happen to the batch any more.
func (s State) Final() bool {
	switch s {
	case Archived, Empty, Cancelled:
		return true
	case Planned, Verified, Deleting:
		return false
	}
	return false
}

// ObjectState is what became of an object that was verified.
type ObjectState string

// The states of an object.
const (
	ObjectVerified   ObjectState = "verified"   // read back whole; rows still in the table
	ObjectCommitted  ObjectState = "committed"  // its rows are deleted
	ObjectDiscarded  ObjectState = "discarded"  // rows changed before the delete; nothing was deleted
	ObjectSuperseded ObjectState = "superseded" // may hold the only copy of a row; never offered for clean-up
)

// ErrStale says that another try at the batch has taken over, or that it reached
// a state in which the change makes no sense. The caller must stop; nothing was
// changed.
var ErrStale = errors.New("another attempt has taken over this batch")

// ErrNotFound says that the ledger holds no such batch.
var ErrNotFound = errors.New("no such batch in the ledger")

// Ledger reads and writes the ledger in one control schema.
type Ledger struct {
	Pool   *pgxpool.Pool
	schema string // quoted
	name   string
}

// New returns the ledger in schema. It does not connect.
func New(pool *pgxpool.Pool, schema string) *Ledger {
	return &Ledger{Pool: pool, schema: pgx.Identifier{schema}.Sanitize(), name: schema}
}

// Schema is the plain name of the control schema.
func (l *Ledger) Schema() string { return l.name }

// SQL puts the control schema where the text says {s}. The search_path is not
// used for that: behind PgBouncer it could be another client's.
func (l *Ledger) SQL(text string) string { return strings.ReplaceAll(text, "{s}", l.schema) }

// querier is what both a pool and a transaction offer.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// begin makes a commit durable, whatever the role, the database or the server says:
// with synchronous_commit = off a control database that crashes could forget that a
// delete was begun, of rows that are gone for good. And it bounds how long a
// transaction may lie idle. A replica that is stopped or cut off between two statements
// would else keep its row locks, and with that of the table's row keep the whole fleet
// from recording a batch. SET LOCAL is safe behind PgBouncer; it takes no round trip of
// its own.
// Nor does it wait for ever for a row that a forgotten session has locked.
const begin = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on; SET LOCAL idle_in_transaction_session_timeout = '5s'; SET LOCAL lock_timeout = '10s'"

// InTx runs fn in a transaction of the control database, and commits unless fn
// returns an error. A replica that stops for more than 5 s inside it loses it.
func (l *Ledger) InTx(ctx context.Context, fn func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, l.Pool, pgx.TxOptions{BeginQuery: begin}, fn)
}

// ID names this ledger among all; advisory locks are derived from it.
func (l *Ledger) ID(ctx context.Context) (string, error) {
	var id string
	err := l.Pool.QueryRow(ctx, l.SQL(`SELECT id::text FROM {s}.ledger`)).Scan(&id)
	if err != nil {
		return "", fmt.Errorf("read the ledger's id: %w", err)
	}
	return id, nil
}

// Now is the control database's clock.
func (l *Ledger) Now(ctx context.Context) (time.Time, error) {
	var t time.Time
	err := l.Pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&t)
	return t, err
}
