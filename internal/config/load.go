package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/viper"
)

// Options says where a configuration comes from.
type Options struct {
	// File is what --config named; empty: see the package comment.
	File string
	// Environ holds the environment in the form of os.Environ, which it is if nil.
	Environ []string
	// Flags holds the values of flags that were given, by path: "log.level". Text
	// may stand for any type, as in the environment.
	Flags map[string]any
}

// Load finds, reads and checks the configuration. The error is an *Error with all
// problems, a *NotFoundError, or says why the file cannot be read.
func Load(o Options) (*Config, error) {
	env := newEnvironment(o.Environ)
	path, err := find(o.File, env)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer file.Close() //nolint:errcheck // only read
	return load(path, file, env, o.Flags)
}

// find returns the file to read, made absolute so that it still names the file in
// a message that is read elsewhere.
func find(named string, env environment) (string, error) {
	source, candidates := "", []string{"archiver.yaml", "/etc/archiver/archiver.yaml"}
	switch {
	case named != "":
		source, candidates = "--config", []string{named}
	case env[envFile] != "":
		source, candidates = envFile, []string{env[envFile]}
	}
	for i, path := range candidates {
		absolute, err := filepath.Abs(path)
		if err != nil {
			return "", fmt.Errorf("find configuration %s: %w", path, err)
		}
		candidates[i] = absolute
		switch _, err := os.Stat(absolute); {
		case err == nil:
			return absolute, nil
		case !errors.Is(err, fs.ErrNotExist): // a file that cannot be reached is not one that is absent
			return "", fmt.Errorf("find configuration: %w", err)
		}
	}
	return "", &NotFoundError{Looked: candidates, Source: source}
}

// load reads everything that is not a lookup of files: the file's content, then
// the environment over it, then the flags, all merged by viper.
func load(path string, content io.Reader, env environment, flags map[string]any) (*Config, error) {
	r := newReport()
	v := viper.NewWithOptions(viper.WithDecoderRegistry(strictYAML{env: env, report: r}))
	v.SetConfigType("yaml")
	if err := v.ReadConfig(content); errors.Is(err, errNoKeys) {
		return nil, &Error{Path: path, Problems: r.sorted()}
	} else if err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	var tree any = v.AllSettings()
	for _, o := range env.overrides(r) {
		tree = o.apply(tree, o.steps, r)
	}
	if err := v.MergeConfigMap(tree.(map[string]any)); err != nil {
		return nil, fmt.Errorf("merge the environment into configuration %s: %w", path, err)
	}
	for _, key := range slices.Sorted(maps.Keys(flags)) {
		value := flags[key]
		if s, ok := value.(string); ok {
			value = text(s)
		}
		v.Set(key, value)
	}

	doc := builtin()
	decode(v, &doc, r)
	cfg := resolve(&doc, env, r)
	if problems := r.sorted(); len(problems) > 0 {
		return nil, &Error{Path: path, Problems: problems}
	}
	cfg.Path = path
	return cfg, nil
}
