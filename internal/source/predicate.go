package source

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/keyrange"
)

// predicate is the WHERE clause of a range. Beside the row comparison it always
// carries plain bounds on the timestamp: only these prune partitions and give the
// planner a sane estimate.
func (t *tx) predicate(ctx context.Context, table *Table, r keyrange.Range) (string, error) {
	// All bounds in one round trip.
	var key []Column
	var values []string
	bound := func(columns []Column, v []string) func([]string) []string {
		from, to := len(key), len(key)+len(columns)
		key, values = append(key, columns...), append(values, v...)
		return func(lit []string) []string { return lit[from:to] }
	}
	var from, after, to func([]string) []string
	if r.FromTS != nil {
		from = bound(table.Key[:1], []string{*r.FromTS})
	}
	if r.After != nil {
		after = bound(table.Key, r.After)
	}
	if r.To != nil {
		to = bound(table.Key, r.To)
	}
	lit, err := t.keyLiterals(ctx, key, values)
	if err != nil {
		return "", err
	}
	var terms []string
	if from != nil {
		terms = append(terms, table.timestamp()+" >= "+from(lit)[0])
	}
	if after != nil {
		terms = append(terms, table.timestamp()+" >= "+after(lit)[0], table.keyTuple()+" > "+tuple(after(lit)))
	}
	if to != nil {
		terms = append(terms, table.timestamp()+" <= "+to(lit)[0], table.keyTuple()+" <= "+tuple(to(lit)))
	}
	if len(terms) == 0 {
		return "true", nil
	}
	return strings.Join(terms, " AND "), nil
}

// keyLiterals turns key values into typed literals.
func (t *tx) keyLiterals(ctx context.Context, key []Column, values []string) ([]string, error) {
	if len(values) != len(key) {
		return nil, fmt.Errorf("a bound has %d values, the key has %d columns", len(values), len(key))
	}
	quoted, err := t.quote(ctx, values)
	if err != nil {
		return nil, err
	}
	for i, k := range key {
		quoted[i] += "::" + k.Type + k.collate
	}
	return quoted, nil
}

func (t *Table) keyTuple() string {
	parts := make([]string, len(t.Key))
	for i, k := range t.Key {
		parts[i] = col(k.Name)
	}
	return tuple(parts)
}

// keyText selects the key as an array of its text forms.
func (t *Table) keyText() string {
	parts := make([]string, len(t.Key))
	for i, k := range t.Key {
		parts[i] = outputText(col(k.Name))
	}
	return "ARRAY[" + strings.Join(parts, ", ") + "]"
}

// renamedKey gives the key columns neutral names, and their text forms by these.
func (t *Table) renamedKey() (names, text string) {
	var n, x []string
	for i := range t.Key {
		n = append(n, fmt.Sprintf("k%d", i))
		x = append(x, outputText(fmt.Sprintf("k%d", i)))
	}
	return strings.Join(n, ", "), "ARRAY[" + strings.Join(x, ", ") + "]"
}

func (t *Table) order() string {
	parts := make([]string, len(t.Key))
	for i, k := range t.Key {
		parts[i] = col(k.Name)
	}
	return strings.Join(parts, ", ")
}

func tuple(parts []string) string { return "(" + strings.Join(parts, ", ") + ")" }

// age is an SQL expression for `now() - d`, by the server's clock, in the type of
// the timestamp column. A date counts as past only when its whole day is.
func age(c config.Table, columnType string, d time.Duration) string {
	return inColumnType(c, columnType, "(now() - "+interval(d)+")")
}

// interval is an SQL expression for a duration. Not an interval literal: before
// version 15 no field of one may exceed 2^31, which is 36 minutes of microseconds.
func interval(d time.Duration) string {
	return fmt.Sprintf("make_interval(secs => %d.%06d)", d/time.Second, (d%time.Second)/time.Microsecond)
}

// inColumnType converts a timestamptz expression to what the column is compared
// with. timestamp and date columns mean the declared time zone (a date without
// one means UTC).
func inColumnType(c config.Table, columnType, instant string) string {
	zone := c.Timezone
	if zone == "" {
		zone = "UTC"
	}
	// The zone was checked to be a known name; doubling quotes is all it can need.
	local := instant + " AT TIME ZONE '" + strings.ReplaceAll(zone, "'", "''") + "'"
	switch baseTimestamp(columnType) {
	case "timestamp without time zone":
		return "(" + local + ")"
	case "date":
		return "(" + local + ")::date"
	default:
		return instant
	}
}

// baseTimestamp drops the precision: timestamp(3) with time zone is no other type.
func baseTimestamp(columnType string) string {
	if i := strings.IndexByte(columnType, '('); i >= 0 {
		if j := strings.IndexByte(columnType, ')'); j > i {
			return columnType[:i] + columnType[j+1:]
		}
	}
	return columnType
}
