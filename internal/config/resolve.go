package config

import (
	"reflect"
	"strconv"
	"strings"
)

// resolve applies every rule to the document and inheritance to its tables. The
// result is only good if r has no problems.
func resolve(doc *document, env environment, r *report) *Config {
	c := &Config{
		Control:              resolveControl(doc.Control, r),
		S3:                   resolveS3(doc.S3, env, r),
		MaxParallelDatabases: doc.Defaults.MaxParallelDatabases,
		Worker:               resolveWorker(doc.Worker, r),
		UI:                   resolveUI(doc.UI, r),
		Log:                  Log(doc.Log),
	}
	oneOf(r, "log.level", &c.Log.Level, "debug", "info", "warn", "error")
	oneOf(r, "log.format", &c.Log.Format, LogFormatConsole, LogFormatJSON)
	checkTableKeys(r, "defaults", doc.Defaults.TableKeys)
	checkDatabaseKeys(r, "defaults", doc.Defaults.DatabaseKeys)
	between(r, "defaults.max_parallel_databases", &doc.Defaults.MaxParallelDatabases, 1, maxConnections)
	if !doc.Defaults.ParallelDatabases {
		c.MaxParallelDatabases = 1
	}
	if len(doc.Databases) == 0 {
		r.add("databases", "is required; list at least one")
	}
	for i := range doc.Databases {
		c.Databases = append(c.Databases, resolveDatabase(&doc.Databases[i], item("databases", i), doc.Defaults, r))
	}
	checkDistinct(c.Databases, r)
	return c
}

func resolveControl(s controlSection, r *report) Control {
	if required(r, "control.url", s.URL != "") {
		if _, err := parsePostgres(s.URL); err != nil {
			r.add("control.url", err.Error())
		}
	}
	// 46 bytes: River derives names of notification topics from it, which have 63.
	matches(r, "control.schema", s.Schema, `[A-Za-z_][A-Za-z0-9_]{0,45}`, "must be letters, digits and _, not start with a digit, and have at most 46 characters")
	return Control(s)
}

func resolveS3(s s3Section, env environment, r *report) S3 {
	if required(r, "s3.bucket", s.Bucket != "") {
		matches(r, "s3.bucket", s.Bucket, `[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]|arn:[A-Za-z0-9:/_.-]{1,250}`, "is not the name of a bucket")
	}
	prefix := strings.Trim(s.Prefix, "/")
	if prefix != "" { // an empty or relative part would give two spellings of one key
		matches(r, "s3.prefix", prefix, `[A-Za-z0-9!_.*'()=-]+(/[A-Za-z0-9!_.*'()=-]+)*`, "must be parts of letters, digits and !_.*'()=- between single slashes")
		for part := range strings.SplitSeq(prefix, "/") {
			if part == "." || part == ".." {
				r.add("s3.prefix", "must not have . or .. as a part", s.Prefix)
			}
		}
	}
	region := s.Region
	if region == "" {
		region = firstSet(env["AWS_REGION"], env["AWS_DEFAULT_REGION"])
	}
	if s.Endpoint != "" {
		checkEndpoint(r, "s3.endpoint", s.Endpoint)
		region = firstSet(region, "us-east-1") // such servers want one in the signature and have no say in it
	}
	if region == "" {
		r.add("s3.region", "is required without an endpoint; AWS_REGION would do too")
	} else {
		matches(r, "s3.region", region, `[A-Za-z0-9][A-Za-z0-9_-]*`, "is not the name of a region")
	}
	pathStyle := s.Endpoint != ""
	if s.PathStyle != nil {
		pathStyle = *s.PathStyle
	}
	if (s.AccessKeyID == "") != (s.SecretAccessKey == "") {
		r.add("s3.access_key_id", "and secret_access_key go together; leave both out for the AWS default chain")
	}
	switch s.StorageClass {
	case "GLACIER", "DEEP_ARCHIVE":
		r.add("s3.storage_class", "cannot be read back at once, and nothing is deleted that was not read back; use a lifecycle rule of the bucket", s.StorageClass)
	default:
		oneOf(r, "s3.storage_class", &s.StorageClass, "STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY", "EXPRESS_ONEZONE", "OUTPOSTS")
	}
	oneOf(r, "s3.sse", &s.SSE, SSENone, SSEAES256, SSEKMS)
	if s.KMSKeyID != "" && s.SSE != SSEKMS {
		r.add("s3.kms_key_id", "has no meaning without sse: "+SSEKMS)
	}
	const largest = 5 << 10 // S3 takes no larger object in one request, and no larger part
	between(r, "s3.multipart_threshold_mb", &s.MultipartThresholdMB, 1, largest)
	between(r, "s3.multipart_part_size_mb", &s.MultipartPartSizeMB, 5, largest)
	checkRetry(s.Retry, r)
	between(r, "s3.circuit_breaker.failure_threshold", &s.CircuitBreaker.FailureThreshold, 1, 1000)
	positive(r, "s3.circuit_breaker.recovery_timeout", &s.CircuitBreaker.RecoveryTimeout)
	return S3{
		Bucket: s.Bucket, Prefix: prefix, Region: region, Endpoint: s.Endpoint, PathStyle: pathStyle,
		AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey,
		StorageClass: s.StorageClass, SSE: s.SSE, KMSKeyID: s.KMSKeyID,
		MultipartThresholdBytes: int64(s.MultipartThresholdMB) << 20, MultipartPartBytes: int64(s.MultipartPartSizeMB) << 20,
		Retry: Retry(s.Retry), CircuitBreaker: CircuitBreaker(s.CircuitBreaker),
	}
}

