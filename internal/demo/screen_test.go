package demo

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTree(t *testing.T) {
	t.Parallel()
	got := tree("bucket", []entry{
		{"demo/.archiver/probe", 100},
		{"demo/shop/public/logs/year=2023/month=11/a.jsonl.gz", 1000},
		{"demo/shop/public/logs/year=2023/month=11/a.manifest.json", 500},
		{"demo/shop/public/logs/year=2024/month=01/b.jsonl.gz", 2000},
		{"demo/shop/public/logs/year=2024/month=02/c.jsonl.gz", 2000},
	})
	require.Equal(t, strings.TrimPrefix(`
bucket/demo/                  5.5 KiB in 5 objects
├── .archiver/                  100 B in 1 object
└── shop/public/logs/         5.4 KiB in 4 objects
    ├── year=2023/month=11/   1.5 KiB in 2 objects
    │   ├── a.jsonl.gz
    │   └── a.manifest.json
    └── year=2024/            3.9 KiB in 2 objects
        ├── month=01/         2.0 KiB in 1 object
        └── month=02/         2.0 KiB in 1 object
`, "\n"), got)
	require.Equal(t, "bucket/       0 B in 0 objects\n", tree("bucket", nil))
}

func TestLines(t *testing.T) {
	t.Parallel()
	var got []string
	l := &lines{show: func(line string) { got = append(got, line) }}
	for _, part := range []string{"one\ntw", "o\n", "\n", "three"} {
		n, err := l.Write([]byte(part))
		require.NoError(t, err)
		require.Len(t, part, n)
	}
	require.Equal(t, []string{"one", "two", ""}, got)
	l.Close()
	l.Close()
	require.Equal(t, []string{"one", "two", "", "three"}, got)
}

func TestScreen(t *testing.T) {
	t.Parallel()
	var plainText, painted strings.Builder
	s := newScreen(&plainText, 50, false, nil)
	s.heading("A %s", "title")
	s.command("archiver %s", "plan")
	s.linef("")
	s.block("a\nb\n")
	require.Equal(t, "\nA title\n  $ archiver plan\n\n  a\n  b\n", plainText.String())
	require.NoError(t, s.err())

	newScreen(&painted, 50, true, nil).heading("title")
	require.Equal(t, "\n"+bold+"title"+plain+"\n", painted.String())

	// Two columns of the indent are left; a wide rune takes two.
	require.Equal(t, strings.Repeat("x", 47)+"…", s.fit(strings.Repeat("x", 49)))
	require.Equal(t, strings.Repeat("花", 23)+"…", s.fit(strings.Repeat("花", 30)))
	require.Equal(t, "short", s.fit("short"))
}

func TestScreenThatNobodyReads(t *testing.T) {
	t.Parallel()
	broken := errors.New("nobody reads")
	var failures []error
	s := newScreen(failingWriter{broken}, 50, false, func(err error) { failures = append(failures, err) })
	s.linef("x")
	s.linef("y")
	require.ErrorIs(t, s.err(), broken)
	require.Len(t, failures, 1)
	require.ErrorIs(t, failures[0], broken)
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestProgress(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	p := &progress{screen: newScreen(&out, 80, false, nil), began: time.Now()}
	p.logged(0, `{"level":"info","msg":"worker started"}`)
	p.logged(0, `{"level":"info","msg":"batch archived","records":10}`)
	p.logged(1, `{"level":"info","msg":"batch archived","records":20}`)
	p.logged(0, `{"level":"info","msg":"batch archived","records":5}`)
	require.Empty(t, out.String(), "only what needs attention is shown")
	require.Equal(t, "15 rows in 2 batches", p.of(0))
	require.Equal(t, "20 rows in 1 batch", p.of(1))

	p.logged(1, `{"level":"warn","msg":"batch waits","error":"rows are locked"}`)
	p.logged(0, `error: something that is no log line`)
	require.Equal(t, "    worker 2: warn: batch waits: rows are locked\n    worker 1: error: something that is no log line\n", out.String())
}

func TestEnvironment(t *testing.T) {
	// Not parallel: it sets the environment.
	for _, name := range []string{"ARCHIVER_S3_BUCKET", "AWS_ENDPOINT_URL", "AWS_PROFILE", "PGHOST", "PGSERVICE", "ARCHIVER_CONTROL_URL"} {
		t.Setenv(name, "production")
	}
	t.Setenv("DEMO_TEST_KEEPS", "this")
	s := &stage{configFile: "/x/archiver.yaml"}
	env := s.environment("EXTRA=1")
	for _, pair := range env {
		require.NotContains(t, pair, "production", "a demo reaches nothing but its own servers")
	}
	require.Contains(t, env, "DEMO_TEST_KEEPS=this")
	require.Contains(t, env, "ARCHIVER_CONFIG=/x/archiver.yaml")
	require.Contains(t, env, "EXTRA=1")
}
