package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/audit-table-archiver/archiver/internal/config"
)

// VacuumRequest asks for the vacuum of a table from which rows were deleted.
type VacuumRequest struct {
	Table config.Table
	// Cutoff: everything that was deleted is older. Partitions that are newer are left
	// alone. Empty: all are vacuumed.
	Cutoff string
	Full   bool // VACUUM (FULL, ANALYZE): rewrites the table under an ACCESS EXCLUSIVE lock
	// Progress is told now and then how far it is; called from another goroutine, which
	// ends before Vacuum returns.
	Progress func(VacuumProgress)
}

// VacuumProgress is how far a vacuum is, as the server says.
type VacuumProgress struct {
	Relation string  // the partition, or the table
	Phase    string  // as pg_stat_progress_vacuum or pg_stat_progress_cluster names it
	Percent  float64 // of that phase, where it is known; else of the heap
}

// String is "scanning heap of public.audit_logs, 42%".
func (p VacuumProgress) String() string {
	return fmt.Sprintf("%s of %s, %.0f%%", p.Phase, p.Relation, p.Percent)
}

// VacuumReport is what a vacuum has done. Sizes include indexes and TOAST. Dead and
// live rows are the estimates of the server's statistics, which may be some seconds
// behind; Skipped are partitions that the role may not vacuum. Bloat is an estimate of what
// a rewrite of the heap would give back, and nil where the statistics do not tell.
type VacuumReport struct {
	Relations, Skipped      int
	BytesBefore, BytesAfter int64
	DeadBefore, DeadAfter   int64
	LiveAfter               int64
	BloatBefore, BloatAfter *int64
}

// NotOwnerError says that the server would only warn and skip the table.
type NotOwnerError struct{ Role, Table, grant string }

func (e *NotOwnerError) Error() string {
	return fmt.Sprintf("role %s neither owns %s nor may maintain it, so that VACUUM would skip it", e.Role, e.Table)
}

// Hint is what gives the role the right.
func (e *NotOwnerError) Hint() string { return notOwnerHint(e.grant) }

// notOwnerHint is the hint of the finding not_owner too.
func notOwnerHint(grant string) string {
	return "leave it to autovacuum, or on PostgreSQL 17 and later: " + grant
}

// ErrVacuumAtWork says that another vacuum of an archiver is at work on the database.
var ErrVacuumAtWork = errors.New("another vacuum is at work on this database")

// ErrVacuumLocked says that the lock on the table was not to be had.
var ErrVacuumLocked = errors.New("a lock on the table was not to be had")

const (
	// vacuumLockTimeout is how long a vacuum waits for its lock. Behind one that waits for
	// an ACCESS EXCLUSIVE lock everybody else waits, too.
	vacuumLockTimeout = 5 * time.Second
	// vacuumLook is how often progress is read.
	vacuumLook = 2 * time.Second
	// cancelPatience is how long a server that was asked to stop gets to say that it has.
	cancelPatience = 2 * time.Second
)

// vacuumLock is held while a vacuum is at work: two at once would take the disk from
// everybody else. All archivers use the same, whichever ledger they have.
const vacuumLock = `SELECT pg_try_advisory_xact_lock(hashtextextended('archiver vacuum', 0))`

// mayVacuum is SQL: may the role vacuum relation c?
const mayVacuum = `(pg_has_role(c.relowner, 'USAGE') OR pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE')
	OR CASE WHEN current_setting('server_version_num')::int >= 170000 THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END)`

