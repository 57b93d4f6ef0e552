// Package jobs is the contract between planner and workers: what a batch job in
// River carries, where it is queued, and how often it may be tried.
//
// A job carries names only. What a batch is, and how far it got, is read from the
// ledger when the job is worked, so a job that runs late, twice or by hand still
// does the right thing.
package jobs

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// MaxAttempts is how often a batch is tried for errors of its own before it is
// marked failed. Waiting (locked rows, an outage, a shutdown) uses none up.
const MaxAttempts = 5

// queuePrefix marks the queues that carry batches; one queue a source database.
const queuePrefix = "db_"

// ControlQueue is the queue that every replica works besides those of its
// databases, because a River client without any queue cannot start.
const ControlQueue = "control"

// BatchArgs is the argument of the one job kind that archives a batch. Only
// BatchID decides anything; the rest is there to be read in River UI.
type BatchArgs struct {
	BatchID  int64  `json:"batch_id" river:"unique"`
	RunID    int64  `json:"run_id"`
	Database string `json:"database"`
	Table    string `json:"table"`
	Range    string `json:"range"` // in words
}

// Kind implements river.JobArgs.
func (BatchArgs) Kind() string { return "archive_batch" }

// InsertOpts implements river.JobArgsWithInsertOpts. A batch has at most one job
// that is not finished.
func (a BatchArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{
		Queue:       Queue(a.Database),
		MaxAttempts: MaxAttempts,
		Pending:     true, // until it is admitted
		Tags:        []string{Queue(a.Database), tableTag(a.Table), fmt.Sprintf("run_%d", a.RunID)},
		UniqueOpts: river.UniqueOpts{
			ByArgs: true,
			ByState: []rivertype.JobState{
				rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRunning,
				rivertype.JobStateRetryable, rivertype.JobStateScheduled,
			},
		},
	}
}

// tableTag names a table as River's tags allow: letters, digits, _ and - only, so
// that River UI can filter by it. public.audit_logs becomes table_public_audit_logs.
// A name that loses more than its dot on the way ends in a hash. Nothing is decided by
// a tag, so it does no harm that a.b_c and a_b.c share one.
func tableTag(table string) string {
	const most = 200 // of the 255 that River allows
	lost := len(table) > most
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-':
			return r
		case r != '.':
			lost = true
		}
		return '_'
	}, table)
	name = name[:min(len(name), most)]
	if lost || strings.HasSuffix(name, "-") {
		sum := sha256.Sum256([]byte(table))
		name += fmt.Sprintf("_%x", sum[:4])
	}
	return "table_" + name
}

// Queue is the River queue of a source database.
func Queue(database string) string { return queuePrefix + database }

// QueueDatabase is the inverse of Queue.
func QueueDatabase(queue string) (string, bool) { return strings.CutPrefix(queue, queuePrefix) }

// RetryDelay is the wait before try number attempt+1: 2 s, doubled each time, at
// most a minute. Short, since outages do not come this way.
func RetryDelay(attempt int) time.Duration {
	const first, most = 2 * time.Second, time.Minute
	if attempt < 1 {
		return first
	}
	if attempt > 6 {
		return most
	}
	return min(first<<(attempt-1), most)
}
