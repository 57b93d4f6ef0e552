package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/config"
)

// Severity says what a finding means for its table.
type Severity string

// A table with a refuse finding is neither planned nor worked on.
const (
	Refuse Severity = "refuse"
	Warn   Severity = "warn"
	Info   Severity = "info"
)

// Finding is one thing about a table that an operator should know before rows
// are deleted from it.
type Finding struct {
	Code     string
	Severity Severity
	Message  string
	Hint     string // the SQL to run or the setting to change
}

// RefusedError carries the findings that keep a table from being archived.
type RefusedError struct {
	Table    string
	Findings []Finding
}

func (e *RefusedError) Error() string {
	var parts []string
	for _, f := range e.Findings {
		parts = append(parts, f.Code+": "+f.Message)
	}
	return fmt.Sprintf("table %s is refused: %s", e.Table, strings.Join(parts, "; "))
}

// Hint is the first finding's.
func (e *RefusedError) Hint() string {
	for _, f := range e.Findings {
		if f.Hint != "" {
			return f.Hint
		}
	}
	return "run: archiver check"
}

// Refusals returns the findings that refuse the table.
func Refusals(findings []Finding) []Finding {
	var out []Finding
	for _, f := range findings {
		if f.Severity == Refuse {
			out = append(out, f)
		}
	}
	return out
}

