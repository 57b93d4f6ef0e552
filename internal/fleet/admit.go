package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// Turn is how long a database keeps its place while others wait for one. Then it
// gets no more batches until it has finished those that it has, and goes to the end
// of the line. Long enough that the seats which idle meanwhile do not count.
const Turn = time.Minute

// Admission is what one look at the queue changed.
type Admission struct {
	Admitted int // jobs that workers may take now
	Parked   int // jobs that lost their place: paused, or a limit was lowered
}

// admission sets up a transaction that may make jobs available, which the trigger of
// migration 0002 keeps everybody else from doing. Losing one in a crash is harmless, so
// that it need not wait for the disk. The planner is told to walk indexes: it must never
// sort a million batches to find the first three. So told it finds the same plan whatever
// the parameters, and is not to look for it again with each: that takes longer than the
// statement.
const (
	beginAdmission = `BEGIN ISOLATION LEVEL READ COMMITTED`
	admission      = `SELECT set_config(name, value, true) FROM (VALUES
	('archiver.admission', 'on'), ('synchronous_commit', 'off'), ('lock_timeout', $1), ('jit', 'off'), ('plan_cache_mode', 'force_generic_plan'),
	('enable_seqscan', 'off'), ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'), ('enable_bitmapscan', 'off')) s(name, value)`
)

// How long a look waits for one of another replica to end. In a fleet that ends batches
// faster than looks go by, waiting costs more than the seat is worth: whoever looks next
// finds it, within a second.
const (
	waitToAdmit  = "3s"
	waitToRefill = "250ms"
)

// lockAdmission is held by whoever counts seats and changes who has one. It ends with
// the transaction, so that it is safe behind a pooler.
const lockAdmission = `SELECT pg_advisory_xact_lock(hashtextextended('archiver admission {name}', 0))`

// Admit fills the free seats: it makes the next batches of each database available to
// workers, at most as many as the smallest limit of the live replicas allows. Whoever
// runs batches counts, alive or not, until its jobs were returned.
//
//   - A database has at most its seats, and at most so many databases have any.
//   - Databases take turns, see Turn; the one that had none for longest comes first.
//   - Within a database the table with the fewest seats comes first, then the one that
//     had none for longest; within a table the batch that was planned first: the oldest rows.
//   - What is paused, what its throttle holds, and what waits for a later time is passed
//     over and holds no place. While no replica takes batches, none is admitted.
//
// It also wakes the replicas for jobs that nobody has taken yet.
func Admit(ctx context.Context, l *ledger.Ledger) (Admission, error) { return look(ctx, l, true, nil) }

// Refill is Admit for the moment at which batches of some databases have ended: it looks
// only at those and at others that have batches at work, unless the turn of one is over.
// With a thousand tables that is the difference between a handful of lookups and a
// thousand. A database whose last batch has ended is the first to get a place again until
// its turn is over. While others look all the time it does nothing.
func Refill(ctx context.Context, l *ledger.Ledger, databases []string) (Admission, error) {
	return look(ctx, l, false, databases)
}

