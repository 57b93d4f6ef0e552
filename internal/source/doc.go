// Package source holds all SQL that runs on the databases being archived: reading
// their catalogs, planning bounds, the ranged read and the guarded delete.
//
// Table and column names come from the configuration and the catalog; values come
// from the tables themselves. Both are hostile: identifiers are always quoted by
// pgx.Identifier, and values are always quoted by the server (quote_literal) under
// the settings of this session.
//
// # Pinned settings
//
// Every transaction starts with the same SET LOCALs (see begin), because the text
// form of a value depends on them, because search_path decides what a name means,
// and because row_security=off turns a silently filtered read into an error.
//
// # Failures
//
// Nothing here retries. Errors are returned with the operation and the table in
// them; Classify says what kind of trouble it was.
package source
