package config

import (
	"reflect"
	"strconv"
	"strings"
)

// field is one key of a section.
type field struct {
	name  string
	index []int
	typ   reflect.Type // without the pointer that marks an inherited key

	omitEmpty bool
}

// fieldsOf lists the keys of a section in the order in which they are written.
func fieldsOf(section reflect.Type) []field {
	var all []field
	for i := range section.NumField() {
		f := section.Field(i)
		name, option, _ := strings.Cut(f.Tag.Get("mapstructure"), ",")
		if option == "squash" {
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				all = append(all, inner)
			}
			continue
		}
		t := f.Type
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		all = append(all, field{name: name, index: []int{i}, typ: t, omitEmpty: option == "omitempty"})
	}
	return all
}

func fieldNamed(section reflect.Type, name string) (field, bool) {
	for _, f := range fieldsOf(section) {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

// isSection tells a map of keys from a value.
func isSection(t reflect.Type) bool { return t.Kind() == reflect.Struct }

// isSectionList tells a list of sections from a list of values.
func isSectionList(t reflect.Type) bool { return t.Kind() == reflect.Slice && isSection(t.Elem()) }

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func item(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// placesOf lists where a key may stand, for one that stands in the wrong place.
func placesOf(key string) []string {
	var places []string
	var visit func(t reflect.Type, path string)
	visit = func(t reflect.Type, path string) {
		for _, f := range fieldsOf(t) {
			if f.name == key {
				places = append(places, path)
			}
			switch {
			case isSection(f.typ):
				visit(f.typ, join(path, f.name))
			case isSectionList(f.typ):
				visit(f.typ.Elem(), join(path, f.name)+"[]")
			}
		}
	}
	visit(reflect.TypeFor[document](), "")
	return places
}

// unknownKey says what is wrong with a key that a section does not have, with the
// key that was meant where one can be guessed.
func unknownKey(section reflect.Type, key string) string {
	var names []string
	for _, f := range fieldsOf(section) {
		names = append(names, f.name)
	}
	if places := placesOf(key); len(places) > 0 && places[0] != "" {
		return "cannot stand here; it belongs to " + strings.Join(places, ", ")
	}
	if guess := nearest(key, names); guess != "" {
		return "unknown key; did you mean " + guess + "?"
	}
	if len(placesOf(key)) > 0 {
		return "cannot stand here; it belongs to the top of the file"
	}
	return "unknown key; known here: " + strings.Join(names, ", ")
}

// nearest returns the candidate that a slip of the fingers may have meant, or "".
func nearest(word string, candidates []string) string {
	best, bestDistance := "", max(2, len(word)/3)+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < bestDistance && d < len(c) {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance counts the single-byte edits between two words (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
