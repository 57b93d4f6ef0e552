package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/encode"
)

// Table is a source table as the catalog describes it in one snapshot.
type Table struct {
	Config      config.Table
	OID         uint32
	Kind        string // pg_class.relkind: r or p once preflighted
	Columns     []Column
	PrimaryKey  []string // in key order; empty without one
	Key         []Column // timestamp column first, then the rest of the primary key
	Fingerprint string
}

// Column is one column as it is archived.
type Column struct {
	Name      string
	Type      string // as format_type prints it with an empty search_path
	NotNull   bool
	Identity  string // pg_attribute.attidentity
	Generated string // pg_attribute.attgenerated
	encode    encode.Type
	omitNull  bool
	expr      string // what COPY selects for it
	readable  bool
	baseOID   uint32
	// collate is the column's COLLATE clause, with a leading space, or empty. Without
	// it a value that is compared with the column brings the collation of its type,
	// which for a domain need not be the column's.
	collate string
}

// NotFoundError says that a configured table or its timestamp column is not there.
type NotFoundError struct{ Table, Column string }

func (e *NotFoundError) Error() string {
	if e.Column != "" {
		return fmt.Sprintf("table %s has no column %q", e.Table, e.Column)
	}
	return fmt.Sprintf("table %s does not exist, or its schema is not visible to this role", e.Table)
}

// name is the quoted table with its alias; ONLY keeps inheritance children out,
// whose rows have columns that would not be archived.
func (t *Table) name() string {
	n := pgx.Identifier{t.Config.Schema, t.Config.Name}.Sanitize()
	if t.Kind == "p" {
		return n + " AS t"
	}
	return "ONLY " + n + " AS t"
}

// timestamp is the quoted timestamp column.
func (t *Table) timestamp() string { return col(t.Config.TimestampColumn) }

func col(name string) string { return "t." + pgx.Identifier{name}.Sanitize() }

// KeyColumns are the names of the key, timestamp column first.
func (t *Table) KeyColumns() []string {
	out := make([]string, len(t.Key))
	for i, c := range t.Key {
		out[i] = c.Name
	}
	return out
}

// Encoding tells package encode how the COPY of this table is to be read, with the
// content hash of each row or without.
func (t *Table) Encoding(content bool) encode.Options {
	o := encode.Options{Row: t.rowColumns(content)}
	for _, c := range t.Columns {
		o.Columns = append(o.Columns, encode.Column{Name: c.Name, Type: c.encode, OmitNull: c.omitNull})
	}
	for _, k := range t.Key {
		o.Key = append(o.Key, slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == k.Name }))
	}
	return o
}

// columnsSQL reads the columns and, for each type, what it is made of: its base
// type below domains, and whether an array, a json value, an array that cannot be
// read back from a JSON array, or a type with a cast to json of its own is somewhere
// inside it.
const columnsSQL = `
WITH RECURSIVE base(attnum, typ) AS (
	SELECT attnum, atttypid FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
	UNION
	SELECT b.attnum, y.typbasetype FROM base b JOIN pg_type y ON y.oid = b.typ WHERE y.typtype = 'd'
), inside(attnum, typ, element) AS (
	SELECT attnum, typ, false FROM base
	UNION
	SELECT i.attnum, x.typ, x.element FROM inside i JOIN pg_type y ON y.oid = i.typ CROSS JOIN LATERAL (
		SELECT y.typbasetype AS typ, i.element WHERE y.typtype = 'd'
		UNION ALL SELECT y.typelem, true WHERE y.typelem <> 0 AND y.typsubscript = 'array_subscript_handler'::regproc
		UNION ALL SELECT a.atttypid, false FROM pg_attribute a WHERE y.typtype = 'c' AND a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped
	) x
), holds(attnum, an_array, json, text_only_array, own_json_cast) AS (
	SELECT i.attnum, bool_or(k.is_array), bool_or(k.is_json),
	       bool_or(i.typ IN ('int2vector'::regtype, 'oidvector'::regtype) OR (i.element AND (k.is_array OR k.is_json))),
	       bool_or(i.typ >= 16384 AND EXISTS (SELECT FROM pg_cast c WHERE c.castsource = i.typ AND c.casttarget = 'json'::regtype))
	FROM inside i JOIN pg_type y ON y.oid = i.typ CROSS JOIN LATERAL (
		SELECT y.typelem <> 0 AND y.typsubscript = 'array_subscript_handler'::regproc AS is_array, y.oid IN ('json'::regtype, 'jsonb'::regtype) AS is_json
	) k GROUP BY i.attnum
)
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text, a.attgenerated::text,
       coalesce(has_column_privilege(a.attrelid, a.attnum, 'SELECT'), true), -- null: dropped since the snapshot
       coalesce((SELECT format(' COLLATE %I.%I', n.nspname, l.collname) FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace WHERE l.oid = a.attcollation), ''),
       y.oid, y.typtype::text,
       y.typelem <> 0 AND y.typsubscript = 'array_subscript_handler'::regproc,
       coalesce((SELECT e.typtype IN ('b', 'e') AND e.typelem = 0 FROM pg_type e WHERE e.oid = y.typelem), false),
       y.typelem IN ('json'::regtype, 'jsonb'::regtype),
       h.an_array, h.json, h.text_only_array, h.own_json_cast
FROM pg_attribute a
JOIN base b ON b.attnum = a.attnum
JOIN pg_type y ON y.oid = b.typ AND y.typtype <> 'd'
JOIN holds h ON h.attnum = a.attnum
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum`

