package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHelp(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, command := range []string{"migrate", "check", "plan", "work", "run", "ui", "config", "version"} {
		r := s.run(t, command, "--help")
		r.expect(t, done, "Exit codes:", "Example")
		require.Empty(t, r.err)
	}
	s.run(t).expect(t, done, "First use:", "Exit codes:")
}

// TestExamples runs each example of the help texts, word for word but for names of
// files and databases.
func TestExamples(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	names := strings.NewReplacer("--database orders", "--database main", "/etc/archiver/archiver.yaml", s.file)
	for _, command := range []string{"migrate", "check", "plan", "pause", "resume", "work", "run", "config", "version"} {
		_, examples, found := strings.Cut(s.run(t, command, "--help").out, "Example")
		require.True(t, found, command)
		examples, _, _ = strings.Cut(examples, "\n\n")
		n := 0
		for line := range strings.Lines(examples) {
			if args, ok := strings.CutPrefix(strings.TrimSpace(line), "archiver "); ok && args != "work" { // which does not end by itself
				s.run(t, strings.Fields(names.Replace(args))...).expect(t, done)
				n++
			}
		}
		require.Positive(t, n, command)
	}
}

func TestVersionAndCompletion(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(t, "version").expect(t, done, "archiver ", "go1.")
	var v struct{ Version, Go string }
	s.json(t, &v, "version").expect(t, done)
	require.NotEmpty(t, v.Version)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		s.run(t, "completion", shell).expect(t, done, "archiver")
	}
}

func TestConfigHidesSecrets(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.secretKey, s.controlURL = "the-secret-key", "postgres://user:the-password@127.0.0.1:1/db"
	s.configure(t)
	for _, args := range [][]string{{"config"}, {"config", "--json"}} {
		r := s.run(t, args...)
		r.expect(t, done, "***", "audit_logs")
		require.NotContains(t, r.out, "the-")
	}
	require.True(t, json.Valid([]byte(s.run(t, "config", "--json").out)))
	for _, command := range []string{"check", "plan"} {
		r := s.run(t, command)
		r.expect(t, unreachable)
		require.NotContains(t, r.out+r.err, "the-", "no secret in an error")
	}
}
