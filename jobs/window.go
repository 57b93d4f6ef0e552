package jobs

// FirstWindow is how many batches a plan enqueues at once when the table's batch size
// adapts. A smaller backlog is enqueued whole: there would be too little left to adapt.
const FirstWindow = 32

// minWindow is how many batches the following windows have: so few that a backlog soon
// has the batch size that suits the table, so many that no seat waits for a plan.
const minWindow = 16

// Window is how many batches a further window of a run has, for a database that works on
// concurrency batches at a time. It is planned when fewer than that are open.
func Window(concurrency int) int { return max(minWindow, 2*concurrency) }
