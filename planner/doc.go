// Package planner turns what is old enough in a table into batches.
//
// Plan only reads: the catalog, the findings, the cutoff by the source's clock,
// and the bounds, walked along the key index. Enqueue writes what Plan found:
// ledger rows and River jobs, a page of them in one transaction that also
// compare-and-sets the table's plan sequence. So a crash leaves whole pages, two
// planners cannot interleave, and planning twice adds nothing: a table with open
// batches is planned only beyond the last of them.
//
// There is no watermark from run to run. Once no batch of a table is open, the
// next plan starts at its oldest row again, so that rows which arrived late are
// passed over for good by nobody.
//
// Scheduler does both for the tables whose schedule is due, in every replica that
// does not drain. A due time is settled in the transaction of its plan's last page:
// a replica that dies before leaves it due, and no two settle the same one.
package planner
