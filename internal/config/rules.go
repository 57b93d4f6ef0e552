package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Limits that only stop a slip of the keyboard: one digit too many.
const (
	maxBatchRows   = 1_000_000
	maxBatchBytes  = byteSize(16 << 30)
	maxConnections = 1000
	maxMegabytes   = 1 << 20
)

// The rules below take a pointer and pass over nil, a key that is inherited.

// between wants low <= value <= high.
func between[T cmp.Ordered](r *report, path string, value *T, low, high T) {
	if value != nil && (*value < low || *value > high) {
		r.add(path, fmt.Sprintf("must be %v to %v", low, high), *value)
	}
}

// positive wants a duration greater than nothing.
func positive(r *report, path string, value *time.Duration) {
	if value != nil && *value <= 0 {
		r.add(path, "must be greater than 0", *value)
	}
}

// oneOf wants one of the words, as they are written.
func oneOf(r *report, path string, value *string, words ...string) {
	if value == nil || slices.Contains(words, *value) {
		return
	}
	problem := "must be one of " + strings.Join(words, ", ")
	if guess := nearest(*value, words); guess != "" {
		problem += "; did you mean " + guess + "?"
	}
	r.add(path, problem, *value)
}

// matches wants the whole value to match.
func matches(r *report, path, value, pattern, want string) {
	if !regexp.MustCompile(`^(?:` + pattern + `)$`).MatchString(value) {
		r.add(path, want, value)
	}
}

// required wants text, and tells whether it is there.
func required(r *report, path string, present bool) bool {
	if !present {
		r.add(path, "is required")
	}
	return present
}

// checkDatabaseKeys looks at each value of a level by itself.
func checkDatabaseKeys(r *report, at string, k databaseKeys) {
	between(r, join(at, "connection_pool_size"), k.ConnectionPoolSize, 1, maxConnections)
	between(r, join(at, "concurrency"), k.Concurrency, 1, maxConnections)
}

// checkTableKeys looks at each value of a level by itself; what must fit together
// is checked for each table, after inheritance.
func checkTableKeys(r *report, at string, k tableKeys) {
	positive(r, join(at, "retention"), k.Retention)
	positive(r, join(at, "min_retention"), k.MinRetention)
	if k.TimestampColumn != nil {
		if _, err := parseIdentifier(*k.TimestampColumn); err != nil {
			r.add(join(at, "timestamp_column"), err.Error(), *k.TimestampColumn)
		}
	}
	if k.Timezone != nil && *k.Timezone != "" {
		checkZone(r, join(at, "timezone"), *k.Timezone)
	}
	between(r, join(at, "batch_size"), k.BatchSize, 1, maxBatchRows)
	between(r, join(at, "adaptive_batch.min_batch_size"), k.AdaptiveBatch.MinBatchSize, 1, maxBatchRows)
	between(r, join(at, "adaptive_batch.max_batch_size"), k.AdaptiveBatch.MaxBatchSize, 1, maxBatchRows)
	positive(r, join(at, "adaptive_batch.target_query_time"), k.AdaptiveBatch.TargetQueryTime)
	oneOf(r, join(at, "partition_by"), k.PartitionBy, PartitionByNone, PartitionByYear, PartitionByMonth, PartitionByDay)
	oneOf(r, join(at, "format"), k.Format, FormatJSONL)
	oneOf(r, join(at, "compression"), k.Compression, CompressionGzip, CompressionZstd, CompressionNone)
	between(r, join(at, "compression_level"), k.CompressionLevel, 0, 22)
	oneOf(r, join(at, "verify"), k.Verify, VerifyReadback, VerifyDecode)
	oneOf(r, join(at, "delete_guard"), k.DeleteGuard, DeleteGuardIdentity, DeleteGuardContent)
	if n := k.MaxBatchBytes; n != nil && (*n < 1<<10 || *n > maxBatchBytes) {
		r.add(join(at, "max_batch_bytes"), "must be 1KiB to "+formatSize(maxBatchBytes), *n)
	}
	if k.Schedule != nil && *k.Schedule != "" {
		checkSchedule(r, join(at, "schedule"), *k.Schedule)
	}
	between(r, join(at, "max_replica_lag_mb"), k.MaxReplicaLagMB, 0, maxMegabytes)
	oneOf(r, join(at, "replica_fallback"), k.ReplicaFallback, ReplicaFallbackPrimary, ReplicaFallbackWait)
	checkThrottle(r, join(at, "throttle"), k.Throttle)
	oneOf(r, join(at, "vacuum_mode"), k.VacuumMode, VacuumModeAnalyze, VacuumModeFull, VacuumModeNone)
	if k.Allow != nil {
		for i, code := range *k.Allow {
			matches(r, item(join(at, "allow"), i), code, `[a-z][a-z0-9]*(_[a-z0-9]+)*`, "is not the code of a finding, such as vacuum_full")
		}
	}
}

func checkThrottle(r *report, at string, t throttleSection) {
	between(r, join(at, "max_rows_per_second"), t.MaxRowsPerSecond, 0, 1_000_000_000)
	between(r, join(at, "max_standby_lag_mb"), t.MaxStandbyLagMB, 0, maxMegabytes)
	between(r, join(at, "max_slot_lag_mb"), t.MaxSlotLagMB, 0, maxMegabytes)
	between(r, join(at, "max_active_sessions"), t.MaxActiveSessions, 0, 1_000_000)
	if t.Query != nil && strings.ContainsRune(*t.Query, 0) {
		r.add(join(at, "query"), "contains a NUL, which no query can")
	}
	if t.Windows == nil {
		return
	}
	for i, w := range *t.Windows {
		if _, err := parseWindow(w); err != nil {
			r.add(item(join(at, "windows"), i), err.Error(), w)
		}
	}
}

