// Package keyrange holds the interval of key values that a batch covers.
//
// Values are the text that Postgres prints for them under the pinned settings of
// package source. They are carried, shown and handed back to Postgres, which
// alone compares them: the order of text depends on the column's collation, and
// 1.0 equals 1.00. Go code must never look inside them.
package keyrange

import "strings"

// Range is a half-open interval over (timestamp column, primary key...), bounded
// below by a key or by a timestamp alone.
type Range struct {
	FromTS *string  // timestamp >= FromTS; nil: unbounded below
	After  []string // (timestamp, key...) > After; nil: only FromTS bounds it
	To     []string // (timestamp, key...) <= To
}

// String names the range for people.
func (r Range) String() string {
	from := "[oldest"
	switch {
	case r.After != nil:
		from = "(" + strings.Join(r.After, ", ")
	case r.FromTS != nil:
		from = "[" + *r.FromTS
	}
	return from + " .. " + strings.Join(r.To, ", ") + "]"
}
