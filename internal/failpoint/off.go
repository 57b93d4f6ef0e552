//go:build !failpoint

package failpoint

import "context"

// Enabled says whether failpoints were compiled in.
const Enabled = false

// Hit does nothing in this build.
func Hit(context.Context, string) error { return nil }
