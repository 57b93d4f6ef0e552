package fault

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/audit-table-archiver/archiver/internal/layout"
)

// mishap stands in the place of a request's way to the store.
type mishap func(r *http.Request, next http.RoundTripper) (*http.Response, error)

// rule lets a mishap happen to some requests of one table.
type rule struct {
	op    func(*http.Request) bool
	times int // how often; always when it is negative
	do    mishap
}

// injector is a transport whose requests go wrong by rules, which are found by the
// table whose folder a request is for.
type injector struct {
	next  http.RoundTripper
	mu    sync.Mutex
	rules map[string]*rule
	hits  map[string]int
}

func (i *injector) RoundTrip(r *http.Request) (*http.Response, error) {
	if do := i.pick(r); do != nil {
		return do(r, i.next)
	}
	return i.next.RoundTrip(r)
}

func (i *injector) pick(r *http.Request) mishap {
	i.mu.Lock()
	defer i.mu.Unlock()
	for table, rule := range i.rules {
		if strings.Contains(r.URL.Path, "/public/"+table+"/") && rule.times != 0 && rule.op(r) {
			rule.times--
			i.hits[table]++
			return rule.do
		}
	}
	return nil
}

// heal lets all go well for a table from now on, and says how often it did not.
func (i *injector) heal(table string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.rules, table)
	return i.hits[table]
}

// The requests that a rule can be about.
var (
	put      = onData(func(r *http.Request) bool { return r.Method == http.MethodPut && r.URL.Query().Get("partNumber") == "" })
	get      = onData(func(r *http.Request) bool { return r.Method == http.MethodGet })
	create   = onData(func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Query().Has("uploads") })
	part     = onData(func(r *http.Request) bool { return r.URL.Query().Get("partNumber") != "" })
	complete = onData(func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Query().Has("uploadId") })
	manifest = func(r *http.Request) bool { return r.Method == http.MethodPut && layout.IsManifest(r.URL.Path) }

	manifestBack = func(r *http.Request) bool { return r.Method == http.MethodGet && layout.IsManifest(r.URL.Path) }
)

func onData(is func(*http.Request) bool) func(*http.Request) bool {
	return func(r *http.Request) bool { return !layout.IsManifest(r.URL.Path) && is(r) }
}

var errReset = errors.New("connection reset by the test")

// unsent fails before anything reached the store.
func unsent(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
	return nil, errors.Join(errReset, drain(r.Body))
}

// lostAnswer carries the request out and loses the answer.
func lostAnswer(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	answer, err := next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	return nil, errors.Join(errReset, drain(answer.Body))
}

func drain(body io.ReadCloser) error {
	if body == nil {
		return nil
	}
	_, err := io.Copy(io.Discard, body)
	return errors.Join(err, body.Close())
}

// answer replies in the store's place, with an error's body whatever the status.
func answer(status int, code string) mishap {
	return func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
		if err := drain(r.Body); err != nil {
			return nil, err
		}
		return made(r, status, []byte("<Error><Code>"+code+"</Code><Message>made up by the test</Message></Error>")), nil
	}
}

// swallowed is a store that acknowledges a write and keeps nothing.
func swallowed(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
	if err := drain(r.Body); err != nil {
		return nil, err
	}
	return made(r, http.StatusOK, nil), nil
}

func made(r *http.Request, status int, body []byte) *http.Response {
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/xml"}, "Content-Length": {strconv.Itoa(len(body))}}, Request: r,
		ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
	}
}

// flippedRequest damages one bit of the body on its way to the store.
func flippedRequest(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, errors.Join(err, r.Body.Close())
	}
	if err := r.Body.Close(); err != nil {
		return nil, err
	}
	content[len(content)/2] ^= 1
	damaged := r.Clone(r.Context())
	damaged.Body = io.NopCloser(bytes.NewReader(content))
	return next.RoundTrip(damaged)
}

// changed lets change have the body of an answer. bare also takes the store's
// checksum away, as from a store that keeps none.
func changed(bare bool, change func([]byte) []byte) mishap {
	return func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		answer, err := next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(answer.Body)
		if err := errors.Join(err, answer.Body.Close()); err != nil {
			return nil, err
		}
		content = change(content)
		answer.Body = io.NopCloser(bytes.NewReader(content))
		if bare {
			answer.Header.Del("X-Amz-Checksum-Crc64nvme")
			answer.ContentLength = int64(len(content))
			answer.Header.Set("Content-Length", strconv.Itoa(len(content)))
		}
		return answer, nil
	}
}

func flip(b []byte) []byte {
	b[len(b)/2] ^= 1
	return b
}

func half(b []byte) []byte { return b[:len(b)/2] }

// broken delivers half of the body and then fails.
func broken(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	answer, err := next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	answer.Body = &brokenBody{ReadCloser: answer.Body, left: int(answer.ContentLength / 2)}
	return answer, nil
}

type brokenBody struct {
	io.ReadCloser
	left int
}

func (b *brokenBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errReset
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// before does something to the store's own files before a request goes out.
func before(do func(r *http.Request) error) mishap {
	return func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		if err := do(r); err != nil {
			return nil, err
		}
		return next.RoundTrip(r)
	}
}
