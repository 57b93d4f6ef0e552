package localserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	startTimeout = 60 * time.Second
	startPoll    = 10 * time.Millisecond
	settingsFile = "archiver.conf"
)

// PostgresOptions describes a cluster to start. The zero value is a good one.
type PostgresOptions struct {
	// BinDir holds initdb and postgres; "" means FindPostgres("").
	BinDir string
	// DataDir is the cluster's directory, initialised if it is empty, and left in
	// place by Stop. "" means a run directory, which Stop removes. For an owner
	// that is root it is given to the server's account.
	DataDir string
	// InitDB holds further arguments of initdb, such as "--locale-provider=icu".
	// They follow "-E UTF8 --locale=C" and override them.
	InitDB []string
	// Settings go to a configuration file that ALTER SYSTEM overrides. Unless said
	// otherwise here: fsync off, wal_level logical, max_connections 200,
	// max_prepared_transactions 20, wal_keep_size 512MB. A cluster that was not
	// initialised by this package does not read them.
	Settings map[string]string
	// Superuser is the role that initdb creates, and that DSN uses; "" means postgres.
	Superuser string
	// Port on 127.0.0.1; 0 means a free one.
	Port int
	// Log receives what the server logs; nil discards it.
	Log io.Writer
}

// Postgres is a cluster on 127.0.0.1, whose roles need no password. Its methods
// must not be called at the same time.
type Postgres struct {
	Port      int
	BinDir    string
	DataDir   string
	Version   string // "15.18"
	Superuser string

	options PostgresOptions
	account *syscall.Credential
	run     *runDir // nil with a data directory that the caller named
	log     *tail
	server  *child
}

// StartPostgres starts a cluster and returns when it accepts connections. The
// caller must Stop it. If the context ends first, or on any error, nothing is
// left running. A missing program is a *NotFoundError.
func StartPostgres(ctx context.Context, o PostgresOptions) (_ *Postgres, err error) {
	p, err := newPostgres(o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Stop())
		}
	}()
	if err := p.prepareDataDir(); err != nil {
		return nil, err
	}
	if err := p.initialise(ctx); err != nil {
		return nil, err
	}
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// newPostgres finds the programs and the account; it creates nothing.
func newPostgres(o PostgresOptions) (*Postgres, error) {
	if o.Superuser == "" {
		o.Superuser = "postgres"
	}
	binDir, err := FindPostgres(o.BinDir)
	if err != nil {
		return nil, err
	}
	version, err := postgresVersion(binDir)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL from %s: %w", binDir, err)
	}
	account, err := serverAccount()
	if err != nil {
		return nil, err
	}
	if account != nil && !reachableByAll(binDir) {
		return nil, fmt.Errorf("start PostgreSQL from %s: root must hand it to another account, which cannot enter that directory; "+
			"move the binaries, or run as another user", binDir)
	}
	return &Postgres{
		Port: o.Port, BinDir: binDir, DataDir: o.DataDir, Version: version, Superuser: o.Superuser,
		options: o, account: account, log: &tail{next: o.Log},
	}, nil
}

// prepareDataDir makes an empty directory that the server's account owns.
func (p *Postgres) prepareDataDir() error {
	if p.DataDir == "" {
		run, err := newRunDir("postgres")
		if err != nil {
			return err
		}
		p.run, p.DataDir = run, filepath.Join(run.Path, "data")
	}
	dir, err := filepath.Abs(p.DataDir)
	if err != nil {
		return fmt.Errorf("prepare the data directory: %w", err)
	}
	p.DataDir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("prepare the data directory: %w", err)
	}
	if p.account != nil {
		if err := os.Chown(dir, int(p.account.Uid), int(p.account.Gid)); err != nil {
			return fmt.Errorf("prepare the data directory: %w", err)
		}
	}
	return nil
}

// initialise runs initdb in an empty data directory, and writes the settings.
func (p *Postgres) initialise(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(p.DataDir, "PG_VERSION")); errors.Is(err, os.ErrNotExist) {
		args := append([]string{"-D", p.DataDir, "-U", p.Superuser, "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync"}, p.options.InitDB...)
		if err := p.runProgram(ctx, "initdb", args...); err != nil {
			return err
		}
		if err := p.appendFile("postgresql.conf", "include = '"+settingsFile+"'\n"); err != nil {
			return err
		}
	}
	return p.writeSettings()
}

// writeSettings replaces the settings file. It is included by postgresql.conf, not
// given on the command line, so that ALTER SYSTEM can override it.
func (p *Postgres) writeSettings() error {
	settings := map[string]string{
		"fsync":                     "off",
		"wal_level":                 "logical",
		"max_connections":           "200",
		"max_prepared_transactions": "20",
		// Enough for a replica to be down for a while without a slot.
		"wal_keep_size": "512MB",
	}
	maps.Copy(settings, p.options.Settings)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	path := filepath.Join(p.DataDir, settingsFile)
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil { //nolint:gosec // no secrets, and the server's account reads it
		return fmt.Errorf("write the settings of PostgreSQL: %w", err)
	}
	return nil
}

