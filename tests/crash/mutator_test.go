package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// schema is the audit tables and the truth about them: one row for each version
// that must exist. truth.tick gives rows that follow each other, all of them older
// than the retention.
const schema = `
CREATE SCHEMA truth;
CREATE TABLE truth.row (tab text, id bigint, version bigint NOT NULL, sum text NOT NULL, PRIMARY KEY (tab, id));
CREATE SEQUENCE truth.tick;
CREATE SEQUENCE truth.id;
CREATE FUNCTION truth.at(n bigint) RETURNS timestamptz LANGUAGE sql STABLE AS
	$$ SELECT date_trunc('month', now() - interval '7 months') + n * interval '7 seconds' $$;
CREATE FUNCTION truth.sum(id bigint, version bigint, created_at timestamptz, actor text, payload jsonb) RETURNS text LANGUAGE sql STABLE
	SET TimeZone = 'UTC' AS
	$$ SELECT md5(row_to_json(r)::text) FROM (SELECT $1, $2, $3, $4, $5) r (id, version, created_at, actor, payload) $$;

CREATE TABLE audit_logs (id bigint PRIMARY KEY DEFAULT nextval('truth.id'), version bigint NOT NULL DEFAULT 1,
	created_at timestamptz NOT NULL, actor text, payload jsonb);
CREATE INDEX ON audit_logs (created_at, id);
CREATE INDEX backwards ON audit_logs ((-id));

CREATE TABLE parted (id bigint DEFAULT nextval('truth.id'), version bigint NOT NULL DEFAULT 1,
	created_at timestamptz NOT NULL, actor text, payload jsonb, PRIMARY KEY (created_at, id)) PARTITION BY RANGE (created_at);
CREATE TABLE parted_early PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (date_trunc('month', now() - interval '5 months'));
CREATE TABLE parted_late PARTITION OF parted FOR VALUES FROM (date_trunc('month', now() - interval '2 months')) TO (MAXVALUE);`

// change is a statement on a table, {t}, that keeps the truth in step. $1 is a
// random number from 0 to 1, $2 a text that no other change has.
type change struct {
	name   string
	weight int
	sql    string
}

// some picks up to n rows anywhere in the table.
func some(n int) string {
	return fmt.Sprintf(`(SELECT id FROM {t} WHERE id >= (SELECT min(id) + (max(id) - min(id)) * $1::float8 FROM {t}) ORDER BY id LIMIT %d)`, n)
}

const (
	insertTruth = ` INSERT INTO truth.row SELECT '{t}', id, version, truth.sum(id, version, created_at, actor, payload) FROM changed`
	updateTruth = ` UPDATE truth.row r SET version = c.version, sum = truth.sum(c.id, c.version, c.created_at, c.actor, c.payload) FROM changed c WHERE r.tab = '{t}' AND r.id = c.id`
	deleteTruth = ` DELETE FROM truth.row r USING changed c WHERE r.tab = '{t}' AND r.id = c.id`
)

// backlog inserts n rows after all others that are old.
func backlog(n int) string {
	return fmt.Sprintf(`WITH changed AS (INSERT INTO {t} (created_at, actor, payload)
		SELECT truth.at(nextval('truth.tick')), 'user ' || i, jsonb_build_object('by', $2::text, 'n', i, 'at', $1::float8) FROM generate_series(1, %d) i RETURNING *)`, n) + insertTruth
}

