package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	envPrefix = "ARCHIVER_"
	envFile   = "ARCHIVER_CONFIG"
)

// environment holds variables by name.
type environment map[string]string

func newEnvironment(pairs []string) environment {
	if pairs == nil {
		pairs = os.Environ()
	}
	env := environment{}
	for _, pair := range pairs {
		if name, value, ok := strings.Cut(pair, "="); ok {
			env[name] = value
		}
	}
	return env
}

// expand replaces ${NAME} and ${NAME:-default} in s and returns the references it
// replaced, without their defaults. It does not look at what it put in.
func (env environment) expand(s string) (expanded string, names []string, err error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, "${")
		if !found {
			b.WriteString(s)
			return b.String(), names, nil
		}
		if literal, escaped := strings.CutSuffix(before, "$"); escaped {
			b.WriteString(literal + "${")
			s = rest
			continue
		}
		reference, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", nil, errors.New("has a ${ without its }; write $${ for a literal one")
		}
		name, fallback, hasFallback := strings.Cut(reference, ":-")
		if !isVariable(name) {
			return "", nil, errors.New("has a ${...} that is neither ${NAME} nor ${NAME:-default}; write $${ for a literal one")
		}
		value, set := env[name]
		switch {
		case value == "" && hasFallback:
			value = fallback
		case !set:
			return "", nil, fmt.Errorf("needs the environment variable %s, which is not set; set it, or write ${%s:-default}", name, name)
		}
		b.WriteString(before + value)
		names = append(names, "${"+name+"}")
		s = after
	}
}

func isVariable(name string) bool {
	for i, c := range []byte(name) {
		letter := c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// override is one ARCHIVER_ variable that names a key.
type override struct {
	path  string
	steps []any // string: a key; int: an item of a list
	value text
}

// overrides lists the variables that name keys, in the order of their paths, so
// that item 0 of a list comes before item 1. It reports those that look like keys
// and are none.
func (env environment) overrides(r *report) []override {
	var all []override
	for _, name := range slices.Sorted(maps.Keys(env)) {
		rest, ours := strings.CutPrefix(name, envPrefix)
		if !ours || name == envFile || env[name] == "" {
			continue
		}
		steps, known := matchVariable(reflect.TypeFor[document](), rest)
		if known {
			path := pathOf(steps)
			r.environ[path] = name
			all = append(all, override{path: path, steps: steps, value: text(env[name])})
		} else if namesSection(rest) && !isServiceLink(rest) {
			problem := "environment variable names no key"
			if guess := nearest(rest, plainVariables(reflect.TypeFor[document](), "")); guess != "" {
				problem += "; did you mean " + envPrefix + guess + "?"
			}
			r.add(name, problem)
		}
	}
	slices.SortFunc(all, func(a, b override) int { return comparePaths(a.path, b.path) })
	return all
}

// matchVariable finds the key whose path in upper case is rest. Keys contain `_`
// themselves, so the way down is tried key by key.
func matchVariable(t reflect.Type, rest string) (steps []any, ok bool) {
	if isSectionList(t) {
		digits, below, found := strings.Cut(rest, "_")
		i, err := strconv.Atoi(digits)
		if !found || err != nil || i < 0 || strconv.Itoa(i) != digits {
			return nil, false
		}
		steps, ok = matchVariable(t.Elem(), below)
		return append([]any{i}, steps...), ok
	}
	for _, f := range fieldsOf(t) {
		upper := strings.ToUpper(f.name)
		if !isSection(f.typ) && !isSectionList(f.typ) {
			if rest == upper {
				return []any{f.name}, true
			}
			continue
		}
		if below, found := strings.CutPrefix(rest, upper+"_"); found {
			if steps, ok = matchVariable(f.typ, below); ok {
				return append([]any{f.name}, steps...), true
			}
		}
	}
	return nil, false
}

// plainVariables lists the names, without the prefix, of all keys outside lists.
func plainVariables(t reflect.Type, prefix string) []string {
	var names []string
	for _, f := range fieldsOf(t) {
		name := prefix + strings.ToUpper(f.name)
		switch {
		case isSection(f.typ):
			names = append(names, plainVariables(f.typ, name+"_")...)
		case !isSectionList(f.typ):
			names = append(names, name)
		}
	}
	return names
}

func namesSection(rest string) bool {
	return slices.ContainsFunc(fieldsOf(reflect.TypeFor[document]()), func(f field) bool {
		return strings.HasPrefix(rest, strings.ToUpper(f.name)+"_")
	})
}

// isServiceLink recognises what Kubernetes sets in every pod for a service that is
// called archiver-ui or archiver-worker.
func isServiceLink(rest string) bool {
	return regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`).MatchString(rest)
}

func pathOf(steps []any) string {
	path := ""
	for _, step := range steps {
		switch s := step.(type) {
		case string:
			path = join(path, s)
		case int:
			path = item(path, s)
		}
	}
	return path
}

// apply puts the value into the tree of settings and returns the tree. An item may
// be changed, or added right after the last; it does not reach into a value of the
// wrong shape, which is reported when the tree is decoded.
func (o override) apply(tree any, steps []any, r *report) any {
	if len(steps) == 0 {
		return o.value
	}
	switch step := steps[0].(type) {
	case string:
		m, isMap := tree.(map[string]any)
		if tree == nil {
			m, isMap = map[string]any{}, true
		}
		if !isMap {
			return tree
		}
		m[step] = o.apply(m[step], steps[1:], r)
		return m
	case int:
		list, isList := tree.([]any)
		if tree == nil {
			list, isList = []any{}, true
		}
		switch {
		case !isList:
			return tree
		case step > len(list):
			r.add(o.path, fmt.Sprintf("is set by %s, but the list has %d items", r.environ[o.path], len(list)))
			return tree
		case step == len(list):
			list = append(list, nil)
		}
		list[step] = o.apply(list[step], steps[1:], r)
		return list
	}
	return tree
}
