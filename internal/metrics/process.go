package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// process shows how this process is and what it was told.
type process struct {
	Config

	build, ready, lease, check, retention *prometheus.Desc
	spoolFree, spoolSize, breaker         *prometheus.Desc
}

func newProcess(c Config) *process {
	return &process{
		Config:    c,
		build:     desc("archiver_build_info", "1, with what this program was built from.", "version", "goversion", "os", "arch"),
		ready:     desc("archiver_worker_ready", "1 while this replica takes jobs and reaches all that it needs, as /readyz says."),
		lease:     desc("archiver_worker_lease_held", "1 while this replica holds its lease, as /healthz says once it has joined."),
		check:     desc("archiver_worker_check_success", "1 if the service answered when this replica last looked.", "check"),
		retention: desc("archiver_retention_seconds", "The retention that this replica's configuration gives the table.", "database", "table"),
		spoolFree: desc("archiver_spool_free_bytes", "Bytes free where worker.spool_dir is."),
		spoolSize: desc("archiver_spool_size_bytes", "Bytes altogether where worker.spool_dir is."),
		breaker:   desc("archiver_breaker_open", "1 while this replica takes no batches since storage failed again and again."),
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (p *process) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{p.build, p.ready, p.lease, p.check, p.retention, p.spoolFree, p.spoolSize, p.breaker} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (p *process) Collect(out chan<- prometheus.Metric) {
	send := sender(out)
	b := p.Build
	send(p.build, 1, b.Version, b.Go, b.OS, b.Arch)
	v := p.Health.Vitals()
	send(p.ready, truth(v.Ready))
	send(p.lease, truth(v.LeaseHeld))
	for name, ok := range v.Checks {
		send(p.check, truth(ok), name)
	}
	for _, d := range p.Config.Config.Databases {
		for _, t := range d.Tables {
			send(p.retention, t.Retention.Seconds(), t.Database, label(t.Schema, t.Name))
		}
	}
	if free, size, ok := space(p.Config.Config.Worker.SpoolDir); ok {
		send(p.spoolFree, free)
		send(p.spoolSize, size)
	}
	send(p.breaker, truth(p.BreakerOpen()))
}

// sender sends gauges.
func sender(out chan<- prometheus.Metric) func(*prometheus.Desc, float64, ...string) {
	return func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
