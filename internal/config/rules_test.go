package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// with puts keys into base at a place; at "file" the keys are the whole file.
func with(place, keys string) string {
	switch place {
	case "defaults":
		return strings.Replace(base, "{retention: 90d}", "{retention: 90d, "+keys+"}", 1)
	case "database":
		return strings.Replace(base, "    tables:", "    "+keys+"\n    tables:", 1)
	case "table":
		return strings.Replace(base, "{name: public.audit_logs}", "{name: public.audit_logs, "+keys+"}", 1)
	case "s3":
		return strings.Replace(base, "region: us-east-1", "region: us-east-1, "+keys, 1)
	case "top":
		return base + keys + "\n"
	}
	return keys
}

func TestRules(t *testing.T) {
	t.Parallel()
	const table = "databases[0].tables[0]."
	for _, c := range []struct{ place, keys, want string }{ // want empty: accepted
		// shape
		{"top", "log: {levl: info}", "log.levl: unknown key; did you mean level?"},
		{"defaults", "batchsize: 5", "defaults.batchsize: unknown key; did you mean batch_size?"},
		{"table", "retentoin: 9d", table + "retentoin: unknown key; did you mean retention?"},
		{"top", "zzz: {}", "zzz: unknown key; known here: control, s3, defaults, databases, worker, ui, log"},
		{"top", "batch_size: 5", "batch_size: cannot stand here; it belongs to defaults, databases[], databases[].tables[]"},
		{"top", "1: 5", "1: unknown key; known here: control, s3, defaults, databases, worker, ui, log"},
		{"top", "[a]: 5", "(line 9): has a key that is not a word"},
		{"top", "s3.bucket: x", "s3.bucket: unknown key; known here: control, s3, defaults, databases, worker, ui, log"},
		{"top", "log: {level: info, LEVEL: warn}", "log.level: stands twice; the second is in line 9"},
		{"top", "s3: {bucket: other}", "s3: stands twice; the second is in line 9"},
		{"top", "log: debug", "log: must be a map of keys"},
		{"top", "log: [debug]", "log: must be a map of keys (got a list)"},
		{"top", "log: {level: }", "log.level: has no value; give one or leave the key out"},
		{"top", "worker: {concurrency: \"4\"}", `worker.concurrency: must be a whole number (got "4")`},
		{"top", "worker: {concurrency: 4.5}", "worker.concurrency: must be a whole number (got 4.5)"},
		{"top", "worker: {concurrency: 99999999999999999999}", "worker.concurrency: must be a whole number (got 1e+20)"},
		{"top", "worker: {spool_dir: 12}", "worker.spool_dir: must be text; put it in quotes if it is meant so (got 12)"},
		{"top", "ui: {enabled: yes}", `ui.enabled: must be true or false (got "yes")`},
		{"top", "ui: {enabled: 1}", "ui.enabled: must be true or false (got 1)"},
		{"top", "ui: {username: {a: 1}}", "ui.username: must not be a map"},
		{"top", "ui: {username: &x y}", "ui.username: starts with an anchor (&); put it in quotes if it is text, and what is shared under defaults"},
		{"top", "ui: {username: !x y}", "ui.username: starts with a tag (!); put it in quotes if it is text"},
		{"top", "ui: {username: *x }", "is not valid YAML: a value starts with * or &; put it in quotes"},
		{"top", "---\na: b", "holds more than one YAML document; only one is read"},
		{"top", "ui: {username: a", "is not valid YAML: line 8: did not find expected ',' or '}'"},
		{"file", "[a]", "must be a map of keys at the top"},
		{"database", "tables: no", "databases[0].tables: stands twice; the second is in line 9"},
		{"defaults", "allow: ok", "defaults.allow: must be a list"},
		{"defaults", "allow: [1]", "defaults.allow[0]: must be text; put it in quotes if it is meant so (got 1)"},
		{"defaults", "allow: [null, x]", "defaults.allow[0]: has no value; give one or leave the key out"},
		{"top", `log: {level: "${NOPE}"}`, "log.level: needs the environment variable NOPE, which is not set; set it, or write ${NOPE:-default}"},
		{"top", `log: {level: "${NOPE:-loud}"}`, "log.level: must be one of debug, info, warn, error (got the value of ${NOPE})"},
		// places
		{"database", "parallel_databases: true", "databases[0].parallel_databases: cannot stand here; it belongs to defaults"},
		{"table", "max_parallel_databases: 3", table + "max_parallel_databases: cannot stand here; it belongs to defaults"},
		{"table", "connection_pool_size: 3", table + "connection_pool_size: cannot stand here; it belongs to defaults, databases[]"},
		// retention
		{"file", strings.Replace(base, "defaults: {retention: 90d}", "", 1), table + "retention: is required; set it here, on the database or under defaults: it is never guessed"},
		{"table", "retention: 30", table + "retention: needs a unit, such as 720h or 30d (got 30)"},
		{"table", "retention: \"30\"", table + `retention: needs a unit, such as 720h or 30d (got "30")`},
		{"table", "retention: 30x", table + `retention: is not a duration, such as 90d, 1d12h or 30s (got "30x")`},
		{"table", "retention: 6d", table + "retention: retention must be at least min_retention, 7d (got 6d)"},
		{"table", "retention: 7d", ""},
		{"table", "min_retention: 91d", table + "min_retention: retention must be at least min_retention, 91d (got 90d)"},
		{"table", "retention: 0s", table + "retention: must be greater than 0 (got 0s)"},
		{"table", "retention: -90d", table + `retention: is not a duration, such as 90d, 1d12h or 30s (got "-90d")`},
		{"table", "retention: -90h", table + "retention: must be greater than 0 (got -90h)"},
		{"defaults", "min_retention: 0h", "defaults.min_retention: must be greater than 0 (got 0s)"},
		{"table", "retention: 1d, min_retention: 1h", ""},
		// the other keys of a table
		{"table", "timestamp_column: 'a b'", table + `timestamp_column: is not a single name; put it in double quotes if it has special characters (got "a b")`},
		{"table", "timezone: Mars/Olympus", table + `timezone: names no known time zone; write it like Europe/Berlin or UTC (got "Mars/Olympus")`},
		{"table", "timezone: Local", table + `timezone: must name the zone: Local differs from machine to machine (got "Local")`},
		{"table", "timezone: Europe/Berlin", ""},
		{"defaults", "batch_size: 0", "defaults.batch_size: must be 1 to 1000000 (got 0)"},
		{"defaults", "adaptive_batch: {min_batch_size: 60000}", "defaults.adaptive_batch.min_batch_size: min_batch_size, 60000, must not be greater than max_batch_size, 50000"},
		{"table", "adaptive_batch: {max_batch_size: 10}", table + "adaptive_batch.max_batch_size: min_batch_size, 1000, must not be greater than max_batch_size, 10"},
		{"table", "adaptive_batch: {target_query_time: 2}", table + "adaptive_batch.target_query_time: needs a unit, such as 720h or 30d (got 2)"},
		{"table", "partition_by: week", table + `partition_by: must be one of none, year, month, day (got "week")`},
		{"table", "partition_by: Month", table + `partition_by: must be one of none, year, month, day; did you mean month? (got "Month")`},
		{"table", "format: csv", table + `format: must be one of jsonl (got "csv")`},
		{"table", "compression: gz", table + `compression: must be one of gzip, zstd, none; did you mean gzip? (got "gz")`},
		{"table", "compression_level: 10", table + "compression_level: must be 1 to 9 for gzip, or 0 for the default (got 10)"},
		{"table", "compression: zstd, compression_level: 22", ""},
		{"table", "compression: zstd, compression_level: 23", table + "compression_level: must be 0 to 22 (got 23)"},
		{"defaults", "compression_level: 10", "defaults.compression_level: must be 1 to 9 for gzip, or 0 for the default (got 10)"},
		{"table", "verify: none", table + `verify: must be one of readback, decode (got "none")`},
		{"table", "delete_guard: xmin", table + `delete_guard: must be one of identity, content (got "xmin")`},
		{"table", "max_batch_bytes: 100", table + "max_batch_bytes: needs a unit, such as 256MB or 1GiB (got 100)"},
		{"table", "max_batch_bytes: 1B", table + "max_batch_bytes: must be 1KiB to 16GiB (got 1B)"},
		{"table", "schedule: '0 3 * * *'", ""},
		{"table", "schedule: 'CRON_TZ=Europe/Berlin 0 3 * * 1-5'", ""},
		{"table", "schedule: 'CRON_TZ=Europe/Berlin'", table + `schedule: names a time zone and no times (got "CRON_TZ=Europe/Berlin")`},
		{"table", "schedule: 'TZ=Local 0 3 * * *'", table + `schedule: must name the zone: Local differs from machine to machine (got "TZ=Local 0 3 * * *")`},
		{"table", "schedule: '0 0 30 2 *'", table + `schedule: names a date that never comes (got "0 0 30 2 *")`},
		{"table", "schedule: '0 0 29 2 *'", ""},
		{"table", "schedule: '@daily'", ""},
		{"table", "schedule: nightly", table + `schedule: is not a cron expression of five fields, with CRON_TZ=Zone before them if need be (got "nightly")`},
		{"table", "max_replica_lag_mb: -1", table + "max_replica_lag_mb: must be 0 to 1048576 (got -1)"},
		{"table", "replica_fallback: none", table + `replica_fallback: must be one of primary, wait (got "none")`},
		{"table", "throttle: {max_rows_per_second: -1}", table + "throttle.max_rows_per_second: must be 0 to 1000000000 (got -1)"},
		{"table", "throttle: {windows: ['22:00-05:00 Europe/Berlin', '9-5']}", table + `throttle.windows[1]: is not a window such as 22:00-05:00 or 22:00-05:00 Europe/Berlin (got "9-5")`},
		{"table", "vacuum_mode: None", table + `vacuum_mode: must be one of ANALYZE, FULL, none; did you mean none? (got "None")`},
		{"defaults", "vacuum_mode: FULL", "defaults.vacuum_mode: FULL locks the table against all reading and writing while it is rewritten; accept that with allow: [vacuum_full]"},
		{"defaults", "vacuum_mode: FULL, allow: [vacuum_full]", ""},
		{"defaults", "vacuum_mode: FULL, vacuum_after_archival: false", ""},
		{"table", "allow: [Drop-It]", table + `allow[0]: is not the code of a finding, such as vacuum_full (got "Drop-It")`},
		// databases
		{"database", "connection_pool_size: 0", "databases[0].connection_pool_size: must be 1 to 1000 (got 0)"},
		{"database", "concurrency: 0", "databases[0].concurrency: must be 1 to 1000 (got 0)"},
		{"defaults", "max_parallel_databases: 0", "defaults.max_parallel_databases: must be 1 to 1000 (got 0)"},
		{"database", "host: h", "databases[0].url: stands beside host, port, dbname, user, password or sslmode; give either the URL or these"},
		{"file", strings.Replace(base, "url: postgres://archiver@localhost:5432/orders", "", 1), "databases[0].url: is required, or else host with port, dbname, user, password, sslmode"},
		{"file", strings.Replace(base, "name: orders", "name: Orders", 1), `databases[0].name: must be lower-case letters and digits, with single - or _ between them (got "Orders")`},
		{"file", strings.Replace(base, "name: orders", "name: "+strings.Repeat("a", 41), 1), `databases[0].name: must have at most 40 characters (got "` + strings.Repeat("a", 41) + `")`},
		{"file", strings.Replace(base, "name: orders", "name: 'null'", 1), ""},
		{"file", strings.Replace(base, "[{name: public.audit_logs}]", "[{}]", 1), table + "name: is required"},
		{"file", strings.Replace(base, "[{name: public.audit_logs}]", "[]", 1), ""},
		{"file", strings.Replace(base, "    tables: [{name: public.audit_logs}]", "", 1), "databases[0].tables: is required; an empty list, [], archives nothing"},
		{"file", strings.Replace(base, "public.audit_logs", "a.b.c", 1), table + `name: has more than two parts; write schema.table (got "a.b.c")`},
		{"file", strings.Replace(base, "}]", "}, {name: Audit_Logs}]", 1), "databases[0].tables[1].name: is the same table as databases[0].tables[0] (got \"public.audit_logs\")"},
		{"file", strings.Replace(base, "}]", `}, {name: '"Audit_Logs"'}]`, 1), ""},
		{"top", "  - {name: orders, host: h, tables: []}", `databases[1].name: is the name of databases[0] too (got "orders")`},
		{"top", "  - {name: again, host: localhost, dbname: orders, tables: [{name: audit_logs}]}", `databases[1].tables[0].name: is the same table as databases[0].tables[0] (got "public.audit_logs")`},
		{"top", "  - {name: other, host: localhost, tables: [{name: audit_logs}]}", ""},
		{"file", strings.Split(base, "databases:")[0], "databases: is required; list at least one"},
		// control
		{"file", strings.Replace(base, "url: \"postgres://archiver@localhost:5432/archiver\"", "", 1), "control.url: is required"},
		{"file", strings.Replace(base, "\"postgres://archiver@localhost:5432/archiver\"", "mysql://x", 1), "control.url: must start with postgres:// or postgresql://"},
		{"file", strings.Replace(base, "\"postgres://archiver@localhost:5432/archiver\"", "12", 1), "control.url: must be text; put it in quotes"},
		{"file", strings.Replace(base, "5432/archiver\"", "5432/archiver?sslmode=maybe\"", 1), "control.url: is not a connection URL that the driver accepts: failed to configure TLS (sslmode is invalid)"},
		{"file", strings.Replace(base, "5432/archiver\"", "5432/archiver\", schema: a-b", 1), `control.schema: must be letters, digits and _, not start with a digit, and have at most 46 characters (got "a-b")`},
		{"file", strings.Replace(base, "5432/archiver\"", "5432/archiver\", schema: "+strings.Repeat("a", 46), 1), ""},
		{"file", strings.Replace(base, "5432/archiver\"", "5432/archiver\", schema: "+strings.Repeat("a", 47), 1), `control.schema: must be letters, digits and _, not start with a digit, and have at most 46 characters (got "` + strings.Repeat("a", 47) + `")`},
		// s3
		{"file", strings.Replace(base, "bucket: audit-archive, ", "", 1), "s3.bucket: is required"},
		{"file", strings.Replace(base, "audit-archive", "'a b c'", 1), `s3.bucket: is not the name of a bucket (got "a b c")`},
		{"file", strings.Replace(base, ", region: us-east-1", "", 1), "s3.region: is required without an endpoint; AWS_REGION would do too"},
		{"file", strings.Replace(base, "region: us-east-1", "endpoint: 'http://127.0.0.1:9000'", 1), ""},
		{"s3", "endpoint: '127.0.0.1:9000'", "s3.endpoint: is not an http:// or https:// address"},
		{"s3", "endpoint: 'http://127.0.0.1:9000/bucket'", "s3.endpoint: has more than scheme, host and port; keys belong to access_key_id and secret_access_key, the bucket to bucket"},
		{"s3", "prefix: a/../b", `s3.prefix: must not have . or .. as a part (got "a/../b")`},
		{"s3", "prefix: a//b", `s3.prefix: must be parts of letters, digits and !_.*'()=- between single slashes (got "a//b")`},
		{"s3", "access_key_id: x", "s3.access_key_id: and secret_access_key go together; leave both out for the AWS default chain"},
		{"s3", "storage_class: GLACIER", `s3.storage_class: cannot be read back at once, and nothing is deleted that was not read back; use a lifecycle rule of the bucket (got "GLACIER")`},
		{"s3", "storage_class: standard", `s3.storage_class: must be one of STANDARD, STANDARD_IA, ONEZONE_IA, INTELLIGENT_TIERING, GLACIER_IR, REDUCED_REDUNDANCY, EXPRESS_ONEZONE, OUTPOSTS; did you mean STANDARD? (got "standard")`},
		{"s3", "sse: kms", `s3.sse: must be one of none, AES256, aws:kms (got "kms")`},
		{"s3", "kms_key_id: x", "s3.kms_key_id: has no meaning without sse: aws:kms"},
		{"s3", "sse: 'aws:kms', kms_key_id: x", ""},
		{"s3", "multipart_threshold_mb: 0", "s3.multipart_threshold_mb: must be 1 to 5120 (got 0)"},
		{"s3", "multipart_part_size_mb: 4", "s3.multipart_part_size_mb: must be 5 to 5120 (got 4)"},
		{"s3", "multipart_threshold_mb: 5, multipart_part_size_mb: 5", ""},
		{"s3", "retry: {max_attempts: 0}", "s3.retry.max_attempts: must be 1 to 100 (got 0)"},
		{"s3", "retry: {initial_delay: 40s}", "s3.retry.max_delay: must be at least initial_delay, 40s (got 30s)"},
		{"s3", "retry: {exponential_base: 0.5}", "s3.retry.exponential_base: must be 1 to 100 (got 0.5)"},
		{"s3", "retry: {exponential_base: 2}", ""},
		{"s3", "retry: {jitter: 1.1}", "s3.retry.jitter: must be 0 to 1 (got 1.1)"},
		{"s3", "retry: {jitter: .nan}", "s3.retry.jitter: must be a number (got NaN)"},
		{"s3", "circuit_breaker: {failure_threshold: 0}", "s3.circuit_breaker.failure_threshold: must be 1 to 1000 (got 0)"},
		{"s3", "circuit_breaker: {recovery_timeout: 0s}", "s3.circuit_breaker.recovery_timeout: must be greater than 0 (got 0s)"},
		// processes
		{"top", "worker: {concurrency: 0}", "worker.concurrency: must be 1 to 1000 (got 0)"},
		{"top", "worker: {lease: 0s}", "worker.lease: must be greater than 0 (got 0s)"},
		{"top", "worker: {listen: '8080'}", `worker.listen: is not an address to listen on, such as 127.0.0.1:8080 (got "8080")`},
		{"top", "worker: {listen: ':8080'}", ""},
		{"top", "worker: {listen: ''}", ""},
		{"top", "ui: {listen: ':8081'}", `ui.listen: can be reached from other machines, where anyone could cancel jobs; set ui.username and ui.password, or listen on 127.0.0.1 (got ":8081")`},
		{"top", "ui: {listen: '0.0.0.0:8081', username: a, password: b}", ""},
		{"top", "ui: {listen: '[::1]:8081'}", ""},
		{"top", "ui: {listen: 'localhost:0'}", ""},
		{"top", "ui: {listen: 'localhost:70000'}", `ui.listen: is not an address to listen on, such as 127.0.0.1:8080 (got "localhost:70000")`},
		{"top", "ui: {username: a}", "ui.password: is required beside username"},
		{"top", "ui: {password: a}", "ui.username: is required beside password"},
		{"top", "log: {level: DEBUG}", `log.level: must be one of debug, info, warn, error; did you mean debug? (got "DEBUG")`},
		{"top", "log: {format: text}", `log.format: must be one of console, json (got "text")`},
	} {
		t.Run(c.place+" "+c.keys, func(t *testing.T) {
			t.Parallel()
			_, err := loadText(t, with(c.place, c.keys))
			var want []string
			if c.want != "" {
				want = []string{c.want}
			}
			require.Equal(t, want, problemsOf(t, err))
		})
	}
}

func TestAllProblemsAreReportedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := loadText(t, `
control: {url: 12, shcema: x}
s3: {retry: {jitter: 2}}
defaults: {retention: 30, batch_size: many, throttle: {windows: [x]}}
databases:
  - name: A
    tables: [{name: ""}, {name: t, retention: 1d}, {name: T}]
`)
	require.Equal(t, []string{
		"control.shcema: unknown key; did you mean schema?",
		"control.url: must be text; put it in quotes",
		`databases[0].name: must be lower-case letters and digits, with single - or _ between them (got "A")`,
		"databases[0].tables[0].name: is required",
		"databases[0].tables[1].retention: retention must be at least min_retention, 7d (got 1d)",
		`databases[0].tables[2].name: is the same table as databases[0].tables[1] (got "public.t")`,
		"databases[0].url: is required, or else host with port, dbname, user, password, sslmode",
		`defaults.batch_size: must be a whole number (got "many")`,
		"defaults.retention: needs a unit, such as 720h or 30d (got 30)",
		`defaults.throttle.windows[0]: is not a window such as 22:00-05:00 or 22:00-05:00 Europe/Berlin (got "x")`,
		"s3.bucket: is required",
		"s3.region: is required without an endpoint; AWS_REGION would do too",
		"s3.retry.jitter: must be 0 to 1 (got 2)",
	}, problemsOf(t, err))
}

