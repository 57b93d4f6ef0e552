package throttle

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/audit-table-archiver/archiver/internal/config"
)

// Open says whether one of the windows is open at an instant, by what the clocks of its
// zone show then; without any window all times are open. If none is, next is when one
// opens, to the minute. It fails only for a zone that this machine does not know.
func Open(windows []config.Window, now time.Time) (open bool, next time.Time, err error) {
	if len(windows) == 0 {
		return true, time.Time{}, nil
	}
	zones := make([]*time.Location, len(windows))
	for i, w := range windows {
		if zones[i], err = time.LoadLocation(w.Zone); err != nil { // empty: UTC
			return false, time.Time{}, fmt.Errorf("window %s: %w", w, err)
		}
	}
	openAt := func(t time.Time) bool {
		return slices.ContainsFunc(zip(windows, zones), func(w zoned) bool { return w.contains(t) })
	}
	if openAt(now) {
		return true, time.Time{}, nil
	}
	// Minute by minute, which is right also where the clocks are changed. A window that
	// lies in the hour which a zone skips in spring opens on the day after.
	const most = 3 * 24 * time.Hour
	for t := now.Truncate(time.Minute).Add(time.Minute); t.Sub(now) < most; t = t.Add(time.Minute) {
		if openAt(t) {
			return false, t, nil
		}
	}
	return false, now.Add(most), nil
}

type zoned struct {
	config.Window
	zone *time.Location
}

func zip(windows []config.Window, zones []*time.Location) []zoned {
	out := make([]zoned, len(windows))
	for i, w := range windows {
		out[i] = zoned{w, zones[i]}
	}
	return out
}

func (w zoned) contains(t time.Time) bool {
	hour, minute, _ := t.In(w.zone).Clock()
	m := hour*60 + minute
	if w.Start < w.End {
		return w.Start <= m && m < w.End
	}
	return w.Start <= m || m < w.End // over midnight
}

func names(windows []config.Window) string {
	var out []string
	for _, w := range windows {
		out = append(out, w.String())
	}
	return strings.Join(out, ", ")
}
