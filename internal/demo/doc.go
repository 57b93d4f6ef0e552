// Package demo is the story behind `archiver demo`: a private PostgreSQL and a
// private S3 server, an audit table of two years, and the archiver's own commands,
// run as a user would type them.
//
// Terms: the stage is what a demo starts and must remove again: the two servers and
// one directory for everything that they and the archiver write. A place is where a
// row is: the table, or an object that has a manifest. The originals are hashes of
// all rows, taken by PostgreSQL before the archiver has seen them.
//
// Invariants:
//   - The archiver runs as child processes of the same program, on a configuration
//     that is generated, and in an environment without the user's own settings for
//     the archiver, for PostgreSQL and for AWS: a demo can reach nothing but its
//     own servers.
//   - The proof at the end shares no code with the archiver. It reads the objects
//     with the AWS SDK, compress/gzip and encoding/json, and compares each line with
//     the original. A proof that fails is an error of the demo.
//   - No process and no file of the demo outlives it, except what was asked for with
//     Options.Dir. The ways to die are those of package localserver.
//
// Failure handling: the first error ends the story. Options.Err then gets the last
// lines of each server's log, since the directory with the logs goes away.
package demo
