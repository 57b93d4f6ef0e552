package throttle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
)

func TestOpen(t *testing.T) {
	t.Parallel()
	night := config.Window{Start: 22 * 60, End: 5 * 60, Zone: "Europe/Berlin"}
	noon := config.Window{Start: 12 * 60, End: 13*60 + 30} // UTC
	evening := config.Window{Start: 20 * 60, End: 24 * 60}
	skipped := config.Window{Start: 2 * 60, End: 3 * 60, Zone: "Europe/Berlin"}
	for _, c := range []struct {
		windows   []config.Window
		now, next string // next: empty if it is open
	}{
		{nil, "2026-01-15T09:00:00Z", ""},
		{[]config.Window{night}, "2026-01-15T20:59:59Z", "2026-01-15T21:00:00Z"}, // 21:59:59 in Berlin
		{[]config.Window{night}, "2026-01-15T21:00:00Z", ""},
		{[]config.Window{night}, "2026-01-16T03:59:59Z", ""},
		{[]config.Window{night}, "2026-01-16T04:00:00Z", "2026-01-16T21:00:00Z"},
		{[]config.Window{night}, "2026-07-15T20:00:00Z", ""}, // summer: an hour earlier
		{[]config.Window{night}, "2026-07-16T03:00:00Z", "2026-07-16T20:00:00Z"},
		{[]config.Window{night, noon}, "2026-01-16T04:00:00Z", "2026-01-16T12:00:00Z"},
		{[]config.Window{noon}, "2026-01-16T13:29:59Z", ""},
		{[]config.Window{noon}, "2026-01-16T13:30:00Z", "2026-01-17T12:00:00Z"},
		{[]config.Window{evening}, "2026-01-16T23:59:59Z", ""},
		{[]config.Window{evening}, "2026-01-17T00:00:00Z", "2026-01-17T20:00:00Z"},
		// The night in which the clocks go forward has no 02:00, that in which they go back two.
		{[]config.Window{skipped}, "2026-03-29T00:59:00Z", "2026-03-30T00:00:00Z"},
		{[]config.Window{skipped}, "2026-10-25T00:30:00Z", ""},
		{[]config.Window{skipped}, "2026-10-25T01:30:00Z", ""},
		{[]config.Window{skipped}, "2026-10-25T02:00:00Z", "2026-10-26T01:00:00Z"},
	} {
		now, err := time.Parse(time.RFC3339, c.now)
		require.NoError(t, err)
		open, next, err := Open(c.windows, now)
		require.NoError(t, err)
		require.Equal(t, c.next == "", open, "%v at %s", c.windows, c.now)
		if !open {
			require.Equal(t, c.next, next.UTC().Format(time.RFC3339), "%v at %s", c.windows, c.now)
		}
	}
	_, _, err := Open([]config.Window{{Start: 0, End: 1, Zone: "Nowhere/Else"}}, time.Now())
	require.ErrorContains(t, err, "Nowhere/Else")
}
