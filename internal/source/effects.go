package source

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// This file looks at what a DELETE would do beyond deleting: on other tables, by
// triggers and rules, downstream, and whether the role may do it at all.

// inboundKeys looks at each foreign key that refers to the table or to one of its
// partitions. A key on a partitioned table has an entry for each partition too: one
// that belongs to a key listed already is passed over. A partition that is configured
// by itself has only the entry that it inherited.
func (p *preflight) inboundKeys(ctx context.Context) error {
	rows, err := p.conn.Query(ctx, relations+`
		SELECT k.conrelid::regclass::text, quote_ident(k.conname), k.confdeltype::text, k.conrelid IN (SELECT oid FROM rel), `+sizeOf("k.conrelid")+`,
		       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = k.conrelid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = ANY (k.conkey))
		FROM pg_constraint k JOIN rel ON rel.oid = k.confrelid
		WHERE k.contype = 'f' AND NOT EXISTS (SELECT FROM pg_constraint above JOIN rel r ON r.oid = above.confrelid WHERE above.oid = k.conparentid) ORDER BY 1, 2`, p.table.OID)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var child, name, action, size string
		var self, indexed bool
		if err := rows.Scan(&child, &name, &action, &self, &size, &indexed); err != nil {
			return err
		}
		p.inboundKey(child+" ("+size+")", child, name, action, self)
		if !indexed {
			p.found("inbound_fk_unindexed", "CREATE INDEX CONCURRENTLY on the referring columns of "+child, "foreign key %s of %s has no index: each deleted row scans all of %s (%s)", name, child, child, size)
		}
	}
	return rows.Err()
}

func (p *preflight) inboundKey(sized, child, name, action string, self bool) {
	first := "archive " + child + " first"
	if self {
		first = "rows that younger rows refer to can go only after these"
	}
	switch action {
	case "c":
		p.found("inbound_fk_cascade", first+", and change the key to ON DELETE NO ACTION", "foreign key %s of %s cascades: deleting here would delete rows there that were never archived", name, sized)
	case "n":
		p.found("inbound_fk_set_null", first+", and change the key to ON DELETE NO ACTION", "foreign key %s of %s is ON DELETE SET NULL: deleting here would change rows there", name, sized)
	case "d":
		p.found("inbound_fk_set_default", first+", and change the key to ON DELETE NO ACTION", "foreign key %s of %s is ON DELETE SET DEFAULT: deleting here would change rows there", name, sized)
	default:
		if !self {
			first += ", or with a shorter retention"
		}
		p.found("inbound_fk", first, "foreign key %s of %s: a batch whose rows are still referred to fails and deletes nothing", name, sized)
	}
}

// triggers finds what fires on DELETE, for each row or once, on the table or on one
// of its partitions: a trigger can be on a partition alone, and the copy of the
// table's own trigger can be enabled there although it is disabled on the table.
// Before PostgreSQL 15 such a copy counts as internal. Foreign keys' own triggers are
// inboundKeys' business.
func (p *preflight) triggers(ctx context.Context) error {
	found, err := p.names(ctx, relations+`
		SELECT quote_ident(g.tgname) || ' on ' || g.tgrelid::regclass::text FROM pg_trigger g JOIN rel ON rel.oid = g.tgrelid
		WHERE (NOT g.tgisinternal OR (g.tgparentid <> 0 AND g.tgconstraint = 0)) AND g.tgtype & 8 <> 0 AND g.tgenabled IN ('O', 'A')
		AND NOT EXISTS (SELECT FROM pg_trigger above JOIN rel r ON r.oid = above.tgrelid WHERE above.oid = g.tgparentid AND above.tgenabled IN ('O', 'A')) ORDER BY 1`)
	for _, f := range found {
		p.found("delete_trigger", "have it do nothing for the archiver's role, or disable it", "trigger %s fires on DELETE: it can keep the row, change others or log our own work", f)
	}
	return err
}

// replicationRole refuses a session in which origin triggers and foreign keys do not
// work, and triggers that are meant for replicas do: ALTER ROLE ... SET can make every
// session of a role such a one.
func (p *preflight) replicationRole(ctx context.Context) error {
	var role string
	if err := p.conn.QueryRow(ctx, `SELECT current_setting('session_replication_role')`).Scan(&role); err != nil {
		return err
	}
	if role == "replica" {
		p.found("replication_role", "ALTER ROLE the archiver's role RESET session_replication_role; look at the options of the connection too",
			"sessions of this role have session_replication_role = replica: deletes would leave rows behind that refer to nothing")
	}
	return nil
}

