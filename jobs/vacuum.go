package jobs

import (
	"fmt"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// VacuumAttempts is how often a vacuum is tried for errors of its own. Waiting (a lock,
// a pause, an outage, a shutdown) uses none up; autovacuum comes in any case.
const VacuumAttempts = 3

// vacuumPrefix marks the queues that carry vacuums. They are apart from those of the
// batches, whose seats a vacuum does not take, and there is one for each database: a
// replica takes no job for a database that its configuration does not have.
const vacuumPrefix = "vacuum_"

// VacuumArgs is the argument of the job kind that vacuums the table of a run once all
// its batches have ended. Only RunID decides anything; the rest is there to be read.
type VacuumArgs struct {
	RunID    int64  `json:"run_id" river:"unique"`
	Database string `json:"database"`
	Table    string `json:"table"`
}

// Kind implements river.JobArgs.
func (VacuumArgs) Kind() string { return "vacuum_table" }

// InsertOpts implements river.JobArgsWithInsertOpts. A run has at most one vacuum that
// is not finished; that it has one at all is decided in the ledger.
func (a VacuumArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{
		Queue:       VacuumQueue(a.Database),
		MaxAttempts: VacuumAttempts,
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

// VacuumQueue is the River queue of a source database's vacuums.
func VacuumQueue(database string) string { return vacuumPrefix + database }
