package config

import "time"

// document is the file as it is written, before inheritance. Its tags are the
// only list of keys there is: the loader, the environment variables, the
// suggestions, the output and the test of example.yaml all read it.
type document struct {
	Control   controlSection    `mapstructure:"control"`
	S3        s3Section         `mapstructure:"s3"`
	Defaults  defaultsSection   `mapstructure:"defaults"`
	Databases []databaseSection `mapstructure:"databases"`
	Worker    workerSection     `mapstructure:"worker"`
	UI        uiSection         `mapstructure:"ui"`
	Log       logSection        `mapstructure:"log"`
}

type controlSection struct {
	URL    Secret `mapstructure:"url"`
	Schema string `mapstructure:"schema"`
}

type s3Section struct {
	Bucket               string         `mapstructure:"bucket"`
	Prefix               string         `mapstructure:"prefix"`
	Region               string         `mapstructure:"region"`
	Endpoint             string         `mapstructure:"endpoint"`
	PathStyle            *bool          `mapstructure:"path_style"` // nil: follows endpoint
	AccessKeyID          Secret         `mapstructure:"access_key_id"`
	SecretAccessKey      Secret         `mapstructure:"secret_access_key"`
	StorageClass         string         `mapstructure:"storage_class"`
	SSE                  string         `mapstructure:"sse"`
	KMSKeyID             string         `mapstructure:"kms_key_id"`
	MultipartThresholdMB int            `mapstructure:"multipart_threshold_mb"`
	MultipartPartSizeMB  int            `mapstructure:"multipart_part_size_mb"`
	Retry                retrySection   `mapstructure:"retry"`
	CircuitBreaker       breakerSection `mapstructure:"circuit_breaker"`
}

type retrySection struct {
	MaxAttempts     int           `mapstructure:"max_attempts"`
	InitialDelay    time.Duration `mapstructure:"initial_delay"`
	MaxDelay        time.Duration `mapstructure:"max_delay"`
	ExponentialBase float64       `mapstructure:"exponential_base"`
	Jitter          float64       `mapstructure:"jitter"`
}

type breakerSection struct {
	FailureThreshold int           `mapstructure:"failure_threshold"`
	RecoveryTimeout  time.Duration `mapstructure:"recovery_timeout"`
}

// defaultsSection has the keys that a table inherits, those that a database
// inherits, and those of the whole fleet.
type defaultsSection struct {
	TableKeys            tableKeys    `mapstructure:",squash"`
	DatabaseKeys         databaseKeys `mapstructure:",squash"`
	ParallelDatabases    bool         `mapstructure:"parallel_databases"`
	MaxParallelDatabases int          `mapstructure:"max_parallel_databases"`
}

// databaseSection is a database by its URL or by the parts of one; the output
// leaves out (omitempty) what does not stand in the file.
type databaseSection struct {
	Name         string         `mapstructure:"name"`
	URL          Secret         `mapstructure:"url,omitempty"`
	Host         string         `mapstructure:"host,omitempty"`
	Port         int            `mapstructure:"port,omitempty"`
	DBName       string         `mapstructure:"dbname,omitempty"`
	User         string         `mapstructure:"user,omitempty"`
	Password     Secret         `mapstructure:"password,omitempty"`
	SSLMode      string         `mapstructure:"sslmode,omitempty"`
	ReadReplica  Secret         `mapstructure:"read_replica,omitempty"`
	DatabaseKeys databaseKeys   `mapstructure:",squash"`
	TableKeys    tableKeys      `mapstructure:",squash"`
	Tables       []tableSection `mapstructure:"tables"`
}

type tableSection struct {
	Name string    `mapstructure:"name"`
	Keys tableKeys `mapstructure:",squash"`
}

// databaseKeys may stand in defaults and on a database. nil: inherited.
type databaseKeys struct {
	ConnectionPoolSize *int `mapstructure:"connection_pool_size"`
	Concurrency        *int `mapstructure:"concurrency"`
}

// tableKeys may stand in defaults, on a database and on a table. nil: inherited.
type tableKeys struct {
	Retention           *time.Duration  `mapstructure:"retention"`
	MinRetention        *time.Duration  `mapstructure:"min_retention"`
	TimestampColumn     *string         `mapstructure:"timestamp_column"`
	Timezone            *string         `mapstructure:"timezone"`
	BatchSize           *int            `mapstructure:"batch_size"`
	AdaptiveBatch       adaptiveSection `mapstructure:"adaptive_batch"`
	PartitionBy         *string         `mapstructure:"partition_by"`
	Format              *string         `mapstructure:"format"`
	Compression         *string         `mapstructure:"compression"`
	CompressionLevel    *int            `mapstructure:"compression_level"`
	Verify              *string         `mapstructure:"verify"`
	DeleteGuard         *string         `mapstructure:"delete_guard"`
	MaxBatchBytes       *byteSize       `mapstructure:"max_batch_bytes"`
	Schedule            *string         `mapstructure:"schedule"`
	MaxReplicaLagMB     *int            `mapstructure:"max_replica_lag_mb"`
	ReplicaFallback     *string         `mapstructure:"replica_fallback"`
	Throttle            throttleSection `mapstructure:"throttle"`
	VacuumAfterArchival *bool           `mapstructure:"vacuum_after_archival"`
	VacuumMode          *string         `mapstructure:"vacuum_mode"`
	Allow               *[]string       `mapstructure:"allow"`
}

