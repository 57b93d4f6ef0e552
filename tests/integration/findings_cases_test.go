//go:build failpoint

package integration

// What the table is, its columns, key and index.
var shapeFindings = []findingCase{
	{name: "nothing to say"},
	{name: "partitioned, nothing to say", bare: true, sql: partedTable},
	{name: "no table", table: "nowhere", want: []string{"refuse table_not_found"}, says: "main.public.nowhere", hint: "GRANT USAGE"},
	{name: "no column", keys: ", timestamp_column: at", want: []string{"refuse column_not_found"}, says: `no column "at"`, hint: "timestamp_column"},
	{
		name: "view", bare: true, sql: `CREATE TABLE a (id bigint PRIMARY KEY, created_at timestamptz NOT NULL); CREATE VIEW audit_logs AS SELECT * FROM a`,
		want: []string{"refuse not_a_table", "refuse no_primary_key", "refuse no_index"}, says: "is a view",
	},
	{
		name: "security barrier view", bare: true, sql: `CREATE TABLE a (id bigint PRIMARY KEY, created_at timestamptz NOT NULL); CREATE VIEW audit_logs WITH (security_barrier) AS SELECT * FROM a WHERE id > 5`,
		want: []string{"refuse not_a_table", "refuse no_primary_key", "refuse no_index"}, says: "is a view",
	},
	{
		name: "materialized view", bare: true, sql: `CREATE MATERIALIZED VIEW audit_logs AS SELECT 1 AS id, now() AS created_at; CREATE INDEX ON audit_logs (created_at, id)`,
		want: []string{"refuse not_a_table", "refuse no_primary_key"}, says: "is a materialized view",
	},
	{
		name: "foreign table", bare: true, sql: `CREATE FOREIGN DATA WRAPPER far; CREATE SERVER away FOREIGN DATA WRAPPER far; CREATE FOREIGN TABLE audit_logs (id bigint, created_at timestamptz NOT NULL) SERVER away`,
		want: []string{"refuse not_a_table", "refuse no_primary_key", "refuse no_index"}, says: "is a foreign table",
	},
	{
		name: "foreign leaf", bare: true,
		sql: `CREATE TABLE audit_logs (id bigint, created_at timestamptz NOT NULL) PARTITION BY RANGE (created_at); CREATE INDEX ON audit_logs (created_at, id);
			CREATE FOREIGN DATA WRAPPER far; CREATE SERVER away FOREIGN DATA WRAPPER far; CREATE FOREIGN TABLE old PARTITION OF audit_logs DEFAULT SERVER away`,
		want: []string{"refuse not_a_heap_table", "refuse no_primary_key"}, says: "old is a foreign table",
	},
	{
		name: "other access method", sql: `CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler; DROP TABLE audit_logs; CREATE TABLE audit_logs (id bigint PRIMARY KEY, created_at timestamptz NOT NULL) USING heap2; CREATE INDEX ON audit_logs (created_at, id)`,
		want: []string{"refuse not_a_heap_table"}, says: "audit_logs uses the access method heap2", hint: "ctid",
	},
	{
		name: "leaf of another access method", bare: true, sql: `CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler; ` + partedTable + `DROP TABLE p1; CREATE TABLE p1 PARTITION OF audit_logs FOR VALUES FROM (MINVALUE) TO ('2024-01-01') USING heap2`,
		want: []string{"refuse not_a_heap_table"}, says: "p1 uses the access method heap2",
	},
	{
		name: "hypertable", sql: `CREATE SCHEMA timescaledb_information; CREATE TABLE timescaledb_information.hypertables AS SELECT 'public'::name AS hypertable_schema, 'audit_logs'::name AS hypertable_name`,
		want: []string{"refuse extension_table"}, says: "TimescaleDB",
	},
	{
		name: "distributed table", sql: `SET allow_system_table_mods = on; CREATE TABLE pg_catalog.pg_dist_partition AS SELECT 'audit_logs'::regclass AS logicalrelid; RESET allow_system_table_mods`,
		want: []string{"refuse extension_table"}, says: "Citus",
	},
	{name: "an extension's other tables", sql: `CREATE SCHEMA timescaledb_information; CREATE TABLE timescaledb_information.hypertables AS SELECT 'public'::name AS hypertable_schema, 'other'::name AS hypertable_name`},
	{
		name: "inheritance child", sql: `CREATE TABLE child (secret text) INHERITS (audit_logs)`,
		want: []string{"refuse inheritance_children"}, says: "(public.child)", hint: "allow: [inheritance_children]",
	},
	{name: "unlogged", sql: `ALTER TABLE audit_logs SET UNLOGGED`, want: []string{"warn unlogged_table"}, says: "audit_logs is unlogged", hint: "SET LOGGED"},
	{name: "unlogged leaf", bare: true, sql: partedTable + `ALTER TABLE p2a SET UNLOGGED`, want: []string{"warn unlogged_table"}, says: "p2a is unlogged"},
	{name: "no primary key", sql: `ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_pkey; DROP INDEX audit_logs_created_at_id_idx; CREATE INDEX ON audit_logs (created_at)`, want: []string{"refuse no_primary_key"}, says: "(about 20 rows, 8192 bytes)", hint: "ADD PRIMARY KEY"},
	{name: "array key", sql: `DROP TABLE audit_logs; CREATE TABLE audit_logs (id int[] PRIMARY KEY, created_at timestamptz NOT NULL); CREATE INDEX ON audit_logs (created_at, id)`, want: []string{"refuse unsupported_key_type"}, says: "integer[]"},
	{name: "jsonb key", sql: `DROP TABLE audit_logs; CREATE TABLE audit_logs (id jsonb PRIMARY KEY, created_at timestamptz NOT NULL); CREATE INDEX ON audit_logs (created_at, id)`, want: []string{"refuse unsupported_key_type"}, says: "jsonb"},
	{name: "one-way type", sql: `ALTER TABLE audit_logs ADD tree pg_node_tree, ADD v gtsvector`, want: []string{"refuse one_way_type", "refuse one_way_type"}, says: "tree has the type pg_node_tree", hint: "allow: [one_way_type]"},
	{name: "text timestamp", sql: `ALTER TABLE audit_logs ALTER created_at TYPE text`, want: []string{"refuse timestamp_type"}, says: "text", hint: "timestamp_column"},
	{name: "timestamp without zone", sql: `ALTER TABLE audit_logs ALTER created_at TYPE timestamp(3)`, want: []string{"refuse timezone_undeclared"}, says: "created_at", hint: "timezone: UTC"},
	{name: "timestamp without zone, declared", sql: `ALTER TABLE audit_logs ALTER created_at TYPE timestamp`, keys: ", timezone: Europe/Berlin"},
	{name: "no index", sql: `DROP INDEX audit_logs_created_at_id_idx`, want: []string{"refuse no_index"}, says: "(about 20 rows, 8192 bytes)", hint: `CREATE INDEX CONCURRENTLY ON "public"."audit_logs" ("created_at", "id")`},
	{name: "partial index", sql: `DROP INDEX audit_logs_created_at_id_idx; CREATE INDEX ON audit_logs (created_at, id) WHERE id > 0`, want: []string{"refuse no_index"}},
	{name: "invalid index", sql: `UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'audit_logs_created_at_id_idx'::regclass`, want: []string{"refuse no_index"}},
	{name: "hash index", sql: `DROP INDEX audit_logs_created_at_id_idx; CREATE INDEX ON audit_logs USING hash (created_at)`, want: []string{"refuse no_index"}},
	{name: "index on an expression first", sql: `DROP INDEX audit_logs_created_at_id_idx; CREATE INDEX ON audit_logs (lower(actor), created_at, id)`, want: []string{"refuse no_index"}},
	{name: "index with the key included only", sql: `DROP INDEX audit_logs_created_at_id_idx; CREATE INDEX ON audit_logs (created_at) INCLUDE (id)`, want: []string{"warn index_timestamp_only"}},
	{
		name: "index of another collation", sql: `DROP TABLE audit_logs; CREATE TABLE audit_logs (id text PRIMARY KEY, created_at timestamptz NOT NULL); CREATE INDEX ON audit_logs (created_at, id COLLATE "C")`,
		want: []string{"warn index_timestamp_only"},
	},
	{name: "index on one leaf only", bare: true, sql: `CREATE TABLE audit_logs (id bigint, created_at timestamptz, PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at); CREATE TABLE p1 PARTITION OF audit_logs DEFAULT; CREATE INDEX ON p1 (created_at, id); CREATE INDEX ON ONLY audit_logs (created_at, id)`, want: []string{"refuse no_index"}},
	{name: "timestamp-only index", sql: `DROP INDEX audit_logs_created_at_id_idx; CREATE INDEX ON audit_logs (created_at)`, want: []string{"warn index_timestamp_only"}, says: "(about 20 rows, 8192 bytes)", hint: "CREATE INDEX CONCURRENTLY"},
	{name: "rows without timestamp", sql: `ALTER TABLE audit_logs ALTER created_at DROP NOT NULL; UPDATE audit_logs SET created_at = NULL WHERE id < 4`, want: []string{"warn null_timestamps"}, says: "3 rows"},
	{name: "nullable, all have a timestamp", sql: `ALTER TABLE audit_logs ALTER created_at DROP NOT NULL`},
	{name: "infinite timestamps", sql: `UPDATE audit_logs SET created_at = '-infinity' WHERE id = 1`, want: []string{"warn infinite_timestamps"}, says: "-infinity"},
	{name: "large objects", sql: `ALTER TABLE audit_logs ADD blob oid; UPDATE audit_logs SET blob = lo_create(0) WHERE id = 1`, want: []string{"warn large_objects"}, says: `"blob"`, hint: "vacuumlo"},
	{name: "oid column without large objects", sql: `ALTER TABLE audit_logs ADD blob oid`},
	{name: "generated and identity columns", sql: `ALTER TABLE audit_logs ADD twice bigint GENERATED ALWAYS AS (id * 2) STORED, ADD n bigint GENERATED ALWAYS AS IDENTITY`},
}

