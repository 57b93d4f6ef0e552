package config

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// text is a value that may stand for any type: it came from an environment
// variable or a flag, or was put together from ${...}. A plain string of the file
// is a string and nothing else.
type text string

// strictYAML is the decoder that viper reads the file with. viper's own stops at
// the first duplicate key, and passes over empty values and over further
// documents; this one reports them all, and also what is unknown, as problems.
// What it reports it leaves out of the result.
type strictYAML struct {
	env    environment
	report *report
}

// errNoKeys says that the content was reported as a whole: what its keys lack is
// no news then.
var errNoKeys = errors.New("no keys can be read")

// Decoder makes strictYAML a viper.DecoderRegistry with one format.
func (y strictYAML) Decoder(string) (viper.Decoder, error) { return y, nil }

// Decode fills settings from the one document in content.
func (y strictYAML) Decode(content []byte, settings map[string]any) error {
	decoder := yaml.NewDecoder(strings.NewReader(string(content)))
	var root yaml.Node
	if err := decoder.Decode(&root); errors.Is(err, io.EOF) {
		return nil // an empty file: the required keys will be missed
	} else if err != nil {
		y.report.add("", "is not valid YAML: "+syntaxProblem(err))
		return errNoKeys
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		y.report.add("", "holds more than one YAML document; only one is read")
	}
	top := root.Content[0]
	if top.Kind == yaml.ScalarNode && top.ShortTag() == "!!null" {
		return nil
	}
	if top.Kind != yaml.MappingNode {
		y.report.add("", "must be a map of keys at the top")
		return errNoKeys
	}
	y.section(settings, top, "", reflect.TypeFor[document]())
	return nil
}

// syntaxProblem is the parser's message with the line, unless it quotes the file:
// a password that starts with * and has no quotes is an unknown anchor to it.
func syntaxProblem(err error) string {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	if strings.Contains(message, "anchor") {
		return "a value starts with * or &; put it in quotes"
	}
	return message
}

func (y strictYAML) section(into map[string]any, node *yaml.Node, path string, t reflect.Type) {
	seen := map[string]bool{}
	for pair := range slices.Chunk(node.Content, 2) {
		key := strings.ToLower(pair[0].Value) // as viper does
		at := join(path, key)
		f, known := fieldNamed(t, key)
		switch {
		case pair[0].Kind != yaml.ScalarNode:
			y.report.add(join(path, fmt.Sprintf("(line %d)", pair[0].Line)), "has a key that is not a word")
		case !known:
			y.report.add(at, unknownKey(t, key))
		case seen[key]:
			y.report.add(at, fmt.Sprintf("stands twice; the second is in line %d", pair[0].Line))
		default:
			if v := y.value(pair[1], at, f.typ); v != nil {
				into[key] = v
			}
		}
		seen[key] = true
	}
}

// value returns nil for what it reported. A value of the wrong shape is returned
// as it is: the decoding into the typed document reports it.
func (y strictYAML) value(node *yaml.Node, path string, t reflect.Type) any {
	if node.Anchor != "" { // `password: &x y` would otherwise be read as y
		y.report.add(path, "starts with an anchor (&); put it in quotes if it is text, and what is shared under defaults")
		return nil
	}
	switch node.Kind { //nolint:exhaustive // the other kinds do not occur or need nothing
	case yaml.MappingNode:
		if !isSection(t) { // viper would lose an empty map
			y.report.add(path, "must not be a map")
			return nil
		}
		into := map[string]any{}
		y.section(into, node, path, t)
		return into
	case yaml.SequenceNode:
		list := []any{}
		for i, n := range node.Content {
			elem := t
			if t.Kind() == reflect.Slice {
				elem = t.Elem()
			}
			if v := y.value(n, item(path, i), elem); v != nil {
				list = append(list, v)
			} else if isSection(elem) { // what was reported keeps its place, so that the items after it keep theirs
				list = append(list, map[string]any{})
			} else {
				list = append(list, text(""))
			}
		}
		return list
	case yaml.ScalarNode:
		return y.scalar(node, path)
	}
	y.report.add(path, "is an alias (*); put it in quotes if it is text, and what is shared under defaults")
	return nil
}

func (y strictYAML) scalar(node *yaml.Node, path string) any {
	switch tag := node.ShortTag(); tag {
	case "!!null":
		y.report.add(path, "has no value; give one or leave the key out")
		return nil
	case "!!timestamp", "!!str":
		expanded, names, err := y.env.expand(node.Value)
		if err != nil {
			y.report.add(path, err.Error())
			return nil
		}
		if len(names) > 0 {
			y.report.expanded[path] = strings.Join(names, " ")
			return text(expanded)
		}
		return expanded
	case "!!int", "!!float", "!!bool":
		var v any
		if err := node.Decode(&v); err != nil || v == nil { // the error would show the value
			y.report.add(path, "cannot be read as "+strings.TrimPrefix(tag, "!!"))
			return nil
		}
		return v
	default:
		y.report.add(path, "starts with a tag (!); put it in quotes if it is text")
		return nil
	}
}
