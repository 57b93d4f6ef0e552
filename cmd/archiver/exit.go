package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/migrations"
	"github.com/audit-table-archiver/archiver/worker"
)

// Exit codes, as CONTRACT and docs/OPERATIONS.md give them. 2 is Go's own.
const (
	exitDone        = 0
	exitFailed      = 1
	exitPartly      = 3
	exitUsage       = 10
	exitNotMigrated = 11
	exitRefused     = 12
	exitUnreachable = 13
	exitInterrupted = 130
)

// exitHelp stands under every command's help.
const exitHelp = `
Exit codes:
  0    done
  1    failed
  3    done in part: some batches failed or were left, or some tables were refused
  10   bad configuration or usage
  11   the control database is not migrated
  12   a finding refuses the table
  13   a service cannot be reached
  130  interrupted`

// exitError carries an exit code and a hint with an error.
type exitError struct {
	code int
	err  error
	hint string
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }
func (e *exitError) Hint() string  { return e.hint }

// usage is an error in how a command was called.
func usage(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// usageError makes an error in how a command was called out of any error.
func usageError(err error) error {
	var coded *exitError
	if errors.As(err, &coded) {
		return err
	}
	return &exitError{code: exitUsage, err: err, hint: "run: archiver --help"}
}

// exitCode sorts an error by type, never by its text.
func exitCode(ctx context.Context, err error) int {
	var (
		coded       *exitError
		badConfig   *config.Error
		noConfig    *config.NotFoundError
		spool       *worker.SpoolError
		notMigrated *migrations.NotMigratedError
		refused     *source.RefusedError
		version     *source.VersionError
		connect     *pgconn.ConnectError
		store       *objstore.Error
		network     *net.OpError // not net.Error: a full disk's syscall.Errno is one too
		noServer    *localserver.NotFoundError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(context.Cause(ctx), context.Canceled):
		return exitInterrupted
	case errors.As(err, &badConfig), errors.As(err, &noConfig), errors.As(err, &spool):
		return exitUsage
	case errors.As(err, &notMigrated):
		return exitNotMigrated
	case errors.As(err, &refused):
		return exitRefused
	case errors.As(err, &version), errors.As(err, &connect), errors.As(err, &store), errors.As(err, &network),
		errors.As(err, &noServer), source.Classify(err) == source.Unavailable, errors.Is(err, syscall.ECONNREFUSED):
		return exitUnreachable
	}
	return exitFailed
}

// hintOf finds the next thing to do in an error.
func hintOf(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) && hinted.Hint() != "" {
		return hinted.Hint()
	}
	var store *objstore.Error
	if errors.As(err, &store) && store.Hint != "" {
		return store.Hint
	}
	var noServer *localserver.NotFoundError
	if errors.As(err, &noServer) {
		return noServer.Hint
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return connectHint(err)
	}
	if source.Classify(err) == source.Refused {
		return "run: archiver check"
	}
	return ""
}

// hintOr is the hint of an error, or another where it has none.
func hintOr(err error, other string) string {
	if hint := hintOf(err); hint != "" {
		return hint
	}
	return other
}

// connectHint goes by what the server said, if it was there to say anything.
func connectHint(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "3D000":
			return "create the database, or correct its name in the configuration"
		case "28P01", "28000":
			return "check user and password in the configuration, and pg_hba.conf on the server"
		case "53300":
			return "the server has no connection left: raise max_connections, or lower connection_pool_size"
		}
	}
	return "check the address, that the server runs, and that this host may connect; then: archiver check"
}

// flat is an error's text without line breaks: some servers' errors have them.
func flat(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// report prints an error for people, or with --json as one line for programs.
func report(w io.Writer, asJSON bool, code int, err error) {
	hint := hintOf(err)
	if asJSON {
		line, _ := json.Marshal(struct {
			Error string `json:"error"`
			Hint  string `json:"hint"`
			Code  int    `json:"code"`
		}{err.Error(), hint, code}) // strings and an int always marshal
		fmt.Fprintf(w, "%s\n", line)
		return
	}
	fmt.Fprintf(w, "error: %s\n", err)
	if hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
}