// What a delete would do beyond deleting.
var effectFindings = []findingCase{
	{
		name: "cascade", sql: `CREATE TABLE child (audit_id bigint PRIMARY KEY REFERENCES audit_logs ON DELETE CASCADE)`,
		want: []string{"refuse inbound_fk_cascade"}, says: "foreign key child_audit_id_fkey of public.child (not analyzed yet) cascades", hint: "archive public.child first",
	},
	{name: "set null", sql: `CREATE TABLE child (audit_id bigint REFERENCES audit_logs ON DELETE SET NULL); CREATE INDEX ON child (audit_id)`, want: []string{"refuse inbound_fk_set_null"}, says: "SET NULL"},
	{name: "set default", sql: `CREATE TABLE child (audit_id bigint REFERENCES audit_logs ON DELETE SET DEFAULT); CREATE INDEX ON child (audit_id)`, want: []string{"refuse inbound_fk_set_default"}, says: "SET DEFAULT"},
	{name: "no action", sql: `CREATE TABLE child (audit_id bigint REFERENCES audit_logs); CREATE INDEX ON child (audit_id)`, want: []string{"warn inbound_fk"}, says: "child_audit_id_fkey of public.child", hint: "archive public.child first"},
	{name: "restrict, without index", sql: `CREATE TABLE child (audit_id bigint REFERENCES audit_logs ON DELETE RESTRICT)`, want: []string{"warn inbound_fk", "warn inbound_fk_unindexed"}},
	{name: "not valid cascade", sql: `CREATE TABLE child (audit_id bigint PRIMARY KEY); ALTER TABLE child ADD FOREIGN KEY (audit_id) REFERENCES audit_logs ON DELETE CASCADE NOT VALID`, want: []string{"refuse inbound_fk_cascade"}},
	{name: "self-reference", sql: `ALTER TABLE audit_logs ADD cause bigint REFERENCES audit_logs; CREATE INDEX ON audit_logs (cause)`, want: []string{"warn inbound_fk"}, says: "of public.audit_logs", hint: "younger rows"},
	{name: "cascading self-reference", sql: `ALTER TABLE audit_logs ADD cause bigint REFERENCES audit_logs ON DELETE CASCADE; CREATE INDEX ON audit_logs (cause)`, want: []string{"refuse inbound_fk_cascade"}, hint: "younger rows"},
	{name: "outbound key", sql: `CREATE TABLE actors (name text PRIMARY KEY); INSERT INTO actors VALUES ('user'); ALTER TABLE audit_logs ADD FOREIGN KEY (actor) REFERENCES actors ON DELETE CASCADE`},
	{
		name: "cascade from a partitioned child", sql: `CREATE TABLE child (audit_id bigint REFERENCES audit_logs ON DELETE CASCADE, PRIMARY KEY (audit_id)) PARTITION BY HASH (audit_id); CREATE TABLE child0 PARTITION OF child FOR VALUES WITH (MODULUS 1, REMAINDER 0)`,
		want: []string{"refuse inbound_fk_cascade"}, says: "of public.child (",
	},
	{
		name: "cascade to a partitioned table", bare: true, sql: partedTable + `CREATE TABLE child (at timestamptz, audit_id bigint, PRIMARY KEY (at, audit_id), FOREIGN KEY (at, audit_id) REFERENCES audit_logs ON DELETE CASCADE)`,
		want: []string{"refuse inbound_fk_cascade"}, says: "of public.child (",
	},
	{
		name: "cascade to one leaf", bare: true, sql: partedTable + `CREATE TABLE child (at timestamptz, audit_id bigint, PRIMARY KEY (at, audit_id), FOREIGN KEY (at, audit_id) REFERENCES p2a ON DELETE CASCADE)`,
		want: []string{"refuse inbound_fk_cascade"}, says: "of public.child (",
	},
	{
		name: "cascade inherited by a leaf", bare: true, table: "p1", sql: partedTable + `CREATE TABLE child (at timestamptz, audit_id bigint, PRIMARY KEY (at, audit_id), FOREIGN KEY (at, audit_id) REFERENCES audit_logs ON DELETE CASCADE)`,
		want: []string{"refuse inbound_fk_cascade"}, says: "of public.child (",
	},
	{name: "trigger", sql: keepFunction + `CREATE TRIGGER "Keep it" BEFORE DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION keep()`, want: []string{"refuse delete_trigger"}, says: `"Keep it" on public.audit_logs`, hint: "allow: [delete_trigger]"},
	{name: "statement trigger", sql: keepFunction + `CREATE TRIGGER k AFTER INSERT OR DELETE ON audit_logs FOR EACH STATEMENT EXECUTE FUNCTION keep()`, want: []string{"refuse delete_trigger"}},
	{name: "deferred constraint trigger", sql: keepFunction + `CREATE CONSTRAINT TRIGGER k AFTER DELETE ON audit_logs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION keep()`, want: []string{"refuse delete_trigger"}},
	{name: "always trigger", sql: keepFunction + `CREATE TRIGGER k BEFORE DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION keep(); ALTER TABLE audit_logs ENABLE ALWAYS TRIGGER k`, want: []string{"refuse delete_trigger"}},
	{name: "replica trigger", sql: keepFunction + `CREATE TRIGGER k BEFORE DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION keep(); ALTER TABLE audit_logs ENABLE REPLICA TRIGGER k`},
	{name: "disabled trigger", sql: keepFunction + `CREATE TRIGGER k BEFORE DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION keep(); ALTER TABLE audit_logs DISABLE TRIGGER k`},
	{name: "other triggers", sql: keepFunction + `CREATE TRIGGER k BEFORE INSERT OR UPDATE ON audit_logs FOR EACH ROW EXECUTE FUNCTION keep(); CREATE TRIGGER l AFTER TRUNCATE ON audit_logs EXECUTE FUNCTION keep()`},
	{name: "trigger of a partitioned table", bare: true, sql: partedTable + keepFunction + `CREATE TRIGGER k AFTER DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION keep()`, want: []string{"refuse delete_trigger"}, says: "k on public.audit_logs"},
	{name: "trigger of one leaf", bare: true, sql: partedTable + keepFunction + `CREATE TRIGGER k AFTER DELETE ON p2a FOR EACH ROW EXECUTE FUNCTION keep()`, want: []string{"refuse delete_trigger"}, says: "k on public.p2a"},
	{name: "trigger inherited by a leaf", bare: true, table: "p1", sql: partedTable + keepFunction + `CREATE TRIGGER k AFTER DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION keep()`, want: []string{"refuse delete_trigger"}, says: "k on public.p1"},
	{
		name: "trigger disabled on the parent only", bare: true, sql: partedTable + keepFunction + `CREATE TRIGGER k AFTER DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION keep(); ALTER TABLE ONLY audit_logs DISABLE TRIGGER k`,
		want: []string{"refuse delete_trigger", "refuse delete_trigger"}, says: "k on public.p1", since: 150000, // earlier it cannot be disabled there alone
	},
	{name: "event trigger", sql: `CREATE FUNCTION noted() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER noted ON ddl_command_end EXECUTE FUNCTION noted()`},
	{name: "rule", sql: `CREATE RULE keep AS ON DELETE TO audit_logs DO INSTEAD NOTHING`, want: []string{"refuse delete_rule"}, says: "keep on public.audit_logs", hint: "DROP RULE"},
	{name: "also-rule of one leaf", bare: true, sql: partedTable + `CREATE TABLE log (id bigint); CREATE RULE k AS ON DELETE TO p1 DO ALSO INSERT INTO log VALUES (old.id)`, want: []string{"refuse delete_rule"}, says: "k on public.p1"},
	{name: "disabled rule", sql: `CREATE RULE keep AS ON DELETE TO audit_logs DO INSTEAD NOTHING; ALTER TABLE audit_logs DISABLE RULE keep`},
	{name: "replication role", role: true, sql: `GRANT SELECT, INSERT, UPDATE, DELETE ON audit_logs TO $ROLE; ALTER ROLE $ROLE SET session_replication_role = replica`, want: []string{"refuse replication_role", "warn not_owner"}, says: "refer to nothing", hint: "RESET session_replication_role"},
}

