//go:build !failpoint

package failpoint

import (
	"context"
	"io"
)

// Enabled says whether failpoints were compiled in.
const Enabled = false

// Hit does nothing in this build.
func Hit(context.Context, string) error { return nil }

// Writer returns w itself in this build.
func Writer(_ context.Context, _ string, w io.Writer) io.Writer { return w }

// ReaderAt returns r itself in this build.
func ReaderAt(_ context.Context, _ string, r io.ReaderAt) io.ReaderAt { return r }
