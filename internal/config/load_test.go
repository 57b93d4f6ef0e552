package config

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // zones must be known on a machine without them too

	"github.com/stretchr/testify/require"
)

// base is the smallest configuration that is accepted.
const base = `
control: {url: "postgres://archiver@localhost:5432/archiver"}
s3: {bucket: audit-archive, region: us-east-1}
defaults: {retention: 90d}
databases:
  - name: orders
    url: postgres://archiver@localhost:5432/orders
    tables: [{name: public.audit_logs}]
`

func loadText(t *testing.T, content string, environ ...string) (*Config, error) {
	t.Helper()
	return loadWith(t, content, nil, environ...)
}

func loadWith(t *testing.T, content string, flags map[string]any, environ ...string) (*Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "archiver.yaml")
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	return Load(Options{File: file, Environ: append([]string{}, environ...), Flags: flags})
}

// problemsOf returns the problems as lines; none where the configuration is good.
func problemsOf(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var e *Error
	require.ErrorAs(t, err, &e)
	var lines []string
	for _, p := range e.Problems {
		lines = append(lines, p.String())
		require.Contains(t, err.Error(), p.String())
	}
	return lines
}

func TestSmallestConfigurationGetsEveryDefault(t *testing.T) {
	t.Parallel()
	c, err := loadText(t, base)
	require.NoError(t, err)
	require.Equal(t, Control{URL: "postgres://archiver@localhost:5432/archiver", Schema: "archiver"}, c.Control)
	require.Equal(t, S3{
		Bucket: "audit-archive", Region: "us-east-1", StorageClass: "STANDARD", SSE: "none",
		MultipartThresholdBytes: 10 << 20, MultipartPartBytes: 8 << 20,
		Retry:          Retry{5, time.Second, 30 * time.Second, 2, 0.1},
		CircuitBreaker: CircuitBreaker{5, time.Minute},
	}, c.S3)
	require.Equal(t, 3, c.MaxParallelDatabases)
	require.Equal(t, Worker{4, "", 30 * time.Second, 15 * time.Minute, 15 * time.Second, "127.0.0.1:8080"}, c.Worker)
	require.Equal(t, UI{Enabled: true, Listen: "127.0.0.1:8081"}, c.UI)
	require.Equal(t, Log{"info", "console"}, c.Log)
	require.Len(t, c.Databases, 1)
	d := c.Databases[0]
	require.Equal(t, 5, d.PoolSize)
	require.Equal(t, 2, d.Concurrency)
	require.Empty(t, d.Replica)
	require.Equal(t, "db_orders", d.Queue())
	require.Equal(t, []Table{{
		Database: "orders", Schema: "public", Name: "audit_logs", Retention: 90 * day, MinRetention: 7 * day,
		TimestampColumn: "created_at", BatchSize: 10000, Adaptive: AdaptiveBatch{true, 1000, 50000, 2 * time.Second},
		PartitionBy: PartitionByMonth, Format: FormatJSONL, Compression: CompressionGzip, Verify: VerifyDecode,
		DeleteGuard: DeleteGuardIdentity, MaxBatchBytes: 256e6, MaxReplicaLagMB: 64, ReplicaFallback: ReplicaFallbackPrimary,
		VacuumAfterArchival: true, VacuumMode: VacuumModeAnalyze, Allow: []string{},
	}}, d.Tables)
}

func TestPrecedenceIsFlagEnvironmentFileDefault(t *testing.T) {
	t.Parallel()
	file := base + "log: {level: warn}\nworker: {concurrency: 7}\n"
	environ := []string{"ARCHIVER_LOG_LEVEL=error", "ARCHIVER_WORKER_LEASE=20s", "ARCHIVER_WORKER_LISTEN=", "PATH=/bin"}
	c, err := loadWith(t, file, map[string]any{"log.level": "debug", "worker.batch_timeout": time.Minute, "ui.read_only": true, "worker.shutdown_timeout": "5s"}, environ...)
	require.NoError(t, err)
	require.Equal(t, "debug", c.Log.Level, "the flag wins")
	require.Equal(t, 20*time.Second, c.Worker.Lease, "the environment beats the default")
	require.Equal(t, 7, c.Worker.Concurrency, "the file beats the default")
	require.Equal(t, "127.0.0.1:8080", c.Worker.Listen, "an empty variable is unset")
	require.Equal(t, time.Minute, c.Worker.BatchTimeout)
	require.Equal(t, 5*time.Second, c.Worker.ShutdownTimeout)
	require.True(t, c.UI.ReadOnly)

	c, err = loadText(t, file, environ...)
	require.NoError(t, err)
	require.Equal(t, "error", c.Log.Level, "the environment beats the file")
}

