package metrics

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/telemetry"
)

// Config is what the metrics are made from.
type Config struct {
	Build  telemetry.Build
	Config *config.Config
	Ledger *ledger.Ledger
	Health *telemetry.Health
	Log    *zap.Logger
	// NextDue says when a schedule is due next, given when it was settled last.
	NextDue func(ledger.Schedule) (unix float64, ok bool)
	// BatchSize is how many rows the next batch of a table is planned with.
	BatchSize func(config.Table, ledger.Pace) int
	// Results and Waits are the values of Attempt.Result and Attempt.Wait, so that each
	// shows from the start: a counter that appears with its first count has no rate then.
	Results, Waits []string
	// BreakerOpen says whether this process keeps away from storage just now. It must
	// answer at once.
	BreakerOpen func() bool
}

// Metrics are those of one process. All methods may be called from any goroutine; those
// of a nil *Metrics do nothing, for a worker whose metrics nobody can ask for.
type Metrics struct {
	registry *prometheus.Registry
	log      *zap.Logger

	attempts, waits                  *prometheus.CounterVec
	rows, rawBytes, storedBytes      *prometheus.CounterVec
	phases                           *prometheus.HistogramVec
	vacuums                          *prometheus.CounterVec
	vacuumSeconds, vacuumFreed, dead *prometheus.GaugeVec
	bloat                            *prometheus.GaugeVec
}

// phaseBuckets reach from a small batch on the same host to a large one through a slow
// network. They are few, since each is a series of each table and phase.
func phaseBuckets() []float64 {
	return []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300}
}

// New registers all metrics. It connects to nothing.
func New(c Config) (*Metrics, error) {
	byTable := func(more ...string) []string { return append([]string{"database", "table"}, more...) }
	m := &Metrics{
		registry: prometheus.NewRegistry(), log: c.Log,
		attempts:    counter("archiver_attempts_total", "Attempts at batches that have ended in this process, by how.", byTable("result")),
		waits:       counter("archiver_waits_total", "Attempts of this process after which the batch waits, by what for.", byTable("reason")),
		rows:        counter("archiver_archived_rows_total", "Rows that this process archived: verified in storage and deleted.", byTable()),
		rawBytes:    counter("archiver_archived_raw_bytes_total", "Bytes of the archived rows as JSON lines, before compression.", byTable()),
		storedBytes: counter("archiver_archived_stored_bytes_total", "Bytes of the objects that hold the archived rows.", byTable()),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "archiver_batch_phase_seconds", Help: "Seconds that each phase of an archived batch took, and its attempt in total.", Buckets: phaseBuckets(),
		}, byTable("phase")),
		vacuums:       counter("archiver_vacuums_total", "Vacuums that have ended in this process, by how.", byTable("result")),
		vacuumSeconds: gauge("archiver_vacuum_last_seconds", "Seconds that the last vacuum of this process took.", byTable()),
		vacuumFreed:   gauge("archiver_vacuum_last_freed_bytes", "Bytes by which the last vacuum of this process made the table smaller.", byTable()),
		dead:          gauge("archiver_vacuum_last_dead_rows", "Dead rows that the last vacuum of this process left behind.", byTable()),
		bloat:         gauge("archiver_vacuum_last_bloat_bytes", "Estimated bytes of the heap that a rewrite would give back after the last vacuum of this process.", byTable()),
	}
	m.start(c)
	all := []prometheus.Collector{
		m.attempts, m.waits, m.rows, m.rawBytes, m.storedBytes, m.phases, m.vacuums, m.vacuumSeconds, m.vacuumFreed, m.dead, m.bloat,
		newProcess(c), newFleet(c),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	}
	for _, one := range all {
		if err := m.registry.Register(one); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func counter(name, help string, labels []string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func gauge(name, help string, labels []string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
}

// start has the counters of the configured tables begin at 0.
func (m *Metrics) start(c Config) {
	for _, d := range c.Config.Databases {
		for _, t := range d.Tables {
			table := label(t.Schema, t.Name)
			for _, v := range []*prometheus.CounterVec{m.rows, m.rawBytes, m.storedBytes} {
				v.WithLabelValues(d.Name, table)
			}
			for _, r := range c.Results {
				m.attempts.WithLabelValues(d.Name, table, r)
			}
			for _, w := range c.Waits {
				m.waits.WithLabelValues(d.Name, table, w)
			}
			for _, state := range []ledger.VacuumState{ledger.VacuumDone, ledger.VacuumSkipped, ledger.VacuumFailed} {
				m.vacuums.WithLabelValues(d.Name, table, string(state))
			}
		}
	}
}

// label is how a table is named in all metrics: plain names, as in the JSON outputs.
func label(schema, table string) string { return schema + "." + table }

// Handle adds GET /metrics to a mux.
func (m *Metrics) Handle(mux *http.ServeMux) {
	errors, _ := zap.NewStdLogAt(m.log, zap.WarnLevel) // fails for unknown levels only
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: errors, ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4,
	}))
}

// Attempt is an attempt at a batch that has ended.
type Attempt struct {
	Database, Table             string // schema.table
	Result                      string
	Wait                        string // what the batch waits for; empty: it does not
	Archived                    bool   // the rest is of an archived batch only
	Rows, RawBytes, StoredBytes int64
	Timings                     ledger.Timings
}

// Attempted counts an attempt.
func (m *Metrics) Attempted(a Attempt) {
	if m == nil {
		return
	}
	m.attempts.WithLabelValues(a.Database, a.Table, a.Result).Inc()
	if a.Wait != "" {
		m.waits.WithLabelValues(a.Database, a.Table, a.Wait).Inc()
	}
	if !a.Archived {
		return
	}
	m.rows.WithLabelValues(a.Database, a.Table).Add(float64(a.Rows))
	m.rawBytes.WithLabelValues(a.Database, a.Table).Add(float64(a.RawBytes))
	m.storedBytes.WithLabelValues(a.Database, a.Table).Add(float64(a.StoredBytes))
	t := a.Timings
	for phase, seconds := range map[string]float64{
		"query": t.Query, "serialize": t.Serialize, "compress": t.Compress, "upload": t.Upload, "verify": t.Verify, "delete": t.Delete, "record": t.Record, "total": t.Total,
	} {
		m.phases.WithLabelValues(a.Database, a.Table, phase).Observe(seconds)
	}
}

// Vacuum is a vacuum that has ended.
type Vacuum struct {
	Database, Table string // schema.table
	Result          string // done, skipped or failed
	Done            bool   // the rest is of one that was done only
	Seconds         float64
	FreedBytes      int64  // by which the table is smaller now
	DeadRows        int64  // that are left
	BloatBytes      *int64 // that a rewrite would give back; nil: not known
}

// Vacuumed counts a vacuum.
func (m *Metrics) Vacuumed(v Vacuum) {
	if m == nil {
		return
	}
	m.vacuums.WithLabelValues(v.Database, v.Table, v.Result).Inc()
	if !v.Done {
		return
	}
	m.vacuumSeconds.WithLabelValues(v.Database, v.Table).Set(v.Seconds)
	m.vacuumFreed.WithLabelValues(v.Database, v.Table).Set(float64(v.FreedBytes))
	m.dead.WithLabelValues(v.Database, v.Table).Set(float64(v.DeadRows))
	if v.BloatBytes == nil { // neither 0 nor what the vacuum before it has found
		m.bloat.DeleteLabelValues(v.Database, v.Table)
		return
	}
	m.bloat.WithLabelValues(v.Database, v.Table).Set(float64(*v.BloatBytes))
}
