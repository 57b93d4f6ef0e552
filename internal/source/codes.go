package source

// Code is one kind of finding about a table.
type Code struct {
	Name     string
	Severity Severity // unless the table's allow list has the code
	// Allowable: the code in the table's allow list turns the finding into
	// information. What is not allowable would make the archive incomplete or every
	// delete fail, so accepting it could not work.
	Allowable bool
	Summary   string
}

// Codes lists every kind of finding about a table. What a finding means for the
// table is decided here and nowhere else; docs/FINDINGS.md tells the operator, and
// a test holds the two together.
func Codes() []Code {
	return []Code{
		// What the table is.
		{"table_not_found", Refuse, false, "no such table, or its schema is not visible"},
		{"column_not_found", Refuse, false, "the table has no column of the name in timestamp_column"},
		{"not_a_table", Refuse, false, "a view, a foreign table or another kind of relation"},
		{"not_a_heap_table", Refuse, false, "the table or a partition is temporary, foreign, or stored by another access method"},
		{"extension_table", Refuse, false, "a hypertable or a distributed table"},
		{"inheritance_children", Refuse, true, "tables inherit from it"},
		{"unlogged_table", Warn, true, "the table or a partition is unlogged"},
		{"parent_and_leaf", Refuse, false, "a partitioned table and one of its partitions are both configured"},
		{"open_batches_other_key", Refuse, false, "open batches were planned on another key"},
		// Its columns, key and index.
		{"sql_ascii", Refuse, true, "the database has no encoding"},
		{"no_primary_key", Refuse, false, "no primary key"},
		{"unsupported_key_type", Refuse, false, "a key column of an array type or jsonb"},
		{"one_way_type", Refuse, true, "a column of a type that cannot be read back"},
		{"timestamp_type", Refuse, false, "the timestamp column is of another type"},
		{"timezone_undeclared", Refuse, false, "timestamp without time zone and no timezone configured"},
		{"no_index", Refuse, true, "no usable index starts with the timestamp column"},
		{"index_timestamp_only", Warn, true, "the index does not cover the whole key"},
		{"null_timestamps", Warn, true, "rows without a timestamp"},
		{"infinite_timestamps", Warn, true, "rows with the timestamp -infinity"},
		{"large_objects", Warn, true, "oid columns that may refer to large objects"},
		// What a delete would do beyond deleting.
		{"inbound_fk_cascade", Refuse, true, "a foreign key would delete rows elsewhere"},
		{"inbound_fk_set_null", Refuse, true, "a foreign key would change rows elsewhere"},
		{"inbound_fk_set_default", Refuse, true, "a foreign key would change rows elsewhere"},
		{"inbound_fk", Warn, true, "a foreign key may refuse the delete of rows"},
		{"inbound_fk_unindexed", Warn, true, "a foreign key without an index on the referring side"},
		{"delete_trigger", Refuse, true, "a trigger fires on DELETE"},
		{"delete_rule", Refuse, false, "a rule rewrites DELETE"},
		{"replication_role", Refuse, false, "the role's sessions fire other triggers and check no foreign keys"},
		{"no_replica_identity", Refuse, false, "published without a replica identity"},
		{"publication", Warn, true, "subscribers delete the rows too"},
		{"logical_slot", Warn, true, "logical decoding sees the deletes"},
		{"replica_identity_full", Warn, true, "each deleted row is written to the WAL"},
		// What the role may do.
		{"row_security", Refuse, false, "row-level security hides rows from the role"},
		{"missing_privilege", Refuse, false, "a privilege is missing"},
		{"not_owner", Warn, true, "VACUUM would skip the table"},
		{"delete_rejected", Refuse, false, "PostgreSQL says that a DELETE cannot work"},
		{"table_locked", Warn, true, "whether a DELETE can work was not tried: the table is locked"},
		// What the configuration says.
		{"allow_without_effect", Warn, false, "allow has a word that accepts nothing"},
	}
}

// codeNamed finds a code; a code that is not listed refuses its table, so that a
// finding which was forgotten in the list errs on the safe side.
func codeNamed(name string) (Code, bool) {
	for _, c := range Codes() {
		if c.Name == name {
			return c, true
		}
	}
	return Code{Name: name, Severity: Refuse}, false
}
