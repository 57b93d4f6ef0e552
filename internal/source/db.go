package source

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/audit-table-archiver/archiver/internal/config"
)

// DB is a source database: a pool of connections to its primary, and one to its read
// replica if it has one. Each of the two holds at most connection_pool_size.
//
// What Reader returns for the replica is a DB too: a view whose reading methods go
// there, each transaction after a look whether it is still what Reader has found.
type DB struct {
	Name    string
	Pool    *pgxpool.Pool // to the primary; in a view, to the replica
	replica *replica      // nil without one, and in a view
	view    *fitness      // in a view: what the replica must be
}

// readBuffer is how much is read from a connection at a time. The server sends rows in
// pieces of 8 KB, and the driver would ask for each by itself.
const readBuffer = 64 << 10

// Open prepares the pools of a source database. It does not connect; Ping does.
// session is the application_name, so that a DBA sees who holds it; see WorkerSession.
func Open(ctx context.Context, c config.Database, session string) (*DB, error) {
	pool, err := openPool(ctx, c.Primary, c.PoolSize, session, 10*time.Second)
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", c.Name, err)
	}
	d := &DB{Name: c.Name, Pool: pool}
	if c.Replica == "" {
		return d, nil
	}
	if pool, err = openPool(ctx, c.Replica, c.PoolSize, session, lookTimeout); err != nil {
		d.Close()
		return nil, fmt.Errorf("read replica of database %s: %w", c.Name, err)
	}
	d.replica = &replica{pool: pool}
	return d, nil
}

func openPool(ctx context.Context, url config.Secret, size int, session string, patience time.Duration) (*pgxpool.Pool, error) {
	pc, err := pgxpool.ParseConfig(url.Reveal())
	if err != nil {
		return nil, err
	}
	pc.MaxConns = int32(size)
	// Most statements carry literals and are run once: preparing them gains nothing and
	// breaks behind PgBouncer in transaction mode. For the others see QueryKept.
	pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	pc.ConnConfig.RuntimeParams["application_name"] = session
	pc.ConnConfig.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(r, readBuffer), w)
	}
	pc.ConnConfig.OnNotice = passOn
	if pc.ConnConfig.ConnectTimeout == 0 {
		pc.ConnConfig.ConnectTimeout = patience
	}
	// The pool goes on with a connection that nobody waits for any more, and gives this
	// step no limit: one that has gone silent would keep its place for ever.
	pc.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		ctx, cancel := context.WithTimeout(ctx, pc.ConnConfig.ConnectTimeout)
		defer cancel()
		return markSession(ctx, c)
	}
	pc.PingTimeout = patience // of a connection that was idle, over a way that may swallow packets by now
	return pgxpool.NewWithConfig(ctx, pc)
}

// Close ends all connections. A view is not closed.
func (d *DB) Close() {
	d.Pool.Close()
	if d.replica != nil {
		d.replica.pool.Close()
	}
}

// MinServerVersion is the oldest server_version_num that is supported.
const MinServerVersion = 140000

// Ping connects and refuses servers that are too old.
func (d *DB) Ping(ctx context.Context) error {
	var num int
	var version string
	err := d.Pool.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version')`).Scan(&num, &version)
	if err != nil {
		return fmt.Errorf("connect to database %s: %w", d.Name, err)
	}
	if num < MinServerVersion {
		return &VersionError{Database: d.Name, Version: version}
	}
	return nil
}

// VersionError says that a server is older than the oldest supported one.
type VersionError struct{ Database, Version string }

func (e *VersionError) Error() string {
	return fmt.Sprintf("database %s runs PostgreSQL %s; the archiver needs 14 or later", e.Database, e.Version)
}

// access modes of begin.
const (
	readOnly  = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
	readWrite = "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE"
	// Each statement sees what was committed when it started.
	readLatest = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
)

// pinned decides the text form of every value that is read or compared. A change
// here changes archived bytes: see docs/FORMAT.md.
const pinned = `;
SET LOCAL search_path = pg_catalog;
SET LOCAL row_security = off;
SET LOCAL client_encoding = 'UTF8';
SET LOCAL TimeZone = 'UTC';
SET LOCAL DateStyle = 'ISO';
SET LOCAL IntervalStyle = 'postgres';
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex';
SET LOCAL lc_monetary = 'C';
SET LOCAL standard_conforming_strings = on;
SET LOCAL jit = off`

