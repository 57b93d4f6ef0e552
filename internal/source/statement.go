package source

import (
	"context"
	"strconv"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/audit-table-archiver/archiver/internal/config"
)

// conn is a connection whose statements begin with a comment that says what they are
// for, so that pg_stat_activity and the server's log show batch, stage and table. A
// comment and not application_name: that one names the session, by which EndSessions
// finds it, and would cost a statement more in each transaction.
type conn struct {
	*pgx.Conn
	comment string // with a space at its end, or empty
	kept    bool   // statements that are the same for each batch may be kept prepared
}

// ownSession marks connections with no pooler between them and their server's session:
// what is prepared there is there the next time.
const ownSession = "archiver.own_session"

func newConn(ctx context.Context, c *pgx.Conn) *conn {
	own, _ := c.PgConn().CustomData()[ownSession].(bool)
	_, batch := ctx.Value(batchKey{}).(int64)
	return &conn{Conn: c, comment: commentOf(ctx), kept: own && batch}
}

// markSession finds out about a new connection what newConn wants to know.
func markSession(ctx context.Context, c *pgx.Conn) error {
	own, err := OwnSession(ctx, c)
	c.PgConn().CustomData()[ownSession] = own
	return err
}

// keptComment takes the place of the batch's own comment, with which each batch would
// have a statement of its own.
const keptComment = "/* archiver batch */ "

// QueryKept is Query for a statement that is the same for each batch, of which a
// connection keeps the plan: to parse and plan those about the catalogs takes the server
// longer than to run them.
func (c *conn) QueryKept(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if !c.kept {
		return c.Query(ctx, sql, args...) //nolint:rowserrcheck // the caller's
	}
	return c.Conn.Query(ctx, keptComment+sql, append([]any{pgx.QueryExecModeCacheStatement}, args...)...) //nolint:rowserrcheck // the caller's
}

// QueryRowKept is QueryRow for such a statement.
func (c *conn) QueryRowKept(ctx context.Context, sql string, args ...any) pgx.Row {
	if !c.kept {
		return c.QueryRow(ctx, sql, args...)
	}
	return c.Conn.QueryRow(ctx, keptComment+sql, append([]any{pgx.QueryExecModeCacheStatement}, args...)...)
}

// Exec runs a statement, or several in the simple protocol.
func (c *conn) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return c.Conn.Exec(ctx, c.comment+sql, args...)
}

// Query runs a query.
func (c *conn) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return c.Conn.Query(ctx, c.comment+sql, args...) //nolint:rowserrcheck // the caller's
}

// QueryRow runs a query of one row.
func (c *conn) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return c.Conn.QueryRow(ctx, c.comment+sql, args...)
}

// The keys of what a context says about the statements that are sent under it.
type (
	batchKey   struct{}
	purposeKey struct{}
)

// WithBatch returns a context under which statements name the batch.
func WithBatch(ctx context.Context, id int64) context.Context {
	return context.WithValue(ctx, batchKey{}, id)
}

// doing returns a context under which statements name the stage and the table.
func doing(ctx context.Context, stage string, c config.Table) context.Context {
	return context.WithValue(ctx, purposeKey{}, stage+" "+c.String())
}

// aside returns a context under which statements say what they are for and name no batch,
// even where one has them asked: they are not part of its work, and whoever counts the
// batches on a server must not count them.
func aside(ctx context.Context, what string) context.Context {
	return context.WithValue(context.WithValue(ctx, batchKey{}, nil), purposeKey{}, what)
}

// commentOf is the comment that a context's statements begin with, such as
// /* archiver batch 17 delete orders.public.audit_logs */.
func commentOf(ctx context.Context) string {
	purpose, ok := ctx.Value(purposeKey{}).(string)
	if !ok {
		return ""
	}
	if id, ok := ctx.Value(batchKey{}).(int64); ok {
		purpose = "batch " + strconv.FormatInt(id, 10) + " " + purpose
	}
	return "/* archiver " + strings.Map(harmless, purpose) + " */ "
}

// harmless replaces what could end a comment, begin one inside it, or tear a line of
// the log: names of tables may hold anything.
func harmless(r rune) rune {
	if r == '*' || r == '/' || !unicode.IsPrint(r) {
		return '?'
	}
	return r
}
