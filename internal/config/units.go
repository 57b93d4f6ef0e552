package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// byteSize is a number of bytes, written with a unit.
type byteSize int64

// sizeUnits go from large to small, so that formatSize finds the largest that fits.
func sizeUnits() []struct {
	name  string
	bytes int64
} {
	return []struct {
		name  string
		bytes int64
	}{
		{"GiB", 1 << 30}, {"GB", 1e9}, {"MiB", 1 << 20}, {"MB", 1e6}, {"KiB", 1 << 10}, {"KB", 1e3}, {"B", 1},
	}
}

// parseDuration reads Go's durations with days before them: 90d, 1d12h, 30s.
func parseDuration(s string) (time.Duration, error) {
	if isDigits(s) {
		return 0, errors.New("needs a unit, such as 720h or 30d")
	}
	days, rest, hasDays := strings.Cut(s, "d")
	if !hasDays {
		days, rest = "", s
	}
	var total time.Duration
	if hasDays {
		n, err := strconv.ParseInt(days, 10, 64)
		if err != nil || !isDigits(days) {
			return 0, errors.New("is not a duration, such as 90d, 1d12h or 30s")
		}
		if n > int64(math.MaxInt64/day) {
			return 0, errors.New("is longer than 290 years")
		}
		total = time.Duration(n) * day
	}
	if rest == "" && hasDays {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || isDigits(rest) || (hasDays && (rest[0] == '-' || rest[0] == '+')) {
		return 0, errors.New("is not a duration, such as 90d, 1d12h or 30s")
	}
	if d > math.MaxInt64-total {
		return 0, errors.New("is longer than 290 years")
	}
	return total + d, nil
}

// formatDuration is the shortest text that parseDuration reads back as d.
func formatDuration(d time.Duration) string {
	var s string
	if d >= day {
		s = strconv.FormatInt(int64(d/day), 10) + "d"
		d %= day
		if d == 0 {
			return s
		}
	}
	rest := d.String()
	if short, ok := strings.CutSuffix(rest, "m0s"); ok {
		rest = short + "m"
	}
	if short, ok := strings.CutSuffix(rest, "h0m"); ok {
		rest = short + "h"
	}
	return s + rest
}

func parseSize(s string) (byteSize, error) {
	if isDigits(s) {
		return 0, errors.New("needs a unit, such as 256MB or 1GiB")
	}
	for _, unit := range sizeUnits() {
		digits, ok := strings.CutSuffix(s, unit.name)
		if !ok || !isDigits(digits) {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n > math.MaxInt64/unit.bytes {
			return 0, errors.New("is too large")
		}
		return byteSize(n * unit.bytes), nil
	}
	return 0, errors.New("is not a size: a whole number and KB, MB, GB (1000) or KiB, MiB, GiB (1024)")
}

// formatSize is the shortest text that parseSize reads back as n.
func formatSize(n byteSize) string {
	for _, unit := range sizeUnits() {
		if n != 0 && int64(n)%unit.bytes == 0 {
			return strconv.FormatInt(int64(n)/unit.bytes, 10) + unit.name
		}
	}
	return "0B"
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
