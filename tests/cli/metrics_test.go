package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// get asks a worker for a page under a host's name.
func get(t *testing.T, addr, host, path string) (code int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	require.NoError(t, err)
	req.Host = host
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil { // it does not listen yet, or any more
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(text)
}

// scrape returns what /metrics shows, by the name with the labels as they are written.
func scrape(t *testing.T, addr string) map[string]float64 {
	t.Helper()
	code, body := get(t, addr, addr, "/metrics")
	out := map[string]float64{}
	if code == 0 {
		return out
	}
	require.Equal(t, http.StatusOK, code, body)
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndex(line, " ")
		v, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
		require.NoError(t, err, line)
		out[line[:at]] = v
	}
	return out
}

// ofTable is a metric of the site's table, with another label between.
func ofTable(name, more string) string {
	return name + `{database="main"` + more + `,table="public.audit_logs"}`
}

func attempts(how string) string {
	return `archiver_attempts_total{database="main",result="` + how + `",table="public.audit_logs"}`
}

func openIn(state string) string {
	return ofTable("archiver_fleet_open_batches", `,state="`+state+`"`)
}

// TestMetrics compares what a worker shows with what it did: four batches are archived,
// one of them after it has waited for a lock, and one fails.
func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.tables = `- {name: audit_logs, schedule: "0 0 1 1 *"}`
	addr := s.listenAt(t)
	s.db.Exec(t, `CREATE TABLE child (audit_id bigint REFERENCES audit_logs); CREATE INDEX ON child (audit_id); INSERT INTO child VALUES (150)`)
	s.run(t, "plan").expect(t, done)
	s.run(t, "pause", "--database", "main").expect(t, done)
	tx, err := s.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM audit_logs WHERE id = 450 FOR UPDATE`)
	require.NoError(t, err)

	w := s.start(t, "work", "--log-level", "debug")
	var m map[string]float64
	testkit.Eventually(t, 30*time.Second, func() bool { m = scrape(t, addr); return m["archiver_worker_ready"] == 1 }, "the worker is ready")
	for name, want := range map[string]float64{
		"archiver_worker_lease_held":                                                      1,
		`archiver_worker_check_success{check="control_database"}`:                         1,
		`archiver_worker_check_success{check="storage"}`:                                  1,
		ofTable("archiver_retention_seconds", ""):                                         30 * 86400,
		"archiver_fleet_read_success":                                                     1,
		openIn("queued"):                                                                  5,
		openIn("running"):                                                                 0,
		openIn("failed"):                                                                  0,
		ofTable("archiver_fleet_open_rows", ""):                                           500,
		ofTable("archiver_fleet_paused", ""):                                              1,
		ofTable("archiver_fleet_throttled", ""):                                           0,
		ofTable("archiver_fleet_batch_size_rows", ""):                                     100,
		`archiver_fleet_queue_jobs{queue="db_main",state="pending"}`:                      5,
		`archiver_fleet_queue_jobs{queue="db_main",state="running"}`:                      0,
		`archiver_fleet_seats_taken{database="main"}`:                                     0,
		"archiver_fleet_limits_disagree":                                                  0,
		ofTable("archiver_fleet_schedule_failing", ""):                                    0,
		ofTable("archiver_archived_rows_total", ""):                                       0,
		attempts("archived"):                                                              0,
		`archiver_waits_total{database="main",reason="locked",table="public.audit_logs"}`: 0,
		// The 100th row's.
		ofTable("archiver_fleet_oldest_open_row_timestamp_seconds", ""): float64(s.db.Int(t, `SELECT extract(epoch FROM created_at)::bigint FROM audit_logs WHERE id = 100`)),
	} {
		got, shown := m[name]
		if !shown && strings.HasPrefix(name, "archiver_fleet_schedule") {
			continue // the first scrape may come before the schedule is recorded
		}
		require.True(t, shown, "%s is not shown", name)
		require.InDelta(t, want, got, 0.01, name)
	}
	require.NotContains(t, m, ofTable("archiver_fleet_last_archived_timestamp_seconds", ""))
	require.NotContains(t, m, ofTable("archiver_fleet_batch_query_seconds", ""))
	var build struct{ Version, Go, OS, Arch string }
	s.json(t, &build, "version").expect(t, done)
	require.InDelta(t, 1, m[fmt.Sprintf(`archiver_build_info{arch=%q,goversion=%q,os=%q,version=%q}`, build.Arch, build.Go, build.OS, build.Version)], 0.01)
	require.Positive(t, m["archiver_spool_free_bytes"])
	require.GreaterOrEqual(t, m["archiver_spool_size_bytes"], m["archiver_spool_free_bytes"])
	require.Positive(t, m["go_goroutines"])
	require.Positive(t, m["process_start_time_seconds"])

	s.run(t, "resume", "--database", "main").expect(t, done)
	waits := `archiver_waits_total{database="main",reason="locked",table="public.audit_logs"}`
	testkit.Eventually(t, 20*time.Second, func() bool { m = scrape(t, addr); return m[waits] >= 1 && m[attempts("archived")] == 3 }, "three are archived, one waits for the lock")
	require.NoError(t, tx.Rollback(t.Context()))
	testkit.Eventually(t, 30*time.Second, func() bool { m = scrape(t, addr); return m[attempts("archived")] == 4 && m[attempts("failed")] == 1 }, "all have ended")
	require.InDelta(t, m[waits], m[attempts("waiting")], 0.01)
	require.InDelta(t, 400, m[ofTable("archiver_archived_rows_total", "")], 0.01)
	require.InDelta(t, s.db.Int(t, `SELECT sum(stored_bytes)::bigint FROM archiver.object WHERE state = 'committed'`), m[ofTable("archiver_archived_stored_bytes_total", "")], 0.01)
	require.InDelta(t, s.db.Int(t, `SELECT sum(raw_bytes)::bigint FROM archiver.object WHERE state = 'committed'`), m[ofTable("archiver_archived_raw_bytes_total", "")], 0.01)
	for _, phase := range []string{"query", "serialize", "compress", "upload", "verify", "delete", "record", "total"} {
		require.InDelta(t, 4, m[ofTable("archiver_batch_phase_seconds_count", `,phase="`+phase+`"`)], 0.01, phase)
		sum := s.db.Int(t, `SELECT (sum((timings->>'`+phase+`')::float8) * 1e6)::bigint FROM archiver.batch WHERE state = 'archived'`)
		require.InDelta(t, float64(sum)/1e6, m[ofTable("archiver_batch_phase_seconds_sum", `,phase="`+phase+`"`)], 1e-5, phase)
	}

	// What the control database says is read again within 15 seconds.
	testkit.Eventually(t, time.Minute, func() bool {
		m = scrape(t, addr)
		return m[openIn("failed")] == 1 && m[openIn("queued")]+m[openIn("running")]+m[openIn("waiting")]+m[openIn("stuck")]+m[openIn("lost")] == 0
	}, "the failed batch shows, and no other")
	require.InDelta(t, 100, m[ofTable("archiver_fleet_open_rows", "")], 0.01)
	require.Zero(t, m[ofTable("archiver_fleet_paused", "")])
	require.InDelta(t, 2, m[`archiver_fleet_seats{database="main"}`], 0.01)
	require.InDelta(t, 1, m["archiver_fleet_workers"], 0.01)
	require.InDelta(t, time.Now().Unix(), m[ofTable("archiver_fleet_last_archived_timestamp_seconds", "")], 60)
	query := s.db.Int(t, `SELECT (last_query_seconds * 1e6)::bigint FROM archiver.archive_table`)
	require.InDelta(t, float64(query)/1e6, m[ofTable("archiver_fleet_batch_query_seconds", "")], 1e-5)
	require.Greater(t, m[ofTable("archiver_fleet_schedule_next_timestamp_seconds", "")], float64(time.Now().Unix()))
	require.InDelta(t, s.db.Int(t, `SELECT extract(epoch FROM created_at)::bigint FROM audit_logs WHERE id = 200`), m[ofTable("archiver_fleet_oldest_open_row_timestamp_seconds", "")], 0.01)

	// Prometheus's own tool has nothing to say against it.
	_, body := get(t, addr, addr, "/metrics")
	lint := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
	lint.Stdin = strings.NewReader(body)
	out, err := lint.CombinedOutput()
	require.NoError(t, err, "%s: make extras installs promtool", out)

	w.signal(t, syscall.SIGTERM)
	w.wait(t).expect(t, done, "serving health and metrics", "batch archived", "rows read")
}

// TestMetricsTellWhatIsAway: a wait for the source is not one for storage.
func TestMetricsTellWhatIsAway(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.run(t, "plan").expect(t, done)
	source, err := url.Parse(s.db.DSN)
	require.NoError(t, err)
	toSource := testkit.NewProxy(t, source.Host)
	source.Host = toSource.Addr
	s.sourceURL = source.String()
	storage, err := url.Parse(s.bucket.Endpoint)
	require.NoError(t, err)
	toStorage := testkit.NewProxy(t, storage.Host)
	s.endpoint = "http://" + toStorage.Addr
	addr := s.listenAt(t)
	toSource.Set(testkit.Fault{Refuse: true})

	w := s.start(t, "work")
	waits := func(reason string) float64 {
		return scrape(t, addr)[`archiver_waits_total{database="main",reason="`+reason+`",table="public.audit_logs"}`]
	}
	testkit.Eventually(t, 30*time.Second, func() bool { return waits("database") >= 1 }, "batches wait for the source")
	require.Zero(t, waits("storage"))
	toStorage.Set(testkit.Fault{Refuse: true})
	toStorage.Sever()
	toSource.Set(testkit.Fault{})
	testkit.Eventually(t, 30*time.Second, func() bool { return waits("storage") >= 1 }, "batches wait for storage")
	w.signal(t, syscall.SIGTERM)
	w.wait(t).expect(t, done)
}

// TestMetricsOfAVacuum: they are what the ledger keeps of it.
func TestMetricsOfAVacuum(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.tables = "- {name: audit_logs, vacuum_mode: FULL, allow: [vacuum_full]}" // a plain one makes so small a table larger
	addr := s.listenAt(t)
	s.run(t, "plan").expect(t, done)
	w := s.start(t, "work")
	var m map[string]float64
	testkit.Eventually(t, 50*time.Second, func() bool { m = scrape(t, addr); return m[ofTable("archiver_vacuums_total", `,result="done"`)] == 1 }, "the vacuum after the run")
	kept := func(expr string) float64 {
		return float64(s.db.Int(t, `SELECT ((`+expr+`) * 1e6)::bigint FROM (SELECT vacuum_result AS r FROM archiver.run) v`)) / 1e6
	}
	require.InDelta(t, kept(`(r->>'seconds')::float8`), m[ofTable("archiver_vacuum_last_seconds", "")], 1e-5)
	freed := m[ofTable("archiver_vacuum_last_freed_bytes", "")]
	require.InDelta(t, kept(`(r->>'bytes_before')::numeric - (r->>'bytes_after')::numeric`), freed, 0.01)
	require.Positive(t, freed)
	require.InDelta(t, kept(`(r->>'dead_rows_after')::numeric`), m[ofTable("archiver_vacuum_last_dead_rows", "")], 0.01)
	w.signal(t, syscall.SIGTERM)
	w.wait(t).expect(t, done)
}

// TestMetricsWithoutControlDatabase: what cannot be read is not shown.
func TestMetricsWithoutControlDatabase(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	u, err := url.Parse(s.db.DSN)
	require.NoError(t, err)
	proxy := testkit.NewProxy(t, u.Host)
	u.Host = proxy.Addr
	s.controlURL = u.String()
	addr := s.listenAt(t)
	s.worker = strings.Replace(s.worker, "lease: 20s", "lease: 5m", 1) // it is not to end by itself
	s.configure(t)
	w := s.start(t, "work")
	var m map[string]float64
	testkit.Eventually(t, 30*time.Second, func() bool { m = scrape(t, addr); return m["archiver_worker_ready"] == 1 }, "the worker is ready")
	require.Contains(t, m, "archiver_fleet_workers")

	proxy.Set(testkit.Fault{Refuse: true})
	proxy.Sever()
	// What was read before is shown for 15 s, and longer where reading it took long.
	testkit.Eventually(t, 3*time.Minute, func() bool { m = scrape(t, addr); return len(m) > 0 && m["archiver_fleet_read_success"] == 0 }, "the fleet cannot be read")
	require.NotContains(t, m, "archiver_fleet_workers")
	require.Contains(t, m, attempts("archived"), "what the process knows by itself is shown")
	proxy.Set(testkit.Fault{}) // a stop without it takes longer
	w.signal(t, syscall.SIGTERM)
	require.NotContains(t, w.wait(t).err, "goroutine ")
}

// TestProfiles: on an address of this machine's own, and only by such a name.
func TestProfiles(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	addr := s.listenAt(t)
	w := s.start(t, "work")
	testkit.Eventually(t, 30*time.Second, func() bool { return s.run(t, "health", "--ready").code == done }, "the worker is ready")
	for _, path := range []string{"", "goroutine?debug=1", "heap", "profile?seconds=1", "trace?seconds=1"} {
		code, body := get(t, addr, addr, "/debug/pprof/"+path)
		require.Equal(t, http.StatusOK, code, path)
		require.NotEmpty(t, body, path)
		code, _ = get(t, addr, "rebound.example.com", "/debug/pprof/"+path)
		require.Equal(t, http.StatusForbidden, code, path)
	}
	code, _ := get(t, addr, addr, "/debug/pprof/cmdline")
	require.Equal(t, http.StatusNotFound, code)
	w.signal(t, syscall.SIGTERM)
	w.wait(t).expect(t, done, "serving health and metrics")
}

// TestLogFields holds the names of the fields that docs/METRICS.md promises.
func TestLogFields(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.extra = "log: {format: json}"
	s.configure(t)
	r := s.run(t, "run", "--log-level", "debug")
	r.expect(t, done)
	fields := map[string][]string{
		"rows read":       {"rows", "bytes", "duration", "serialize", "compress"},
		"object uploaded": {"object_key", "bytes", "duration"},
		"object verified": {"object_key", "rows", "duration"},
		"rows deleted":    {"rows", "duration"},
		"batch archived":  {"records", "bytes", "object_key", "query", "serialize", "compress", "upload", "verify", "delete", "record", "total"},
	}
	seen := map[string]int{}
	for line := range strings.Lines(r.err) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) != nil {
			continue // the progress of run
		}
		message := fmt.Sprint(entry["msg"])
		want, known := fields[message]
		if !known {
			continue
		}
		seen[message]++
		for _, field := range append(want, "time", "level", "database", "table", "batch_id", "job_id", "attempt") {
			require.Contains(t, entry, field, line)
		}
		_, err := time.Parse(time.RFC3339Nano, fmt.Sprint(entry["time"]))
		require.NoError(t, err)
		if d, ok := entry["duration"]; ok {
			require.IsType(t, float64(0), d, "seconds")
		}
	}
	for message := range fields {
		require.Equal(t, 5, seen[message], message)
	}
}
