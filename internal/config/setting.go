package config

import (
	"reflect"
	"slices"
)

// setting names a value of the document.
type setting struct {
	path string // databases[0].tables[1].throttle.query
	key  string // throttle.query: the path without the place, where a key may stand in several
}

// leaf is a setting with its value. It does not outlive the loading, since fmt would
// print a Secret in it.
type leaf struct {
	setting
	value any
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
