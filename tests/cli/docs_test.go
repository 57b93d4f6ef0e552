package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// TestDocsFirstRun runs the commands of README.md and docs/OPERATIONS.md in the
// order in which they stand there, each page on a site of its own.
func TestDocsFirstRun(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"README.md", "docs/OPERATIONS.md"} {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.createTable(t)
			n := 0
			for _, args := range commandsOf(t, page) {
				switch {
				case len(args) == 1 && args[0] == "work": // runs until it is told to stop
					args = append(args, "--drain")
				case args[len(args)-1] == "KEY":
					args[len(args)-1] = s.anObject(t)
				}
				s.run(t, args...).expect(t, done)
				n++
			}
			require.Positive(t, n)
			require.Zero(t, s.db.Int(t, `SELECT count(*) FROM audit_logs WHERE created_at < now() - interval '30 days'`), "the page's commands archive the table")
		})
	}
}

// commandsOf returns the `$ archiver ...` lines of a page.
func commandsOf(t *testing.T, page string) [][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testkit.ModuleRoot(t), page))
	require.NoError(t, err)
	var out [][]string
	for line := range strings.Lines(string(text)) {
		if args, ok := strings.CutPrefix(line, "$ archiver "); ok {
			args, _, _ = strings.Cut(args, " #")
			out = append(out, strings.Fields(args))
		}
	}
	return out
}

func (s *site) anObject(t *testing.T) string {
	t.Helper()
	for _, key := range s.bucket.Keys(t) {
		if strings.HasSuffix(key, ".jsonl.gz") {
			return key
		}
	}
	t.Fatal("nothing is archived")
	return ""
}

// TestDocsTuning runs the commands and the SQL of docs/TUNING.md on a table that has rows
// to archive.
func TestDocsTuning(t *testing.T) {
	t.Parallel()
	const tuning = "docs/TUNING.md"
	s := newTable(t)
	commands := commandsOf(t, tuning)
	require.NotEmpty(t, commands)
	for _, args := range commands {
		s.run(t, args...).expect(t, done)
	}
	text, err := os.ReadFile(filepath.Join(testkit.ModuleRoot(t), tuning))
	require.NoError(t, err)
	statements := regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	require.NotEmpty(t, statements)
	for _, m := range statements {
		for statement := range strings.SplitSeq(strings.TrimSpace(m[1]), ";\n") {
			s.db.Exec(t, statement) // each by itself: some run in no transaction
		}
	}
}

// TestDocsYAML loads each configuration that a page shows. A fragment of one is completed
// by what every configuration must have.
func TestDocsYAML(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob(filepath.Join(testkit.ModuleRoot(t), "docs", "*.md"))
	require.NoError(t, err)
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```")
	n := 0
	for _, page := range append(pages, filepath.Join(testkit.ModuleRoot(t), "README.md")) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range block.FindAllSubmatch(text, -1) {
			file := filepath.Join(t.TempDir(), "archiver.yaml")
			yaml, environ := completed(string(m[1]))
			require.NoError(t, os.WriteFile(file, []byte(yaml), 0o600))
			_, err := config.Load(config.Options{File: file, Environ: environ})
			require.NoError(t, err, "%s:\n%s", page, m[1])
			n++
		}
	}
	require.Positive(t, n)
}

// completed makes a configuration of a fragment, unless it is one: tables stand in a
// database, and sections that are missing are added behind it.
func completed(yaml string) (whole string, environ []string) {
	sections := map[string]string{
		"control:":   "control: {url: postgres://localhost/archiver}\n",
		"databases:": "databases: [{name: d, host: h, tables: [{name: t}]}]\n",
	}
	if strings.HasPrefix(yaml, "tables:") {
		yaml = "databases:\n  - name: d\n    host: h\n" + indent(yaml, 4) + "\n"
	}
	if strings.Contains("\n"+yaml, "\ncontrol:") {
		return yaml, []string{}
	}
	for section, text := range sections {
		if !strings.Contains("\n"+yaml, "\n"+section) {
			yaml += text
		}
	}
	return yaml, []string{"ARCHIVER_S3_BUCKET=audit-archive", "AWS_REGION=eu-central-1", "ARCHIVER_DEFAULTS_RETENTION=90d"}
}
