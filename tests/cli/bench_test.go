package cli

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBench measures a table and changes nothing: no row goes, no object comes unless it
// was asked for, and no control schema is needed.
func TestBench(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.createTable(t)
	type report struct {
		Database    string
		Table       string
		Rows        int64
		Batches     int64
		RawBytes    int64 `json:"raw_bytes"`
		StoredBytes int64 `json:"stored_bytes"`
		Phases      map[string]float64
		Seconds     float64
		PeakMemory  float64 `json:"peak_memory_mb"`
		Floor       float64 `json:"read_floor_seconds"`
		TimesFloor  float64 `json:"times_read_floor"`
		AtATime     int     `json:"batches_at_a_time"`
		Estimate    float64 `json:"estimate_seconds"`
		UploadedTo  string  `json:"uploaded_to"`
	}
	s.db.Exec(t, `ANALYZE audit_logs`)

	r := decodeLines[report](t, s.run(t, "bench", "--rows", "150", "--json"))[0]
	require.Equal(t, "main", r.Database)
	require.EqualValues(t, 200, r.Rows, "whole batches")
	require.EqualValues(t, 2, r.Batches)
	require.Equal(t, 2, r.AtATime)
	require.Positive(t, r.Estimate)
	require.Greater(t, r.RawBytes, r.StoredBytes)
	for _, phase := range []string{"plan", "query", "serialize", "compress", "verify"} {
		require.Positive(t, r.Phases[phase], phase)
	}
	require.Greater(t, r.PeakMemory, 5.0, "a Go program with a connection has more than that")
	require.Less(t, r.PeakMemory, 500.0)
	require.Positive(t, r.Floor)
	require.InDelta(t, r.Seconds/r.Floor, r.TimesFloor, 1e-6)
	require.Greater(t, r.TimesFloor, 1.0, "it reads, and does more than that")
	require.Zero(t, r.Phases["upload"])
	require.Empty(t, r.UploadedTo)
	require.Empty(t, s.bucket.Keys(t))

	r = decodeLines[report](t, s.run(t, "bench", "--upload", "--json"))[0]
	require.EqualValues(t, 500, r.Rows, "all that are old enough, and no others")
	require.Positive(t, r.Phases["upload"])
	require.Contains(t, r.UploadedTo, "/_bench/")
	lines := 0
	for _, key := range s.bucket.Keys(t) {
		require.True(t, strings.HasPrefix(key, r.UploadedTo), key)
		lines += strings.Count(s.run(t, "cat", key).out, "\n")
	}
	require.Equal(t, 500, lines)

	s.run(t, "bench").expect(t, done, "delete: not measured", "upload: not measured", "Nothing was deleted",
		"an ordered binary COPY to nowhere takes", "times as long", "Peak memory of this process")
	s.run(t, "bench", "--rows", "0").expect(t, badUsage, "at least 1")
	require.EqualValues(t, 600, s.db.Int(t, `SELECT count(*) FROM audit_logs`))
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM pg_namespace WHERE nspname = 'archiver'`))
	s.run(t, "migrate")
	require.Empty(t, s.orphans(t))

	s.db.Exec(t, `UPDATE audit_logs SET payload = jsonb_build_object('text', repeat('x', 20000))`)
	s.defaults = "retention: 30d, batch_size: 100, max_batch_bytes: 1MB"
	s.configure(t)
	r = decodeLines[report](t, s.run(t, "bench", "--json"))[0]
	require.EqualValues(t, 5, r.Batches)
	require.InDelta(t, 49*5, r.Rows, 5, "of a batch that a worker would split the first part is measured")

	s.db.Exec(t, `DELETE FROM audit_logs WHERE created_at < now() - interval '30 days'`)
	s.run(t, "bench").expect(t, failed, "no row is older than its retention")
	s.db.Exec(t, `CREATE RULE keep AS ON DELETE TO audit_logs DO INSTEAD NOTHING`)
	s.run(t, "bench").expect(t, refused, "delete_rule")
}