var changes = []change{
	{"backlog", 30, backlog(30)},
	{"late row", 15, `WITH changed AS (INSERT INTO {t} (created_at, actor, payload)
		SELECT truth.at(((SELECT last_value FROM truth.tick) * $1::float8)::bigint), $2, NULL FROM generate_series(1, 3) RETURNING *)` + insertTruth},
	{"update", 15, `WITH changed AS (UPDATE {t} SET version = version + 1, actor = $2 WHERE id IN ` + some(3) + ` RETURNING *)` + updateTruth},
	{"update to the same", 5, `UPDATE {t} SET actor = actor WHERE id IN ` + some(2) + ` AND $2::text <> ''`},
	{"move", 5, `WITH changed AS (UPDATE {t} SET version = version + 1, actor = $2, created_at = created_at + ($1::float8 - 0.5) * interval '2 hours'
		WHERE id IN ` + some(2) + ` RETURNING *)` + updateTruth},
	{"delete", 10, `WITH changed AS (DELETE FROM {t} WHERE id IN ` + some(2) + ` AND $2::text <> '' RETURNING *)` + deleteTruth},
	{"delete and write again", 5, `WITH gone AS (DELETE FROM {t} WHERE id IN ` + some(2) + ` AND $2::text <> '' RETURNING *) INSERT INTO {t} SELECT * FROM gone`},
	{"update rolled back", 3, `BEGIN; UPDATE {t} SET version = version + 1, actor = '{who}' WHERE id % 5 = 0; SELECT pg_sleep(0.05); ROLLBACK`},
	{"lock for update", 4, `BEGIN; SELECT FROM {t} WHERE id % 40 = {tens} FOR UPDATE; SELECT pg_sleep(0.2); ROLLBACK`},
	{"lock for key share", 4, `BEGIN; SELECT FROM {t} WHERE id % 40 = {tens} FOR KEY SHARE; SELECT pg_sleep(0.2); ROLLBACK`},
	{"vacuum freeze", 2, `VACUUM (FREEZE) {t}`},
	{"vacuum full", 1, `VACUUM FULL {t}`},
	{"cluster", 1, `CLUSTER audit_logs USING backwards`},
	{"add a column", 1, `ALTER TABLE {t} ADD COLUMN IF NOT EXISTS more_{digit} text DEFAULT 'added'`},
	// A partition of one minute, between the two that are there, with rows in it.
	{"attach a partition", 2, `DO $do$ DECLARE start timestamptz := date_trunc('month', now() - interval '4 months') + {piece} * interval '1 minute'; BEGIN
		CREATE TABLE piece_{piece} (LIKE parted INCLUDING DEFAULTS);
		INSERT INTO piece_{piece} (created_at, actor) SELECT start + i * interval '5 seconds', '{who}' FROM generate_series(0, 9) i;
		INSERT INTO truth.row SELECT 'parted', id, version, truth.sum(id, version, created_at, actor, payload) FROM piece_{piece};
		EXECUTE format('ALTER TABLE parted ATTACH PARTITION piece_{piece} FOR VALUES FROM (%L) TO (%L)', start, start + interval '1 minute');
		END $do$`},
}

// maxPieces bounds the partitions that one mutator attaches.
const maxPieces = 20

// mutator is the application: it writes to the audit tables while they are
// archived, in one goroutine of its own. An operation that fails, because of a lock
// or a server that is away, has changed nothing, neither table nor truth.
type mutator struct {
	r     *rand.Rand
	pool  *pgxpool.Pool
	done  atomic.Int64
	tick  int // of its changes; no two mutators share one
	piece int // partitions that it has tried to attach

	mu    sync.Mutex
	count map[string]int
	last  error // of an operation
}

// mutate starts n mutators on the source, by its URL, until stop is called.
func mutate(t *testing.T, seed uint64, n int, dsn string) (all []*mutator, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	for i := range n {
		c, err := pgxpool.ParseConfig(dsn)
		require.NoError(t, err)
		c.MaxConns = 1
		c.ConnConfig.RuntimeParams["lock_timeout"] = "1s"
		c.ConnConfig.RuntimeParams["application_name"] = "mutator"
		c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // the tables' columns change
		pool, err := pgxpool.NewWithConfig(ctx, c)
		require.NoError(t, err)
		m := &mutator{r: stream(seed, 1000+i), pool: pool, count: map[string]int{}, tick: i}
		all = append(all, m)
		work.Go(func() {
			defer pool.Close()
			for pause(ctx, between(m.r, 5*time.Millisecond, 60*time.Millisecond)) {
				m.one(ctx, n)
			}
		})
	}
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); work.Wait() }) }
	t.Cleanup(stop)
	return all, stop
}

// one makes one change.
func (m *mutator) one(ctx context.Context, mutators int) {
	total := 0
	for _, c := range changes {
		total += c.weight
	}
	at, c := m.r.IntN(total), changes[0]
	for _, c = range changes {
		if at -= c.weight; at < 0 {
			break
		}
	}
	if c.name == "attach a partition" {
		if m.piece++; m.piece > maxPieces {
			return
		}
	}
	m.tick += mutators
	who := fmt.Sprintf("change %d %d", m.tick, m.r.Uint32())
	sql := strings.NewReplacer("{t}", []string{"audit_logs", "parted"}[m.r.IntN(2)], "{who}", who,
		"{tens}", fmt.Sprint(m.r.IntN(40)), "{digit}", fmt.Sprint(m.r.IntN(6)), "{piece}", fmt.Sprint(m.piece*mutators+m.tick%mutators)).Replace(c.sql)
	err := m.exec(ctx, sql, m.r.Float64(), who)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.last = fmt.Errorf("%s: %w", c.name, err)
		return
	}
	m.count[c.name]++
	m.done.Add(1)
}

// trouble is the error of the last operation that failed.
func (m *mutator) trouble() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

// exec runs a statement with both parameters if it has any, else as a script.
func (m *mutator) exec(ctx context.Context, sql string, at float64, who string) error {
	if strings.Contains(sql, "$1") || strings.Contains(sql, "$2") {
		_, err := m.pool.Exec(ctx, sql, at, who)
		return err
	}
	_, err := m.pool.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

// fill writes rows of backlog to a table, without any mutator.
func (s *site) fill(t *testing.T, table string, rows int) {
	t.Helper()
	s.source.Exec(t, strings.ReplaceAll(backlog(rows), "{t}", table), 0.5, "fill")
}
