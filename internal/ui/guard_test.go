package ui

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestGuard sends one request each to a page that answers "passed" to everything.
func TestGuard(t *testing.T) {
	t.Parallel()
	open := Options{}
	locked := Options{Username: "ops", Password: "a secret"}
	watched := Options{Username: "ops", Password: "a secret", ReadOnly: true}
	const (
		get, post = http.MethodGet, http.MethodPost
		home      = "127.0.0.1:8081"
		far       = "ui.example.com"
	)
	as := func(user, password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(user, password) }
	}
	ops := as("ops", "a secret")
	header := func(login func(*http.Request), pairs ...string) func(*http.Request) {
		return func(r *http.Request) {
			if login != nil {
				login(r)
			}
			for i := 0; i < len(pairs); i += 2 {
				r.Header.Set(pairs[i], pairs[i+1])
			}
		}
	}
	for name, c := range map[string]struct {
		options      Options
		method, host string
		with         func(*http.Request)
		status       int
		says         string
	}{
		"open, by address":                     {open, get, home, nil, 200, ""},
		"open, by localhost":                   {open, get, "localhost:8081", nil, 200, ""},
		"open, by IPv6":                        {open, get, "[::1]:8081", nil, 200, ""},
		"open, change":                         {open, post, home, header(nil, "Origin", "http://127.0.0.1:8081"), 200, ""},
		"open, by another's name":              {open, get, "rebound.example.com:8081", nil, 403, "ui.password"},
		"open, change by another's name":       {open, post, "rebound.example.com:8081", header(nil, "Origin", "http://rebound.example.com:8081"), 403, "ui.password"},
		"open, by a name that looks like home": {open, get, "127.0.0.1.example.com", nil, 403, "ui.password"},
		"open, change from elsewhere":          {open, post, home, header(nil, "Origin", "https://evil.example.com", "Content-Type", "text/plain"), 403, "another site"},
		"open, change across sites":            {open, post, home, header(nil, "Sec-Fetch-Site", "cross-site"), 403, "another site"},
		"open, change from another port":       {open, post, home, header(nil, "Sec-Fetch-Site", "same-site"), 403, "another site"},
		"open, change from no browser":         {open, post, home, nil, 200, ""},
		"locked, nobody":                       {locked, get, far, nil, 401, "login"},
		"locked, nobody at home":               {locked, get, home, nil, 401, "login"},
		"locked, wrong password":               {locked, get, far, as("ops", "a secreT"), 401, "login"},
		"locked, wrong user":                   {locked, get, far, as("root", "a secret"), 401, "login"},
		"locked, empty password":               {locked, get, far, as("ops", ""), 401, "login"},
		"locked, longer password":              {locked, get, far, as("ops", "a secret too"), 401, "login"},
		"locked, right":                        {locked, get, far, ops, 200, ""},
		"locked, change":                       {locked, post, far, ops, 200, ""},
		"locked, change from elsewhere":        {locked, post, far, header(ops, "Origin", "https://evil.example.com"), 403, "another site"},
		"read-only, look":                      {watched, get, far, ops, 200, ""},
		"read-only, look at the head":          {watched, http.MethodHead, far, ops, 200, ""},
		"read-only, nobody":                    {watched, post, far, nil, 401, "login"},
		"read-only, POST":                      {watched, post, far, ops, 403, "read-only"},
		"read-only, PUT":                       {watched, http.MethodPut, far, ops, 403, "read-only"},
		"read-only, PATCH":                     {watched, http.MethodPatch, far, ops, 403, "read-only"},
		"read-only, DELETE":                    {watched, http.MethodDelete, far, ops, 403, "read-only"},
		"read-only, an unknown method":         {watched, "CANCEL", far, ops, 403, "read-only"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			core, logs := observer.New(zapcore.DebugLevel)
			c.options.Log = zap.New(core)
			passed := false
			h := guard(http.HandlerFunc(func(_ http.ResponseWriter, _ *http.Request) { passed = true }), c.options)
			r := httptest.NewRequestWithContext(t.Context(), c.method, "/ui/api/jobs/cancel", nil)
			r.Host = c.host
			if c.with != nil {
				c.with(r)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			require.Equal(t, c.status, w.Code)
			require.Equal(t, c.status == 200, passed)
			require.Contains(t, w.Body.String(), c.says)
			if c.status != 200 {
				require.Contains(t, w.Body.String(), `{"message":"`, "the form that River UI shows")
			}
			require.Equal(t, c.status == 401, w.Header().Get("WWW-Authenticate") != "")
			require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
			require.Contains(t, w.Header().Get("Content-Security-Policy"), "frame-ancestors 'none'")
			for _, line := range logs.All() {
				all := line.Message
				for k, v := range line.ContextMap() {
					all += " " + k + " " + strings.TrimSpace(v.(string))
				}
				require.NotContains(t, all, "secret", "no password in the log")
			}
			require.Equal(t, c.status == 200 && c.method == post, logs.FilterMessage("River UI: a change was asked for").Len() == 1)
		})
	}
}

func TestGuardBoundsTheBody(t *testing.T) {
	t.Parallel()
	var err error
	h := guard(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, err = io.Copy(io.Discard, r.Body) }), Options{Log: zap.NewNop()})
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/ui/api/jobs/cancel", strings.NewReader(strings.Repeat("1", maxBody+1)))
	r.Host = "localhost"
	h.ServeHTTP(httptest.NewRecorder(), r)
	var tooLarge *http.MaxBytesError
	require.ErrorAs(t, err, &tooLarge)
}
