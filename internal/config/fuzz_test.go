package config

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzLoad: no content and no variable makes the loader panic, and what it accepts
// satisfies what the rest of the program relies on, and survives being written.
func FuzzLoad(f *testing.F) {
	f.Add(base, "ARCHIVER_LOG_LEVEL", "debug")
	f.Add(with("table", "retention: 7d, throttle: {windows: ['22:00-05:00']}, schedule: 'TZ=UTC'"), "ARCHIVER_DATABASES_0_TABLES_1_NAME", "x")
	f.Add(with("defaults", "compression: zstd, compression_level: 22, allow: [a]"), "ARCHIVER_DATABASES_1_HOST", "h")
	f.Add(with("top", "ui: {listen: ':1', username: a, password: '${P:-x}'}"), "P", "y")
	f.Add("databases: [{tables: [{throttle: {windows: null}}]}]", "ARCHIVER_DATABASES_0_NAME", "")
	f.Add("a: &a [*a]\n<<: *a\n---\n", "", "")
	f.Add("? [x]\n: y\nS3: []\ns3: {}", "ARCHIVER_S3_BUCKET", "b")
	f.Fuzz(func(t *testing.T, content, name, value string) {
		if strings.Contains(content+value, "ssl") || strings.Contains(content+value, "file") {
			return // the driver would open whatever file the URL names
		}
		c, err := load("fuzz.yaml", strings.NewReader(content), environment{name: value}, nil)
		if err != nil {
			var e *Error
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.Problems)
			return
		}
		requireSound(t, c)
		var out bytes.Buffer
		require.NoError(t, c.WriteYAML(&out))
		again, err := load("again.yaml", &out, environment{}, nil)
		require.NoError(t, err)
		requireSound(t, again)
	})
}

func requireSound(t *testing.T, c *Config) {
	t.Helper()
	require.NotEmpty(t, c.S3.Bucket)
	require.NotEmpty(t, c.S3.Region)
	require.NotEmpty(t, c.Control.URL)
	require.GreaterOrEqual(t, c.S3.MultipartPartBytes, int64(5<<20))
	require.Positive(t, c.MaxParallelDatabases)
	require.True(t, c.UI.Password != "" || IsLoopback(c.UI.Listen))
	names := map[string]bool{}
	for _, d := range c.Databases {
		require.NotEmpty(t, d.Primary)
		require.Positive(t, d.PoolSize)
		require.Positive(t, d.Concurrency)
		require.False(t, names[d.Queue()])
		names[d.Queue()] = true
		for _, table := range d.Tables {
			require.False(t, names[table.String()])
			names[table.String()] = true
			require.Positive(t, table.MinRetention)
			require.GreaterOrEqual(t, table.Retention, table.MinRetention)
			require.Positive(t, table.BatchSize)
			require.Positive(t, table.MaxBatchBytes)
			require.NotEmpty(t, table.Name)
			require.NotEmpty(t, table.TimestampColumn)
			require.LessOrEqual(t, table.Adaptive.MinBatchSize, table.Adaptive.MaxBatchSize)
			require.True(t, table.VacuumMode != VacuumModeFull || !table.VacuumAfterArchival || table.Allows(AllowVacuumFull))
		}
	}
}
