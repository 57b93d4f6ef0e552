// Package throttle decides whether a table's next step may be taken now, or for what
// reason it must wait: one place, one reason.
//
// # What is looked at
//
// The times at which the table may be archived, by the control database's clock; how far
// standbys and replication slots of the source are behind; how many sessions are at work
// there; the answer to an operator's query. Each is a key below throttle, and zero or
// empty looks at nothing. How many rows a second a table gets is accounted in the
// ledger, see ledger.Pay, since that holds for all replicas together.
//
// # When
//
// Before a batch begins, before its rows are read again, and before its delete. Never
// within the read, which holds a snapshot open, and never within the delete, which holds
// locks: to pause there would harm more than to go on. So what one batch does at a time
// is bounded by its size alone.
//
// # Failure handling
//
// What cannot be found out holds the table, with the error as the reason: a throttle that
// sees nothing must not mean full speed. A source that is away is not held but reported
// as the error that it is. Answers are kept for a second in each process, so that many
// batches cost one question.
package throttle
