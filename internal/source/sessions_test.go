package source

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSessionNames: what the server would cut off is the same for both names, and each of
// two replicas on one host keeps a name of its own.
func TestSessionNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a-very-long-host-name-", 5) + "4711-ABCDEFGH"
	for _, id := range []string{"db1-4711-ABCDEFGH", long} {
		batch := WorkerSession(id)
		vacuum := vacuumSessionOf(batch)
		require.LessOrEqual(t, len(batch), maxSessionName)
		require.LessOrEqual(t, len(vacuum), maxSessionName)
		require.True(t, strings.HasPrefix(batch, "archiver worker "))
		require.Equal(t, strings.TrimPrefix(batch, "archiver worker "), strings.TrimPrefix(vacuum, "archiver vacuum "))
		require.NotEqual(t, batch, vacuum)
		require.True(t, strings.HasSuffix(vacuum, "4711-ABCDEFGH"))
	}
	require.Equal(t, "archiver plan", vacuumSessionOf("archiver plan"))
}