func checkRetry(s retrySection, r *report) {
	between(r, "s3.retry.max_attempts", &s.MaxAttempts, 1, 100)
	positive(r, "s3.retry.initial_delay", &s.InitialDelay)
	if s.MaxDelay < s.InitialDelay {
		r.add("s3.retry.max_delay", "must be at least initial_delay, "+formatDuration(s.InitialDelay), s.MaxDelay)
	}
	between(r, "s3.retry.exponential_base", &s.ExponentialBase, 1, 100)
	between(r, "s3.retry.jitter", &s.Jitter, 0, 1)
}

func firstSet(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}

func resolveWorker(s workerSection, r *report) Worker {
	between(r, "worker.concurrency", &s.Concurrency, 1, maxConnections)
	if strings.ContainsRune(s.SpoolDir, 0) {
		r.add("worker.spool_dir", "contains a NUL, which no path can")
	}
	positive(r, "worker.shutdown_timeout", &s.ShutdownTimeout)
	positive(r, "worker.batch_timeout", &s.BatchTimeout)
	positive(r, "worker.lease", &s.Lease)
	if s.Listen != "" {
		checkListen(r, "worker.listen", s.Listen)
	}
	return Worker(s)
}

func resolveUI(s uiSection, r *report) UI {
	checkListen(r, "ui.listen", s.Listen)
	switch {
	case s.Username != "" && s.Password == "":
		r.add("ui.password", "is required beside username")
	case s.Username == "" && s.Password != "":
		r.add("ui.username", "is required beside password")
	case s.Password == "" && !IsLoopback(s.Listen):
		r.add("ui.listen", "can be reached from other machines, where anyone could cancel jobs; set ui.username and ui.password, or listen on 127.0.0.1", s.Listen)
	}
	return UI(s)
}

func resolveDatabase(s *databaseSection, path string, defaults defaultsSection, r *report) Database {
	if required(r, join(path, "name"), s.Name != "") {
		matches(r, join(path, "name"), s.Name, `[a-z0-9]+([_-][a-z0-9]+)*`, "must be lower-case letters and digits, with single - or _ between them")
		if len(s.Name) > 40 {
			r.add(join(path, "name"), "must have at most 40 characters", s.Name)
		}
	}
	checkDatabaseKeys(r, path, s.DatabaseKeys)
	checkTableKeys(r, path, s.TableKeys)
	own := inherit(s.DatabaseKeys, defaults.DatabaseKeys)
	d := Database{Name: s.Name, PoolSize: *own.ConnectionPoolSize, Concurrency: *own.Concurrency}
	d.Primary = s.primary(path, r)
	d.Replica = s.replica(path, d.Primary, r)
	if s.Tables == nil {
		r.add(join(path, "tables"), "is required; an empty list, [], archives nothing")
	}
	for i := range s.Tables {
		t := &s.Tables[i]
		at := item(join(path, "tables"), i)
		checkTableKeys(r, at, t.Keys)
		keys := inherit(t.Keys, inherit(s.TableKeys, defaults.TableKeys))
		checkTogether(r, []level{{at, t.Keys}, {path, s.TableKeys}, {"defaults", defaults.TableKeys}}, keys)
		schema, name, err := ParseTableName(t.Name)
		if required(r, join(at, "name"), t.Name != "") && err != nil {
			r.add(join(at, "name"), err.Error(), t.Name)
		}
		d.Tables = append(d.Tables, newTable(s.Name, schema, name, keys))
	}
	return d
}

