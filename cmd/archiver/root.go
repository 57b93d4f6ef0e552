package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// cli is what all commands share: flags, and where output goes.
type cli struct {
	out, err io.Writer
	config   string // --config
	logLevel string // --log-level
	json     bool   // --json
}

// run is the whole program: it returns the exit code.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	c := &cli{out: out, err: errOut}
	root := c.rootCommand()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	code := exitCode(ctx, err)
	if code == exitInterrupted {
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
` + exitHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &exitError{code: exitUsage, err: err, hint: "run: " + cmd.CommandPath() + " --help"}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&c.config, "config", "", "configuration `FILE`")
	flags.StringVar(&c.logLevel, "log-level", "", "debug, info, warn or error (log.level)")
	root.AddCommand(c.commands()...)
	for _, cmd := range root.Commands() {
		c.finish(cmd)
	}
	return root
}

// finish gives every command, at every depth, what all have in common.
func (c *cli) finish(cmd *cobra.Command) {
	if cmd.Long == "" {
		cmd.Long = cmd.Short + "."
	}
	cmd.Long = strings.TrimRight(cmd.Long, "\n") + "\n" + exitHelp
	if args := cmd.Args; args != nil {
		cmd.Args = func(cmd *cobra.Command, given []string) error {
			if err := args(cmd, given); err != nil {
				return &exitError{code: exitUsage, err: err, hint: "run: " + cmd.CommandPath() + " --help"}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		c.finish(sub)
	}
}

// jsonFlag adds --json to a command that prints a list or a report.
func (c *cli) jsonFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&c.json, "json", false, "print JSON (and errors as one JSON line on stderr)")
	return cmd
}

func (c *cli) printf(format string, args ...any) { fmt.Fprintf(c.out, format, args...) }

// notef is for people who watch: it goes to stderr.
func (c *cli) notef(format string, args ...any) { fmt.Fprintf(c.err, format, args...) }
