package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/source"
)

// checkReplica looks at the read replica of a database, if it has one. What keeps it from
// being read is a warning where the primary is read instead, and refuses where tables
// would wait for it.
func checkReplica(ctx context.Context, db *source.DB, tables []config.Table) []checkFinding {
	if !db.HasReplica() {
		return nil
	}
	var waiting []string
	maxLagMB := tables[0].MaxReplicaLagMB
	for _, t := range tables {
		maxLagMB = min(maxLagMB, t.MaxReplicaLagMB)
		if t.ReplicaFallback == config.ReplicaFallbackWait {
			waiting = append(waiting, t.Schema+"."+t.Name)
		}
	}
	severity, then := source.Warn, "; the primary is read instead"
	if len(waiting) > 0 {
		severity, then = source.Refuse, fmt.Sprintf("; %s would wait for it (replica_fallback: wait)", plural(int64(len(waiting)), "table", "tables"))
	}
	report, err := db.InspectReplica(ctx)
	var not *source.ReplicaError
	switch {
	case errors.As(err, &not) && not.Trouble == source.ReplicaUnfit:
		return []checkFinding{{Database: db.Name, Code: "replica_unfit", Severity: severity, Message: flat(err) + then, Hint: not.Hint(), exit: exitRefused}}
	case err != nil:
		return []checkFinding{{
			Database: db.Name, Code: "replica_unreachable", Severity: severity, Message: flat(err) + then,
			Hint: "check the address in read_replica, that the server runs, and that this role may connect", exit: exitUnreachable,
		}}
	}
	var out []checkFinding
	if report.LagBytes > int64(maxLagMB)<<20 {
		out = append(out, checkFinding{
			Database: db.Name, Code: "replica_lags", Severity: source.Warn,
			Message: fmt.Sprintf("the read replica of database %s is %s behind the primary, more than max_replica_lag_mb (%d): it is not read until it has caught up", db.Name, bytesText(report.LagBytes), maxLagMB),
			Hint:    "see what holds up its replay, or raise max_replica_lag_mb",
		})
	}
	if !report.Feedback && report.Delay != "-1" {
		out = append(out, checkFinding{
			Database: db.Name, Code: "replica_may_cancel", Severity: source.Info,
			Message: fmt.Sprintf("the read replica of database %s cancels a read that stands in the way of replaying a vacuum for longer than %s (max_standby_streaming_delay); it is then read again", db.Name, report.Delay),
			Hint:    "set hot_standby_feedback = on on the replica if that happens often",
		})
	}
	return out
}
