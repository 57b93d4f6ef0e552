package config

import (
	"fmt"
	"slices"
	"time"
)

// The values that enumerated keys can have.
const (
	PartitionByNone  = "none"
	PartitionByYear  = "year"
	PartitionByMonth = "month"
	PartitionByDay   = "day"

	FormatJSONL = "jsonl"

	CompressionGzip = "gzip"
	CompressionZstd = "zstd"
	CompressionNone = "none"

	VerifyReadback = "readback" // bytes and SHA-256 of the object that was read back
	VerifyDecode   = "decode"   // and decompress it and count its rows

	DeleteGuardIdentity = "identity" // compare (tableoid, ctid, xmin) of the rows
	DeleteGuardContent  = "content"  // and a hash of what they hold

	ReplicaFallbackPrimary = "primary" // read the primary while the replica is too far behind
	ReplicaFallbackWait    = "wait"    // wait for the replica

	VacuumModeAnalyze = "ANALYZE" // VACUUM (ANALYZE)
	VacuumModeFull    = "FULL"
	VacuumModeNone    = "none"

	SSENone   = "none"
	SSEAES256 = "AES256"
	SSEKMS    = "aws:kms"

	LogFormatConsole = "console"
	LogFormatJSON    = "json"
)

// DefaultWorkerListen is worker.listen where nobody has set it. Several replicas on
// one host cannot share it, which is no reason for any of them not to work.
const DefaultWorkerListen = "127.0.0.1:8080"

// AllowVacuumFull is the code that vacuum_mode FULL must find in a table's allow.
const AllowVacuumFull = "vacuum_full"

// Config is the whole configuration with inheritance resolved: each Database and
// each Table holds the values that apply to it.
type Config struct {
	Path                 string // the file it was read from
	Control              Control
	S3                   S3
	Databases            []Database
	MaxParallelDatabases int // databases worked on at a time in the whole fleet; 1 where parallel_databases is false
	Worker               Worker
	UI                   UI
	Log                  Log
}

// Control says where the ledger and the queue live.
type Control struct {
	URL    Secret // a postgres:// URL
	Schema string
}

// S3 says where objects go and how.
type S3 struct {
	Bucket                  string
	Prefix                  string // without slashes at its ends; may be empty
	Region                  string // never empty
	Endpoint                string // empty: AWS
	PathStyle               bool
	AccessKeyID             Secret // empty, like the key: the AWS default chain
	SecretAccessKey         Secret
	StorageClass            string
	SSE                     string
	KMSKeyID                string
	MultipartThresholdBytes int64 // an object larger than this goes up in parts
	MultipartPartBytes      int64
	Retry                   Retry
	CircuitBreaker          CircuitBreaker
}

// Retry is exponential back-off: InitialDelay, times ExponentialBase for each
// further attempt, at most MaxDelay, and up to Jitter of it added at random.
type Retry struct {
	MaxAttempts     int // of one request, the first included
	InitialDelay    time.Duration
	MaxDelay        time.Duration
	ExponentialBase float64 // at least 1
	Jitter          float64 // 0 to 1
}

// CircuitBreaker opens after FailureThreshold failures in a row and lets a request
// through again after RecoveryTimeout.
type CircuitBreaker struct {
	FailureThreshold int
	RecoveryTimeout  time.Duration
}

// Database is one source.
type Database struct {
	Name        string
	Primary     Secret // a postgres:// URL
	Replica     Secret // a postgres:// URL, or empty where there is none
	PoolSize    int    // connections of one replica of the archiver, to each of Primary and Replica
	Concurrency int    // batches at a time in the whole fleet
	Tables      []Table
}

// Database returns the database of that name, and one without a name if there is none.
func (c *Config) Database(name string) Database {
	i := slices.IndexFunc(c.Databases, func(d Database) bool { return d.Name == name })
	if i < 0 {
		return Database{}
	}
	return c.Databases[i]
}

// Queue is the River queue that holds the database's batches.
func (d Database) Queue() string { return "db_" + d.Name }

// Table is one audit table and how it is archived.
type Table struct {
	Database            string // the name of its Database
	Schema              string // plain name in the catalog
	Name                string // plain name in the catalog
	Retention           time.Duration
	MinRetention        time.Duration // greater than 0, at most Retention
	TimestampColumn     string        // plain name in the catalog
	Timezone            string        // IANA name, or empty where none was declared
	BatchSize           int           // rows
	Adaptive            AdaptiveBatch
	PartitionBy         string
	Format              string
	Compression         string
	CompressionLevel    int // in the scale of Compression; 0: the encoder's default
	Verify              string
	DeleteGuard         string
	MaxBatchBytes       int64  // of encoded rows, before compression
	Schedule            string // cron expression, or empty
	MaxReplicaLagMB     int    // units of 1024 x 1024 bytes of WAL
	ReplicaFallback     string
	Throttle            Throttle
	VacuumAfterArchival bool
	VacuumMode          string
	Allow               []string
}

// String names the table for people: orders.public.audit_logs, with double quotes
// where SQL needs them.
func (t Table) String() string {
	return fmt.Sprintf("%s.%s.%s", t.Database, quoteName(t.Schema), quoteName(t.Name))
}

// Allows tells whether the operator accepted the finding with this code.
func (t Table) Allows(code string) bool { return slices.Contains(t.Allow, code) }

// AdaptiveBatch lets measured query times move the batch size between two bounds.
type AdaptiveBatch struct {
	Enabled         bool
	MinBatchSize    int // rows
	MaxBatchSize    int // rows, at least MinBatchSize
	TargetQueryTime time.Duration
}

// Throttle slows a table's batches down. A zero value sets no limit.
type Throttle struct {
	MaxRowsPerSecond  int
	MaxStandbyLagMB   int // units of 1024 x 1024 bytes of WAL
	MaxSlotLagMB      int // units of 1024 x 1024 bytes of WAL
	MaxActiveSessions int
	Query             string // SQL for the source; a positive result (or true) pauses
	Windows           []Window
}

// Any says whether any limit is set.
func (t Throttle) Any() bool {
	return t.MaxRowsPerSecond > 0 || t.MaxStandbyLagMB > 0 || t.MaxSlotLagMB > 0 || t.MaxActiveSessions > 0 || t.Query != "" || len(t.Windows) > 0
}

// Worker is one replica of `archiver work`.
type Worker struct {
	Concurrency     int    // batches at a time in this replica
	SpoolDir        string // empty: the system's directory for temporary files
	ShutdownTimeout time.Duration
	BatchTimeout    time.Duration
	Lease           time.Duration
	Listen          string // health and metrics; empty: not served
}

// UI is River UI.
type UI struct {
	Enabled  bool
	Listen   string
	Username string // empty, like Password: no login, which only a loopback address may have
	Password Secret
	ReadOnly bool
}

// Log says what is logged, and how.
type Log struct {
	Level  string // debug, info, warn or error
	Format string
}
