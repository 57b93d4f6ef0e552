package config

import (
	"reflect"
	"slices"
	"strings"
)

// notYet lists the keys that are read and checked but change nothing so far. A key
// stands for everything below it. Whoever gives one its effect deletes its line.
func notYet() []string {
	return []string{
		"throttle",
		adaptiveKey,
		"read_replica",
		"max_replica_lag_mb",
		"replica_fallback",
		"vacuum_after_archival",
		"vacuum_mode",
		"s3.circuit_breaker",
	}
}

const adaptiveKey = "adaptive_batch"

// Ineffective returns the paths of the keys that the configuration sets to
// something other than their default and that have no effect yet, so that nobody
// relies on a throttle that does not throttle. It knows them for a Config that
// Load returned. adaptive_batch is on by default and has one line of its own.
func Ineffective(c *Config) []string {
	without := notYet()
	var lines []string
	adapts := func(t Table) bool { return t.Adaptive.Enabled }
	if slices.Contains(without, adaptiveKey) && slices.ContainsFunc(c.Databases, func(d Database) bool { return slices.ContainsFunc(d.Tables, adapts) }) {
		lines = append(lines, adaptiveKey+": planned with batch_size as given")
	}
	for _, s := range c.given {
		for _, key := range without {
			if key != adaptiveKey && (s.key == key || strings.HasPrefix(s.key, key+".")) {
				lines = append(lines, s.path)
			}
		}
	}
	return lines
}

// setting names a value of the document.
type setting struct {
	path string // databases[0].tables[1].throttle.query
	key  string // throttle.query: the path without the place, where a key may stand in several
}

// leaf is a setting with its value. It does not outlive the loading: fmt prints
// the fields of an unexported field without asking Secret.
type leaf struct {
	setting
	value any
}

// givenSettings lists what is not at its built-in default.
func givenSettings(doc *document) []setting {
	defaults := map[string]any{}
	for _, l := range leaves(reflect.ValueOf(builtin()), "", "") {
		defaults[l.key] = l.value
	}
	var given []setting
	for _, l := range leaves(reflect.ValueOf(*doc), "", "") {
		standard, known := defaults[l.key]
		if known && reflect.DeepEqual(standard, l.value) || !known && reflect.ValueOf(l.value).IsZero() {
			continue
		}
		given = append(given, l.setting)
	}
	return given
}

func leaves(section reflect.Value, path, key string) []leaf {
	var all []leaf
	for _, f := range fieldsOf(section.Type()) {
		v := section.FieldByIndex(f.index)
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				continue
			}
			v = v.Elem()
		}
		at, k := join(path, f.name), join(key, f.name)
		switch {
		case isSection(f.typ) && at == "defaults":
			all = append(all, leaves(v, at, "")...)
		case isSection(f.typ):
			all = append(all, leaves(v, at, k)...)
		case isSectionList(f.typ):
			for i := range v.Len() {
				all = append(all, leaves(v.Index(i), item(at, i), "")...)
			}
		default:
			all = append(all, leaf{setting{at, k}, v.Interface()})
		}
	}
	return all
}

// isGiven tells whether a level of keys has this one, such as throttle.query.
func isGiven(keys tableKeys, key string) bool {
	return slices.ContainsFunc(leaves(reflect.ValueOf(keys), "", ""), func(l leaf) bool { return l.key == key })
}