func (p *preflight) rules(ctx context.Context) error {
	found, err := p.names(ctx, relations+`
		SELECT quote_ident(w.rulename) || ' on ' || w.ev_class::regclass::text FROM pg_rewrite w JOIN rel ON rel.oid = w.ev_class
		WHERE w.ev_type = '4' AND w.ev_enabled <> 'D' ORDER BY 1`)
	for _, f := range found {
		p.found("delete_rule", "DROP RULE, or disable it", "rule %s rewrites DELETE", f)
	}
	return err
}

// rowSecurity asks about the table only: reading and deleting through a partitioned
// table, the policies of its partitions do not apply.
func (p *preflight) rowSecurity(ctx context.Context) error {
	var active bool
	if err := p.conn.QueryRow(ctx, `SELECT row_security_active($1::oid)`, p.table.OID).Scan(&active); err != nil {
		return err
	}
	p.hidden = active
	if active {
		p.found("row_security", "ALTER ROLE the archiver's role BYPASSRLS", "row-level security of %s applies to this role: rows would be hidden from it", p.quoted())
	}
	return nil
}

func (p *preflight) children(ctx context.Context) error {
	if p.table.Kind == "p" {
		return nil
	}
	found, err := p.names(ctx, `SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1 ORDER BY 1`)
	if len(found) > 0 {
		p.found("inheritance_children", "configure each child as a table of its own", "%s has inheritance children (%s), whose rows are not read through it", p.quoted(), strings.Join(found, ", "))
	}
	return err
}

// published continues relations with the publications that publish deletes of one of
// these, under its own name or under that of a table above it.
const published = relations + `, pub AS MATERIALIZED (
	SELECT DISTINCT u.pubname, x.oid AS relid FROM pg_publication u JOIN pg_publication_tables b ON b.pubname = u.pubname
	JOIN pg_namespace n ON n.nspname = b.schemaname JOIN pg_class x ON x.relnamespace = n.oid AND x.relname = b.tablename WHERE u.pubdelete
), published AS (
	SELECT rel.oid, pub.pubname FROM rel CROSS JOIN LATERAL (SELECT rel.oid AS up UNION SELECT relid FROM pg_partition_ancestors(rel.oid)) a JOIN pub ON pub.relid = a.up
) `

// replicaIdentity finds partitions, or the table, from which DELETE is an error. A
// deferrable primary key is no replica identity, and neither is an index that is gone.
func (p *preflight) replicaIdentity(ctx context.Context) error {
	found, err := p.names(ctx, published+`
		SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'r' AND c.oid IN (SELECT oid FROM published) AND (c.relreplident = 'n'
			OR (c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate))
			OR (c.relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident AND i.indimmediate))) ORDER BY 1`)
	for _, f := range found {
		p.found("no_replica_identity", "ALTER TABLE "+f+" REPLICA IDENTITY DEFAULT, or USING INDEX ... where the primary key is deferrable", "%s is published without a replica identity: DELETE is an error there", f)
	}
	return err
}

// downstream finds who else sees the deletes.
func (p *preflight) downstream(ctx context.Context) error {
	found, err := p.names(ctx, published+`SELECT DISTINCT quote_ident(pubname) FROM published ORDER BY 1`)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		p.found("publication", "ALTER PUBLICATION ... SET (publish = 'insert, update') where subscribers should keep the rows", "%s is published by %s: subscribers delete these rows too", p.quoted(), strings.Join(found, ", "))
	}
	if found, err = p.names(ctx, `SELECT quote_ident(slot_name) FROM pg_replication_slots WHERE slot_type = 'logical' AND database = current_database() AND $1::oid IS NOT NULL ORDER BY 1`); err != nil {
		return err
	}
	if len(found) > 0 {
		p.found("logical_slot", "see that each consumer is meant to see these deletes, and keeps up", "logical slots decode this database (%s): every delete flows downstream, and WAL is kept until it is consumed", strings.Join(found, ", "))
	}
	if found, err = p.names(ctx, relations+`SELECT c.oid::regclass::text FROM pg_class c JOIN rel ON rel.oid = c.oid WHERE c.relreplident = 'f' AND c.relkind = 'r' ORDER BY 1`); err != nil {
		return err
	}
	if len(found) > 0 {
		p.found("replica_identity_full", "ALTER TABLE ... REPLICA IDENTITY DEFAULT", "REPLICA IDENTITY FULL writes each deleted row of %s (%s) to the WAL, about seven times as much", strings.Join(found, ", "), p.size)
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
		p.found("large_objects", "archive the large objects by other means first, and do not run vacuumlo", "%s of %s may refer to large objects, which are not archived with the row", strings.Join(columns, ", "), p.quoted())
	}
	return nil
}

