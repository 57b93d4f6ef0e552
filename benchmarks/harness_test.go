package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// small is a run of the harness in seconds. The slow link is hardly slow: that it is in the
// way is what the tests look at.
func small(t *testing.T) *bench {
	t.Helper()
	shape, err := shapeNamed("audit")
	require.NoError(t, err)
	return &bench{archiver: testkit.Build(t, "./cmd/archiver"), rows: 20_000, shape: shape, profile: "default", roundTrip: 2 * time.Millisecond, megabytes: 200}
}

// TestHarness runs each kind of contender, and reads again what they have stored. It needs
// bash, psql and pigz, as `make bench` does; make extras installs the last.
func TestHarness(t *testing.T) {
	t.Parallel()
	b := small(t)
	b.profile, b.only = "all", []string{"floor", "hand", "default", "network-constrained"}
	contenders := b.contenders()
	stop, err := b.start(t.Context(), contenders)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, stop()) })
	r := &report{Shape: b.shape.name, Rows: b.rows, Profile: b.profile, RoundTrip: b.roundTrip.String(), Megabytes: b.megabytes}
	require.NoError(t, b.load(t.Context(), r))
	require.NoError(t, b.measureAll(t.Context(), r, contenders))

	archived := []string{"query", "serialize", "compress", "upload", "verify", "delete", "record"}
	byHand := []string{"query, serialize, compress", "upload", "delete"}
	want := []struct {
		key    string
		phases []string
		slow   bool
	}{
		{"floor", []string{"query", "delete"}, false},
		{"hand", byHand, false},
		{"hand-slow", byHand, true},
		{"default", archived, false},
		{"network-constrained", archived, true},
	}
	require.Len(t, r.Results, len(want))
	for i, w := range want {
		got := r.Results[i]
		require.Equal(t, w.key, got.Key)
		require.Equal(t, w.slow, got.Slow, w.key)
		require.EqualValues(t, b.rows, got.Rows, w.key)
		require.Positive(t, got.Seconds, w.key)
		require.Positive(t, got.Vacuum, w.key)
		require.Positive(t, got.WALPerRow, w.key)
		for _, phase := range w.phases {
			require.Positive(t, got.Phases[phase], "%s: %s", w.key, phase)
		}
		if w.key == "floor" {
			continue
		}
		require.Positive(t, got.Stored, w.key)
		require.Equal(t, b.rows, linesStored(t, filepath.Dir(b.s3.ObjectPath(bucketOf(contenderDB(i)), "any"))), "every row that %s deleted is in its bucket", w.key)
	}

	var text bytes.Buffer
	r.print(&text)
	require.Contains(t, text.String(), "slow storage is 2ms and 200 MB/s away")
	for i, row := range tableOf(t, text.String()) {
		require.NotEqual(t, "-", row[3], "x floor of %s: %s", want[i].key, text.String())
		require.NotEqual(t, "-", row[4], "hand / it of %s", want[i].key)
	}
	require.Equal(t, "1.00", tableOf(t, text.String())[0][3], "the floor is the floor")
	require.Equal(t, "1.00", tableOf(t, text.String())[2][4], "over the slow link by hand is compared with itself")
	for _, phase := range append(byHand, archived...) {
		require.Contains(t, text.String(), "\n  "+phase, "the share of each phase is printed")
	}
}

// tableOf returns the first cells of each line of the first table.
func tableOf(t *testing.T, text string) [][]string {
	t.Helper()
	_, table, found := strings.Cut(text, "WAL B/row")
	require.True(t, found, text)
	table, _, _ = strings.Cut(table, "\n\n")
	var rows [][]string
	for line := range strings.Lines(strings.TrimSpace(table)) {
		rows = append(rows, strings.Fields(line))
	}
	return rows
}

