package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// cli is what all commands share: flags, and where output goes.
type cli struct {
	out, err io.Writer
	config   string  // --config
	logLevel string  // --log-level
	json     bool    // --json
	uiListen *string // --listen of ui, where it is given
	started  bool    // a command was found and its arguments are right
}

// run is the whole program: it returns the exit code.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	c := &cli{out: out, err: errOut}
	root := c.rootCommand()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	c.json = slices.Contains(args, "--json") // also for an error in the flags before it
	err := root.ExecuteContext(ctx)
	if err != nil && !c.started {
		err = usageError(err)
	}
	code := exitCode(ctx, err)
	var coded *exitError
	if code == exitInterrupted && !errors.As(err, &coded) {
		err = errors.New("interrupted; batches that were begun go on where they stand at the next start")
	}
	if err != nil {
		report(errOut, c.json, code, err)
	}
	return code
}

func (c *cli) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "archiver",
		Short: "Move old PostgreSQL rows to S3-compatible storage, verify them there, then delete them",
		Long: `archiver moves old PostgreSQL rows to S3-compatible storage, proves that each
object is whole, and only then deletes the rows.

First use:  archiver demo                 the whole story on this machine
            archiver migrate              prepare the control database
            archiver check                look at everything, change nothing
            archiver plan --dry-run       see what would be archived
            archiver run                  do it, with progress
Every day:  archiver plan                 enqueue the backlog
            archiver work                 a worker replica; start as many as you like
            archiver status               backlog, rate, failures
            archiver jobs list            failed and waiting batches

The configuration is read from --config FILE, else $ARCHIVER_CONFIG, else
./archiver.yaml, else /etc/archiver/archiver.yaml. A flag wins over the environment
(ARCHIVER_ and the key's path, as in ARCHIVER_S3_BUCKET), and that over the file.
`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &exitError{code: exitUsage, err: err, hint: "run: " + cmd.CommandPath() + " --help"}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&c.config, "config", "", "configuration `FILE`")
	flags.StringVar(&c.logLevel, "log-level", "", "debug, info, warn or error (log.level)")
	root.AddCommand(c.commands()...)
	root.InitDefaultCompletionCmd()
	c.finish(root)
	return root
}

// finish gives every command, at every depth, what all have in common. An error
// from before a command has started is one of usage, whatever cobra calls it.
func (c *cli) finish(cmd *cobra.Command) {
	if cmd.Long == "" {
		cmd.Long = cmd.Short + "."
	}
	cmd.Long = strings.TrimRight(cmd.Long, "\n") + "\n" + exitHelp
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args = noSuchCommand
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	if cmd.Args == nil {
		cmd.Args = cobra.NoArgs
	}
	args := cmd.Args
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		if err := args(cmd, given); err != nil {
			return &exitError{code: exitUsage, err: err, hint: hintOr(err, "run: "+cmd.CommandPath()+" --help")}
		}
		return nil
	}
	if work := cmd.RunE; work != nil {
		cmd.RunE = func(cmd *cobra.Command, given []string) error {
			c.started = true
			return work(cmd, given)
		}
	}
	for _, sub := range cmd.Commands() {
		c.finish(sub)
	}
}

// noSuchCommand is the Args of a command that only has others below it.
func noSuchCommand(cmd *cobra.Command, given []string) error {
	if len(given) == 0 {
		return nil
	}
	hint := ""
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(given[0]); len(near) > 0 {
		hint = "did you mean: " + cmd.CommandPath() + " " + near[0]
	}
	return &exitError{code: exitUsage, err: fmt.Errorf("unknown command %q for %q", given[0], cmd.CommandPath()), hint: hint}
}

// jsonFlag adds --json to a command that prints a list or a report.
func (c *cli) jsonFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&c.json, "json", false, "print JSON (and errors as one JSON line on stderr)")
	return cmd
}

func (c *cli) printf(format string, args ...any) { fmt.Fprintf(c.out, format, args...) }

// notef is for people who watch: it goes to stderr.
func (c *cli) notef(format string, args ...any) { fmt.Fprintf(c.err, format, args...) }
