// Command archiver moves old PostgreSQL rows to S3-compatible storage, proves that
// each object is whole, and only then deletes the rows.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // a static binary in an empty image knows no time zones otherwise
)

// version is set by the linker in release builds; see versionString.
var version = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
