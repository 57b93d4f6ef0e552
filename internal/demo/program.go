package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/audit-table-archiver/archiver/internal/localserver"
)

// archiver runs one command of the archiver, shown as it would be typed, and its
// output as it comes.
func (s *story) archiver(ctx context.Context, args ...string) error {
	s.command("archiver %s", strings.Join(args, " "))
	show := func(line string) {
		if line != "" {
			line = indent + line
		}
		s.linef("%s", line)
	}
	out, errOut := &lines{show: show}, &lines{show: show}
	err := localserver.Program{
		Path: s.Archiver, Args: args, Env: s.environment(), Stdout: out, Stderr: errOut,
	}.Run(ctx)
	out.Close()
	errOut.Close()
	return commandError(ctx, args, err)
}

// commandError says which command ended how. What it had to say was shown already.
func commandError(ctx context.Context, args []string, err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &exit):
		return fmt.Errorf("archiver %s: it ended with %s; see its output above", strings.Join(args, " "), exit.ProcessState)
	}
	return fmt.Errorf("archiver %s: %w", strings.Join(args, " "), err)
}

// environment is ours without what would lead the archiver to other servers than
// the demo's, or to another configuration.
func (s *stage) environment(extra ...string) []string {
	var env []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "ARCHIVER_") && !strings.HasPrefix(name, "AWS_") && !strings.HasPrefix(name, "PG") {
			env = append(env, pair)
		}
	}
	return append(append(env,
		"ARCHIVER_CONFIG="+s.configFile,
		// The files under the home directory may name an endpoint, too.
		"AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull, "AWS_EC2_METADATA_DISABLED=true",
	), extra...)
}