// newTable takes over resolved keys. What cannot be parsed was reported before.
func newTable(database, schema, name string, k tableKeys) Table {
	column, _ := parseIdentifier(*k.TimestampColumn)
	t := Table{
		Database: database, Schema: schema, Name: name,
		MinRetention: *k.MinRetention, TimestampColumn: column, Timezone: *k.Timezone, BatchSize: *k.BatchSize,
		Adaptive: AdaptiveBatch{
			Enabled: *k.AdaptiveBatch.Enabled, MinBatchSize: *k.AdaptiveBatch.MinBatchSize,
			MaxBatchSize: *k.AdaptiveBatch.MaxBatchSize, TargetQueryTime: *k.AdaptiveBatch.TargetQueryTime,
		},
		PartitionBy: *k.PartitionBy, Format: *k.Format, Compression: *k.Compression, CompressionLevel: *k.CompressionLevel,
		Verify: *k.Verify, DeleteGuard: *k.DeleteGuard, MaxBatchBytes: int64(*k.MaxBatchBytes), Schedule: *k.Schedule,
		MaxReplicaLagMB: *k.MaxReplicaLagMB, ReplicaFallback: *k.ReplicaFallback,
		Throttle: Throttle{
			MaxRowsPerSecond: *k.Throttle.MaxRowsPerSecond, MaxStandbyLagMB: *k.Throttle.MaxStandbyLagMB,
			MaxSlotLagMB: *k.Throttle.MaxSlotLagMB, MaxActiveSessions: *k.Throttle.MaxActiveSessions, Query: *k.Throttle.Query,
		},
		VacuumAfterArchival: *k.VacuumAfterArchival, VacuumMode: *k.VacuumMode, Allow: *k.Allow,
	}
	if k.Retention != nil {
		t.Retention = *k.Retention
	}
	if t.Compression == CompressionNone {
		t.CompressionLevel = 0
	}
	for _, w := range *k.Throttle.Windows {
		window, _ := parseWindow(w)
		t.Throttle.Windows = append(t.Throttle.Windows, window)
	}
	return t
}

// inherit returns child with what it leaves out taken from parent; nested maps are
// merged key by key.
func inherit[T tableKeys | databaseKeys](child, parent T) T {
	fill(reflect.ValueOf(&child).Elem(), reflect.ValueOf(parent))
	return child
}

func fill(child, parent reflect.Value) {
	for i := range child.NumField() {
		switch c := child.Field(i); {
		case c.Kind() == reflect.Struct:
			fill(c, parent.Field(i))
		case c.IsNil():
			c.Set(parent.Field(i))
		}
	}
}

// checkDistinct refuses two entries for one thing: two databases of one name would
// share a queue, and two plans of one table would fight over its rows.
func checkDistinct(databases []Database, r *report) {
	names, tables := map[string]string{}, map[string]string{}
	for i, d := range databases {
		path := item("databases", i)
		if first, taken := names[d.Name]; taken && d.Name != "" {
			r.add(join(path, "name"), "is the name of "+first+" too", d.Name)
		} else {
			names[d.Name] = path
		}
		server := path
		if c, err := parsePostgres(d.Primary); err == nil {
			server = strings.Join([]string{c.Host, strconv.Itoa(int(c.Port)), c.Database}, "\x00")
		}
		for j, t := range d.Tables {
			at := item(join(path, "tables"), j)
			key := server + "\x00" + t.Schema + "\x00" + t.Name
			if first, taken := tables[key]; taken && t.Name != "" {
				r.add(join(at, "name"), "is the same table as "+first, quoteName(t.Schema)+"."+quoteName(t.Name))
			} else {
				tables[key] = at
			}
		}
	}
}
