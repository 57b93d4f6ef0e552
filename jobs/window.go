package jobs

// WholeBacklog is how many batches a plan enqueues all at once even when the table's batch
// size adapts: with fewer there would be too little left to adapt.
const WholeBacklog = 32

// FirstWindow is how many batches a plan enqueues of a longer backlog, for a database that
// works on concurrency batches at a time: so few that it soon has the batch size that suits
// the table, and another for each seat while the next window is planned.
func FirstWindow(concurrency int) int { return max(4, 2*concurrency) }

// Window is how many batches every further window of a run has. The next one is planned
// when fewer than that are open.
func Window(concurrency int) int { return max(16, 2*concurrency) }
