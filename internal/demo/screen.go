package demo

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-runewidth"
)

const (
	indent = "  "
	bold   = "\x1b[1m"
	cyan   = "\x1b[36m"
	plain  = "\x1b[0m"
)

// screen is where the story is told: whole lines, from several goroutines.
type screen struct {
	width  int
	colour bool

	onFailure func(error) // called once, when nothing more can be shown

	mu     sync.Mutex
	w      io.Writer
	failed error // the first; nothing is written after it
}

func newScreen(w io.Writer, width int, colour bool, onFailure func(error)) *screen {
	return &screen{w: w, width: max(width, 40), colour: colour, onFailure: onFailure}
}

// err is why nothing more can be shown, or nil.
func (s *screen) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *screen) write(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return
	}
	if _, err := io.WriteString(s.w, line+"\n"); err != nil {
		s.failed = fmt.Errorf("show the demo: %w", err)
		s.onFailure(s.failed)
	}
}

func (s *screen) paint(colour, text string) string {
	if !s.colour {
		return text
	}
	return colour + text + plain
}

func (s *screen) title(format string, args ...any) {
	s.write(s.paint(bold, fmt.Sprintf(format, args...)))
}

func (s *screen) heading(format string, args ...any) {
	s.write("")
	s.write(s.paint(bold, fmt.Sprintf(format, args...)))
}

// linef shows one line, indented; an empty one is left empty.
func (s *screen) linef(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if line != "" {
		line = indent + line
	}
	s.write(line)
}

// command shows a command line as somebody would type it.
func (s *screen) command(format string, args ...any) {
	s.write(indent + s.paint(cyan, "$ "+fmt.Sprintf(format, args...)))
}

// done shows a step that has ended and how long it took.
func (s *screen) done(began time.Time, format string, args ...any) {
	s.linef("%s  (%s)", fmt.Sprintf(format, args...), seconds(time.Since(began)))
}

// block shows several lines, indented, without blanks at their ends.
func (s *screen) block(text string) {
	for line := range strings.Lines(text) {
		s.linef("%s", strings.TrimRight(line, " \n"))
	}
}

// fit shortens a line to the screen's width.
func (s *screen) fit(line string) string {
	return runewidth.Truncate(line, s.width-len(indent), "…")
}

// lines is a writer that hands on whole lines. Close hands on what is left.
type lines struct {
	show func(line string)
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.show(string(line))
		l.rest = rest
	}
}

func (l *lines) Close() {
	if len(l.rest) > 0 {
		l.show(string(l.rest))
		l.rest = nil
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