// Preflight reads the catalog and returns every finding about the table. A
// finding that the configuration allows is reported as information. The Table is
// nil when it is not there.
func (d *DB) Preflight(ctx context.Context, c config.Table) (*Table, []Finding, error) {
	ctx = doing(ctx, "preflight", c)
	var table *Table
	var findings []Finding
	err := d.inTx(ctx, readOnly, "", func(t *tx) error {
		var err error
		table, findings, err = t.preflight(ctx, c)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("preflight of %s: %w", c, err)
	}
	return table, findings, nil
}

func (t *tx) preflight(ctx context.Context, c config.Table) (*Table, []Finding, error) {
	table, err := t.describe(ctx, c)
	var missing *NotFoundError
	if errors.As(err, &missing) {
		return nil, []Finding{missing.finding()}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	p := &preflight{tx: t, table: table}
	for _, look := range []func(context.Context) error{
		p.allowed, p.kind, p.encoding, p.extension, p.key, p.types, p.timestamp, p.index, p.rowSecurity, p.oddTimestamps, p.largeObjects,
		p.inboundKeys, p.triggers, p.rules, p.children, p.replicationRole, p.replicaIdentity, p.downstream, p.privileges,
		p.tryDelete, // last, and only if nothing is refused: it can end the transaction
	} {
		if err := look(ctx); err != nil {
			return nil, nil, err
		}
	}
	return table, p.findings, nil
}

func (e *NotFoundError) finding() Finding {
	f := Finding{Code: "table_not_found", Severity: Refuse, Message: e.Error(), Hint: "check databases[].tables[].name, and: GRANT USAGE ON SCHEMA ... TO the archiver's role"}
	if e.Column != "" {
		f.Code, f.Hint = "column_not_found", "set timestamp_column to the column that says how old a row is"
	}
	return f
}

// Hint is that of the finding.
func (e *NotFoundError) Hint() string { return e.finding().Hint }

type preflight struct {
	*tx
	table    *Table
	size     string // of the table, for a reader
	hidden   bool   // row-level security applies: with row_security off, reading a row is an error
	foreign  bool   // rows are elsewhere: asking about their values would go there
	indexed  bool   // an index starts with the timestamp: questions about its values are cheap
	findings []Finding
}

// found adds a finding. Its severity is that of its code, or information once the
// code is in the table's allow list and may be there.
func (p *preflight) found(code, hint, format string, args ...any) {
	kind, _ := codeNamed(code)
	f := Finding{Code: code, Severity: kind.Severity, Message: fmt.Sprintf(format, args...), Hint: hint}
	switch {
	case kind.Allowable && p.table.Config.Allows(code):
		f.Severity, f.Hint = Info, "allowed by the configuration"
	case kind.Allowable && kind.Severity == Refuse:
		if f.Hint != "" {
			f.Hint += "; "
		}
		f.Hint += "to accept this on purpose: allow: [" + code + "]"
	}
	p.findings = append(p.findings, f)
}

// allowed finds words in the allow list that accept nothing: whoever misspelt one,
// or meant to accept what cannot be, should not have to guess why it has no effect.
func (p *preflight) allowed(context.Context) error {
	for _, code := range p.table.Config.Allow {
		kind, known := codeNamed(code)
		switch {
		case code == config.AllowVacuumFull:
		case !known:
			p.found("allow_without_effect", "see docs/FINDINGS.md for the codes", "allow names %s, which is the code of no finding about a table", code)
		case !kind.Allowable:
			p.found("allow_without_effect", "settle the finding instead, and take the word out of allow", "allow names %s, which cannot be accepted", code)
		}
	}
	return nil
}

// quoted is the table as it is written in SQL.
func (p *preflight) quoted() string {
	return pgx.Identifier{p.table.Config.Schema, p.table.Config.Name}.Sanitize()
}

// relations is a common table expression with the table and all its partitions.
const relations = `WITH rel AS (SELECT $1::oid AS oid UNION SELECT relid FROM pg_partition_tree($1::oid)) `

// names collects one text column.
func (p *preflight) names(ctx context.Context, sql string) ([]string, error) {
	rows, err := p.conn.Query(ctx, sql, p.table.OID)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// sizeOf is SQL for the size of a relation with its partitions, as the last ANALYZE
// or VACUUM left it in the catalog. Asking for the true size would wait for whoever
// has locked one of them.
func sizeOf(oid string) string {
	return `(SELECT CASE WHEN coalesce(sum(z.relpages), 0) = 0 THEN 'not analyzed yet'
		ELSE 'about ' || to_char(sum(greatest(z.reltuples, 0)), 'FM999,999,999,999,990') || ' rows, ' || pg_size_pretty(sum(z.relpages) * current_setting('block_size')::bigint) END
		FROM pg_class z WHERE z.relkind = 'r' AND (z.oid = ` + oid + ` OR z.oid IN (SELECT relid FROM pg_partition_tree(` + oid + `))))`
}

func (p *preflight) kind(ctx context.Context) error {
	if err := p.conn.QueryRow(ctx, `SELECT `+sizeOf("$1::oid"), p.table.OID).Scan(&p.size); err != nil {
		return err
	}
	kinds := map[string]string{"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "c": "a composite type", "i": "an index", "I": "an index", "t": "a TOAST table"}
	if what, bad := kinds[p.table.Kind]; bad {
		p.foreign = true
		p.found("not_a_table", "name the table below it", "%s is %s", p.quoted(), what)
		return nil
	}
	bad, err := p.names(ctx, relations+`
		SELECT c.oid::regclass::text || CASE WHEN c.relpersistence = 't' THEN ' is temporary' WHEN c.relkind = 'f' THEN ' is a foreign table' ELSE ' uses the access method ' || am.amname END
		FROM pg_class c JOIN rel ON rel.oid = c.oid LEFT JOIN pg_am am ON am.oid = c.relam
		WHERE c.relpersistence = 't' OR c.relkind NOT IN ('r', 'p') OR (c.relkind = 'r' AND am.amname IS DISTINCT FROM 'heap') ORDER BY 1`)
	if err != nil {
		return err
	}
	p.foreign = len(bad) > 0
	for _, b := range bad {
		p.found("not_a_heap_table", "the guarded delete needs heap row identities (ctid, xmin); archive it by other means, or move its rows into a plain table", "%s", b)
	}
	unlogged, err := p.names(ctx, relations+`SELECT c.oid::regclass::text FROM pg_class c JOIN rel ON rel.oid = c.oid WHERE c.relpersistence = 'u' ORDER BY 1`)
	for _, u := range unlogged {
		p.found("unlogged_table", "ALTER TABLE "+u+" SET LOGGED", "%s is unlogged: a crash of the server empties it, rows that are not archived yet included, and a standby cannot read it", u)
	}
	return err
}

// encoding refuses databases whose text need not be text.
func (p *preflight) encoding(ctx context.Context) error {
	var encoding string
	if err := p.conn.QueryRow(ctx, `SELECT current_setting('server_encoding')`).Scan(&encoding); err != nil {
		return err
	}
	if encoding == "SQL_ASCII" {
		p.found("sql_ascii", "convert the database to UTF8", "the database has the encoding SQL_ASCII: its text may be no valid UTF-8, and then no valid JSON")
	}
	return nil
}

// extension refuses tables whose storage an extension has taken over: their rows
// are not where the catalog says.
func (p *preflight) extension(ctx context.Context) error {
	for _, x := range []struct{ schema, catalog, what, sql string }{
		{"timescaledb_information", "hypertables", "a TimescaleDB hypertable", `
			SELECT EXISTS (SELECT FROM timescaledb_information.hypertables h JOIN pg_namespace n ON n.nspname = h.hypertable_schema
				JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = h.hypertable_name WHERE c.oid IN (SELECT oid FROM rel))`},
		{"pg_catalog", "pg_dist_partition", "a Citus table", `
			SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition d WHERE d.logicalrelid IN (SELECT oid FROM rel))`},
	} {
		var there, is bool
		err := p.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2)`, x.schema, x.catalog).Scan(&there)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		if err := p.conn.QueryRow(ctx, relations+x.sql, p.table.OID).Scan(&is); err != nil {
			return err
		}
		if is {
			p.found("extension_table", "use the extension's own retention", "%s is %s: its rows are not stored where the catalog says", p.quoted(), x.what)
		}
	}
	return nil
}

func (p *preflight) key(context.Context) error {
	if len(p.table.PrimaryKey) == 0 {
		p.found("no_primary_key", "ALTER TABLE "+p.quoted()+" ADD PRIMARY KEY (...)", "%s (%s) has no primary key, so its rows cannot be told apart", p.quoted(), p.size)
		return nil
	}
	for _, k := range p.table.Key {
		// A jsonb key could hold a JSON null, which looks like no key at all.
		if k.baseOID == 3802 || strings.HasSuffix(k.Type, "[]") {
			p.found("unsupported_key_type", "use another primary key", "key column %s has the type %s", pgx.Identifier{k.Name}.Sanitize(), k.Type)
		}
	}
	return nil
}

// types refuses columns of the server's own internal types that print something
// which no input function takes back: what is archived could not be restored.
func (p *preflight) types(ctx context.Context) error {
	const oneWay = "'{pg_node_tree,pg_ndistinct,pg_dependencies,pg_mcv_list,gtsvector,pg_brin_bloom_summary,pg_brin_minmax_multi_summary}'::name[]"
	found, err := p.names(ctx, `
		SELECT quote_ident(a.attname) || ' has the type ' || y.typname FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid AND y.typnamespace = 'pg_catalog'::regnamespace
		WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND y.typname = ANY (`+oneWay+`) ORDER BY a.attnum`)
	for _, f := range found {
		p.found("one_way_type", "", "column %s, whose values PostgreSQL prints but does not read back: they could not be restored", f)
	}
	return err
}

func (p *preflight) timestamp(context.Context) error {
	ts := p.table.Key[0]
	switch baseTimestamp(ts.Type) {
	case "timestamp with time zone", "date":
	case "timestamp without time zone":
		if p.table.Config.Timezone == "" {
			p.found("timezone_undeclared", "set timezone on the table to the zone that its values are written in, such as timezone: UTC",
				"column %s is timestamp without time zone, and nothing says which zone it means", pgx.Identifier{ts.Name}.Sanitize())
		}
	default:
		p.found("timestamp_type", "set timestamp_column to a timestamptz, timestamp or date column", "column %s has the type %s", pgx.Identifier{ts.Name}.Sanitize(), ts.Type)
	}
	return nil
}

// oddTimestamps counts rows without a timestamp, which are never archived, and
// looks for -infinity, which is older than every cutoff.
func (p *preflight) oddTimestamps(ctx context.Context) error {
	ts := p.table.Key[0]
	if !p.indexed || p.hidden || p.foreign || !ts.readable {
		return nil
	}
	var infinite bool
	err := p.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+p.table.name()+` WHERE `+p.table.timestamp()+` = '-infinity')`).Scan(&infinite)
	if infinite {
		p.found("infinite_timestamps", "UPDATE them, or let them be archived into the folder year=-infinity", "rows of %s have the %s -infinity: they are older than every cutoff and will be archived", p.quoted(), ts.Name)
	}
	if err != nil || ts.NotNull {
		return err
	}
	var n int64
	err = p.conn.QueryRow(ctx, `SELECT count(*) FROM (SELECT FROM `+p.table.name()+` WHERE `+p.table.timestamp()+` IS NULL LIMIT 100000) s`).Scan(&n)
	if err != nil || n == 0 {
		return err
	}
	many := ""
	if n == 100000 {
		many = " or more"
	}
	p.found("null_timestamps", "give them one, or leave them where they are", "%d%s rows of %s have no %s; they are never archived", n, many, p.quoted(), ts.Name)
	return nil
}

func (p *preflight) index(ctx context.Context) error {
	// The key columns of each usable index in their order. An expression, and a column
	// that the index sorts by another collation than the table does, is no column.
	rows, err := p.conn.Query(ctx, `
		SELECT (SELECT array_agg(coalesce(a.attname, '')::text ORDER BY k.n) FROM unnest(i.indkey::int2[], i.indcollation::oid[]) WITH ORDINALITY k(attnum, coll, n)
		        LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum > 0 AND a.attcollation = k.coll WHERE k.n <= i.indnkeyatts)
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam
		WHERE i.indrelid = $1 AND am.amname = 'btree' AND i.indisvalid AND i.indpred IS NULL`, p.table.OID)
	if err != nil {
		return err
	}
	indexes, err := pgx.CollectRows(rows, pgx.RowTo[[]string])
	if err != nil {
		return err
	}
	key := p.table.KeyColumns()
	var quoted []string
	for _, k := range key {
		quoted = append(quoted, pgx.Identifier{k}.Sanitize())
	}
	create := "CREATE INDEX CONCURRENTLY ON " + p.quoted() + " (" + strings.Join(quoted, ", ") + ")"
	if p.table.Kind == "p" {
		create = "CREATE INDEX ON " + p.quoted() + " (" + strings.Join(quoted, ", ") + ") (on a partitioned table: CONCURRENTLY on each partition first)"
	}
	starts := false
	for _, ix := range indexes {
		if len(ix) >= len(key) && slices.Equal(ix[:len(key)], key) {
			p.indexed = true
			return nil
		}
		starts = starts || (len(ix) > 0 && ix[0] == key[0])
	}
	p.indexed = starts
	if starts {
		p.found("index_timestamp_only", create, "no index of %s (%s) covers (%s): rows with equal timestamps are sorted again for each batch", p.quoted(), p.size, strings.Join(quoted, ", "))
		return nil
	}
	p.found("no_index", create, "no valid, complete btree index of %s (%s) starts with %s: every batch would read the whole table", p.quoted(), p.size, quoted[0])
	return nil
}
