package planner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNextDue(t *testing.T) {
	t.Parallel()
	const berlin = "CRON_TZ=Europe/Berlin "
	cases := []struct{ name, spec, after, want string }{
		{"UTC without a zone", "0 3 * * *", "2025-06-01T10:00:00+02:00", "2025-06-02T03:00:00Z"},
		{"later than, not at", "0 3 * * *", "2025-06-02T03:00:00Z", "2025-06-03T03:00:00Z"},
		{"a zone in winter", berlin + "0 3 * * *", "2025-01-10T12:00:00Z", "2025-01-11T02:00:00Z"},
		{"a zone in summer", berlin + "0 3 * * *", "2025-07-10T12:00:00Z", "2025-07-11T01:00:00Z"},
		{"over the change to summer time", berlin + "0 3 * * *", "2025-03-29T03:00:00Z", "2025-03-30T01:00:00Z"},
		{"an hour that the clocks skip", berlin + "30 2 * * *", "2025-03-29T12:00:00Z", "2025-03-31T00:30:00Z"},
		{"an hour shown twice, first", berlin + "30 2 * * *", "2025-10-25T12:00:00Z", "2025-10-26T00:30:00Z"},
		{"an hour shown twice, second", berlin + "30 2 * * *", "2025-10-26T00:30:00Z", "2025-10-26T01:30:00Z"},
		{"after the hour shown twice", berlin + "30 2 * * *", "2025-10-26T01:30:00Z", "2025-10-27T01:30:00Z"},
		{"working days", berlin + "0 22 * * 1-5", "2025-06-06T21:00:00Z", "2025-06-09T20:00:00Z"},
		{"29 February", "0 0 29 2 *", "2025-01-01T00:00:00Z", "2028-02-29T00:00:00Z"},
		{"a name", "@daily", "2025-06-01T10:00:00Z", "2025-06-02T00:00:00Z"},
		{"never", "0 0 30 2 *", "2025-06-01T10:00:00Z", "0001-01-01T00:00:00Z"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			after, err := time.Parse(time.RFC3339, c.after)
			require.NoError(t, err)
			got, err := NextDue(c.spec, after)
			require.NoError(t, err)
			require.Equal(t, c.want, got.Format(time.RFC3339))
		})
	}
	_, err := NextDue("nightly", time.Now())
	require.ErrorContains(t, err, `schedule "nightly"`)
}
