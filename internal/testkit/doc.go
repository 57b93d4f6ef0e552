// Package testkit gives tests real servers: a PostgreSQL cluster and an S3 server
// for each test process, and a database or a bucket of its own for each test.
//
// A package that uses it has a TestMain of one line:
//
//	func TestMain(m *testing.M) { testkit.Main(m) }
//
// The shared servers start when a test first asks for them, and Main stops them.
// The PostgreSQL programs are those that localserver.FindPostgres finds;
// ARCHIVER_TEST_PG_BIN names others, to run the tests on another version. A
// missing server fails the test, it never skips it.
//
// Every helper fails the test instead of returning an error, so they must be
// called from the test's own goroutine.
package testkit
