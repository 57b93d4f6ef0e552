package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
)

// shown is how many lines a list has for people unless they ask for more; programs
// get all of them.
const shown = 100

// limit is the value of --limit, or what holds without it.
func (c *cli) limit(given int, changed bool) (int, error) {
	switch {
	case given < 0:
		return 0, usage("--limit %d: must be 0 (no limit) or more", given)
	case !changed && !c.json:
		return shown, nil
	}
	return given, nil
}

// alignedLines is how many lines of a table are kept in memory to be aligned.
const alignedLines = 1000

// lines writes a list: with --json a line each as it comes, else an aligned table
// at the end. finish must be called, and its error counts: a list that is cut
// short by a full disk must not look like a short list.
type lines struct {
	table *tabwriter.Writer
	json  *json.Encoder
	out   *bufio.Writer
	count int
}

func (c *cli) lines(header string) *lines {
	l := &lines{out: bufio.NewWriter(c.out)}
	if c.json {
		l.json = json.NewEncoder(l.out)
		l.json.SetEscapeHTML(false)
		return l
	}
	l.table = tabwriter.NewWriter(l.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(l.table, header)
	return l
}

// add writes one item: document for programs, cells for people.
func (l *lines) add(document any, cells ...string) error {
	l.count++
	if l.json != nil {
		return outputError(l.json.Encode(document))
	}
	if _, err := fmt.Fprintln(l.table, strings.Join(cells, "\t")); err != nil || l.count%alignedLines != 0 {
		return outputError(err)
	}
	return outputError(l.table.Flush())
}

// finish writes what is left; a table without items is replaced by none.
func (l *lines) finish(none string) error {
	if l.table != nil {
		if l.count == 0 {
			fmt.Fprintln(l.out, none)
			return outputError(l.out.Flush())
		}
		if err := l.table.Flush(); err != nil {
			return outputError(err)
		}
	}
	return outputError(l.out.Flush())
}

// outputError is a failure to write to stdout: the command has failed, whatever
// kind of device is behind it.
func outputError(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{code: exitFailed, err: fmt.Errorf("write to stdout: %w", err), hint: "what was printed is not complete"}
}

// clip makes a text from elsewhere fit into a cell of a table.
func clip(s string, most int) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > most {
		return string(r[:most-3]) + "..."
	}
	return s
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// nullable is s for JSON, where null means unknown.
func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func stampOf(t *time.Time) *string {
	if t == nil {
		return nil
	}
	s := stamp(*t)
	return &s
}

func ago(t time.Time) string { return humanize.RelTime(t, time.Now(), "ago", "from now") }

func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// plural is "1 batch", "2,000 batches".
func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return humanize.Comma(n) + " " + many
}
