package metrics

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/telemetry"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func newMetrics(t *testing.T, c Config) *Metrics {
	t.Helper()
	c.Log = zap.NewNop()
	c.Health = telemetry.NewHealth(c.Log)
	c.BatchSize = func(t config.Table, p ledger.Pace) int { return max(p.BatchSize, t.BatchSize) }
	if c.BreakerOpen == nil {
		c.BreakerOpen = func() bool { return false }
	}
	c.Config = &config.Config{Databases: []config.Database{{Name: "d", Tables: []config.Table{{Database: "d", Schema: "public", Name: "t", BatchSize: 70}}}}}
	m, err := New(c)
	require.NoError(t, err)
	return m
}

var descText = regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)

// registered returns the labels of each metric of ours.
func registered(t *testing.T) map[string][]string {
	t.Helper()
	m := newMetrics(t, Config{})
	descs := make(chan *prometheus.Desc)
	go func() { m.registry.Describe(descs); close(descs) }()
	out := map[string][]string{}
	for d := range descs {
		parts := descText.FindStringSubmatch(d.String())
		require.NotNil(t, parts, d.String())
		if strings.HasPrefix(parts[1], "archiver_") {
			out[parts[1]] = strings.FieldsFunc(parts[2], func(r rune) bool { return r == ',' })
		}
	}
	require.Greater(t, len(out), 30)
	return out
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testkit.ModuleRoot(t), path))
	require.NoError(t, err)
	return string(text)
}

// alert is a rule of deploy/prometheus/alerts.yaml.
type alert struct {
	Name        string `yaml:"alert"`
	Expr        string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) []alert {
	t.Helper()
	var file struct{ Groups []struct{ Rules []alert } }
	require.NoError(t, yaml.Unmarshal([]byte(read(t, "deploy/prometheus/alerts.yaml")), &file))
	require.Len(t, file.Groups, 1)
	return file.Groups[0].Rules
}

// TestPage holds docs/METRICS.md against the registry, both ways: each metric has one
// row, with its labels, and with the alerts that use it.
func TestPage(t *testing.T) {
	t.Parallel()
	known := registered(t)
	rows := map[string]bool{}
	quoted := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(read(t, "docs/METRICS.md")) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.HasPrefix(line, "| `archiver_") {
			continue
		}
		name := strings.Trim(cells[1], " `")
		require.False(t, rows[name], "%s twice", name)
		rows[name] = true
		labels, ok := known[name]
		require.True(t, ok, "%s is on the page and nowhere else", name)
		var have []string
		for _, m := range quoted.FindAllStringSubmatch(cells[2], -1) {
			have = append(have, m[1])
		}
		require.ElementsMatch(t, labels, have, "labels of %s", name)
		require.Greater(t, len(cells[3]), 15, "how to read %s", name)

		var want []string
		for _, a := range alerts(t) {
			if regexp.MustCompile(name + `(_bucket)?\b`).MatchString(a.Expr) {
				want = append(want, a.Name)
			}
		}
		for _, a := range strings.FieldsFunc(cells[4], func(r rune) bool { return r == ',' || r == ' ' }) {
			require.Contains(t, want, a, "the alerts of %s", name)
		}
	}
	for name := range known {
		require.True(t, rows[name], "%s is not on the page", name)
	}
	text := read(t, "docs/METRICS.md")
	for _, a := range alerts(t) {
		require.Contains(t, text, a.Name)
	}
	// Queries on the page use what there is, too.
	for _, m := range regexp.MustCompile("(?s)```promql\n(.*?)```").FindAllStringSubmatch(text, -1) {
		requireKnown(t, m[1], known)
	}
}

var (
	metricName = regexp.MustCompile(`\b(archiver|go|process)_[a-z_]+(\{[^}]*\})?`)
	matcher    = regexp.MustCompile(`([a-z_]+) *(?:=~|!~|!=|=)`)
)

// requireKnown holds each metric of a query, with the labels that it is selected by,
// against what is registered.
func requireKnown(t *testing.T, expr string, known map[string][]string) {
	t.Helper()
	for _, found := range metricName.FindAllString(expr, -1) {
		name, selector, _ := strings.Cut(found, "{")
		if !strings.HasPrefix(name, "archiver_") {
			require.Contains(t, []string{
				"process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total", "go_memstats_heap_alloc_bytes", "go_goroutines",
			}, name, expr)
			continue
		}
		labels, ok := known[name]
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, cut := strings.CutSuffix(name, suffix); cut && !ok {
				labels, ok = known[base]
			}
		}
		require.True(t, ok, "there is no %s: %s", name, expr)
		for _, m := range matcher.FindAllStringSubmatch(selector, -1) {
			require.Contains(t, labels, m[1], "labels of %s: %s", name, expr)
		}
	}
}

