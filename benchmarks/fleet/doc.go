// Command fleet measures what a fleet costs its control database: planning, admission,
// reports, and many replicas at work, with a backlog of up to a million batches over
// 100 databases of 10 tables each.
//
//	go run ./benchmarks/fleet
//	go run ./benchmarks/fleet -backlog 100000 -replicas 10 -window 5s
//
// Everything is real but the batches: Postgres with fsync on, the planner's own write
// path, River, leases, admission, guard, reconcile, and every statement that a batch
// makes in the ledger. Only its work on the source and in storage is a sleep, so that
// 100 databases need no server. Replicas are processes of this same binary, each with a
// pool as large as the archiver's.
//
// The replicas take their share of the same cores as the database. Where there are more
// replicas than cores, jobs a second tell what this machine can do and not what the
// database could; statements, admissions and fetches for each job tell what to expect
// elsewhere. docs/SCALING.md says how to read the numbers.
package main
