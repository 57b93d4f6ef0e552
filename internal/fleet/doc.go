// Package fleet keeps worker replicas honest about being alive, and gives an
// operator hold of what they work on.
//
// River notices a dead client only after its rescue threshold. So each replica
// holds a lease on the control database's clock. Any replica that finds a lease
// run out removes it and returns the dead one's running jobs to the queue. A
// replica that cannot renew stops at once: its jobs may already be running
// elsewhere. Even if it did not stop, the ledger's attempt numbers keep a late
// one from deleting anything.
//
// An operator's changes (Retry, Cancel) take the lock on the batch's ledger row
// first and change ledger and queue in one transaction, so that they are safe
// beside workers, the reaper and each other. A batch whose delete was begun is
// never let go: only a worker that looks at its rows can say what became of them.
package fleet
