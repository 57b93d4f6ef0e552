package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/telemetry"
	"github.com/audit-table-archiver/archiver/migrations"
)

// How often a replica looks at what it needs, so that nothing depends on how often
// it is asked.
const (
	lookAtControl = 5 * time.Second
	lookAtSchema  = 30 * time.Second
	lookAtStorage = time.Minute
)

// serveHealth serves worker.listen, health and metrics, until stop is called, which must come after the
// worker's end: a replica that stops is asked until the last. With an empty address,
// or the default one taken, nothing is served. It comes after prepareWorker.
func (a *app) serveHealth(ctx context.Context) (stop func(), err error) {
	addr := a.cfg.Worker.Listen
	if addr == "" {
		return func() {}, nil
	}
	health := telemetry.NewHealth(a.log)
	health.Watch("control_database", lookAtControl, a.control.Ping)
	health.Watch("schema", lookAtSchema, func(ctx context.Context) error {
		return migrations.Check(ctx, a.control, a.cfg.Control.Schema)
	})
	health.Watch("storage", lookAtStorage, storageCheck(a.store))
	mux := http.NewServeMux()
	health.Handle(mux)
	build().Handle(mux)
	counted, err := a.newMetrics(health)
	if err != nil {
		return nil, err
	}
	counted.Handle(mux)
	if config.IsLoopback(addr) {
		telemetry.HandleProfiles(mux)
	}

	server, err := telemetry.Serve(ctx, addr, mux, a.log)
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && addr == config.DefaultWorkerListen:
		a.log.Warn("health is not served: the default worker.listen is taken, perhaps by another replica; give each replica an address of its own, or an empty one", zap.String("address", addr))
		return func() {}, nil
	case err != nil:
		return nil, &exitError{code: exitUsage, err: fmt.Errorf("worker.listen: %w; nothing was archived or deleted", err), hint: "give each replica on a host an address of its own (ARCHIVER_WORKER_LISTEN), or an empty one"}
	}
	a.log.Info("serving health and metrics", zap.String("address", server.Addr), zap.Bool("profiles", config.IsLoopback(addr)))
	watch, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var watching sync.WaitGroup
	watching.Go(func() { health.Run(watch) })
	a.health, a.metrics = health, counted
	return func() {
		cancel()
		if err := server.Close(); err != nil {
			a.log.Warn("health was not closed in order", zap.Error(err))
		}
		watching.Wait()
	}, nil
}

// storageCheck probes the bucket as check and the start of a worker do. A store that
// does not refuse to write twice is only looked at after the first time, since each
// probe would leave another version of the object there.
func storageCheck(store *objstore.Store) func(context.Context) error {
	var first *objstore.Probe
	return func(ctx context.Context) error {
		if first != nil && !first.Conditional {
			_, err := store.Head(ctx, first.Key, "")
			return err
		}
		p, err := store.Probe(ctx)
		if err == nil {
			first = &p
		}
		return err
	}
}
