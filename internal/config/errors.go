package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	Path string `json:"path"`          // such as databases[0].tables[1].retention; empty for the file as a whole
	Text string `json:"problem"`       // what is wrong, and what would be right
	Got  string `json:"got,omitempty"` // the offending value as people should see it; empty where it must not be shown
}

// String returns `path: problem (got value)`.
func (p Problem) String() string {
	s := p.Text
	if p.Path != "" {
		s = p.Path + ": " + s
	}
	if p.Got != "" {
		s += " (got " + p.Got + ")"
	}
	return s
}

// Error lists every problem of one configuration, in the order of their paths.
// Nothing was started and nothing was changed.
type Error struct {
	Path     string // the file that was read
	Problems []Problem
}

// Error returns one line for a single problem, else a heading and a line each.
func (e *Error) Error() string {
	if len(e.Problems) == 1 {
		return fmt.Sprintf("configuration %s: %s", e.Path, e.Problems[0])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "configuration %s has %d problems:", e.Path, len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// NotFoundError says that there is no configuration file where one was looked for.
type NotFoundError struct {
	Looked []string // the files, in the order in which they were tried
	Source string   // --config or ARCHIVER_CONFIG where that named the file, else empty
}

// Error names the files and how to name another.
func (e *NotFoundError) Error() string {
	if e.Source != "" {
		return fmt.Sprintf("no configuration file %s (named by %s)", strings.Join(e.Looked, ", "), e.Source)
	}
	return fmt.Sprintf("no configuration file: looked for %s; name one with --config FILE or ARCHIVER_CONFIG", strings.Join(e.Looked, ", "))
}

// report gathers problems, so that all of them reach the reader at once.
type report struct {
	problems []Problem
	expanded map[string]string // path -> the variables in it: their values are not shown
	environ  map[string]string // path -> the ARCHIVER_ variable that gave the value
}

func newReport() *report {
	return &report{expanded: map[string]string{}, environ: map[string]string{}}
}

// add notes a problem, with the offending value if there is one that may be
// shown. The first problem of a path hides later ones of the same path and below
// it: a value that could not be read is not also "required".
func (r *report) add(path, text string, got ...any) {
	if r.has(path) {
		return
	}
	p := Problem{Path: path, Text: text}
	if len(got) > 0 {
		p.Got = r.show(path, got[0])
	}
	r.problems = append(r.problems, p)
}

// has tells whether the path, or one above it, was reported already.
func (r *report) has(path string) bool {
	return slices.ContainsFunc(r.problems, func(p Problem) bool {
		rest, below := strings.CutPrefix(path, p.Path)
		return below && p.Path != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

const shownLength = 80

func (r *report) show(path string, got any) string {
	if names := r.expanded[path]; names != "" {
		return "the value of " + names
	}
	var s string
	switch v := got.(type) {
	case Secret:
		return ""
	case map[string]any:
		return "a map"
	case []any:
		return "a list"
	case text:
		s = strconv.Quote(string(v))
	case string:
		s = strconv.Quote(v)
	case time.Duration:
		s = formatDuration(v)
	case byteSize:
		s = formatSize(v)
	default:
		s = fmt.Sprint(v)
	}
	if len(s) > shownLength {
		s = strings.ToValidUTF8(s[:shownLength], "") + "..."
	}
	if name := r.environ[path]; name != "" {
		s += " from " + name
	}
	return s
}

// sorted returns the problems in the order of their paths.
func (r *report) sorted() []Problem {
	slices.SortStableFunc(r.problems, func(a, b Problem) int { return comparePaths(a.Path, b.Path) })
	return r.problems
}

// comparePaths orders paths as people do: item 2 of a list before item 10.
func comparePaths(a, b string) int {
	split := func(s string) []string {
		return strings.FieldsFunc(s, func(c rune) bool { return c == '.' || c == '[' || c == ']' })
	}
	return slices.CompareFunc(split(a), split(b), func(x, y string) int {
		m, errX := strconv.Atoi(x)
		n, errY := strconv.Atoi(y)
		if errX == nil && errY == nil {
			return m - n
		}
		return strings.Compare(x, y)
	})
}