// Vacuum vacuums and analyzes a table, of a partitioned one the partitions that rows
// older than the cutoff can be in. It returns ErrVacuumAtWork while another one is at
// work on the database, ErrVacuumLocked when the table is locked, and a *NotOwnerError
// when the role may not vacuum it. When ctx ends, the server is told to stop.
//
// It uses two connections besides the pool's: a vacuum may take hours, and batches must
// not wait for it.
func (d *DB) Vacuum(ctx context.Context, r VacuumRequest) (*VacuumReport, error) {
	ctx = aside(ctx, "vacuum "+r.Table.String())
	// The lock is one of a transaction: one of the session would stay for ever behind a
	// pooler that shares sessions. Nothing else is done in that transaction, so that it
	// has no snapshot and no lock on a table, which would be in the way of the vacuum.
	holder, err := d.connectApart(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer closeApart(ctx, holder)
	if _, err := holder.Exec(ctx, commentOf(ctx)+readLatest+pinned+"; SET LOCAL idle_in_transaction_session_timeout = 0", pgx.QueryExecModeSimpleProtocol); err != nil {
		return nil, fmt.Errorf("begin on database %s: %w", d.Name, err)
	}
	var mine bool
	if err := holder.QueryRow(ctx, vacuumLock).Scan(&mine); err != nil {
		return nil, fmt.Errorf("vacuum %s: %w", r.Table, err)
	}
	if !mine {
		return nil, ErrVacuumAtWork
	}
	report, err := d.vacuum(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("vacuum %s: %w", r.Table, err)
	}
	return report, nil
}

func (d *DB) vacuum(ctx context.Context, r VacuumRequest) (*VacuumReport, error) {
	report := &VacuumReport{}
	var names []string
	var oids []uint32
	err := d.inTx(ctx, readOnly, "", func(t *tx) error {
		table, err := t.describe(ctx, r.Table)
		if err != nil {
			return err
		}
		targets, err := t.vacuumTargets(ctx, table, r.Cutoff)
		if err != nil {
			return err
		}
		for _, target := range targets {
			if !target.May {
				report.Skipped++
				continue
			}
			names, oids = append(names, target.Name), append(oids, target.OID)
		}
		if len(names) == 0 && report.Skipped > 0 {
			return t.notOwner(ctx, table)
		}
		size, err := t.vacuumSize(ctx, oids, false)
		report.BytesBefore, report.DeadBefore, report.BloatBefore = size.Bytes, size.Dead, size.Bloat
		return err
	})
	if err != nil || len(names) == 0 {
		return report, err
	}
	report.Relations = len(names)
	if err := d.runVacuum(ctx, r, names, oids); err != nil {
		return nil, err
	}
	err = d.inTx(ctx, readOnly, "", func(t *tx) error {
		size, err := t.vacuumSize(ctx, oids, true)
		report.BytesAfter, report.DeadAfter, report.LiveAfter, report.BloatAfter = size.Bytes, size.Dead, size.Live, size.Bloat
		return err
	})
	return report, err
}

// runVacuum runs the statement on a connection of its own, since it cannot run in a
// transaction, and reads its progress over the pool's.
func (d *DB) runVacuum(ctx context.Context, r VacuumRequest, names []string, oids []uint32) error {
	var skipped notices
	conn, err := d.takeApart(ctx, skipped.add)
	if err != nil {
		return err
	}
	defer closeApart(ctx, conn)
	options, err := vacuumOptions(ctx, conn, r.Full)
	if err != nil {
		return err
	}
	watch, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	if r.Progress != nil {
		watcher.Go(func() { d.watchVacuum(watch, oids, r.Progress) })
	}
	err = cancelled(ctx, conn, func(ctx context.Context) error {
		_, err := conn.Exec(ctx, commentOf(ctx)+"VACUUM ("+strings.Join(options, ", ")+") "+strings.Join(names, ", "), pgx.QueryExecModeSimpleProtocol)
		return err
	})
	stop()
	watcher.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case Classify(err) == Busy, err == nil && skipped.locked():
		return ErrVacuumLocked
	}
	return err
}

// vacuumOptions sets the session up. Behind a pooler that shares sessions a setting
// would stay with whoever gets the session next; there a table that is locked is passed
// over instead of waited for.
func vacuumOptions(ctx context.Context, conn *pgx.Conn, full bool) ([]string, error) {
	options := []string{"ANALYZE"}
	if full {
		options = []string{"FULL", "ANALYZE"}
	}
	own, err := OwnSession(ctx, conn)
	if err != nil {
		return nil, err
	}
	if !own {
		return append(options, "SKIP_LOCKED"), nil
	}
	// Without client_connection_check_interval a vacuum goes on for hours after its
	// archiver has died. Where it is not supported that is so.
	_, err = conn.Exec(ctx, `SELECT set_config('lock_timeout', $1, false), set_config('statement_timeout', '0', false), set_config('search_path', 'pg_catalog', false)`, fmt.Sprint(vacuumLockTimeout.Milliseconds()))
	if err != nil {
		return nil, err
	}
	_, _ = conn.Exec(ctx, `SET client_connection_check_interval = '5s'`, pgx.QueryExecModeSimpleProtocol)
	return options, nil
}

