package source

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// This file looks at what a DELETE would do beyond deleting: on other tables, by
// triggers and rules, downstream, and whether the role may do it at all.

func (p *preflight) inboundKeys(ctx context.Context) error {
	rows, err := p.conn.Query(ctx, relations+`
		SELECT k.conrelid::regclass::text, k.conname, k.confdeltype::text,
		       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = k.conrelid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = k.conkey[1])
		FROM pg_constraint k JOIN rel ON rel.oid = k.confrelid
		WHERE k.contype = 'f' AND k.conparentid = 0 ORDER BY 1, 2`, p.table.OID)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var child, name, action string
		var indexed bool
		if err := rows.Scan(&child, &name, &action, &indexed); err != nil {
			return err
		}
		switch action {
		case "c":
			p.refuseUnlessAllowed("inbound_fk_cascade", "archive "+child+" first and drop the cascade", "foreign key %s of %s cascades: deleting here would delete rows there that were never archived", name, child)
		case "n", "d":
			what := "set_null"
			if action == "d" {
				what = "set_default"
			}
			p.refuseUnlessAllowed("inbound_fk_"+what, "archive "+child+" first and change the key's ON DELETE action", "foreign key %s of %s is ON DELETE %s: deleting here would change rows there", name, child, strings.ToUpper(strings.ReplaceAll(what, "_", " ")))
		default:
			p.warn("inbound_fk", "archive "+child+" first, or with a shorter retention", "foreign key %s of %s: a batch whose rows are still referred to fails and deletes nothing", name, child)
		}
		if !indexed {
			p.warn("inbound_fk_unindexed", "index the referencing columns of "+child, "foreign key %s of %s has no index: each deleted row scans %s", name, child, child)
		}
	}
	return rows.Err()
}

func (p *preflight) triggers(ctx context.Context) error {
	found, err := p.names(ctx, relations+`
		SELECT g.tgname || ' on ' || g.tgrelid::regclass::text FROM pg_trigger g JOIN rel ON rel.oid = g.tgrelid
		WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND g.tgtype & 8 <> 0 AND g.tgenabled IN ('O', 'A') ORDER BY 1`)
	for _, f := range found {
		p.refuseUnlessAllowed("delete_trigger", "disable it for the archiver's deletes", "trigger %s fires on DELETE: it can keep the row, change others or log our own work", f)
	}
	return err
}

func (p *preflight) rules(ctx context.Context) error {
	found, err := p.names(ctx, relations+`
		SELECT w.rulename || ' on ' || w.ev_class::regclass::text FROM pg_rewrite w JOIN rel ON rel.oid = w.ev_class
		WHERE w.ev_type = '4' AND w.ev_enabled <> 'D' ORDER BY 1`)
	for _, f := range found {
		p.refuse("delete_rule", "DROP RULE, or disable it", "rule %s rewrites DELETE", f)
	}
	return err
}

func (p *preflight) rowSecurity(ctx context.Context) error {
	var active bool
	if err := p.conn.QueryRow(ctx, `SELECT row_security_active($1::oid)`, p.table.OID).Scan(&active); err != nil {
		return err
	}
	p.hidden = active
	if active {
		p.refuse("row_security", "ALTER ROLE the archiver's role BYPASSRLS", "row-level security of %s applies to this role: rows would be hidden from it", p.quoted())
	}
	return nil
}

func (p *preflight) children(ctx context.Context) error {
	if p.table.Kind == "p" {
		return nil
	}
	found, err := p.names(ctx, `SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1 ORDER BY 1`)
	if len(found) > 0 {
		p.refuseUnlessAllowed("inheritance_children", "configure each child as a table of its own", "%s has inheritance children (%s), whose rows are not read through it", p.quoted(), strings.Join(found, ", "))
	}
	return err
}

