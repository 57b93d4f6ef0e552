package source

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/config"
)

// partitionsSQL finds, among some tables, each pair of a partition and a table
// above it, at any depth.
const partitionsSQL = `
WITH RECURSIVE wanted AS (
	SELECT u.n, c.oid FROM unnest($1::text[], $2::text[]) WITH ORDINALITY u(schema, name, n)
	JOIN pg_namespace s ON s.nspname = u.schema JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = u.name
), above(n, oid) AS (
	SELECT n, oid FROM wanted
	UNION
	SELECT a.n, i.inhparent FROM above a JOIN pg_inherits i ON i.inhrelid = a.oid JOIN pg_class p ON p.oid = i.inhparent AND p.relkind = 'p'
)
SELECT a.n::int, w.n::int FROM above a JOIN wanted w ON w.oid = a.oid AND w.n <> a.n ORDER BY 1, 2`

// Overlaps looks for tables of one database that hold the same rows, because one
// is a partition of another: each row would be planned twice. Both of such a pair
// are refused. The findings are by place in tables.
func (d *DB) Overlaps(ctx context.Context, tables []config.Table) (map[int][]Finding, error) {
	var schemas, names []string
	for _, t := range tables {
		schemas, names = append(schemas, t.Schema), append(names, t.Name)
	}
	out := map[int][]Finding{}
	err := d.inTx(ctx, readOnly, "", func(t *tx) error {
		rows, err := t.conn.Query(ctx, partitionsSQL, schemas, names)
		if err != nil {
			return err
		}
		pairs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Part, Parent int }])
		for _, p := range pairs {
			f := Finding{
				Code: "parent_and_leaf", Severity: Refuse,
				Message: fmt.Sprintf("%s is a partition of %s, and both are configured: its rows would be planned twice", tables[p.Part-1], tables[p.Parent-1]),
				Hint:    "configure either the partitioned table or its partitions",
			}
			out[p.Part-1] = append(out[p.Part-1], f)
			out[p.Parent-1] = append(out[p.Parent-1], f)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for partitions among the tables of database %s: %w", d.Name, err)
	}
	return out, nil
}