func TestUnknownFlagIsAnError(t *testing.T) {
	t.Parallel()
	_, err := loadWith(t, base, map[string]any{"log.lvl": "debug"})
	require.Equal(t, []string{"log: has a key that does not exist"}, problemsOf(t, err))
}

func TestRegionComesFromAWS(t *testing.T) {
	t.Parallel()
	c, err := loadText(t, strings.Replace(base, ", region: us-east-1", "", 1), "AWS_DEFAULT_REGION=eu-central-1")
	require.NoError(t, err)
	require.Equal(t, "eu-central-1", c.S3.Region)
}

func TestPathStyleFollowsTheEndpoint(t *testing.T) {
	t.Parallel()
	for keys, want := range map[string]bool{
		"prefix: /a/b/": false, "endpoint: 'http://127.0.0.1:9000'": true,
		"endpoint: 'http://127.0.0.1:9000', path_style: false": false, "path_style: true": true,
	} {
		c, err := loadText(t, with("s3", keys))
		require.NoError(t, err, keys)
		require.Equal(t, want, c.S3.PathStyle, keys)
	}
	c, err := loadText(t, with("s3", "prefix: /a/b/"))
	require.NoError(t, err)
	require.Equal(t, "a/b", c.S3.Prefix)
}

func TestUnreadableFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "a.yaml", "b.yaml")
	require.NoError(t, os.WriteFile(filepath.Dir(file), nil, 0o600))
	_, err := Load(Options{File: file, Environ: []string{}})
	require.ErrorContains(t, err, file)
}