// Who sees the deletes downstream, or keeps them from happening.
var publishedFindings = []findingCase{
	{name: "published", sql: `CREATE PUBLICATION feed FOR TABLE audit_logs`, want: []string{"warn publication"}, says: "published by feed", hint: "ALTER PUBLICATION"},
	{name: "all tables published", sql: `CREATE PUBLICATION "Feed" FOR ALL TABLES`, want: []string{"warn publication"}, says: `"Feed"`},
	{name: "schema published", since: 150000, sql: `CREATE PUBLICATION feed FOR TABLES IN SCHEMA public`, want: []string{"warn publication"}},
	{name: "published without deletes", sql: `ALTER TABLE audit_logs REPLICA IDENTITY NOTHING; CREATE PUBLICATION feed FOR TABLE audit_logs WITH (publish = 'insert, update')`},
	{name: "another table published", sql: `CREATE TABLE other (id int PRIMARY KEY); CREATE PUBLICATION feed FOR TABLE other`},
	{name: "published without replica identity", sql: `ALTER TABLE audit_logs REPLICA IDENTITY NOTHING; CREATE PUBLICATION feed FOR TABLE audit_logs`, want: []string{"refuse no_replica_identity", "warn publication"}, says: "public.audit_logs", hint: "REPLICA IDENTITY DEFAULT"},
	{
		name: "replica identity index gone", sql: `CREATE UNIQUE INDEX u ON audit_logs (id); ALTER TABLE audit_logs REPLICA IDENTITY USING INDEX u; DROP INDEX u; CREATE PUBLICATION feed FOR ALL TABLES`,
		want: []string{"refuse no_replica_identity", "warn publication"},
	},
	{name: "deferrable primary key published", sql: `ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_pkey, ADD PRIMARY KEY (id) DEFERRABLE; CREATE PUBLICATION feed FOR ALL TABLES`, want: []string{"refuse no_replica_identity", "warn publication"}},
	{name: "leaf without replica identity", bare: true, sql: partedTable + `ALTER TABLE p2a REPLICA IDENTITY NOTHING; CREATE PUBLICATION feed FOR TABLE audit_logs`, want: []string{"refuse no_replica_identity", "warn publication"}, says: "public.p2a"},
	{
		name: "leaf without replica identity, published as its root", bare: true, sql: partedTable + `ALTER TABLE p2a REPLICA IDENTITY NOTHING; CREATE PUBLICATION feed FOR TABLE audit_logs WITH (publish_via_partition_root)`,
		want: []string{"refuse no_replica_identity", "warn publication"}, says: "public.p2a",
	},
	{name: "leaf published as its root", bare: true, table: "p1", sql: partedTable + `CREATE PUBLICATION feed FOR TABLE audit_logs WITH (publish_via_partition_root)`, want: []string{"warn publication"}},
	{name: "row filter within the replica identity", since: 150000, sql: `CREATE PUBLICATION feed FOR TABLE audit_logs WHERE (id > 5)`, want: []string{"warn publication"}},
	{
		name: "row filter outside the replica identity", since: 150000, sql: `CREATE PUBLICATION feed FOR TABLE audit_logs WHERE (actor = 'x')`,
		want: []string{"warn publication", "refuse delete_rejected"}, says: "replica identity",
	},
	{
		name: "column list without the replica identity", since: 150000, sql: `CREATE PUBLICATION feed FOR TABLE audit_logs (actor)`,
		want: []string{"warn publication", "refuse delete_rejected"}, says: "replica identity",
	},
	{name: "logical slot", then: `SELECT pg_create_logical_replication_slot('slot_' || current_database(), 'test_decoding')`, want: []string{"warn logical_slot"}, says: "slot_"},
	{name: "replica identity full", sql: `ALTER TABLE audit_logs REPLICA IDENTITY FULL`, want: []string{"warn replica_identity_full"}, says: "(about 20 rows, 8192 bytes)", hint: "REPLICA IDENTITY DEFAULT"},
	{name: "leaf with replica identity full", bare: true, sql: partedTable + `ALTER TABLE p2a REPLICA IDENTITY FULL`, want: []string{"warn replica_identity_full"}, says: "p2a"},
}

