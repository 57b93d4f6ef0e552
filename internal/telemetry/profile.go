package telemetry

import (
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
)

// HandleProfiles adds Go's profiles below GET /debug/pprof/ to a mux. They show what the
// process is doing, down to the names of its files, and cost it time; so they belong
// on addresses that only this machine can reach. Requests that come under another name
// are refused: a page in a browser on this machine could else be led here by a name of
// its own. The command line is not among them.
func HandleProfiles(mux *http.ServeMux) {
	handle := func(path string, h http.HandlerFunc) {
		mux.HandleFunc("GET /debug/pprof/"+path, func(w http.ResponseWriter, r *http.Request) {
			if !toLoopback(r) {
				http.Error(w, "profiles are for this machine only: ask 127.0.0.1 or localhost", http.StatusForbidden)
				return
			}
			h(w, r)
		})
	}
	handle("", pprof.Index) // and heap, goroutine, allocs, block, mutex, threadcreate
	handle("profile", pprof.Profile)
	handle("trace", pprof.Trace)
}

func toLoopback(r *http.Request) bool {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || (ip != nil && ip.IsLoopback())
}