func TestEnvironmentReachesEveryKindOfKey(t *testing.T) {
	t.Parallel()
	c, err := loadText(t, base,
		"ARCHIVER_S3_ACCESS_KEY_ID=id", "ARCHIVER_S3_SECRET_ACCESS_KEY=key", "ARCHIVER_S3_RETRY_EXPONENTIAL_BASE=3",
		"ARCHIVER_DEFAULTS_ALLOW=vacuum_full, logical_slot", "ARCHIVER_DEFAULTS_VACUUM_AFTER_ARCHIVAL=false",
		"ARCHIVER_DEFAULTS_ADAPTIVE_BATCH_MIN_BATCH_SIZE=500", "ARCHIVER_DEFAULTS_MAX_BATCH_BYTES=1MiB",
		"ARCHIVER_DATABASES_0_TABLES_0_RETENTION=30d", "ARCHIVER_DATABASES_0_TABLES_1_NAME=audit.more",
		"ARCHIVER_DATABASES_1_NAME=billing", "ARCHIVER_DATABASES_1_HOST=db2", "ARCHIVER_DATABASES_1_USER=u",
		"ARCHIVER_DATABASES_1_PASSWORD=p", "ARCHIVER_DATABASES_1_TABLES_0_NAME=t",
	)
	require.NoError(t, err)
	require.Equal(t, Secret("id"), c.S3.AccessKeyID)
	require.InDelta(t, 3, c.S3.Retry.ExponentialBase, 0)
	table := c.Databases[0].Tables[0]
	require.Equal(t, []string{"vacuum_full", "logical_slot"}, table.Allow)
	require.True(t, table.Allows("logical_slot"))
	require.False(t, table.Allows("slot"))
	require.False(t, table.VacuumAfterArchival)
	require.Equal(t, 500, table.Adaptive.MinBatchSize)
	require.EqualValues(t, 1<<20, table.MaxBatchBytes)
	require.Equal(t, 30*day, table.Retention)
	require.Equal(t, "orders.audit.more", c.Databases[0].Tables[1].String())
	require.Equal(t, Secret("postgres://u:p@db2:5432/billing"), c.Databases[1].Primary)
}

func TestEnvironmentProblems(t *testing.T) {
	t.Parallel()
	_, err := loadText(t, base, "ARCHIVER_S3_BUKET=x", "ARCHIVER_DATABASES_5_NAME=x", "ARCHIVER_LOG_LEVEL=loud", "ARCHIVER_WORKER_LEASE=15",
		"ARCHIVER_WORKER=hello", "ARCHIVER_FAILPOINTS=x", "ARCHIVER_UI_SERVICE_HOST=10.0.0.1", "ARCHIVER_UI_PORT_8081_TCP_ADDR=10.0.0.1", "ARCHIVER_DATABASES_00_NAME=x")
	require.Equal(t, []string{
		"ARCHIVER_DATABASES_00_NAME: environment variable names no key",
		"ARCHIVER_S3_BUKET: environment variable names no key; did you mean ARCHIVER_S3_BUCKET?",
		"databases[5].name: is set by ARCHIVER_DATABASES_5_NAME, but the list has 1 items",
		`log.level: must be one of debug, info, warn, error (got "loud" from ARCHIVER_LOG_LEVEL)`,
		`worker.lease: needs a unit, such as 720h or 30d (got "15" from ARCHIVER_WORKER_LEASE)`,
	}, problemsOf(t, err))
}

func TestReferencesAreExpanded(t *testing.T) {
	t.Parallel()
	c, err := loadText(t, strings.NewReplacer("{retention: 90d}", "{retention: \"${KEEP}\"}", "audit-archive", "\"${TEAM}-${STAGE:-test}\"").Replace(base)+
		"worker: {concurrency: \"${N}\", lease: \"${LEASE:-20s}\"}\nui: {read_only: \"${RO:-true}\"}\nlog: {level: \"${EMPTY:-warn}\"}\n",
		"KEEP=30d", "TEAM=audit", "N=9", "EMPTY=")
	require.NoError(t, err)
	require.Equal(t, 30*day, c.Databases[0].Tables[0].Retention)
	require.Equal(t, "audit-test", c.S3.Bucket)
	require.Equal(t, Worker{9, "", 30 * time.Second, 15 * time.Minute, 20 * time.Second, "127.0.0.1:8080"}, c.Worker)
	require.True(t, c.UI.ReadOnly)
	require.Equal(t, "warn", c.Log.Level)
}