// linesStored counts the rows in the objects of a bucket, and sees that none is twice there.
func linesStored(t *testing.T, dir string) int {
	t.Helper()
	seen := map[int64]bool{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".jsonl.gz") {
			return err
		}
		stored, err := os.ReadFile(path)
		require.NoError(t, err)
		z, err := gzip.NewReader(bytes.NewReader(stored))
		require.NoError(t, err)
		for d := json.NewDecoder(z); ; {
			var row struct{ ID int64 }
			err := d.Decode(&row)
			if err == io.EOF {
				return nil
			}
			require.NoError(t, err)
			require.False(t, seen[row.ID], "row %d", row.ID)
			seen[row.ID] = true
		}
	}))
	return len(seen)
}

// TestReplicas runs the whole command: replicas with a link each, and the file of it.
func TestReplicas(t *testing.T) {
	t.Parallel()
	b := small(t)
	b.workers, b.linkEach = 2, true
	dir := t.TempDir()
	var text bytes.Buffer
	require.NoError(t, b.main(t.Context(), &text, "audit", "default", false, dir))
	require.Contains(t, text.String(), "over 2 links, one for each replica")
	require.Equal(t, []string{"-", "-"}, tableOf(t, text.String())[0][3:5], "nobody to be compared with")
	files, err := filepath.Glob(filepath.Join(dir, "*-audit-20000-default-2workers-linkeach.json"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	doc, err := os.ReadFile(files[0])
	require.NoError(t, err)
	var saved struct {
		At       time.Time
		Machine  struct{ Cores int }
		LinkEach bool `json:"storage_link_each"`
		Workers  int
		Results  []struct {
			Rows int64
			Slow bool `json:"slow_storage"`
		}
	}
	require.NoError(t, json.Unmarshal(doc, &saved))
	require.WithinDuration(t, time.Now(), saved.At, time.Hour)
	require.Positive(t, saved.Machine.Cores)
	require.True(t, saved.LinkEach)
	require.Equal(t, 2, saved.Workers)
	require.Len(t, saved.Results, 1)
	require.EqualValues(t, b.rows, saved.Results[0].Rows)
	require.True(t, saved.Results[0].Slow)
}

func TestContenders(t *testing.T) {
	t.Parallel()
	keys := func(b bench) (keys []string) {
		for _, c := range b.contenders() {
			keys = append(keys, c.key)
		}
		return keys
	}
	require.Equal(t, []string{"floor", "hand", "default"}, keys(bench{profile: "default"}))
	require.Equal(t, []string{"floor", "hand", "hand-slow", "network-constrained"}, keys(bench{profile: "network-constrained"}))
	require.Equal(t, []string{"floor", "hand", "hand-slow", "default"}, keys(bench{profile: "default", workers: 2}), "replicas have slow storage")
	require.Equal(t, []string{"floor", "hand", "default"}, keys(bench{profile: "all", only: []string{"floor", "hand", "default"}}), "nobody is slow")
	require.Equal(t, []string{"network-constrained"}, keys(bench{profile: "all", only: []string{"network-constrained"}}), "by hand was not asked for")
	require.Equal(t, []string{"hand-slow"}, keys(bench{profile: "default", only: []string{"hand-slow"}}))

	b := bench{profile: "default", linkEach: true}
	require.ErrorContains(t, b.main(t.Context(), io.Discard, "audit", "", false, ""), "-workers")
}

// TestLinks sees who shares a link with whom.
func TestLinks(t *testing.T) {
	t.Parallel()
	b := bench{roundTrip: time.Millisecond}
	b.s3 = &localserver.S3{Endpoint: "http://127.0.0.1:9"} // nobody connects
	for _, tc := range []struct {
		slow, each bool
		want       int // different ways
	}{{false, false, 1}, {false, true, 1}, {true, false, 1}, {true, true, 3}} {
		b.linkEach = tc.each
		endpoints, closeLinks, err := b.storage(t.Context(), tc.slow, 3)
		require.NoError(t, err)
		closeLinks()
		require.Len(t, endpoints, 3)
		require.Equal(t, tc.slow, endpoints[0] != b.s3.Endpoint)
		require.Len(t, slices.Compact(slices.Sorted(slices.Values(endpoints))), tc.want)
	}
}
