// Package worker archives batches: upload, verify, delete, in that order.
//
// archive.go is the story of one batch; each stage has a file of its own, in the
// order in which they run:
//
//	claim.go    take a new attempt; does the configuration still want this?
//	extract.go  read the rows in one snapshot into the spool
//	upload.go   put the spool into storage under a key made of its hash
//	verify.go   read it back, count it, and only then record it
//	delete.go   delete exactly these row versions, or nothing
//	resolve.go  was it deleted? look at the rows (after a crash or a lost answer)
//	record.go   write the manifest, close the ledger entry and the job
//
// outcome.go is the one place that turns an error into what River does next.
// replica.go runs a replica: lease, queues, drain, shutdown.
//
// Every stage can run twice. What a stage may rely on is what the ledger says, not
// what an earlier stage of the same process remembers, wherever the two could
// differ after a crash.
package worker