// checkZone wants a zone that means the same on every machine: Local does not.
func checkZone(r *report, path, zone string) {
	if err := knownZone(zone); err != nil {
		r.add(path, err.Error(), zone)
	}
}

func checkSchedule(r *report, path, spec string) {
	// Without a space after the zone the parser panics.
	if strings.Contains(spec, "TZ=") && !strings.Contains(spec, " ") {
		r.add(path, "names a time zone and no times", spec)
		return
	}
	schedule, err := cron.ParseStandard(spec)
	if err != nil {
		r.add(path, "is not a cron expression of five fields, with CRON_TZ=Zone before them if need be", spec)
		return
	}
	if zone, named := strings.CutPrefix(strings.TrimPrefix(spec, "CRON_"), "TZ="); named {
		if err := knownZone(strings.Fields(zone)[0]); err != nil {
			r.add(path, err.Error(), spec)
			return
		}
	}
	// From a year with a 29th of February within the five years that it looks ahead.
	if schedule.Next(time.Date(2023, time.January, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		r.add(path, "names a date that never comes", spec)
	}
}

// level is one place in the file where a table's keys may stand.
type level struct {
	path string
	keys tableKeys
}

// place returns the path of the nearest of the keys that somebody wrote down; the
// levels go from the table outwards.
func place(levels []level, keys ...string) string {
	for _, l := range levels {
		for _, key := range keys {
			if isGiven(l.keys, key) {
				return join(l.path, key)
			}
		}
	}
	return join(levels[0].path, keys[0])
}

// checkTogether looks at what applies to one table: values that are each in range
// and still do not fit together. A problem is reported where the value stands, so
// that a mistake in defaults is one line and not one for each table.
func checkTogether(r *report, levels []level, k tableKeys) {
	table := levels[0].path
	if k.Retention == nil {
		for _, l := range levels {
			if r.has(join(l.path, "retention")) {
				return // it is there, and wrong
			}
		}
		r.add(join(table, "retention"), "is required; set it here, on the database or under defaults: it is never guessed")
		return
	}
	if *k.Retention < *k.MinRetention {
		r.add(place(levels, "retention", "min_retention"), fmt.Sprintf("retention must be at least min_retention, %s", formatDuration(*k.MinRetention)), *k.Retention)
	}
	if a := k.AdaptiveBatch; *a.MinBatchSize > *a.MaxBatchSize {
		r.add(place(levels, "adaptive_batch.min_batch_size", "adaptive_batch.max_batch_size"),
			fmt.Sprintf("min_batch_size, %d, must not be greater than max_batch_size, %d", *a.MinBatchSize, *a.MaxBatchSize))
	}
	if *k.Compression == CompressionGzip && *k.CompressionLevel > 9 {
		r.add(place(levels, "compression_level", "compression"), "must be 1 to 9 for gzip, or 0 for the default", *k.CompressionLevel)
	}
	if *k.VacuumAfterArchival && *k.VacuumMode == VacuumModeFull && !slices.Contains(*k.Allow, AllowVacuumFull) {
		r.add(place(levels, "vacuum_mode"), "FULL locks the table against all reading and writing while it is rewritten; accept that with allow: ["+AllowVacuumFull+"]")
	}
}

// Window is a time of day in which a table may be archived.
type Window struct {
	Start int    // minutes after midnight
	End   int    // minutes after midnight; at or before Start: on the next day
	Zone  string // IANA name; empty: UTC
}

// String returns the window as it is written in the file.
func (w Window) String() string {
	s := fmt.Sprintf("%02d:%02d-%02d:%02d", w.Start/60, w.Start%60, w.End/60, w.End%60)
	if w.Zone != "" {
		s += " " + w.Zone
	}
	return s
}

func parseWindow(s string) (Window, error) {
	parts := regexp.MustCompile(`^([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})(?: +(\S+))?$`).FindStringSubmatch(s)
	if parts == nil {
		return Window{}, fmt.Errorf("is not a window such as 22:00-05:00 or 22:00-05:00 Europe/Berlin")
	}
	var n [4]int
	for i := range n {
		n[i], _ = strconv.Atoi(parts[i+1]) // two digits
	}
	w := Window{Start: n[0]*60 + n[1], End: n[2]*60 + n[3], Zone: parts[5]}
	const midnight = 24 * 60
	switch {
	case n[1] > 59 || n[3] > 59 || w.Start >= midnight || w.End > midnight:
		return Window{}, fmt.Errorf("has a time that does not exist; a window goes from 00:00 to at most 24:00")
	case w.Start == w.End:
		return Window{}, fmt.Errorf("starts when it ends; leave windows empty for all day")
	}
	if w.Zone != "" {
		if err := knownZone(w.Zone); err != nil {
			return Window{}, err
		}
	}
	return w, nil
}

func knownZone(name string) error {
	if name == "Local" {
		return fmt.Errorf("must name the zone: Local differs from machine to machine")
	}
	if _, err := time.LoadLocation(name); err != nil {
		return fmt.Errorf("names no known time zone; write it like Europe/Berlin or UTC")
	}
	return nil
}
