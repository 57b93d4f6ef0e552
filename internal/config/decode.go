package config

import (
	"errors"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
)

// decode fills doc, which holds the defaults, from what viper merged, and reports
// every value of a wrong type.
func decode(v *viper.Viper, doc *document, r *report) {
	err := v.UnmarshalExact(doc, viper.DecodeHook(mapstructure.DecodeHookFuncValue(convert)), func(c *mapstructure.DecoderConfig) {
		c.WeaklyTypedInput = false // weak typing reads `url: 12` as "12" and `retention: 30` as 30 ns
	})
	reportDecoding(err, r)
}

// reportDecoding walks down mapstructure's tree of errors, whose names are our
// paths.
func reportDecoding(err error, r *report) {
	switch e := err.(type) { //nolint:errorlint // each node of the tree is looked at
	case nil:
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			reportDecoding(one, r)
		}
	case *mapstructure.DecodeError:
		var wrong *valueError
		if errors.As(err, &wrong) {
			r.add(e.Name(), wrong.problem, wrong.got)
			return
		}
		r.add(e.Name(), "has a key that does not exist") // of a flag: those of the file were looked at before
	case interface{ Unwrap() error }:
		reportDecoding(e.Unwrap(), r)
	default:
		r.add("", "cannot be read as a configuration")
	}
}

// valueError is a value that its key cannot take.
type valueError struct {
	problem string
	got     any
}

// Error returns the problem without the value, which may be secret.
func (e *valueError) Error() string { return e.problem }

// convert is the decode hook: it alone says which values a type takes.
func convert(from, to reflect.Value) (any, error) {
	got := from.Interface()
	if to.Kind() == reflect.Pointer {
		return got, nil // comes again for what the pointer points to
	}
	if to.Type() == reflect.TypeFor[Secret]() {
		s, isString := stringOf(got)
		if !isString {
			return nil, &valueError{"must be text; put it in quotes", Secret("")}
		}
		return s, nil
	}
	converted, problem := got, ""
	switch to.Kind() { //nolint:exhaustive // the other kinds do not occur or need nothing
	case reflect.Struct:
		if _, isMap := got.(map[string]any); !isMap {
			return nil, &valueError{"must be a map of keys", shapeOnly(got)}
		}
	case reflect.Slice:
		converted, problem = listOf(got, isSection(to.Type().Elem()))
		if problem != "" {
			return nil, &valueError{problem, shapeOnly(got)}
		}
	case reflect.String:
		s, isString := stringOf(got)
		converted = s
		if !isString {
			problem = "must be text; put it in quotes if it is meant so"
		}
	case reflect.Bool:
		converted, problem = boolOf(got)
	case reflect.Float64:
		converted, problem = floatOf(got)
	case reflect.Int:
		converted, problem = intOf(got)
	case reflect.Int64:
		converted, problem = withUnit(got, to.Type())
	}
	if problem != "" {
		return nil, &valueError{problem, got}
	}
	return converted, nil
}

// shapeOnly hides a value that stands where a map or a list is meant: it was
// written for another key, perhaps a secret one.
func shapeOnly(got any) any {
	switch got.(type) {
	case map[string]any, []any:
		return got
	}
	return Secret("")
}

func stringOf(v any) (string, bool) {
	switch s := v.(type) {
	case string:
		return s, true
	case text:
		return string(s), true
	}
	return "", false
}

// listOf also splits the text of a variable at commas.
func listOf(v any, ofSections bool) (any, string) {
	switch l := v.(type) {
	case []any, []string:
		return l, ""
	case text:
		if ofSections {
			break
		}
		parts := []any{}
		for part := range strings.SplitSeq(string(l), ",") {
			if part = strings.TrimSpace(part); part != "" {
				parts = append(parts, part)
			}
		}
		return parts, ""
	}
	return nil, "must be a list"
}

func boolOf(v any) (bool, string) {
	switch b := v.(type) {
	case bool:
		return b, ""
	case text:
		if b == "true" || b == "false" {
			return b == "true", ""
		}
	}
	return false, "must be true or false"
}

func intOf(v any) (int, string) {
	switch n := v.(type) {
	case int:
		return n, ""
	case text:
		if i, err := strconv.Atoi(string(n)); err == nil {
			return i, ""
		}
	}
	return 0, "must be a whole number"
}

func floatOf(v any) (float64, string) {
	f := math.NaN()
	switch n := v.(type) {
	case int:
		f = float64(n)
	case float64:
		f = n
	case text:
		if parsed, err := strconv.ParseFloat(string(n), 64); err == nil {
			f = parsed
		}
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, "must be a number"
	}
	return f, ""
}

// withUnit reads durations and sizes, which are never plain numbers.
func withUnit(v any, to reflect.Type) (any, string) {
	s, isString := stringOf(v)
	var result any
	var err error
	if to == reflect.TypeFor[byteSize]() {
		if !isString {
			return nil, "needs a unit, such as 256MB or 1GiB"
		}
		result, err = parseSize(s)
	} else {
		if d, isDuration := v.(time.Duration); isDuration { // from a flag
			return d, ""
		}
		if !isString {
			return nil, "needs a unit, such as 720h or 30d"
		}
		result, err = parseDuration(s)
	}
	if err != nil {
		return nil, err.Error()
	}
	return result, ""
}
