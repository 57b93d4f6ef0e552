package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
)

// Build says which program answers.
type Build struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// Handle adds GET /version, a JSON document, to a mux.
func (b Build) Handle(mux *http.ServeMux) {
	body, _ := json.Marshal(b) // strings always marshal
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, append(body, '\n'))
	})
}

// Server serves HTTP on one address.
type Server struct {
	Addr   string // host:port, the port that the system chose in place of a 0
	server *http.Server
	ended  chan struct{}
}

// Serve listens on addr and serves handler until Close. When it returns an error
// nothing was started; errors.Is knows syscall.EADDRINUSE in it.
func Serve(ctx context.Context, addr string, handler http.Handler, log *zap.Logger) (*Server, error) {
	errorLog, err := zap.NewStdLogAt(log, zap.WarnLevel)
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{
		Addr: l.Addr().String(),
		server: &http.Server{
			Handler: handler,
			// Requests are small and answers are ready; nobody needs longer, and slow ones
			// do not pile up. A handler that streams sets its own write deadline.
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      15 * time.Second,
			IdleTimeout:       time.Minute,
			MaxHeaderBytes:    16 << 10,
			ErrorLog:          errorLog,
		},
		ended: make(chan struct{}),
	}
	go func() {
		defer close(s.ended)
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("an HTTP server has ended", zap.String("address", s.Addr), zap.Error(err))
		}
	}()
	return s, nil
}

// Close ends the server, and gives requests under way a second to end.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("close the server on %s: %w", s.Addr, err), s.server.Close())
	}
	<-s.ended
	return err
}