const primaryKeySQL = `
SELECT a.attname FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = $1 AND i.indisprimary AND k.n <= i.indnkeyatts ORDER BY k.n`

// describe reads the table in the transaction's snapshot. What it finds may be
// unfit for archiving; preflight says so.
func (t *tx) describe(ctx context.Context, c config.Table) (*Table, error) {
	return t.describeKnown(ctx, c, func(string) *Table { return nil })
}

// describeKnown is describe, unless known has a table for the fingerprint. What is not in
// the fingerprint is then as it was when that table was described: how columns are read
// and shown, but nothing that decides which rows a statement touches.
func (t *tx) describeKnown(ctx context.Context, c config.Table, known func(fingerprint string) *Table) (*Table, error) {
	out := &Table{Config: c}
	if err := t.fingerprint(ctx, out); err != nil {
		return nil, err
	}
	if table := known(out.Fingerprint); table != nil {
		return table, nil
	}
	rows, err := t.conn.QueryKept(ctx, columnsSQL, out.OID)
	if err != nil {
		return nil, fmt.Errorf("read the columns of %s: %w", c, err)
	}
	out.Columns, err = pgx.CollectRows(rows, scanColumn)
	if err != nil {
		return nil, fmt.Errorf("read the columns of %s: %w", c, err)
	}
	rows, err = t.conn.QueryKept(ctx, primaryKeySQL, out.OID)
	if err != nil {
		return nil, fmt.Errorf("read the primary key of %s: %w", c, err)
	}
	if out.PrimaryKey, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return nil, fmt.Errorf("read the primary key of %s: %w", c, err)
	}
	ts, ok := out.column(c.TimestampColumn)
	if !ok {
		return nil, &NotFoundError{Table: c.String(), Column: c.TimestampColumn}
	}
	out.Key = []Column{ts}
	for _, name := range out.PrimaryKey {
		if k, ok := out.column(name); ok && name != c.TimestampColumn {
			out.Key = append(out.Key, k)
		}
	}
	return out, nil
}

func (t *Table) column(name string) (Column, bool) {
	i := slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == name })
	if i < 0 {
		return Column{}, false
	}
	return t.Columns[i], true
}

