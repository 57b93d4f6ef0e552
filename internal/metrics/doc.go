// Package metrics is what a replica shows to Prometheus at GET /metrics.
//
// There are two kinds of metrics, told apart by their names, since they are added up
// differently over replicas:
//
//	archiver_fleet_...  what the control database says of the whole fleet. Every replica
//	                    shows the same, so take the max
//	archiver_...        what this process has done or seen since it began. Take the sum
//
// The fleet's metrics are read when somebody scrapes, in one snapshot, and kept for at
// least 15 seconds, and for 50 times as long as it took to read them: however many
// batches there are, and however often a replica is asked, it spends at most one part in
// fifty of its time on them. What cannot be read is left out, and archiver_fleet_read_success
// says so: a number that is not known must not look like one that is.
//
// Counters end with their process and may miss a batch whose end was not heard of (a
// lost answer to COMMIT). They are for rates; what was archived stands in the ledger.
//
// Labels have few values: databases and tables are those of the configuration and the
// ledger, everything else is one of a fixed list. Nothing here is a secret, and no label
// holds a row's value, an error's text or an object's key.
//
// docs/METRICS.md has each metric with how to read it; tests hold the page, the
// dashboard and the alert rules in deploy/ against what is registered here.
package metrics
