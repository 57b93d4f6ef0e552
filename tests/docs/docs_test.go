// Package docs holds pages against the source tree: what they name must exist.
package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/worker"
)

// findingsOutsideTables finds the codes of findings about services in the source.
var findingsOutsideTables = regexp.MustCompile(`(?:Code: *|refuse\(|\.Code(?:, f\.\w+)* = )"([a-z_]+)"`)

// TestFindingsPage has a row for each code, with the severity and the allowance that
// the program has, and no row for anything else.
func TestFindingsPage(t *testing.T) {
	t.Parallel()
	rows := map[string][]string{}
	for line := range strings.Lines(page(t, "docs/FINDINGS.md")) {
		if cells := strings.Split(line, "|"); len(cells) > 3 && strings.HasPrefix(line, "| `") {
			code := strings.Trim(cells[1], " `")
			require.NotContains(t, rows, code, "two rows")
			rows[code] = cells
		}
	}
	known := map[string]bool{}
	for _, c := range source.Codes() {
		require.False(t, known[c.Name], "%s is listed twice", c.Name)
		known[c.Name] = true
		require.Contains(t, rows, c.Name)
		cells := rows[c.Name]
		require.Equal(t, string(c.Severity), strings.TrimSpace(cells[2]), c.Name)
		require.Equal(t, map[bool]string{true: "yes", false: "no"}[c.Allowable], strings.TrimSpace(cells[3]), c.Name)
		require.NotEmpty(t, c.Summary, c.Name)
	}
	for _, folder := range []string{"cmd/archiver", "planner", "internal/source"} {
		files, err := filepath.Glob(filepath.Join(testkit.ModuleRoot(t), folder, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			for _, m := range findingsOutsideTables.FindAllStringSubmatch(string(text), -1) {
				require.Contains(t, rows, m[1], "a finding in %s", f)
				if folder != "cmd/archiver" {
					require.True(t, known[m[1]], "%s is no code of source.Codes", m[1])
				}
				known[m[1]] = true
			}
		}
	}
	for code := range rows {
		require.True(t, known[code], "%s is on the page and nowhere else", code)
	}
}

// TestPreflightKnowsItsCodes holds that each finding which the preflight reports is
// listed: one that is not would refuse its table.
func TestPreflightKnowsItsCodes(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for path, file := range goFiles(t, "internal/source") {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			fun, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || fun.Sel.Name != "found" {
				return true
			}
			lit, ok := call.Args[0].(*ast.BasicLit)
			require.True(t, ok, "%s: the code of a finding is to be a literal", path)
			code, err := strconv.Unquote(lit.Value)
			require.NoError(t, err)
			require.True(t, slices.ContainsFunc(source.Codes(), func(c source.Code) bool { return c.Name == code }), "%s: %s is not listed", path, code)
			used[code] = true
			return true
		})
	}
	require.Greater(t, len(used), 25)
}

// hazards is how many points the list has that docs/SAFETY.md answers.
const hazards = 78

// TestSafetyPage holds that each hazard has its row, and that each test, finding and
// function that the page names exists.
func TestSafetyPage(t *testing.T) {
	t.Parallel()
	text := page(t, "docs/SAFETY.md")
	row := regexp.MustCompile(`(?m)^\| (\d+) \| ([^|]+) \| ([^|]+) \|$`)
	seen := map[int]bool{}
	for _, m := range row.FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		require.False(t, seen[n], "hazard %d twice", n)
		seen[n] = true
		require.Greater(t, len(m[3]), 20, "hazard %d has no answer", n)
	}
	for n := range hazards {
		require.True(t, seen[n+1], "hazard %d is missing", n+1)
	}
	require.Len(t, seen, hazards)

	tests, functions := declared(t)
	for _, m := range regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w*`).FindAllString(text, -1) {
		require.True(t, tests[m], "there is no test %s", m)
	}
	codes := page(t, "docs/FINDINGS.md")
	for _, m := range regexp.MustCompile("finding `([a-z_]+)`").FindAllStringSubmatch(text, -1) {
		require.Contains(t, codes, "| `"+m[1]+"` |", "there is no finding %s", m[1])
	}
	for _, m := range regexp.MustCompile("`[A-Za-z]+\\.(?:[A-Za-z]+\\.)?([A-Za-z]+)`").FindAllStringSubmatch(text, -1) {
		require.True(t, functions[m[1]], "there is no function %s", m[0])
	}
}

// TestMetricsPage holds that docs/METRICS.md explains each way in which an attempt ends,
// and each thing that a batch waits for.
func TestMetricsPage(t *testing.T) {
	t.Parallel()
	text := page(t, "docs/METRICS.md")
	for _, r := range worker.Results() {
		require.Contains(t, text, "`"+string(r)+"`")
	}
	for _, k := range worker.WaitKinds() {
		require.Contains(t, text, "| `"+string(k)+"` | ")
	}
}

// TestServersHaveTheClock: the packages that decide by time leave that to a server.
// What they may ask their own clock is how long they have waited.
func TestServersHaveTheClock(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"internal/source", "internal/ledger"} {
		for path, file := range goFiles(t, folder) {
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				fun, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if pkg, ok := fun.X.(*ast.Ident); ok && pkg.Name == "time" && fun.Sel.Name == "Now" {
					require.Equal(t, "bounds.go", filepath.Base(path), "the worker's own clock is asked")
				}
				return true
			})
		}
	}
}

func page(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testkit.ModuleRoot(t), path))
	require.NoError(t, err)
	return string(text)
}

// goFiles parses a folder's files, tests apart.
func goFiles(t *testing.T, folder string) map[string]*ast.File {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(testkit.ModuleRoot(t), folder, "*.go"))
	require.NoError(t, err)
	out := map[string]*ast.File{}
	for _, p := range paths {
		if !strings.HasSuffix(p, "_test.go") {
			out[p], err = parser.ParseFile(token.NewFileSet(), p, nil, 0)
			require.NoError(t, err)
		}
	}
	require.NotEmpty(t, out)
	return out
}

// declared collects the names of all tests and of all other functions of the module.
func declared(t *testing.T) (tests, functions map[string]bool) {
	t.Helper()
	tests, functions = map[string]bool{}, map[string]bool{}
	err := filepath.WalkDir(testkit.ModuleRoot(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 1 {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok {
				if strings.HasSuffix(path, "_test.go") {
					tests[f.Name.Name] = true
				} else {
					functions[f.Name.Name] = true
				}
			}
		}
		return nil
	})
	require.NoError(t, err)
	return tests, functions
}