func scanColumn(row pgx.CollectableRow) (Column, error) {
	var (
		c                                                               Column
		typtype                                                         string
		isArray, plainElements, jsonElements                            bool
		holdsArray, holdsJSON, holdsTextOnlyArray, holdsOwnJSONCastType bool
	)
	if err := row.Scan(&c.Name, &c.Type, &c.NotNull, &c.Identity, &c.Generated, &c.readable, &c.collate, &c.baseOID, &typtype,
		&isArray, &plainElements, &jsonElements, &holdsArray, &holdsJSON, &holdsTextOnlyArray, &holdsOwnJSONCastType); err != nil {
		return c, err
	}
	c.expr, c.encode = col(c.Name), encode.TypeRawJSON
	fast, known := encode.TypeFor(c.baseOID)
	text := outputText(c.expr)
	asText := "to_json(" + text + ")"
	asJSON := "to_json(" + c.expr + ")"
	switch {
	case known:
		c.encode = fast
		c.omitNull = fast == encode.TypeJSON || fast == encode.TypeJSONB
		return c, nil
	case typtype == "e": // its binary form is the label
		c.encode = encode.TypeText
		return c, nil
	case holdsOwnJSONCastType, holdsTextOnlyArray && !jsonElements:
		// json_populate_record reads a type with a cast to json of its own through its
		// input function, which does not take what the cast printed. Where the elements
		// of an array may be arrays in JSON, it takes them for dimensions. And it counts
		// from 1 where int2vector and oidvector count from 0.
		c.expr = "CASE WHEN num_nulls(" + c.expr + ") = 0 THEN " + asText + " END"
	case isArray && (plainElements || jsonElements):
		// Bounds other than 1 are in the text form only, which then starts with [.
		lost := text + " LIKE '[%'"
		if jsonElements {
			kind := "json_typeof"
			if c.baseOID == jsonbArrayOID {
				kind = "jsonb_typeof"
			}
			// See above; an element that is null would become an SQL NULL.
			lost += " OR EXISTS (SELECT FROM unnest(" + c.expr + ") e WHERE " + kind + "(e) IN ('null', 'array'))"
		}
		c.expr = "CASE WHEN " + lost + " THEN " + asText + " ELSE " + asJSON + " END"
	case holdsArray || holdsJSON:
		// Nested: take the text form whenever the value might hold what JSON loses.
		var lost []string
		if holdsArray {
			lost = append(lost, text+" LIKE '%]={%'")
		}
		if holdsJSON {
			lost = append(lost, text+" LIKE '%null%'")
		}
		c.expr = "CASE WHEN " + strings.Join(lost, " OR ") + " THEN " + asText + " ELSE " + asJSON + " END"
	default:
		c.expr = asJSON
	}
	return c, nil
}

// outputText is the text that the type's input function reads back, and an empty
// string for NULL. A cast to text is not used for it: users can define their own,
// which may print anything.
func outputText(expr string) string { return "format('%s', " + expr + ")" }

// jsonbArrayOID is the type jsonb[].
const jsonbArrayOID = 3807

