// Command archiver moves old PostgreSQL rows to S3-compatible storage, proves that
// each object is whole, and only then deletes the rows.
package main

import (
	"context"
	"os"
	_ "time/tzdata" // a static binary in an empty image knows no time zones otherwise
)

// version is set by the linker in release builds; see buildVersion.
var version = ""

func main() {
	ctx, stop := untilSignal(context.Background())
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