// promtool is Prometheus's own judge of rules and queries.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput()
	require.NoError(t, err, "%s: make extras installs promtool", out)
}

func TestAlerts(t *testing.T) {
	t.Parallel()
	known := registered(t)
	for _, a := range alerts(t) {
		requireKnown(t, a.Expr, known)
		require.Contains(t, []string{"critical", "warning", "info"}, a.Labels["severity"], a.Name)
		require.NotEmpty(t, a.Annotations["summary"], a.Name)
		require.NotEmpty(t, a.Annotations["description"], a.Name)
		// The fleet's numbers are the same in each replica: adding them up would count
		// everything as often as there are replicas.
		require.NotRegexp(t, `sum[^(]*\((archiver_fleet|min_over|rate\(archiver_fleet)`, a.Expr, a.Name)
	}
	dir := filepath.Join(testkit.ModuleRoot(t), "deploy/prometheus")
	promtool(t, "check", "rules", filepath.Join(dir, "alerts.yaml"))
	promtool(t, "test", "rules", filepath.Join(dir, "alerts_test.yaml"))
}

// TestEachAlertFires: an alert that no test has seen firing may never fire, for a label
// that it forgets or a threshold that nothing reaches. A test of an alert that is not
// there any more, or is misspelt, would find it silent for ever.
func TestEachAlertFires(t *testing.T) {
	t.Parallel()
	var file struct {
		Tests []struct {
			Cases []struct {
				Alert string `yaml:"alertname"`
				Fires []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(read(t, "deploy/prometheus/alerts_test.yaml")), &file))
	fires := map[string]bool{} // false: no case has it firing
	for _, a := range alerts(t) {
		fires[a.Name] = false
	}
	for _, group := range file.Tests {
		for _, c := range group.Cases {
			require.Contains(t, fires, c.Alert, "alerts_test.yaml tests an alert that alerts.yaml has not")
			fires[c.Alert] = fires[c.Alert] || len(c.Fires) > 0
		}
	}
	for name, seen := range fires {
		assert.True(t, seen, "alerts_test.yaml has no case in which %s fires", name)
	}
}

// TestDashboard has promtool parse each query of the Grafana dashboard, and looks that
// panels neither overlap nor lack a unit or a word of explanation, and that each metric
// of ours is on one.
func TestDashboard(t *testing.T) {
	t.Parallel()
	type panel struct {
		ID          int
		Type, Title string
		Description string
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct{ Expr, LegendFormat, RefID string }
		FieldConfig struct{ Defaults struct{ Unit string } }
	}
	var board struct {
		UID        string
		Panels     []panel
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(read(t, "deploy/grafana/archiver.json")), &board))
	require.Equal(t, "archiver", board.UID)
	known := registered(t)
	var variables []string
	for _, v := range board.Templating.List {
		variables = append(variables, v.Name)
		requireKnown(t, v.Definition, known)
	}
	require.Equal(t, []string{"datasource", "database", "table"}, variables)

	fill := strings.NewReplacer("$__rate_interval", "5m", "$database", ".*", "$table", ".*")
	rules, taken, ids := "groups:\n- name: dashboard\n  rules:\n", map[[2]int]string{}, map[int]bool{}
	used := map[string]bool{}
	for _, p := range board.Panels {
		require.False(t, ids[p.ID], p.Title)
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			require.Less(t, x, 24, p.Title)
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				require.Empty(t, taken[[2]int{x, y}], "%s lies over another panel", p.Title)
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		require.NotEmpty(t, p.Description, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		require.NotEmpty(t, p.FieldConfig.Defaults.Unit, p.Title)
		refs := map[string]bool{}
		for i, target := range p.Targets {
			requireKnown(t, target.Expr, known)
			for _, name := range metricName.FindAllString(target.Expr, -1) {
				name, _, _ = strings.Cut(name, "{")
				used[name] = true
			}
			require.NotContains(t, fill.Replace(target.Expr), "$", p.Title)
			require.False(t, refs[target.RefID], "two queries of %s have the same letter", p.Title)
			refs[target.RefID] = true
			rules += fmt.Sprintf("  - {record: 'panel:%d:%d', expr: %q}\n", p.ID, i, fill.Replace(target.Expr))
		}
	}
	for name := range known {
		assert.True(t, used[name] || used[name+"_bucket"] || used[name+"_sum"], "no panel shows %s", name)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	require.NoError(t, os.WriteFile(file, []byte(rules), 0o600))
	promtool(t, "check", "rules", file)
}

// shown gathers one metric of a registry that reads no database.
func shown(t *testing.T, m *Metrics, name string) map[string]float64 {
	t.Helper()
	families, _ := m.registry.Gather() // the fleet's are left out, which is no error
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, one := range f.GetMetric() {
			var labels []string
			for _, l := range one.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			v := one.GetGauge().GetValue() + one.GetCounter().GetValue() + float64(one.GetHistogram().GetSampleCount())
			out[strings.Join(labels, " ")] = v
		}
	}
	return out
}

// TestCounts has what is counted show up, and shows zeros before.
func TestCounts(t *testing.T) {
	t.Parallel()
	open := false
	m := newMetrics(t, Config{Results: []string{"archived", "waiting"}, Waits: []string{"locked"}, Ledger: unreachable(t), BreakerOpen: func() bool { return open }})
	require.Equal(t, map[string]float64{"d archived public.t": 0, "d waiting public.t": 0}, shown(t, m, "archiver_attempts_total"))
	require.Equal(t, map[string]float64{"d locked public.t": 0}, shown(t, m, "archiver_waits_total"))
	m.Attempted(Attempt{Database: "d", Table: "public.t", Result: "waiting", Wait: "locked", Rows: 7})
	m.Attempted(Attempt{Database: "d", Table: "public.t", Result: "archived", Archived: true, Rows: 7, RawBytes: 70, StoredBytes: 30, Timings: ledger.Timings{Total: 2}})
	require.Equal(t, map[string]float64{"d archived public.t": 1, "d waiting public.t": 1}, shown(t, m, "archiver_attempts_total"))
	require.Equal(t, map[string]float64{"d locked public.t": 1}, shown(t, m, "archiver_waits_total"))
	require.Equal(t, map[string]float64{"d public.t": 7}, shown(t, m, "archiver_archived_rows_total"))
	require.Equal(t, map[string]float64{"d public.t": 30}, shown(t, m, "archiver_archived_stored_bytes_total"))
	require.Len(t, shown(t, m, "archiver_batch_phase_seconds"), 8)

	require.Equal(t, map[string]float64{"": 0}, shown(t, m, "archiver_breaker_open"))
	open = true
	require.Equal(t, map[string]float64{"": 1}, shown(t, m, "archiver_breaker_open"))
	for _, name := range []string{"archiver_vacuum_last_seconds", "archiver_vacuum_last_freed_bytes", "archiver_vacuum_last_dead_rows", "archiver_vacuum_last_bloat_bytes"} {
		require.Empty(t, shown(t, m, name), "none was done yet, which is no 0")
	}
	bloat := int64(9)
	m.Vacuumed(Vacuum{Database: "d", Table: "public.t", Result: "done", Done: true, Seconds: 9, FreedBytes: 9, DeadRows: 9, BloatBytes: &bloat})
	require.Equal(t, map[string]float64{"d public.t": 9}, shown(t, m, "archiver_vacuum_last_bloat_bytes"))
	m.Vacuumed(Vacuum{Database: "d", Table: "public.t", Result: "done", Done: true, Seconds: 3, FreedBytes: -5, DeadRows: 7})
	m.Vacuumed(Vacuum{Database: "d", Table: "public.t", Result: "skipped"}) // which says nothing of the table
	require.Equal(t, map[string]float64{"d done public.t": 2, "d failed public.t": 0, "d skipped public.t": 1}, shown(t, m, "archiver_vacuums_total"))
	require.Equal(t, map[string]float64{"d public.t": 3}, shown(t, m, "archiver_vacuum_last_seconds"))
	require.Equal(t, map[string]float64{"d public.t": -5}, shown(t, m, "archiver_vacuum_last_freed_bytes"), "it grew meanwhile")
	require.Equal(t, map[string]float64{"d public.t": 7}, shown(t, m, "archiver_vacuum_last_dead_rows"))
	require.Empty(t, shown(t, m, "archiver_vacuum_last_bloat_bytes"), "unknown is neither 0 nor what it was before")

	build := newMetrics(t, Config{Ledger: unreachable(t), Build: telemetry.Build{Version: "v1", Go: "go9", OS: "plan9", Arch: "mips"}})
	require.Equal(t, map[string]float64{"mips go9 plan9 v1": 1}, shown(t, build, "archiver_build_info"), "by the labels' names: arch, goversion, os, version")

	require.Equal(t, map[string]float64{"": 0}, shown(t, m, "archiver_fleet_read_success"))
	require.Empty(t, shown(t, m, "archiver_fleet_workers"))

	var none *Metrics // a worker whose metrics nobody can ask for
	none.Attempted(Attempt{})
	none.Vacuumed(Vacuum{})
	require.True(t, slices.IsSorted(phaseBuckets()))
}