func (p *preflight) replication(ctx context.Context) error {
	found, err := p.names(ctx, relations+`
		SELECT DISTINCT c.oid::regclass::text FROM pg_class c JOIN rel ON rel.oid = c.oid
		JOIN pg_publication_tables b ON b.schemaname = c.relnamespace::regnamespace::text AND b.tablename = c.relname
		JOIN pg_publication u ON u.pubname = b.pubname AND u.pubdelete
		WHERE c.relreplident = 'n' OR (c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)) ORDER BY 1`)
	if err != nil {
		return err
	}
	for _, f := range found {
		p.refuse("no_replica_identity", "ALTER TABLE "+f+" REPLICA IDENTITY DEFAULT", "%s is published without a replica identity: DELETE is an error there", f)
	}
	if found, err = p.names(ctx, relations+`
		SELECT DISTINCT quote_ident(b.pubname) FROM pg_class c JOIN rel ON rel.oid = c.oid
		JOIN pg_publication_tables b ON b.schemaname = c.relnamespace::regnamespace::text AND b.tablename = c.relname
		JOIN pg_publication u ON u.pubname = b.pubname AND u.pubdelete ORDER BY 1`); err != nil {
		return err
	}
	if len(found) > 0 {
		p.warn("publication", "ALTER PUBLICATION ... SET (publish = 'insert, update') where subscribers should keep the rows", "%s is published by %s: subscribers delete these rows too", p.quoted(), strings.Join(found, ", "))
	}
	if found, err = p.names(ctx, `SELECT slot_name::text FROM pg_replication_slots WHERE slot_type = 'logical' AND database = current_database() AND $1::oid IS NOT NULL ORDER BY 1`); err != nil {
		return err
	}
	if len(found) > 0 {
		p.warn("logical_slot", "see that each consumer is meant to see these deletes, and keeps up", "logical slots decode this database (%s): every delete flows downstream, and WAL is kept until it is consumed", strings.Join(found, ", "))
	}
	if found, err = p.names(ctx, relations+`SELECT c.oid::regclass::text FROM pg_class c JOIN rel ON rel.oid = c.oid WHERE c.relreplident = 'f' AND c.relkind = 'r' ORDER BY 1`); err != nil {
		return err
	}
	if len(found) > 0 {
		p.warn("replica_identity_full", "ALTER TABLE ... REPLICA IDENTITY DEFAULT", "REPLICA IDENTITY FULL writes each deleted row to the WAL, about seven times as much: %s", strings.Join(found, ", "))
	}
	return nil
}

// largeObjects warns of columns that may point at large objects, which are no
// part of the row.
func (p *preflight) largeObjects(ctx context.Context) error {
	var columns []string
	for _, c := range p.table.Columns {
		if c.baseOID == oidOID {
			columns = append(columns, pgx.Identifier{c.Name}.Sanitize())
		}
	}
	if len(columns) == 0 {
		return nil
	}
	var there bool
	if err := p.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_largeobject_metadata)`).Scan(&there); err != nil {
		return err
	}
	if there {
		p.warn("large_objects", "archive the large objects by other means first, and do not run vacuumlo", "%s of %s may refer to large objects, which are not archived with the row", strings.Join(columns, ", "), p.quoted())
	}
	return nil
}

// oidOID is the type oid.
const oidOID = 26

func (p *preflight) privileges(ctx context.Context) error {
	var role, owner string
	var usage, del, update, owns bool
	err := p.conn.QueryRow(ctx, `
		SELECT quote_ident(current_user), has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, 'DELETE'), has_any_column_privilege(c.oid, 'UPDATE'),
		       pg_has_role(c.relowner, 'USAGE') OR CASE WHEN current_setting('server_version_num')::int >= 170000 THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END, pg_get_userbyid(c.relowner)
		FROM pg_class c WHERE c.oid = $1`, p.table.OID).Scan(&role, &usage, &del, &update, &owns, &owner)
	if err != nil {
		return err
	}
	var unreadable []string
	for _, c := range p.table.Columns {
		if !c.readable {
			unreadable = append(unreadable, pgx.Identifier{c.Name}.Sanitize())
		}
	}
	grant := func(what string) string { return "GRANT " + what + " ON " + p.quoted() + " TO " + role }
	if !owns {
		p.warn("not_owner", "GRANT "+pgx.Identifier{owner}.Sanitize()+" TO "+role+", or let autovacuum do it", "role %s neither owns %s nor may maintain it: VACUUM would skip it", role, p.quoted())
	}
	if !usage {
		p.refuse("missing_privilege", "GRANT USAGE ON SCHEMA "+pgx.Identifier{p.table.Config.Schema}.Sanitize()+" TO "+role, "role %s may not use the schema of %s", role, p.quoted())
	}
	if len(unreadable) > 0 {
		p.refuse("missing_privilege", grant("SELECT"), "role %s may not read %s of %s", role, strings.Join(unreadable, ", "), p.quoted())
	}
	if !del {
		p.refuse("missing_privilege", grant("DELETE"), "role %s may not delete from %s", role, p.quoted())
	}
	if !update && len(p.table.Key) > 0 {
		key := pgx.Identifier{p.table.Key[len(p.table.Key)-1].Name}.Sanitize()
		p.refuse("missing_privilege", grant("UPDATE ("+key+")"), "role %s may not lock rows of %s (FOR UPDATE needs UPDATE on one column; nothing is ever updated)", role, p.quoted())
	}
	return nil
}