// LookDue says that nobody has looked at everything for most of a second, and that the
// caller is to do it now.
func LookDue(ctx context.Context, l *ledger.Ledger) (bool, error) {
	tag, err := l.Pool.Exec(ctx, l.SQL(`UPDATE {s}.admission SET looked_at = now() WHERE NOT looked_at BETWEEN now() - interval '800 ms' AND now()`))
	if err != nil {
		return false, fmt.Errorf("ask who looks for free seats: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

func look(ctx context.Context, l *ledger.Ledger, everything bool, ended []string) (Admission, error) {
	var a Admission
	// Sent at once: a replica that is stopped in the middle of it cannot keep the others
	// waiting for the lock. Each statement has a snapshot of its own, that of the last is
	// taken under the lock. Rows that somebody else has locked are passed over: one
	// forgotten session of River UI must not stop the fleet.
	wait := waitToRefill
	if everything {
		wait = waitToAdmit
	}
	batch := &pgx.Batch{}
	batch.Queue(beginAdmission)
	batch.Queue(admission, wait)
	batch.Queue(l.SQL(named(lockAdmission, l)))
	queuePauseSync(batch, l)
	batch.Queue(l.SQL(admit), l.Schema()+".river_insert", interval(Turn), everything, ended).QueryRow(func(row pgx.Row) error {
		return row.Scan(&a.Admitted, &a.Parked, nil)
	})
	batch.Queue(`COMMIT`)
	err := sendBatch(ctx, l, batch)
	var pg *pgconn.PgError
	if !everything && errors.As(err, &pg) && pg.Code == lockTimedOut {
		return Admission{}, nil
	}
	if err != nil {
		return a, fmt.Errorf("admit batches: %w", err)
	}
	return a, nil
}

const lockTimedOut = "55P03"

// sendBatch ends a transaction that failed: the pool would close its connection, and a
// fleet that is short of time already would spend it on making new ones.
func sendBatch(ctx context.Context, l *ledger.Ledger, batch *pgx.Batch) error {
	c, err := l.Pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	err = c.SendBatch(ctx, batch).Close()
	if err != nil && !c.Conn().IsClosed() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = c.Exec(end, `ROLLBACK`, pgx.QueryExecModeSimpleProtocol) // else the pool closes it after all
	}
	return err
}

const admit = `
WITH alive AS (
	SELECT limits FROM {s}.worker WHERE lease_until > now()
), places AS (
	SELECT coalesce(min((limits->>'databases')::int), 0) AS n FROM alive
), seats AS MATERIALIZED (
	SELECT l.key AS database, min(l.value::int) AS n,
	       {s}.is_paused(l.key, '', '') AS paused
	FROM alive, jsonb_each_text(limits->'seats') l GROUP BY 1
), unpaused AS MATERIALIZED (
	SELECT t.id, t.database FROM {s}.archive_table t
	WHERE NOT {s}.is_paused(t.database, t.schema, t.name)
		AND ` + notHeld + `
		AND EXISTS (SELECT FROM {s}.worker WHERE ` + able + `)
), taken AS MATERIALIZED (
	SELECT j.id, j.queue, substr(j.queue, ` + queueName + `) AS database, b.table_id, j.state = 'running' AS running,
	       s.paused IS FALSE AND (b.id IS NULL OR b.table_id IN (SELECT id FROM unpaused)) AS welcome
	FROM {s}.river_job j
	LEFT JOIN {s}.batch b ON b.job_id = j.id
	LEFT JOIN seats s ON s.database = substr(j.queue, ` + queueName + `)
	WHERE j.state IN ('available', 'running') AND j.kind = 'archive_batch'
), placed AS (
	SELECT d.database, row_number() OVER (ORDER BY d.running DESC, t.began, d.database) AS place
	FROM (SELECT database, bool_or(running) AS running FROM taken WHERE running OR welcome GROUP BY 1) d
	LEFT JOIN {s}.database_turn t ON t.database = d.database
), ranked AS (
	SELECT t.*, row_number() OVER (PARTITION BY t.database ORDER BY t.running DESC, t.welcome DESC, t.id) AS seat FROM taken t
), kept AS MATERIALIZED (
	SELECT r.* FROM ranked r
	WHERE r.running OR (r.welcome AND r.seat <= (SELECT n FROM seats s WHERE s.database = r.database)
		AND (SELECT p.place FROM placed p WHERE p.database = r.database) <= (SELECT n FROM places))
), busy AS MATERIALIZED (
	SELECT k.database, count(*) AS n, min(t.began) AS began FROM kept k LEFT JOIN {s}.database_turn t ON t.database = k.database GROUP BY 1
), room AS (
	SELECT greatest((SELECT n FROM places) - (SELECT count(*) FROM busy), 0) AS n
), standing AS MATERIALIZED (
	SELECT s.database, s.n - coalesce(b.n, 0) AS n, t.began, t.admitted,
	       b.database IS NOT NULL AS active,
	       -- Its last batch has just ended and its turn has not: the first to get a place, if there is one.
	       b.database IS NULL AND coalesce(s.database = ANY ($4::text[]) AND t.began >= now() - $2::interval, false) AS returns
	FROM seats s
	LEFT JOIN busy b ON b.database = s.database
	LEFT JOIN {s}.database_turn t ON t.database = s.database
	WHERE NOT s.paused AND s.n > coalesce(b.n, 0)
), free AS MATERIALIZED (
	SELECT * FROM standing
	-- Without room, and before any turn is over, who waits for a place need not be known.
	WHERE (active OR ((returns OR $3::boolean) AND (SELECT n FROM room) > 0) OR EXISTS (SELECT FROM busy WHERE began < now() - $2::interval))
), candidate AS MATERIALIZED (
	SELECT f.database, f.n AS free, f.active, f.returns, u.id AS table_id, c.job_id, tt.admitted,
	       coalesce((SELECT count(*) FROM kept k WHERE k.table_id = u.id), 0) + row_number() OVER (PARTITION BY u.id ORDER BY c.id) AS seat
	FROM free f
	JOIN unpaused u ON u.database = f.database
	CROSS JOIN LATERAL (
		SELECT b.id, b.job_id FROM {s}.batch b JOIN {s}.river_job j ON j.id = b.job_id
		WHERE b.table_id = u.id AND b.state IN ('planned', 'verified', 'deleting') AND NOT b.failed
			AND j.state = 'pending' AND j.scheduled_at <= now()
		ORDER BY b.id LIMIT f.n FOR NO KEY UPDATE OF j SKIP LOCKED) c
	LEFT JOIN {s}.table_turn tt ON tt.table_id = u.id
), hungry AS (
	SELECT DISTINCT database, returns FROM candidate WHERE NOT active
), over AS (
	SELECT database FROM busy WHERE began < now() - $2::interval ORDER BY began
	LIMIT greatest((SELECT count(*) FROM hungry) - (SELECT n FROM room), 0)
), parked AS (
	-- What has lost its place, and what nobody has taken of a database whose turn is over.
	UPDATE {s}.river_job j SET state = 'pending' WHERE j.id IN (
		SELECT u.id FROM {s}.river_job u WHERE u.state = 'available'
			AND u.id IN (SELECT t.id FROM taken t WHERE t.id NOT IN (SELECT id FROM kept) OR t.database IN (SELECT database FROM over))
		FOR NO KEY UPDATE SKIP LOCKED)
	RETURNING j.id
), chosen AS (
	SELECT database FROM free WHERE active AND database NOT IN (SELECT database FROM over)
	UNION ALL
	(SELECT f.database FROM free f JOIN hungry h ON h.database = f.database ORDER BY h.returns DESC, f.admitted NULLS FIRST, f.database LIMIT (SELECT n FROM room))
), picked AS MATERIALIZED (
	SELECT * FROM (
		SELECT c.*, row_number() OVER (PARTITION BY c.database ORDER BY c.seat, c.admitted NULLS FIRST, c.table_id) AS turn
		FROM candidate c WHERE c.database IN (SELECT database FROM chosen)) o
	WHERE o.turn <= o.free
), admitted AS (
	UPDATE {s}.river_job j SET state = 'available' FROM picked p WHERE j.id = p.job_id AND j.state = 'pending' RETURNING j.id, j.queue
), database_turns AS (
	INSERT INTO {s}.database_turn (database, began, admitted)
	-- A turn that is over while nobody waits begins anew.
	SELECT DISTINCT p.database, CASE WHEN (p.active OR p.returns) AND f.began >= now() - $2::interval THEN f.began ELSE now() END, now() FROM picked p JOIN free f ON f.database = p.database
	ON CONFLICT (database) DO UPDATE SET began = excluded.began, admitted = excluded.admitted
), table_turns AS (
	INSERT INTO {s}.table_turn (table_id, admitted) SELECT DISTINCT table_id, now() FROM picked
	ON CONFLICT (table_id) DO UPDATE SET admitted = excluded.admitted
)
SELECT (SELECT count(*) FROM admitted), (SELECT count(*) FROM parked),
       (SELECT count(pg_notify($1, json_build_object('queue', w.queue)::text))
        FROM (SELECT queue FROM admitted UNION SELECT queue FROM kept WHERE NOT running) w)`