// What the role may do.
var rightsFindings = []findingCase{
	{name: "not the owner", role: true, sql: `GRANT SELECT, DELETE ON audit_logs TO $ROLE`, want: []string{"warn not_owner"}, says: "VACUUM would skip it"},
	{name: "owner", role: true, sql: `ALTER TABLE audit_logs OWNER TO $ROLE`},
	{name: "no right at all", role: true, sql: `REVOKE ALL ON SCHEMA public FROM PUBLIC`, want: []string{"warn not_owner", "refuse missing_privilege", "refuse missing_privilege", "refuse missing_privilege"}},
	{name: "one column unreadable", role: true, sql: `GRANT SELECT (id, created_at, actor), DELETE ON audit_logs TO $ROLE`, want: []string{"warn not_owner", "refuse missing_privilege"}},
	{name: "rights on the parent only", role: true, bare: true, sql: partedTable + `GRANT SELECT, DELETE ON audit_logs TO $ROLE`, want: []string{"warn not_owner"}},
	{
		name: "row-level security", role: true, sql: `GRANT SELECT, DELETE, UPDATE ON audit_logs TO $ROLE; ALTER TABLE audit_logs ENABLE ROW LEVEL SECURITY; CREATE POLICY odd ON audit_logs USING (id % 2 = 1)`,
		want: []string{"refuse row_security", "warn not_owner"}, says: "hidden", hint: "BYPASSRLS",
	},
	{name: "row-level security, forced on the owner", role: true, sql: `ALTER TABLE audit_logs OWNER TO $ROLE; ALTER TABLE audit_logs ENABLE ROW LEVEL SECURITY; ALTER TABLE audit_logs FORCE ROW LEVEL SECURITY`, want: []string{"refuse row_security"}},
	{name: "row-level security of others", role: true, sql: `ALTER TABLE audit_logs OWNER TO $ROLE; ALTER TABLE audit_logs ENABLE ROW LEVEL SECURITY`},
	{name: "row-level security of a leaf", role: true, bare: true, sql: partedTable + `GRANT SELECT, DELETE ON audit_logs TO $ROLE; ALTER TABLE p1 ENABLE ROW LEVEL SECURITY`, want: []string{"warn not_owner"}},
	{name: "row-level security, bypassed", role: true, sql: `GRANT SELECT, DELETE ON audit_logs TO $ROLE; ALTER TABLE audit_logs ENABLE ROW LEVEL SECURITY; ALTER ROLE $ROLE BYPASSRLS`, want: []string{"warn not_owner"}},
}
