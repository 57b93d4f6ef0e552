package jobs

// WholeBacklog is how many batches a plan enqueues all at once even when the table's batch
// size adapts: with fewer there would be too little left to adapt.
const WholeBacklog = 32

// FirstWindow is how many batches a plan enqueues of a longer backlog: so few that it soon
// has the batch size that suits the table, so many that no seat waits for a plan.
const FirstWindow = 16

// Window is how many batches a window of a run has, for a database that works on
// concurrency batches at a time. The next one is planned when fewer than that are open.
func Window(concurrency int) int { return max(FirstWindow, 2*concurrency) }
