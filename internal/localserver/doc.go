// Package localserver runs a real PostgreSQL and a real S3 server as child
// processes on 127.0.0.1, for `archiver demo` and for tests.
//
// Terms: a server is a child process with a data directory. Its owner is the
// process that started it. A run directory is the private temporary directory
// that holds the data of a server for which the caller named none.
//
// Invariants:
//   - A server listens on 127.0.0.1 only, never on a unix socket.
//   - A server does not outlive its owner, not even one that is killed with
//     SIGKILL: on Linux the kernel signals the child (Pdeathsig), elsewhere a
//     small shell watches a pipe.
//   - PostgreSQL never runs as root. If the owner is root, the account
//     "postgres" is used, or "nobody" where there is none.
//   - A run directory goes with its server. If the owner was killed, the next
//     start of any owner under the same user removes it; the owner's lock on a
//     file in it, which the kernel drops with the process, says who is alive.
//   - A data directory that the caller named is never removed.
//
// Failure handling: a missing program is a *NotFoundError, which says where it
// was looked for and how to get it. An error of a server that does not start ends
// in the last lines that the server wrote.
package localserver
