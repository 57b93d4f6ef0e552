// Command pgbench measures what archiving costs the applications on the same server:
// pgbench's own transactions alone, beside an archiver that goes as fast as it can, and
// beside one at the pace that docs/THROTTLE.md recommends.
//
//	go run ./benchmarks/pgbench -archiver bin/archiver
//	go run ./benchmarks/pgbench -archiver bin/archiver -seconds 20 -rounds 20
//
// Everything is on this machine: PostgreSQL with fsync on, pgbench, the archiver, its
// control database and an S3 server take from the same cores. pgbench sends as fast as it
// is answered, so that every bit of processor the others take shows as a loss: the worst
// case. Each turn beside an archiver lies between two of pgbench alone and is compared with
// these, and the medians of the losses are shown, since the machine may have something
// else to do at times. Two turns of pgbench alone, right after one another, say how far
// that goes.
package main
