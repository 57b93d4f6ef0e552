// Command pgbench measures what archiving costs the applications on the same server:
// pgbench's own transactions alone, beside an archiver that goes as fast as it can, and
// beside one at the pace that docs/THROTTLE.md recommends.
//
//	go run ./benchmarks/pgbench -archiver bin/archiver
//	go run ./benchmarks/pgbench -archiver bin/archiver -seconds 60 -rounds 5
//
// Everything is on this machine: PostgreSQL with fsync on, pgbench, the archiver, its
// control database and an S3 server take from the same cores. pgbench sends as fast as it
// is answered, so that every bit of processor the others take shows as a loss: the worst
// case. The three take turns, round by round, and the medians are compared, since the
// machine may have something else to do at times.
package main