// tx is a transaction with pinned settings on one connection.
type tx struct {
	conn *conn
	done bool
}

// inTx runs fn between BEGIN and ROLLBACK. fn that wants its changes to stay
// calls commit itself, since only it knows what a lost answer to COMMIT means.
// settings are further SET LOCAL statements, each with a leading semicolon.
func (d *DB) inTx(ctx context.Context, mode, settings string, fn func(*tx) error) error {
	err := d.transact(ctx, mode, settings, fn)
	if d.view != nil {
		return d.blameReplica(ctx, err)
	}
	return err
}

func (d *DB) transact(ctx context.Context, mode, settings string, fn func(*tx) error) error {
	c, err := acquire(ctx, d.Pool)
	if err != nil {
		return fmt.Errorf("connect to database %s: %w", d.Name, err)
	}
	defer release(ctx, d.Pool, c)
	t := &tx{conn: newConn(ctx, c.Conn())}
	if d.view != nil {
		// On this very connection, as the address may lead to another server each time;
		// and before the snapshot is taken, which must not be older than the answer.
		if err := d.stillFit(ctx, t.conn); err != nil {
			return err
		}
	}
	defer t.rollback(ctx)
	// One round trip, and no snapshot yet: BEGIN and SET take none.
	if _, err := t.conn.Exec(ctx, mode+pinned+settings, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("begin on database %s: %w", d.Name, err)
	}
	return fn(t)
}

// rollback leaves the connection clean even when ctx has ended; a connection on
// which that fails is closed, and the server rolls back.
func (t *tx) rollback(ctx context.Context) {
	if t.done || t.conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, err := t.conn.Exec(ctx, "ROLLBACK", pgx.QueryExecModeSimpleProtocol); err != nil {
		_ = t.conn.Close(ctx)
	}
}

// commit is not bound to ctx: once COMMIT is on its way, giving up early would
// only turn a known outcome into an unknown one.
func (t *tx) commit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	tag, err := t.conn.Exec(ctx, "COMMIT", pgx.QueryExecModeSimpleProtocol)
	t.done = true
	if err != nil {
		_ = t.conn.Close(ctx)
		return err
	}
	if tag.String() != "COMMIT" { // the server answers ROLLBACK for a failed transaction
		return fmt.Errorf("commit was answered with %s", tag)
	}
	return nil
}

// quote has the server turn values into literals that it will read back as they
// are. nil stays nil.
func (t *tx) quote(ctx context.Context, values []string) ([]string, error) {
	if len(values) == 0 {
		return nil, nil
	}
	rows, err := t.conn.QueryKept(ctx, `SELECT quote_literal(v) FROM unnest($1::text[]) WITH ORDINALITY u(v, n) ORDER BY n`, values)
	if err != nil {
		return nil, fmt.Errorf("quote the bounds: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("quote the bounds: %w", err)
	}
	return out, nil
}

// towardsRows prepares the transaction for the statement that reads or deletes the rows
// of a range: by the index, since a sequential scan and a sort would read the whole
// table for one batch. Not before, because on catalogs, which are small, a sequential
// scan is often best. more are further SET LOCAL statements.
func (t *tx) towardsRows(ctx context.Context, more string) error {
	_, err := t.conn.Exec(ctx, "SET LOCAL enable_seqscan = off"+more, pgx.QueryExecModeSimpleProtocol)
	return err
}

// Identity names the server and its history: rows deleted on one timeline say
// nothing about another.
type Identity struct{ SystemID, Timeline string }

// identity reads it from the WAL position, since pg_control_checkpoint() lags
// behind after a promotion.
func (t *tx) identity(ctx context.Context) (Identity, error) {
	var id Identity
	var standby bool
	err := t.conn.QueryRowKept(ctx, `SELECT (SELECT system_identifier::text FROM pg_control_system()), pg_is_in_recovery(),
		CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END`).Scan(&id.SystemID, &standby, &id.Timeline)
	if err != nil {
		return id, fmt.Errorf("read the server's identity: %w", err)
	}
	if standby {
		return id, &StandbyError{}
	}
	return id, nil
}

// milliseconds formats a duration for SET LOCAL.
func milliseconds(d time.Duration) string { return fmt.Sprintf("'%dms'", d.Milliseconds()) }
