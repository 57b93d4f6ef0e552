//go:build failpoint

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// moves are what may happen to the rows at any point; {n} is a number, {id} and {to}
// are ids of rows that may exist. Each keeps the truth in step in the same statement.
var moves = []string{
	`WITH c AS (UPDATE audit_logs SET actor = 'change {n}' WHERE id BETWEEN {id} AND {to} RETURNING *) UPDATE truth t SET actor = c.actor FROM c WHERE t.id = c.id`,
	`UPDATE audit_logs SET actor = actor WHERE id BETWEEN {id} AND {to}`,
	`WITH c AS (UPDATE audit_logs SET created_at = created_at + ({n} % 9 - 4) * interval '10 minutes' WHERE id = {id} RETURNING *) UPDATE truth t SET created_at = c.created_at FROM c WHERE t.id = c.id`,
	`WITH c AS (DELETE FROM audit_logs WHERE id = {id} RETURNING id) DELETE FROM truth t USING c WHERE t.id = c.id`,
	`WITH c AS (INSERT INTO audit_logs SELECT 1000 + {n}, created_at, 'late {n}', NULL FROM truth WHERE id = {id} RETURNING *) INSERT INTO truth SELECT * FROM c`,
	`WITH c AS (DELETE FROM audit_logs WHERE id = {id} RETURNING *) INSERT INTO audit_logs SELECT * FROM c`,
	`VACUUM (FREEZE) audit_logs`,
	`VACUUM FULL audit_logs`,
	`CLUSTER audit_logs USING audit_logs_created_at_id_idx`,
	`lock FOR UPDATE`,
	`lock FOR KEY SHARE`,
	`interrupt`,
}

// mover makes a random move now and then, when a failpoint is passed. One batch is
// worked at a time and waits meanwhile, so a seed gives the same interleaving.
type mover struct {
	t          *testing.T
	r          *rand.Rand
	pool       *pgxpool.Pool
	rows, n    int
	interrupts int
	held       []pgx.Tx // locks on rows
	log        []string
}

func (m *mover) handle(ctx context.Context, point string) error {
	if point == "extract:row" { // hit for each row; its transaction is looked at elsewhere
		return nil
	}
	if len(m.held) > 0 && m.r.IntN(6) == 0 {
		m.letGo()
	}
	if m.r.IntN(4) > 0 || m.n >= 40 {
		return nil
	}
	m.n++
	move := moves[m.r.IntN(len(moves))]
	id := 1 + m.r.IntN(m.rows)
	move = strings.NewReplacer("{n}", strconv.Itoa(m.n), "{id}", strconv.Itoa(id), "{to}", strconv.Itoa(id+m.r.IntN(4))).Replace(move)
	m.log = append(m.log, point+": "+move)
	ctx = context.WithoutCancel(ctx)
	if move == "interrupt" {
		if m.interrupts++; m.interrupts > 3 { // a batch may fail five times
			return nil
		}
		return errHere
	}
	if lock, ok := strings.CutPrefix(move, "lock "); ok {
		tx, err := m.pool.Begin(ctx)
		if err == nil {
			_, err = tx.Exec(ctx, fmt.Sprintf(`SELECT FROM audit_logs WHERE id = %d %s`, id, lock))
			m.held = append(m.held, tx)
		}
		return m.unlessLocked(err)
	}
	_, err := m.pool.Exec(ctx, move, pgx.QueryExecModeSimpleProtocol)
	return m.unlessLocked(err)
}

// unlessLocked lets a move fail because the archiver, or this mover itself, holds
// what it needs. It then has changed nothing.
func (m *mover) unlessLocked(err error) error {
	if err != nil && !isLockTimeout(err) {
		m.t.Errorf("%s: %v", m.log[len(m.log)-1], err)
	}
	return nil
}

func (m *mover) letGo() {
	for _, tx := range m.held {
		_ = tx.Rollback(context.WithoutCancel(m.t.Context()))
	}
	m.held = nil
}

// TestMovingRows archives rows that move, by random interleavings of every kind of
// change with every point of the way.
func TestMovingRows(t *testing.T) {
	t.Parallel()
	base := rand.Uint64N(1_000_000)
	if text := os.Getenv("ARCHIVER_SEED"); text != "" {
		var err error
		base, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "ARCHIVER_SEED")
	}
	for i := range uint64(4) {
		t.Run(fmt.Sprintf("seed %d", base+i), func(t *testing.T) {
			t.Parallel()
			const rows = 60
			tr := newTrial(t, rows, "")
			tr.cfg.Worker.Concurrency = 1
			c, err := pgxpool.ParseConfig(tr.db.DSN)
			require.NoError(t, err)
			c.ConnConfig.RuntimeParams["lock_timeout"] = "50ms"
			pool, err := pgxpool.NewWithConfig(t.Context(), c)
			require.NoError(t, err)
			defer pool.Close()
			m := &mover{t: t, r: rand.New(rand.NewPCG(base+i, 0)), pool: pool, rows: rows}
			defer m.letGo()
			defer func() {
				if t.Failed() {
					t.Log(strings.Join(m.log, "\n"))
				}
			}()
			tr.finish(m.handle)
			m.letGo()
			tr.exactlyOnce()
			tr.plan(t) // rows that came late
			tr.finish(nil)
			tr.settledIn(tr.states(t))
			require.Zero(t, tr.rowsLeft())
			require.NotEmpty(t, m.log)
		})
	}
}