// oidOID is the type oid.
const oidOID = 26

func (p *preflight) privileges(ctx context.Context) error {
	var role string
	var usage, del, owns, sees bool
	err := p.conn.QueryRow(ctx, `
		SELECT quote_ident(current_user), has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, 'DELETE'),
		       `+mayVacuum+`,
		       pg_has_role('pg_read_all_stats', 'USAGE')
		FROM pg_class c WHERE c.oid = $1`, p.table.OID).Scan(&role, &usage, &del, &owns, &sees)
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
		p.found("not_owner", notOwnerHint(grant("MAINTAIN")), "role %s neither owns %s nor may maintain it: VACUUM would skip it", role, p.quoted())
	}
	if !usage {
		p.found("missing_privilege", "GRANT USAGE ON SCHEMA "+pgx.Identifier{p.table.Config.Schema}.Sanitize()+" TO "+role, "role %s may not use the schema of %s", role, p.quoted())
	}
	if len(unreadable) > 0 {
		p.found("missing_privilege", grant("SELECT"), "role %s may not read %s of %s", role, strings.Join(unreadable, ", "), p.quoted())
	}
	if !del {
		p.found("missing_privilege", grant("DELETE"), "role %s may not delete from %s", role, p.quoted())
	}
	if t := p.table.Config.Throttle; !sees && (t.MaxStandbyLagMB > 0 || t.MaxActiveSessions > 0) {
		p.found("missing_privilege", "GRANT pg_monitor TO "+role, "role %s may not see the standbys and sessions that throttle.max_standby_lag_mb and max_active_sessions go by", role)
	}
	return nil
}

// maxTriedPartitions keeps tryDelete far from max_locks_per_transaction, which is for
// all sessions together.
const maxTriedPartitions = 100

// tryDelete has the server plan a DELETE without running it. That checks what makes
// every delete fail and is not told by the catalog alone, such as the row filter of a
// publication on columns outside the replica identity. It locks every partition for
// that moment, so a table with very many is spared.
func (p *preflight) tryDelete(ctx context.Context) error {
	if len(Refusals(p.findings)) > 0 {
		return nil // their reasons are better than the error that they lead to
	}
	var standby bool
	var partitions int
	err := p.conn.QueryRow(ctx, `SELECT pg_is_in_recovery(), (SELECT count(*) FROM pg_partition_tree($1::oid))`, p.table.OID).Scan(&standby, &partitions)
	if err != nil || standby || partitions > maxTriedPartitions {
		return err // a demoted primary is an outage, no property of the table
	}
	if _, err := p.conn.Exec(ctx, `SET LOCAL lock_timeout = '1s'`); err != nil {
		return err
	}
	_, err = p.conn.Exec(ctx, "EXPLAIN DELETE FROM "+p.table.name())
	var pg *pgconn.PgError
	if err == nil || !errors.As(err, &pg) {
		return err
	}
	switch {
	case pg.Code == "55P03": // lock_not_available
		p.found("table_locked", "try again once the other session is done", "another session locks %s (%s) against deletes: whether a DELETE would be accepted was not tried", p.quoted(), p.size)
	case pg.Code == "55000", strings.HasPrefix(pg.Code, "42"), strings.HasPrefix(pg.Code, "0A"):
		p.found("delete_rejected", cmp.Or(pg.Hint, "try it: EXPLAIN DELETE FROM "+p.quoted()), "PostgreSQL rejects every DELETE from %s: %s", p.quoted(), strings.TrimSpace(pg.Message+". "+pg.Detail))
	default:
		return err
	}
	return nil
}
