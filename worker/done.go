package worker

import (
	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// Done reports an attempt that has ended.
type Done struct {
	Database, Table string // the table as schema.table, plain names
	Result          Result
	Wait            WaitKind // of one that waits; else empty

	// Of one that archived its batch; else zero. Bytes are of the object.
	Rows, RawBytes, StoredBytes int64
	Timings                     ledger.Timings
}

// VacuumDone reports a vacuum that has ended for good.
type VacuumDone struct {
	Database, Table string // the table as schema.table, plain names
	State           ledger.VacuumState
	Result          ledger.VacuumResult // of one that was done; else zero
}

// Result is how an attempt ended.
type Result string

// The results of an attempt. A batch has at most one that is archived, empty or
// cancelled, and any number of the others before.
const (
	ResultArchived  Result = "archived"
	ResultEmpty     Result = "empty"     // no row was left in its range
	ResultCancelled Result = "cancelled" // not covered any more, or by an operator
	ResultFailed    Result = "failed"    // nothing goes on before somebody acts
	ResultRetried   Result = "retried"   // an error; it will be tried again
	ResultWaiting   Result = "waiting"   // through no fault of its own
	ResultStopped   Result = "stopped"   // by the end of this replica
	ResultOvertaken Result = "overtaken" // another attempt has the batch, or had it done
)

// WaitKind is what a batch waits for, in a word: one of a few, unlike the reason that
// people read.
type WaitKind string

// The kinds of waiting. A waitError that names none counts as other.
const (
	WaitLimit    WaitKind = "limit"    // paused, or more than the fleet may run
	WaitLocked   WaitKind = "locked"   // rows, or the table, are locked by others
	WaitChanging WaitKind = "changing" // rows or the definition keep changing
	WaitTwin     WaitKind = "twin"     // another attempt at the batch is at its delete
	WaitDatabase WaitKind = "database" // the source or the control database is away
	WaitStorage  WaitKind = "storage"  // storage is away, or its breaker is open
	WaitThrottle WaitKind = "throttle" // a rule of throttle holds the table
	WaitReplica  WaitKind = "replica"  // the read replica is behind or away, and replica_fallback says to wait
	WaitSpool    WaitKind = "spool"    // the spool folder is full, or cannot be written to
	WaitOther    WaitKind = "other"
)

// Results lists all results.
func Results() []Result {
	return []Result{ResultArchived, ResultEmpty, ResultCancelled, ResultFailed, ResultRetried, ResultWaiting, ResultStopped, ResultOvertaken}
}

// WaitKinds lists all kinds of waiting.
func WaitKinds() []WaitKind {
	return []WaitKind{WaitLimit, WaitLocked, WaitChanging, WaitTwin, WaitDatabase, WaitStorage, WaitThrottle, WaitReplica, WaitSpool, WaitOther}
}

// ended tells whoever asked for it how the attempt ended.
func (w *Worker) ended(a *attempt, result Result, wait WaitKind) {
	if w.OnBatch == nil {
		return
	}
	// The job's own words, since an attempt may end before it has read the batch.
	d := Done{Database: a.job.Args.Database, Table: a.job.Args.Table, Result: result, Wait: wait}
	if result == ResultArchived {
		o := a.batch.Object
		d.Rows, d.RawBytes, d.StoredBytes, d.Timings = o.Rows, o.RawBytes, o.StoredBytes, a.timings
	}
	w.OnBatch(d)
}

// result is how an attempt ended that met no error.
func (a *attempt) result() Result {
	switch state := a.state(); {
	case a.late:
		return ResultOvertaken
	case state == ledger.Archived:
		return ResultArchived
	case state == ledger.Empty:
		return ResultEmpty
	default:
		return ResultCancelled
	}
}
