package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/metrics"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/telemetry"
	"github.com/audit-table-archiver/archiver/migrations"
	"github.com/audit-table-archiver/archiver/worker"
)

// app is a loaded configuration and what was opened on it.
type app struct {
	cfg     *config.Config
	log     *zap.Logger
	control *pgxpool.Pool
	ledger  *ledger.Ledger
	sources map[string]*source.DB
	store   *objstore.Store
	health  *telemetry.Health // nil: nobody can ask
	metrics *metrics.Metrics  // nil: nobody can ask
	// workerID names this process among the replicas, if it becomes one.
	workerID string
	// abandoned: something may still hold connections, and nobody waits for it.
	abandoned bool
}

// load reads the configuration and makes the logger; it connects to nothing.
func (c *cli) load() (*app, error) {
	flags := map[string]any{}
	if c.logLevel != "" {
		flags["log.level"] = c.logLevel
	}
	if c.uiListen != nil {
		flags["ui.listen"] = *c.uiListen
	}
	cfg, err := config.Load(config.Options{File: c.config, Flags: flags})
	if err != nil {
		return nil, err
	}
	log, err := telemetry.NewLogger(cfg.Log, c.err)
	if err != nil {
		return nil, err
	}
	return &app{cfg: cfg, log: log, sources: map[string]*source.DB{}}, nil
}

// open loads the configuration and connects to the control database, which must
// be migrated to exactly this binary's schema.
func (c *cli) open(ctx context.Context) (*app, error) {
	a, err := c.load()
	if err != nil {
		return nil, err
	}
	if err := a.openControl(ctx); err != nil {
		return nil, err
	}
	if err := migrations.Check(ctx, a.control, a.cfg.Control.Schema); err != nil {
		a.close()
		return nil, fmt.Errorf("control database: %w", err)
	}
	return a, nil
}

func (a *app) openControl(ctx context.Context) error {
	pc, err := pgxpool.ParseConfig(a.cfg.Control.URL.Reveal())
	if err != nil {
		return fmt.Errorf("control.url: %w", err)
	}
	pc.ConnConfig.RuntimeParams["application_name"] = "archiver control"
	if pc.ConnConfig.ConnectTimeout == 0 {
		pc.ConnConfig.ConnectTimeout = 10 * time.Second
	}
	// River's listener has one, and the lease one beside the pool; River and each batch need
	// one now and then, and hold none for long.
	pc.MaxConns = int32(max(8, a.cfg.Worker.Concurrency+4))
	if pc.ConnConfig.DefaultQueryExecMode, err = controlMode(ctx, pc.ConnConfig.Copy()); err != nil {
		return fmt.Errorf("control database: %w", err)
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return fmt.Errorf("control database: %w", err)
	}
	a.control, a.ledger = pool, ledger.New(pool, a.cfg.Control.Schema)
	return nil
}

// controlMode is how statements are sent to the control database: prepared once for each
// connection, since to plan them again and again is most of what a small batch costs
// there; but nothing is prepared by name behind a pooler, which gives each transaction
// another session.
func controlMode(ctx context.Context, c *pgx.ConnConfig) (pgx.QueryExecMode, error) {
	c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx) //nolint:errcheck // it has only asked
	own, err := source.OwnSession(ctx, conn)
	if err != nil || !own {
		return pgx.QueryExecModeCacheDescribe, err
	}
	return pgx.QueryExecModeCacheStatement, nil
}

// openSources prepares the pools of all source databases; it does not connect. session is
// shown as their application_name.
func (a *app) openSources(ctx context.Context, session string) error {
	for _, d := range a.cfg.Databases {
		db, err := source.Open(ctx, d, session)
		if err != nil {
			return err
		}
		a.sources[d.Name] = db
	}
	return nil
}

// openStore prepares the object store; it sends nothing.
func (a *app) openStore(ctx context.Context) error {
	store, err := objstore.Open(ctx, worker.StoreConfig(a.cfg.S3))
	if err != nil {
		return &exitError{code: exitUsage, err: err}
	}
	a.store = store
	return nil
}

// close waits for connections in use, unless the app was abandoned: then the end
// of the process closes them. All at a time: a server takes a moment to end a session.
func (a *app) close() {
	if a.abandoned {
		return
	}
	var closing sync.WaitGroup
	for _, db := range a.sources {
		closing.Go(db.Close)
	}
	if a.control != nil {
		closing.Go(a.control.Close)
	}
	if a.store != nil {
		a.store.Close()
	}
	closing.Wait()
}

// queue is a River client that only inserts and looks.
func (a *app) queue() (*river.Client[pgx.Tx], error) {
	client, err := river.NewClient(riverpgxv5.New(a.control), &river.Config{Schema: a.cfg.Control.Schema, Logger: worker.RiverLogger(a.log)})
	if err != nil {
		return nil, fmt.Errorf("configure the job queue: %w", err)
	}
	return client, nil
}

// selection narrows a command to a database or a table.
type selection struct{ database, table string }

// name is the value of a flag that narrows. An empty one is refused: a variable that a
// script forgot to set must not widen the command to everything.
type name string

// Set implements pflag.Value.
func (n *name) Set(s string) error {
	if s == "" {
		return errors.New("must not be empty; leave the flag out to narrow nothing")
	}
	*n = name(s)
	return nil
}

// String implements pflag.Value.
func (n *name) String() string { return string(*n) }

// Type implements pflag.Value.
func (n *name) Type() string { return "name" }

// tables returns the configured tables that are selected. Selecting nothing that
// exists is an error: a misspelt name must not look like "nothing to do".
func (a *app) tables(s selection) ([]config.Table, error) {
	var schema, name string
	if s.table != "" {
		var err error
		if schema, name, err = config.ParseTableName(s.table); err != nil {
			return nil, usage("--table %s: %w", s.table, err)
		}
	}
	var out []config.Table
	names := ""
	for _, d := range a.cfg.Databases {
		for _, t := range d.Tables {
			names += " " + t.String()
			if (s.database == "" || s.database == d.Name) && (s.table == "" || (t.Schema == schema && t.Name == name)) {
				out = append(out, t)
			}
		}
	}
	if len(out) == 0 {
		return nil, &exitError{code: exitUsage, err: errors.New("no configured table matches --database and --table"), hint: "configured are:" + names}
	}
	if s.table != "" && s.database == "" {
		for _, t := range out[1:] {
			if t.Database != out[0].Database {
				return nil, usage("--table %s is in several databases; add --database", s.table)
			}
		}
	}
	return out, nil
}
