package ui

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net"
	"net/http"
	"strings"

	"go.uber.org/zap"
)

// maxBody is more than the largest request that the page sends: 1000 job ids.
const maxBody = 1 << 20

// guard wraps a handler in what doc.go lists.
func guard(next http.Handler, o Options) http.Handler {
	h := http.MaxBytesHandler(next, maxBody)
	h = logged(h, o.Log)
	if o.ReadOnly {
		h = readOnly(h)
	}
	h = sameOrigin(h)
	if o.Password != "" {
		h = login(h, o)
	} else {
		h = loopbackOnly(h)
	}
	return headers(h)
}

// headers lets a browser take nothing from elsewhere, show the page in no frame of
// another's, and keep no answer: what the queue holds changes all the time.
func headers(next http.Handler) http.Handler {
	// River UI sets style attributes. Its scripts are files of its own; one of them tries
	// whether it may evaluate text, and goes another way when it may not.
	const policy = "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		if !strings.HasPrefix(r.URL.Path, prefix+"/assets/") { // whose names carry a hash
			h.Set("Cache-Control", "no-store")
		}
		next.ServeHTTP(w, r)
	})
}

// loopbackOnly answers requests to a name of this machine's own.
func loopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		host = strings.Trim(host, "[]")
		ip := net.ParseIP(host)
		if !strings.EqualFold(host, "localhost") && (ip == nil || !ip.IsLoopback()) {
			refuse(w, http.StatusForbidden, "without a login River UI answers only to localhost and 127.0.0.1; set ui.username and ui.password to reach it by another name")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// login asks for the user's name and password. Both are compared by their hashes, so
// that the time taken tells neither their lengths nor how much of them was right.
func login(next http.Handler, o Options) http.Handler {
	username, password := sha256.Sum256([]byte(o.Username)), sha256.Sum256([]byte(o.Password))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, given := r.BasicAuth()
		hu, hp := sha256.Sum256([]byte(u)), sha256.Sum256([]byte(p))
		if subtle.ConstantTimeCompare(hu[:], username[:])&subtle.ConstantTimeCompare(hp[:], password[:]) != 1 {
			if given { // a browser's first request has none
				o.Log.Warn("River UI: a login was refused", zap.String("remote", r.RemoteAddr))
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="archiver", charset="UTF-8"`)
			refuse(w, http.StatusUnauthorized, "a login is needed: ui.username and ui.password of the configuration")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// sameOrigin refuses what a browser sends for another site's page and would change
// something. River UI takes any content type, so that nothing else would stop it.
func sameOrigin(next http.Handler) http.Handler {
	p := http.NewCrossOriginProtection()
	p.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusForbidden, "the request comes from another site's page; nothing was changed")
	}))
	return p.Handler(next)
}

// readOnly passes what changes nothing.
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !reads(r) {
			refuse(w, http.StatusForbidden, "River UI is read-only here (ui.read_only); nothing was changed")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// logged leaves a line for each request that may change something: who asked for what.
func logged(next http.Handler, log *zap.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !reads(r) {
			user, _, _ := r.BasicAuth()
			log.Info("River UI: a change was asked for", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.String("user", user), zap.String("remote", r.RemoteAddr))
		}
		next.ServeHTTP(w, r)
	})
}

func reads(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// refuse answers in the form that River UI shows to its user.
func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message}) // the client may be gone
}