func (p *Postgres) appendFile(name, text string) (err error) {
	f, err := os.OpenFile(filepath.Join(p.DataDir, name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("configure PostgreSQL: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteString(text); err != nil {
		return fmt.Errorf("configure PostgreSQL: %w", err)
	}
	return nil
}

// start starts the server on the cluster, on the same port as before if it had
// one, and waits until it accepts connections.
func (p *Postgres) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout,
		fmt.Errorf("it accepted no connection within %v", startTimeout))
	defer cancel()
	for try := 0; ; try++ {
		port := p.Port
		if port == 0 {
			var err error
			if port, err = freePort(ctx); err != nil {
				return err
			}
		}
		err := p.startOn(ctx, port)
		if err == nil {
			p.Port = port
			return nil
		}
		// Somebody may have taken a free port between our look and the server's.
		if p.Port == 0 && try < 5 && strings.Contains(p.log.String(), "could not create any TCP/IP sockets") {
			continue
		}
		return fmt.Errorf("start PostgreSQL %s in %s: %w%s", p.Version, p.DataDir, err, p.logTail())
	}
}

func (p *Postgres) startOn(ctx context.Context, port int) error {
	p.log.reset()
	server, err := startChild(childOptions{
		Path: filepath.Join(p.BinDir, "postgres"),
		Args: []string{
			"-D", p.DataDir, "-p", strconv.Itoa(port),
			"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		},
		Env: serverEnv(), Dir: "/",
		Stdout: p.log, Stderr: p.log,
		DeathSignal: syscall.SIGQUIT, // an immediate shutdown
		Credential:  p.account,
	})
	if err != nil {
		return err
	}
	p.server = server
	if err := p.awaitReady(ctx, port); err != nil {
		return errors.Join(err, server.stop(syscall.SIGQUIT))
	}
	return nil
}

// awaitReady connects until it reaches this very server: before a port clash is
// noticed, another one may answer.
func (p *Postgres) awaitReady(ctx context.Context, port int) error {
	tick := time.NewTicker(startPoll)
	defer tick.Stop()
	for {
		dataDir, err := p.askDataDir(ctx, port)
		if err == nil && dataDir == p.DataDir {
			return nil
		}
		select {
		case <-p.server.done:
			return fmt.Errorf("the server ended: %w", p.server.err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func (p *Postgres) askDataDir(ctx context.Context, port int) (dir string, err error) {
	// What answers there may be something else, which never says a word.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.dsn("postgres", port))
	if err != nil {
		return "", err
	}
	// It was only asked a question; an error of closing changes nothing.
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	err = conn.QueryRow(ctx, "select current_setting('data_directory')").Scan(&dir)
	return dir, err
}

// DSN returns the URL of a database, for the superuser.
func (p *Postgres) DSN(database string) string { return p.dsn(database, p.Port) }

func (p *Postgres) dsn(database string, port int) string {
	u := url.URL{
		Scheme: "postgres", User: url.User(p.Superuser),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Path: "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Pid is the process id of the server; 0 while it is stopped.
func (p *Postgres) Pid() int {
	if p.server == nil || !p.server.alive() {
		return 0
	}
	return p.server.pid()
}

// Stop ends the server in order, without waiting for its clients, and removes its
// run directory. Stopping twice is harmless.
func (p *Postgres) Stop() error {
	err := p.halt(syscall.SIGINT)
	if p.run != nil {
		if e := p.run.Remove(); e != nil {
			err = errors.Join(err, fmt.Errorf("remove the run directory: %w", e))
		}
		p.run = nil
	}
	return err
}

// Crash ends the server at once and without a checkpoint, as a power cut would,
// but for what the operating system had buffered. The next Restart recovers.
func (p *Postgres) Crash() error { return p.halt(syscall.SIGQUIT) }

// Restart starts the server again on the same port, after stopping it in order
// unless it is down already.
func (p *Postgres) Restart(ctx context.Context) error {
	if err := p.halt(syscall.SIGINT); err != nil {
		return err
	}
	return p.start(ctx)
}

// halt ends the server and keeps its data. A fast shutdown that takes too long
// becomes an immediate one.
func (p *Postgres) halt(sig syscall.Signal) error {
	if p.server == nil {
		return nil
	}
	err := p.server.stop(sig, syscall.SIGQUIT)
	p.server = nil
	return err
}

// runProgram runs one of PostgreSQL's own programs under the server's account.
func (p *Postgres) runProgram(ctx context.Context, name string, args ...string) error {
	out := &tail{}
	program, err := startChild(childOptions{
		Path: filepath.Join(p.BinDir, name), Args: args,
		Env: serverEnv(), Dir: "/",
		Stdout: out, Stderr: out,
		DeathSignal: syscall.SIGTERM,
		Credential:  p.account,
	})
	if err != nil {
		return err
	}
	select {
	case <-program.done:
		err = program.err
	case <-ctx.Done():
		err = errors.Join(context.Cause(ctx), program.stop(syscall.SIGTERM))
	}
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", name, err, out)
	}
	return nil
}

func (p *Postgres) logTail() string {
	text := p.log.String()
	if text == "" {
		return ""
	}
	return "\nthe server wrote:\n" + text
}

// serverEnv is the owner's environment without what would change the server: the
// PG variables, the locale and the time zone.
func serverEnv() []string {
	var env []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LC_") || name == "LANG" || name == "LANGUAGE" || name == "TZ" || name == "HOME" {
			continue
		}
		env = append(env, pair)
	}
	return append(env, "LC_ALL=C", "TZ=UTC", "HOME=/")
}

// freePort returns a port that nobody listens on. It stays below the range that
// systems take the ports of outgoing connections from, or one of those could take
// the port while a server is down between Crash and Restart.
func freePort(ctx context.Context) (int, error) {
	const lowest, highest = 15000, 32000
	var last error
	for range 50 {
		port := lowest + rand.IntN(highest-lowest) //nolint:gosec // not a secret
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			last = err
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("find a free port: %w", last)
}