type adaptiveSection struct {
	Enabled         *bool          `mapstructure:"enabled"`
	MinBatchSize    *int           `mapstructure:"min_batch_size"`
	MaxBatchSize    *int           `mapstructure:"max_batch_size"`
	TargetQueryTime *time.Duration `mapstructure:"target_query_time"`
}

type throttleSection struct {
	MaxRowsPerSecond  *int      `mapstructure:"max_rows_per_second"`
	MaxStandbyLagMB   *int      `mapstructure:"max_standby_lag_mb"`
	MaxSlotLagMB      *int      `mapstructure:"max_slot_lag_mb"`
	MaxActiveSessions *int      `mapstructure:"max_active_sessions"`
	Query             *string   `mapstructure:"query"`
	Windows           *[]string `mapstructure:"windows"`
}

type workerSection struct {
	Concurrency     int           `mapstructure:"concurrency"`
	SpoolDir        string        `mapstructure:"spool_dir"`
	ShutdownTimeout time.Duration `mapstructure:"shutdown_timeout"`
	BatchTimeout    time.Duration `mapstructure:"batch_timeout"`
	Lease           time.Duration `mapstructure:"lease"`
	Listen          string        `mapstructure:"listen"`
}

type uiSection struct {
	Enabled  bool   `mapstructure:"enabled"`
	Listen   string `mapstructure:"listen"`
	Username string `mapstructure:"username"`
	Password Secret `mapstructure:"password"`
	ReadOnly bool   `mapstructure:"read_only"`
}

type logSection struct {
	Level  string `mapstructure:"level"`
	Format string `mapstructure:"format"`
}

// builtin returns a document that holds every default. Retention has none on
// purpose, and neither have the addresses of databases and of the bucket.
func builtin() document {
	return document{
		Control: controlSection{Schema: "archiver"},
		S3: s3Section{
			StorageClass: "STANDARD", SSE: SSENone,
			MultipartThresholdMB: 10, MultipartPartSizeMB: 8,
			Retry:          retrySection{MaxAttempts: 5, InitialDelay: time.Second, MaxDelay: 30 * time.Second, ExponentialBase: 2, Jitter: 0.1},
			CircuitBreaker: breakerSection{FailureThreshold: 5, RecoveryTimeout: time.Minute},
		},
		Defaults: defaultsSection{
			TableKeys: tableKeys{
				MinRetention:    new(7 * day),
				TimestampColumn: new("created_at"),
				Timezone:        new(""),
				BatchSize:       new(10000),
				AdaptiveBatch: adaptiveSection{
					Enabled: new(true), MinBatchSize: new(1000), MaxBatchSize: new(50000), TargetQueryTime: new(2 * time.Second),
				},
				PartitionBy:      new(PartitionByMonth),
				Format:           new(FormatJSONL),
				Compression:      new(CompressionGzip),
				CompressionLevel: new(0),
				Verify:           new(VerifyDecode),
				DeleteGuard:      new(DeleteGuardIdentity),
				MaxBatchBytes:    new(byteSize(256e6)),
				Schedule:         new(""),
				MaxReplicaLagMB:  new(64),
				ReplicaFallback:  new(ReplicaFallbackPrimary),
				Throttle: throttleSection{
					MaxRowsPerSecond: new(0), MaxStandbyLagMB: new(0), MaxSlotLagMB: new(0), MaxActiveSessions: new(0),
					Query: new(""), Windows: new([]string{}),
				},
				VacuumAfterArchival: new(true),
				VacuumMode:          new(VacuumModeAnalyze),
				Allow:               new([]string{}),
			},
			DatabaseKeys:         databaseKeys{ConnectionPoolSize: new(5), Concurrency: new(2)},
			ParallelDatabases:    true,
			MaxParallelDatabases: 3,
		},
		Worker: workerSection{
			Concurrency: 4, ShutdownTimeout: 30 * time.Second, BatchTimeout: 15 * time.Minute, Lease: 15 * time.Second,
			Listen: DefaultWorkerListen,
		},
		UI:  uiSection{Enabled: true, Listen: "127.0.0.1:8081"},
		Log: logSection{Level: "info", Format: LogFormatConsole},
	}
}