// fingerprintSQL lists, one line each, everything in the catalogs that decides
// what a DELETE on the table means, for the table and each of its partitions. Their oids
// are an array, since the planner takes a join with them for one with a thousand rows and
// reads all of pg_attribute, three times a batch.
const fingerprintSQL = `
WITH class AS MATERIALIZED (
	SELECT c.oid, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2
), rel AS MATERIALIZED (
	SELECT array_agg(oid) AS oids FROM (SELECT oid FROM class UNION SELECT p.relid FROM class, pg_partition_tree(class.oid) p WHERE class.relkind = 'p') s
)
SELECT (SELECT oid FROM class), (SELECT relkind::text FROM class), encode(sha256(convert_to(string_agg(line, E'\n' ORDER BY line COLLATE "C"), 'UTF8')), 'hex') FROM (
	SELECT concat_ws('|', 'class', c.oid, c.relkind, c.relpersistence, c.relam, c.relrowsecurity, c.relforcerowsecurity, c.relreplident, pg_get_expr(c.relpartbound, c.oid)) AS line
	FROM pg_class c WHERE c.oid = ANY ((SELECT oids FROM rel)::oid[])
	UNION ALL
	SELECT concat_ws('|', 'column', a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attgenerated, a.attisdropped, a.atthasmissing, a.attmissingval::text)
	FROM pg_attribute a WHERE a.attrelid = ANY ((SELECT oids FROM rel)::oid[]) AND a.attnum > 0
	UNION ALL
	SELECT concat_ws('|', 'key', i.indexrelid, i.indrelid, i.indkey, i.indisprimary, i.indisvalid)
	FROM pg_index i WHERE i.indrelid = ANY ((SELECT oids FROM rel)::oid[]) AND i.indisprimary
	UNION ALL
	SELECT concat_ws('|', 'inbound', k.oid, k.conrelid, k.confrelid, k.confdeltype, k.conkey, k.confkey)
	FROM pg_constraint k WHERE k.confrelid = ANY ((SELECT oids FROM rel)::oid[]) AND k.contype = 'f'
	UNION ALL
	SELECT concat_ws('|', 'trigger', g.oid, g.tgrelid, g.tgname, g.tgtype, g.tgenabled, g.tgfoid)
	FROM pg_trigger g WHERE g.tgrelid = ANY ((SELECT oids FROM rel)::oid[]) AND (NOT g.tgisinternal OR g.tgparentid <> 0)
	UNION ALL
	SELECT concat_ws('|', 'rule', w.oid, w.ev_class, w.ev_type, w.ev_enabled, w.is_instead)
	FROM pg_rewrite w WHERE w.ev_class = ANY ((SELECT oids FROM rel)::oid[])
	UNION ALL
	SELECT concat_ws('|', 'policy', p.oid, p.polrelid, p.polcmd, p.polpermissive, p.polroles, pg_get_expr(p.polqual, p.polrelid))
	FROM pg_policy p WHERE p.polrelid = ANY ((SELECT oids FROM rel)::oid[])
	UNION ALL
	SELECT concat_ws('|', 'child', h.inhrelid, h.inhparent)
	FROM pg_inherits h WHERE h.inhparent = ANY ((SELECT oids FROM rel)::oid[])
	UNION ALL
	SELECT concat_ws('|', 'session', current_setting('session_replication_role'))
) lines`

// fingerprint finds the table by its name, hashes its catalog entries, and leads with its oid. Equal fingerprints in the
// read and in the delete mean that nobody added a column, a cascade, a trigger,
// a rule or a policy in between.
func (t *tx) fingerprint(ctx context.Context, out *Table) error {
	var oid *uint32
	var kind, sum *string
	err := t.conn.QueryRowKept(ctx, fingerprintSQL, out.Config.Schema, out.Config.Name).Scan(&oid, &kind, &sum)
	if err != nil {
		return fmt.Errorf("read the catalog fingerprint of %s: %w", out.Config, err)
	}
	if oid == nil {
		return &NotFoundError{Table: out.Config.String()}
	}
	out.OID, out.Kind, out.Fingerprint = *oid, *kind, fmt.Sprintf("%d:%s", *oid, *sum)
	return nil
}

// ReplacedError says that a table's name was given to another table, and that the
// table which was read is still there under another name.
type ReplacedError struct{ Table, Now string }

func (e *ReplacedError) Error() string {
	return fmt.Sprintf("%s is another table now; the one whose rows were read is called %s", e.Table, e.Now)
}

// stillTheSame returns a *ReplacedError if the table is not the one that fingerprint
// was taken of, and that one still exists: the rows must then be looked for there.
func (t *tx) stillTheSame(ctx context.Context, table *Table, fingerprint string) error {
	was, _, _ := strings.Cut(fingerprint, ":")
	if was == strconv.FormatUint(uint64(table.OID), 10) {
		return nil
	}
	var now string
	err := t.conn.QueryRow(ctx, `SELECT c.oid::regclass::text FROM pg_class c WHERE c.oid::text = $1 AND c.relkind IN ('r', 'p')`, was).Scan(&now)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // dropped: its rows are nowhere but in the object
	}
	if err != nil {
		return fmt.Errorf("look for the table that was read: %w", err)
	}
	return &ReplacedError{Table: table.Config.String(), Now: now}
}

// Describe reads the table in a transaction of its own.
func (d *DB) Describe(ctx context.Context, c config.Table) (*Table, error) {
	ctx = doing(ctx, "describe", c)
	var out *Table
	err := d.inTx(ctx, readOnly, "", func(t *tx) error {
		var err error
		out, err = t.describe(ctx, c)
		return err
	})
	return out, err
}
