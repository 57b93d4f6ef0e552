// Command s3dev is a small real S3 server for demonstrations and tests: the
// versitygw gateway over a plain directory, where an object is a file and a
// bucket a folder, so that a test can damage an object on disk.
//
// It lives in a module of its own, because the gateway brings sixty modules
// that have no place in the product's dependency graph, and it runs as a
// process of its own, because the gateway changes the working directory and
// allows one instance a process.
//
// # Protocol
//
// The credentials are read from S3DEV_ACCESS_KEY and S3DEV_SECRET_KEY, never
// from flags, which other users of the machine could read. Once requests are
// served and the buckets of --bucket exist, one line is written to standard
// output:
//
//	{"endpoint":"http://127.0.0.1:40123"}
//
// Everything else goes to standard error. The server ends on SIGTERM, on SIGINT
// and, with --exit-on-stdin-close, when its standard input is closed: a parent
// that dies without a word closes the pipe.
package main
