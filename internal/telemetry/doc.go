// Package telemetry is how a process tells people and programs what it does: the
// logger, and the HTTP endpoints of worker.listen.
//
// Logs go to stderr; results of commands go to stdout and never through here.
//
// Health answers two questions that must not be mixed up. /healthz: is this process
// of any use, or should it be killed? Only a lost lease says so; a database that is
// away does not, since a restart would not bring it back. /readyz: does it work, so
// that a rolling restart may go on to the next replica? A stopping replica says no
// here first, and stays alive until its lease is given back.
//
// Nothing here is a secret, and nothing asks for a password: no endpoint changes
// anything. Errors are those of the log, which hold no password either.
package telemetry
