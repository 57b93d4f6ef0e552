package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// MissingPrivileges returns the GRANT statements that this role needs before it
// can work with the ledger and the queue; none where the schema is not there yet.
func (l *Ledger) MissingPrivileges(ctx context.Context) ([]string, error) {
	rows, err := l.Pool.Query(ctx, `
		WITH s AS (SELECT oid, quote_ident(nspname) AS name, quote_ident(current_user) AS role FROM pg_namespace WHERE nspname = $1)
		SELECT 'GRANT USAGE ON SCHEMA ' || name || ' TO ' || role FROM s WHERE NOT has_schema_privilege(oid, 'USAGE')
		UNION ALL
		SELECT 'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ' || name || ' TO ' || role FROM s
		WHERE EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = s.oid AND c.relkind IN ('r', 'p') AND NOT (has_table_privilege(c.oid, 'SELECT')
			AND (c.relname LIKE '%migration' OR has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))))
		UNION ALL
		SELECT 'GRANT USAGE ON ALL SEQUENCES IN SCHEMA ' || name || ' TO ' || role FROM s
		WHERE EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = s.oid AND CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(c.oid, 'USAGE') END)`, l.name)
	if err != nil {
		return nil, fmt.Errorf("look at the privileges on the control schema: %w", err)
	}
	grants, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look at the privileges on the control schema: %w", err)
	}
	return grants, nil
}