func TestExpand(t *testing.T) {
	t.Parallel()
	env := environment{"A": "1", "E": "", "R": "${A}"}
	for in, want := range map[string]string{
		"": "", "plain $A $": "plain $A $", "${A}": "1", "x${A}y${A}": "x1y1", "${E}": "", "${E:-d}": "d", "${U:-}": "", "${U:-a:-b}": "a:-b",
		"$${A}": "${A}", "$$${A}": "$${A}", "${R}": "${A}",
	} {
		got, _, err := env.expand(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for _, in := range []string{"${", "${A", "${}", "${1A}", "${A-b}", "${A B}", "${U}"} {
		_, _, err := env.expand(in)
		require.Error(t, err, in)
	}
}

func TestFileIsLookedFor(t *testing.T) {
	t.Parallel()
	_, err := Load(Options{File: "/nowhere/a.yaml", Environ: []string{}})
	var missing *NotFoundError
	require.ErrorAs(t, err, &missing)
	require.EqualError(t, err, "no configuration file /nowhere/a.yaml (named by --config)")

	_, err = Load(Options{Environ: []string{"ARCHIVER_CONFIG=/nowhere/b.yaml"}})
	require.EqualError(t, err, "no configuration file /nowhere/b.yaml (named by ARCHIVER_CONFIG)")

	file := filepath.Join(t.TempDir(), "c.conf")
	require.NoError(t, os.WriteFile(file, []byte(base), 0o600))
	c, err := Load(Options{Environ: []string{"ARCHIVER_CONFIG=" + file}})
	require.NoError(t, err)
	require.Equal(t, file, c.Path)

	_, err = Load(Options{File: t.TempDir(), Environ: []string{}})
	require.ErrorContains(t, err, "read configuration")
}

// It changes the working directory, so it cannot be parallel.
func TestFileInTheWorkingDirectory(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	_, err := Load(Options{Environ: []string{}})
	var missing *NotFoundError
	require.ErrorAs(t, err, &missing)
	require.Equal(t, []string{filepath.Join(dir, "archiver.yaml"), "/etc/archiver/archiver.yaml"}, missing.Looked)
	require.ErrorContains(t, err, "--config FILE or ARCHIVER_CONFIG")

	require.NoError(t, os.WriteFile("archiver.yaml", []byte(base), 0o600))
	_, err = Load(Options{Environ: []string{}})
	require.NoError(t, err)
}

func TestInheritance(t *testing.T) {
	t.Parallel()
	c, err := loadText(t, `
control: {url: "postgres://localhost/archiver"}
s3: {bucket: audit-archive, region: us-east-1}
defaults:
  retention: 90d
  batch_size: 20000
  adaptive_batch: {min_batch_size: 2000, target_query_time: 3s}
  throttle: {max_rows_per_second: 10, windows: ["22:00-05:00"]}
  allow: [a, b]
  connection_pool_size: 6
  parallel_databases: false
databases:
  - name: one
    host: h
    retention: 60d
    connection_pool_size: 8
    concurrency: 1
    adaptive_batch: {max_batch_size: 30000}
    tables:
      - name: a
      - name: b
        retention: 30d
        adaptive_batch: {enabled: false, target_query_time: 1s}
        throttle: {query: "SELECT true", windows: []}
        allow: []
  - name: two
    host: h
    tables: [{name: a}]
`)
	require.NoError(t, err)
	require.Equal(t, 1, c.MaxParallelDatabases)
	one, two := c.Databases[0], c.Databases[1]
	require.Equal(t, []int{8, 1, 6, 2}, []int{one.PoolSize, one.Concurrency, two.PoolSize, two.Concurrency})
	a, b := one.Tables[0], one.Tables[1]
	require.Equal(t, 60*day, a.Retention)
	require.Equal(t, 20000, a.BatchSize)
	require.Equal(t, AdaptiveBatch{true, 2000, 30000, 3 * time.Second}, a.Adaptive)
	require.Equal(t, Throttle{MaxRowsPerSecond: 10, Windows: []Window{{Start: 22 * 60, End: 5 * 60}}}, a.Throttle)
	require.Equal(t, []string{"a", "b"}, a.Allow)
	require.Equal(t, 30*day, b.Retention)
	require.Equal(t, AdaptiveBatch{false, 2000, 30000, time.Second}, b.Adaptive)
	require.Equal(t, Throttle{MaxRowsPerSecond: 10, Query: "SELECT true"}, b.Throttle)
	require.Empty(t, b.Allow)
	require.Equal(t, 90*day, two.Tables[0].Retention)
	require.Equal(t, AdaptiveBatch{true, 2000, 50000, 3 * time.Second}, two.Tables[0].Adaptive)
}

func TestEveryTableKeyMayStandAnywhere(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../../configs/example.yaml")
	require.NoError(t, err)
	_, defaults, _ := strings.Cut(string(content), "\ndefaults:\n")
	defaults, _, _ = strings.Cut(defaults, "  connection_pool_size:")
	onDatabase := strings.ReplaceAll(defaults, "\n  ", "\n    ")
	onTable := strings.ReplaceAll(defaults, "\n  ", "\n        ")
	_, err = loadText(t, `
control: {url: "postgres://localhost/archiver"}
s3: {bucket: audit-archive, region: us-east-1}
databases:
  - name: one
    host: h
  `+onDatabase+`
    vacuum_mode: none
    tables:
      - name: a
      `+onTable+"\n")
	require.NoError(t, err)
}

func TestManyTablesLoadQuickly(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(strings.Split(base, "    tables:")[0] + "    tables:\n")
	for i := range 1000 {
		b.WriteString("      - {name: t" + strconv.Itoa(i) + ", batch_size: 500}\n")
	}
	started := time.Now()
	c, err := loadText(t, b.String())
	require.NoError(t, err)
	require.Len(t, c.Databases[0].Tables, 1000)
	t.Log(time.Since(started))
	require.Less(t, time.Since(started), 20*time.Second)
}
