package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

func TestMain(m *testing.M) {
	if isReplica() { // this binary, started again by the test below
		exit(replicaMain())
	}
	testkit.Main(m)
}

// TestMeasuresATinyFleet runs the whole harness, with a replica that is a process.
func TestMeasuresATinyFleet(t *testing.T) {
	t.Parallel()
	// A session tells the server's statistics of its transactions once a second: a window of
	// a second can miss them all.
	o := options{databases: 2, tables: 2, backlog: 400, replicas: 1, seats: 2, hands: 4, window: 3 * time.Second, warmUp: 500 * time.Millisecond, calls: 2, idle: true, work: true}
	r, err := run(t.Context(), o)
	require.NoError(t, err)
	require.Len(t, r.Enqueue, 1)
	require.Equal(t, 400, r.Enqueue[0].Batches)
	require.Positive(t, r.Enqueue[0].BatchHeap)
	require.Len(t, r.Admission, 4, "without a batch, and three cases with some")
	for _, a := range r.Admission {
		require.Positive(t, a.P50, a.Case)
	}
	require.Len(t, r.Reports, 1)
	require.Equal(t, 1, r.Reports[0].Slices)
	require.Len(t, r.Fleet, 5)
	for _, w := range r.Fleet {
		require.Zero(t, w.Errors, "%s: %s", w.scenario, w.Error)
		require.LessOrEqual(t, w.MostOfOne, o.seats, w.String())
		require.LessOrEqual(t, w.MostDatabases, w.Places, w.String())
		require.Positive(t, w.Transactions, w.String())
		require.Positive(t, w.Connections, w.String())
		if w.Idle {
			require.Zero(t, w.MostRunning)
		}
	}
	require.Positive(t, r.Fleet[1].Jobs, "batches that take no time")
	var text bytes.Buffer
	r.print(&text)
	require.Contains(t, text.String(), "an old snapshot open")
}

func TestUpToEndsWithTheLimit(t *testing.T) {
	t.Parallel()
	require.Equal(t, []int{3, 30, 100}, upTo(100, 3, 30, 100))
	require.Equal(t, []int{3, 20}, upTo(20, 3, 30, 100))
	require.Equal(t, []int{2}, upTo(2, 3, 30))
}

func TestSummary(t *testing.T) {
	t.Parallel()
	require.Zero(t, summary(nil))
	require.Equal(t, times{Calls: 1, P50: 7, P99: 7, Max: 7}, summary([]float64{7}))
	require.Equal(t, times{Calls: 4, P50: 3, P99: 4, Max: 4}, summary([]float64{4, 1, 3, 2}))
}

// TestKnownStatementsHaveNames holds the names to what pg_stat_statements shows: a text
// whose constants are parameters.
func TestKnownStatementsHaveNames(t *testing.T) {
	t.Parallel()
	require.Equal(t, "fetch", nameOf("-- name: JobGetAvailable :many\nWITH locked_jobs AS ("))
	require.Equal(t, "JobGetStuck", nameOf("-- name: JobGetStuck :many\nSELECT"))
	require.Equal(t, "SELECT $1 FROM somewhere", nameOf("SELECT $1\n\tFROM   somewhere"))
	require.LessOrEqual(t, len(nameOf(string(bytes.Repeat([]byte("x"), 100)))), 48)
}
