package ui

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"go.uber.org/zap"
	"riverqueue.com/riverui"
)

// Path is where the page is found on its server.
const Path = prefix + "/"

const prefix = "/ui"

// Options say who may do what.
type Options struct {
	Username string
	Password string // empty: no login, and only requests to a loopback name are answered
	ReadOnly bool   // true: whatever would change something is refused
	Log      *zap.Logger
	RiverLog *slog.Logger // for River UI's own log
}

// Handler serves River UI under Path, and sends whoever asks for / there. The client
// may be one that only inserts; its pool must outlive ctx. Nothing is asked of the
// database before the first request; from then on River UI counts the jobs now and then,
// until ctx ends.
func Handler(ctx context.Context, client *river.Client[pgx.Tx], o Options) (http.Handler, error) {
	river, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(client, nil), Logger: o.RiverLog, Prefix: prefix,
	})
	if err != nil {
		return nil, fmt.Errorf("river ui: %w", err)
	}
	// In a fleet every replica serves a page that nobody looks at: counting from the
	// start would cost the control database more than all else that they do when idle.
	count := sync.OnceFunc(func() {
		if err := river.Start(ctx); err != nil {
			o.Log.Warn("River UI: jobs are counted at each request", zap.Error(err))
		}
	})
	mux := http.NewServeMux()
	mux.HandleFunc(Path, func(w http.ResponseWriter, r *http.Request) {
		count()
		river.ServeHTTP(w, r)
	})
	mux.Handle("/{$}", http.RedirectHandler(Path, http.StatusFound))
	return guard(mux, o), nil
}
