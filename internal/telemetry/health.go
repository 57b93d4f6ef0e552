package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// checkTime bounds one check, so that a service that never answers counts as one
// that is away.
const checkTime = 10 * time.Second

// Health is what a replica says about itself. Live: the process runs and, once it
// has joined the fleet, its lease is held; whoever finds it otherwise may kill it,
// for its jobs run elsewhere. Ready: it has joined, is not about to end, and every
// service that it watches answered the last time it was asked.
//
// A request asks nobody: answers come from memory, so that however often a prober
// comes, no database and no bucket notices. All methods may be called at any time
// from any goroutine. Those of a nil *Health do nothing: a worker that nobody asks
// for its health needs none.
type Health struct {
	log *zap.Logger

	mu      sync.Mutex
	phase   phase
	lease   func() error // nil before the replica has joined
	watched []*watch
}

type phase int

const (
	starting phase = iota
	working
	stopping
)

// watch is a service that is looked at in the background.
type watch struct {
	name  string
	every time.Duration
	check func(context.Context) error

	looked time.Time // the zero value: not yet
	err    error
}

// NewHealth makes the health of a replica that has not joined yet.
func NewHealth(log *zap.Logger) *Health { return &Health{log: log} }

// Watch adds a service that must answer for the replica to be ready. Run asks it
// at once, then so often, and four times as often while it fails. It is called
// before Run.
func (h *Health) Watch(name string, every time.Duration, check func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watched = append(h.watched, &watch{name: name, every: every, check: check})
}

// Run looks after the watched services until ctx ends. A service that goes or
// comes back is logged once.
func (h *Health) Run(ctx context.Context) {
	h.mu.Lock()
	watched := h.watched
	h.mu.Unlock()
	var all sync.WaitGroup
	for _, w := range watched {
		all.Go(func() { h.follow(ctx, w) })
	}
	all.Wait()
}

func (h *Health) follow(ctx context.Context, w *watch) {
	for {
		bounded, cancel := context.WithTimeout(ctx, checkTime)
		err := w.check(bounded)
		cancel()
		if ctx.Err() != nil {
			return
		}
		h.note(w, err)
		next := w.every
		if err != nil {
			next /= 4
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

func (h *Health) note(w *watch, err error) {
	h.mu.Lock()
	before := w.err
	w.err, w.looked = err, time.Now()
	h.mu.Unlock()
	switch {
	case err != nil && before == nil:
		h.log.Warn("not ready: a check fails", zap.String("check", w.name), zap.Error(err))
	case err == nil && before != nil:
		h.log.Info("a check passes again", zap.String("check", w.name))
	}
}

// Joined says that the replica takes jobs, and how to ask for its lease: a nil
// error means held. The function must answer at once.
func (h *Health) Joined(lease func() error) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.phase, h.lease = working, lease
}

// Stopping says that the replica takes no more jobs: it is not ready from now on,
// and alive as long as its lease is held.
func (h *Health) Stopping() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.phase = stopping
}

// Vitals is what the pages say, for programs that want numbers.
type Vitals struct {
	Ready, LeaseHeld bool
	Checks           map[string]bool // the watched services that were looked at
}

// Vitals is as quick as a page: it asks nobody.
func (h *Health) Vitals() Vitals {
	v := Vitals{Ready: true, Checks: map[string]bool{}}
	for _, r := range h.ready() {
		v.Ready = v.Ready && r.OK
		if r.Age != nil {
			v.Checks[r.Name] = r.OK
		}
	}
	h.mu.Lock()
	lease := h.lease
	h.mu.Unlock()
	v.LeaseHeld = lease != nil && lease() == nil
	return v
}

// Handle adds GET /healthz and GET /readyz to a mux: 200 while all is well, 503
// when something is not, and either way a JSON document with a line for each check.
func (h *Health) Handle(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeReport(w, h.live()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { writeReport(w, h.ready()) })
}

// result is a line of a report.
type result struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Age is for how many seconds the result has been known, where it is not of now.
	Age   *float64 `json:"age_seconds,omitempty"`
	Error string   `json:"error,omitempty"`
}

func newResult(name string, err error) result {
	if err != nil {
		// Some servers' errors have line breaks; a check is one line.
		return result{Name: name, Error: strings.Join(strings.Fields(err.Error()), " ")}
	}
	return result{Name: name, OK: true}
}

func (h *Health) live() []result {
	h.mu.Lock()
	lease := h.lease
	h.mu.Unlock()
	if lease == nil {
		return []result{newResult("process", nil)}
	}
	return []result{newResult("process", nil), newResult("lease", lease())}
}

func (h *Health) ready() []result {
	live := h.live()
	h.mu.Lock()
	defer h.mu.Unlock()
	out := append([]result{newResult("worker", h.phase.trouble())}, live[1:]...)
	for _, w := range h.watched {
		if w.looked.IsZero() {
			out = append(out, newResult(w.name, errors.New("not looked at yet")))
			continue
		}
		r := newResult(w.name, w.err)
		r.Age = new(time.Since(w.looked).Round(100 * time.Millisecond).Seconds())
		out = append(out, r)
	}
	return out
}

func (p phase) trouble() error {
	switch p {
	case starting:
		return errors.New("starting: takes no jobs yet")
	case stopping:
		return errors.New("stopping: takes no more jobs")
	default:
		return nil
	}
}

// writeReport writes a JSON document whose lines people can read one by one.
func writeReport(w http.ResponseWriter, checks []result) {
	ok := true
	var lines [][]byte
	for _, c := range checks {
		ok = ok && c.OK
		line, _ := json.Marshal(c) // strings and numbers always marshal
		lines = append(lines, line)
	}
	var body bytes.Buffer
	body.WriteString(`{"ok":`)
	body.WriteString(map[bool]string{true: "true", false: "false"}[ok])
	body.WriteString(",\"checks\":[\n")
	body.Write(bytes.Join(lines, []byte(",\n")))
	body.WriteString("\n]}\n")
	code := http.StatusOK
	if !ok {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, body.Bytes())
}

func writeJSON(w http.ResponseWriter, code int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(body) // whoever asked has gone
}
