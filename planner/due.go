package planner

import (
	"fmt"
	"time"

	"github.com/robfig/cron/v3"
)

// NextDue is the first time after t at which a schedule, one that the configuration
// has accepted, is due; the zero time if it never is. A schedule without CRON_TZ= is
// in UTC on every machine. A time of day that the clocks skip is not due on that day;
// one that they show twice is due twice.
func NextDue(spec string, t time.Time) (time.Time, error) {
	s, err := cron.ParseStandard(spec)
	if err != nil {
		return time.Time{}, fmt.Errorf("schedule %q: %w", spec, err)
	}
	// A schedule without a zone takes that of the time it is asked about.
	return s.Next(t.UTC()).UTC(), nil
}