// vacuumTarget is a relation that a vacuum should do.
type vacuumTarget struct {
	OID  uint32
	Name string // quoted
	May  bool   // the role may vacuum it
}

// vacuumTargets are the table itself, or the partitions that a scan for what is older
// than the cutoff would read.
func (t *tx) vacuumTargets(ctx context.Context, table *Table, cutoff string) ([]vacuumTarget, error) {
	var relations []string
	if table.Kind == "p" {
		where := "true"
		if cutoff != "" {
			lit, err := t.keyLiterals(ctx, table.Key[:1], []string{cutoff})
			if err != nil {
				return nil, err
			}
			where = table.timestamp() + " < " + lit[0]
		}
		var plan []byte
		if err := t.conn.QueryRow(ctx, "EXPLAIN (VERBOSE, FORMAT JSON, COSTS OFF) SELECT FROM "+table.name()+" WHERE "+where).Scan(&plan); err != nil {
			return nil, fmt.Errorf("look for partitions older than the cutoff: %w", err)
		}
		var nodes []struct{ Plan planNode }
		if err := json.Unmarshal(plan, &nodes); err != nil {
			return nil, fmt.Errorf("look for partitions older than the cutoff: %w", err)
		}
		for _, n := range nodes {
			relations = n.Plan.relations(relations)
		}
	} else {
		relations = []string{pgx.Identifier{table.Config.Schema, table.Config.Name}.Sanitize()}
	}
	rows, err := t.conn.Query(ctx, `
		SELECT c.oid, format('%I.%I', n.nspname, c.relname), `+mayVacuum+`
		FROM unnest($1::text[]) WITH ORDINALITY u(name, i) JOIN pg_class c ON c.oid = to_regclass(u.name) JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' ORDER BY u.i`, relations)
	if err != nil {
		return nil, fmt.Errorf("look for the right to vacuum: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[vacuumTarget])
	if err != nil {
		return nil, fmt.Errorf("look for the right to vacuum: %w", err)
	}
	return out, nil
}

// planNode is what is of interest in a plan.
type planNode struct {
	Schema   string
	Relation string     `json:"Relation Name"`
	Plans    []planNode `json:"Plans"`
}

func (n planNode) relations(found []string) []string {
	if n.Relation != "" {
		found = append(found, pgx.Identifier{n.Schema, n.Relation}.Sanitize())
	}
	for _, p := range n.Plans {
		found = p.relations(found)
	}
	return found
}

func (t *tx) notOwner(ctx context.Context, table *Table) error {
	e := &NotOwnerError{Table: pgx.Identifier{table.Config.Schema, table.Config.Name}.Sanitize()}
	if err := t.conn.QueryRow(ctx, `SELECT quote_ident(current_user)`).Scan(&e.Role); err != nil {
		return err
	}
	e.grant = "GRANT MAINTAIN ON " + e.Table + " TO " + e.Role
	return e
}

const vacuumProgress = `
	SELECT format('%I.%I', n.nspname, c.relname), p.phase, p.percent FROM (
		SELECT relid, phase, 100.0 * CASE WHEN phase = 'vacuuming heap' THEN heap_blks_vacuumed ELSE heap_blks_scanned END / greatest(heap_blks_total, 1) AS percent
		FROM pg_stat_progress_vacuum WHERE datname = current_database() AND relid = ANY ($1)
		UNION ALL
		SELECT relid, phase, 100.0 * heap_blks_scanned / greatest(heap_blks_total, 1) FROM pg_stat_progress_cluster WHERE datname = current_database() AND relid = ANY ($1)
		UNION ALL
		SELECT relid, 'analyzing: ' || phase, 100.0 * sample_blks_scanned / greatest(sample_blks_total, 1) FROM pg_stat_progress_analyze WHERE datname = current_database() AND relid = ANY ($1)
	) p JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace LIMIT 1`

// watchVacuum reports progress until ctx ends. What cannot be read is passed over: the
// vacuum goes on.
func (d *DB) watchVacuum(ctx context.Context, oids []uint32, report func(VacuumProgress)) {
	tick := time.NewTicker(vacuumLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var p VacuumProgress
		err := d.inTx(ctx, readOnly, "", func(t *tx) error {
			return t.conn.QueryRow(ctx, vacuumProgress, oids).Scan(&p.Relation, &p.Phase, &p.Percent)
		})
		if err == nil { // else not begun, or between two relations
			report(p)
		}
	}
}

// takeApart gives a vacuum a connection that is none of the pool's any more: one that was
// idle there, if it can be had, and is called as connectApart calls it. Its session has
// the server's buffers in its page tables since it read and deleted rows of this very
// table; for a new one the system fills them page by page, which can take as long as the
// vacuum itself.
func (d *DB) takeApart(ctx context.Context, notice func(*pgconn.Notice)) (*pgx.Conn, error) {
	if d.Pool.Stat().IdleConns() == 0 {
		return d.connectApart(ctx, notice)
	}
	soon, cancel := context.WithTimeout(ctx, time.Second) // batches may have taken it meanwhile
	defer cancel()
	c, err := d.Pool.Acquire(soon)
	if err != nil {
		return d.connectApart(ctx, notice)
	}
	own, _ := c.Conn().PgConn().CustomData()[ownSession].(bool)
	var plain bool
	if !own || c.QueryRow(soon, plainSession).Scan(&plain) != nil || !plain {
		c.Release()
		return d.connectApart(ctx, notice)
	}
	conn := c.Hijack()
	conn.PgConn().CustomData()[onNotice] = notice
	if _, err := conn.Exec(ctx, `SELECT set_config('application_name', $1, false)`, vacuumSessionOf(conn.Config().RuntimeParams["application_name"])); err != nil {
		closeApart(ctx, conn)
		return nil, fmt.Errorf("name the vacuum's session on database %s: %w", d.Name, err)
	}
	return conn, nil
}

// plainSession says that a new session would have the settings of this one: nothing was
// set for its role or database when it began, nor is now. A DBA who has just set
// vacuum_cost_delay for the role means the next vacuum.
const plainSession = `/* archiver vacuum */ SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_settings WHERE source IN ('global', 'database', 'user', 'database user'))
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting
		WHERE setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
			AND setrole IN (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = session_user)))`

// connectApart opens a connection to the primary that is none of the pool's.
func (d *DB) connectApart(ctx context.Context, notice func(*pgconn.Notice)) (*pgx.Conn, error) {
	c := d.Pool.Config().ConnConfig.Copy()
	c.RuntimeParams["application_name"] = vacuumSessionOf(c.RuntimeParams["application_name"])
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("connect to database %s: %w", d.Name, err)
	}
	conn.PgConn().CustomData()[onNotice] = notice
	return conn, nil
}

// onNotice is where a connection keeps who is told of its server's warnings.
const onNotice = "archiver.on_notice"

func passOn(c *pgconn.PgConn, n *pgconn.Notice) {
	if tell, _ := c.CustomData()[onNotice].(func(*pgconn.Notice)); tell != nil {
		tell(n)
	}
}

// cancelled runs a statement, and asks the server to cancel it when ctx ends. The server
// is given a moment to say so: without its answer the statement could still be at work.
func cancelled(ctx context.Context, conn *pgx.Conn, run func(context.Context) error) error {
	patient, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	stop := context.AfterFunc(ctx, func() {
		asked, cancel := context.WithTimeout(patient, cancelPatience)
		defer cancel()
		_ = conn.PgConn().CancelRequest(asked)
		<-asked.Done()
		giveUp()
	})
	defer stop()
	return run(patient)
}

// closeApart ends a connection, and with it its transaction, also when ctx has ended.
func closeApart(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = conn.Close(ctx) // whoever is at the other end rolls back
}

// notices collects the SQLSTATEs of what the server warns of.
type notices struct {
	mu    sync.Mutex
	codes []string
}

func (n *notices) add(notice *pgconn.Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.codes = append(n.codes, notice.Code)
}

// locked says that a relation was passed over because of a lock.
func (n *notices) locked() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.codes {
		if c == "55P03" {
			return true
		}
	}
	return false
}
