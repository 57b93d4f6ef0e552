//go:build failpoint

package integration

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOvertakenAttemptStops has an attempt overtaken just before each change that it
// makes in the ledger on its way. The batch is in the right state for that change, and
// only the attempt's number says that it is another's to make.
func TestOvertakenAttemptStops(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"verify:done", "delete:table-locked", "record:manifest"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, 10, "")
			var mu sync.Mutex
			var passed []string
			tr.finish(func(ctx context.Context, name string) error {
				mu.Lock()
				defer mu.Unlock()
				if name == point && !slices.Contains(passed, point) {
					if _, err := tr.ledger.Claim(ctx, tr.count(`SELECT id FROM {s}.batch`)); err != nil {
						return err
					}
				}
				passed = append(passed, name)
				return nil
			})
			next := passed[slices.Index(passed, point)+1]
			require.True(t, strings.HasPrefix(next, "state:"), "the overtaken attempt went on to %s", next)
			tr.archived(1)
		})
	}
}
