package cli

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLogLevel: what is logged of the same work, by the file's level and by the flag's,
// which wins.
func TestLogLevel(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		extra string
		flag  []string
		says  []string
		not   []string
	}{
		"by default":        {"", nil, []string{"batch archived", "INFO"}, []string{"rows read"}},
		"debug in the file": {"log: {level: debug}", nil, []string{"rows read", "object verified", "batch archived"}, nil},
		"debug by flag":     {"log: {level: warn, format: json}", []string{"--log-level", "debug"}, []string{`"msg":"rows read"`, `"msg":"batch archived"`}, []string{"INFO"}},
		"warn":              {"", []string{"--log-level", "warn"}, nil, []string{"batch archived", "worker started"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTable(t)
			s.defaults, s.extra = "retention: 30d, batch_size: 1000", c.extra
			s.configure(t)
			s.run(t, "plan").expect(t, done)
			r := s.run(t, append([]string{"work", "--drain"}, c.flag...)...)
			r.expect(t, done, c.says...)
			for _, text := range c.not {
				require.NotContains(t, r.err, text)
			}
			require.EqualValues(t, 100, s.db.Int(t, `SELECT count(*) FROM audit_logs`))
		})
	}
}
