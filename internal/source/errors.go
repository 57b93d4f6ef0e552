package source

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// Trouble is the kind of an error from a source (or the control) database.
type Trouble int

// Kinds of trouble, by what should be done about them.
const (
	Unknown     Trouble = iota // an error of the batch: try again, a few times
	Unavailable                // the server is away or overloaded: wait, it costs no attempt
	Busy                       // a lock was not to be had: wait
	Changed                    // a row changed under our snapshot: read again
	Refused                    // rights, names, schema, foreign keys: a human must act
)

// Classify sorts an error by SQLSTATE, never by its text.
func Classify(err error) Trouble {
	var replica *ReplicaError
	if errors.As(err, &replica) {
		return Unavailable // whatever it was: the primary was not asked
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "40001":
			return Changed
		case "40P01", "55P03":
			return Busy
		case "57P01", "57P02", "57P03", "57P05", "53300", "25006", "25P03", "25P04", "58000", "58030":
			// Shutting down, crashed, starting, idle or session time-outs, no connection
			// left, read-only (a demoted primary), trouble below the server.
			return Unavailable
		case "42501", "42P01", "42703", "42704", "3F000", "23503", "28000", "28P01", "3D000":
			return Refused
		}
		if strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "53") {
			return Unavailable
		}
		return Unknown
	}
	var standby *StandbyError
	if errors.As(err, &standby) {
		return Unavailable
	}
	var connect *pgconn.ConnectError
	var netErr *net.OpError // not net.Error: a full disk's syscall.Errno is one too
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Unknown // the caller knows why it gave up
	case errors.As(err, &connect), errors.As(err, &netErr), pgconn.SafeToRetry(err), isCut(err):
		return Unavailable
	}
	return Unknown
}

// isCut says that a connection ended in the middle of a conversation.
func isCut(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNREFUSED)
}

// StandbyError says that what should be the primary is in recovery: it was demoted,
// or its name leads to a standby.
type StandbyError struct{}

func (e *StandbyError) Error() string {
	return "the server is a standby in recovery, not the primary"
}

// Hint is the next thing to do.
func (e *StandbyError) Hint() string {
	return "let databases[].host or url name the primary; batches go on by themselves once it does"
}
