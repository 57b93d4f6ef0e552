package source

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// keepFor is how long a connection waits for the next transaction of its batch. Uploading
// and verifying a small object takes less; while a large one is on its way over a slow
// link, others may have the connection.
const keepFor = 500 * time.Millisecond

// WithSession returns a context under which one transaction after the other goes over the
// same connection as the one before, if that was of the same pool and not long ago. The
// session that has read rows has the buffers that hold them in its page tables; in any
// other the system has to put them there first, page by page, and a delete takes half as
// long again. done gives the connection back.
//
// No transaction is open meanwhile, and nobody waits longer for it: a connection is not kept
// where the pool has no other to give, and is given to the pool first where it has none by
// the time that it is wanted again.
func WithSession(ctx context.Context) (_ context.Context, done func()) {
	s := &session{}
	return context.WithValue(ctx, sessionKey{}, s), func() { s.close() }
}

type sessionKey struct{}

// session is the connection that is kept between two transactions.
type session struct {
	mu     sync.Mutex
	kept   *pgxpool.Conn
	pool   *pgxpool.Pool // of kept
	timer  *time.Timer   // gives kept back
	closed bool
}

// acquire takes a connection out of the pool, or the one that was kept.
func acquire(ctx context.Context, pool *pgxpool.Pool) (*pgxpool.Conn, error) {
	if s, ok := ctx.Value(sessionKey{}).(*session); ok {
		if c := s.take(pool); c != nil {
			return c, nil
		}
	}
	return pool.Acquire(ctx)
}

// release gives a connection back to the pool, or keeps it for what comes next.
func release(ctx context.Context, pool *pgxpool.Pool, c *pgxpool.Conn) {
	s, ok := ctx.Value(sessionKey{}).(*session)
	if !ok || !s.keep(pool, c) {
		c.Release()
	}
}

func (s *session) take(pool *pgxpool.Pool) *pgxpool.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil || s.pool != pool {
		return nil
	}
	c := s.kept
	s.forget()
	if exhausted(pool) { // somebody may wait, and is served first
		c.Release()
		return nil
	}
	return c
}

// exhausted says that the pool has no connection to give, and may open none.
func exhausted(pool *pgxpool.Pool) bool {
	stat := pool.Stat()
	return stat.TotalConns()-stat.IdleConns() >= stat.MaxConns()
}

func (s *session) keep(pool *pgxpool.Pool, c *pgxpool.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if conn := c.Conn().PgConn(); s.closed || s.kept != nil || conn.IsClosed() || conn.IsBusy() || conn.TxStatus() != 'I' {
		return false // the pool knows what to do with it
	}
	if exhausted(pool) {
		return false
	}
	s.kept, s.pool = c, pool
	s.timer = time.AfterFunc(keepFor, s.giveBack)
	return true
}

// giveBack releases what is kept.
func (s *session) giveBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release()
}

func (s *session) release() {
	if s.kept != nil {
		s.kept.Release()
		s.forget()
	}
}

func (s *session) forget() {
	s.timer.Stop()
	s.kept, s.pool, s.timer = nil, nil, nil
}

func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.release()
}
