package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/telemetry"
	"github.com/audit-table-archiver/archiver/internal/ui"
	"github.com/audit-table-archiver/archiver/worker"
)

// uiConnections are what the page may use of the control database: it must not take
// those that renew a worker's lease.
const uiConnections = 4

func (c *cli) uiCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "ui",
		Short: "Serve River UI: the queue in a browser, until SIGTERM",
		Long: `Serve River UI under /ui/ on ui.listen (127.0.0.1:8081): the batch jobs with their
ranges, progress, errors and logs. An operator can retry, cancel and delete jobs there,
and pause a database's queue; with ui.read_only, only look. It works on nothing itself.

Every archiver work serves the same page, unless ui.enabled is false. An address that
other machines can reach needs ui.username and ui.password. The page speaks plain HTTP:
put a proxy that speaks HTTPS before it, or go through ssh -L.

The exit code is 0 after SIGTERM and 130 after Ctrl-C.

Examples:
  archiver ui
  archiver ui --listen 127.0.0.1:9000`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("listen") {
				c.uiListen = &listen
			}
			return c.ui(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "`ADDRESS` to listen on (ui.listen)")
	return cmd
}

func (c *cli) ui(ctx context.Context) error {
	a, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer a.close()
	server, err := a.startUI(ctx)
	if err != nil {
		return &exitError{code: exitUsage, err: fmt.Errorf("ui.listen: %w", err), hint: "choose an address of this machine that no other program listens on, with --listen or ui.listen"}
	}
	defer server.stop()
	c.printf("River UI: %s\n", server.url)
	<-ctx.Done()
	if terminated(ctx) {
		return nil
	}
	return context.Cause(ctx)
}

// uiServer is a page that is being served.
type uiServer struct {
	url  string
	stop func()
}

// startUI serves River UI until stop is called, which must come before the app is closed.
func (a *app) startUI(ctx context.Context) (*uiServer, error) {
	pc := a.control.Config()
	pc.MaxConns, pc.MinConns, pc.MinIdleConns = uiConnections, 0, 0
	pc.ConnConfig.RuntimeParams["application_name"] = "archiver ui"
	pool, err := pgxpool.NewWithConfig(ctx, pc) // connects when it is first asked
	if err != nil {
		return nil, fmt.Errorf("control database: %w", err)
	}
	live, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := func() { cancel(); pool.Close() }
	log := worker.RiverLogger(a.log)
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Schema: a.cfg.Control.Schema, Logger: log})
	if err != nil {
		stop()
		return nil, fmt.Errorf("configure the job queue: %w", err)
	}
	o := a.cfg.UI
	handler, err := ui.Handler(live, client, ui.Options{Username: o.Username, Password: o.Password.Reveal(), ReadOnly: o.ReadOnly, Log: a.log, RiverLog: log})
	if err != nil {
		stop()
		return nil, err
	}
	server, err := telemetry.Serve(ctx, o.Listen, handler, a.log)
	if err != nil {
		stop()
		return nil, err
	}
	return &uiServer{url: "http://" + localAddress(server.Addr) + ui.Path, stop: func() {
		if err := server.Close(); err != nil {
			a.log.Warn("River UI was not closed in order", zap.Error(err))
		}
		stop()
	}}, nil
}

// serveUI serves River UI beside a worker until stop is called. The worker is no less of
// a worker without it: of several replicas on one host, one has the address.
func (a *app) serveUI(ctx context.Context) (stop func()) {
	if !a.cfg.UI.Enabled {
		return func() {}
	}
	server, err := a.startUI(ctx)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		a.log.Warn("River UI is not served here: ui.listen is taken, perhaps by another replica on this host", zap.String("address", a.cfg.UI.Listen))
	case err != nil:
		a.log.Warn("River UI is not served here", zap.String("address", a.cfg.UI.Listen), zap.Error(err))
	default:
		a.log.Info("serving River UI", zap.String("url", server.url))
		return func() {
			if !a.abandoned { // else the process must end, and the page with it
				server.stop()
			}
		}
	}
	return func() {}
}
