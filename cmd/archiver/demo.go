package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/audit-table-archiver/archiver/internal/demo"
	"github.com/audit-table-archiver/archiver/internal/localserver"
)

// pipeWidth is how wide lines are where nobody says how wide they may be.
const pipeWidth = 110

func (c *cli) demoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole story on this machine with a private PostgreSQL and S3 server",
		Long: `demo starts a private PostgreSQL and a private S3 server on 127.0.0.1, fills an
audit table with two years of rows, and archives the first year with the archiver's
own commands and two worker processes. Then it counts, without the archiver's help,
that every row is in exactly one place and that none has changed.

It reads no configuration, reaches no other server, installs nothing, and leaves
nothing behind. It takes about half a minute. PostgreSQL's server programs must be on
this machine; in a checkout of the archiver, 'make demo' gets them.

Examples:
  archiver demo
  archiver demo --rows 1000000
  archiver demo --keep                          look around while the servers are up
  archiver demo --dir /tmp/archiver-demo        keep the files, to read them with zcat
  archiver demo --pg-bin /usr/lib/postgresql/17/bin`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.demo(cmd.Context(), o) },
	}
	flags := cmd.Flags()
	flags.Int64Var(&o.Rows, "rows", 300_000, fmt.Sprintf("`N` rows in the audit table, %d to %d", demo.MinRows, demo.MaxRows))
	flags.BoolVar(&o.Keep, "keep", false, "leave the servers up until Ctrl-C, and say how to connect")
	flags.StringVar(&o.PostgresBin, "pg-bin", "", "`DIR` of initdb and postgres (default: $PG_BIN, then the usual places)")
	flags.StringVar(&o.Dir, "dir", "", "work in `DIR`, a new or empty directory, and leave the files there")
	return cmd
}

func (c *cli) demo(ctx context.Context, o demo.Options) error {
	if o.Rows < demo.MinRows || o.Rows > demo.MaxRows {
		return usage("--rows %d: must be %d to %d", o.Rows, demo.MinRows, demo.MaxRows)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the archiver's own program: %w", err)
	}
	o.Archiver, o.Out, o.Err = self, c.out, c.err
	o.Width, o.Colour = c.screen()

	// Without this a closed terminal, a reader like head that has seen enough, or a
	// second Ctrl-C would end us before the servers' files are removed. The clean-up
	// takes a moment, and at worst a minute.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP)
	defer stop()
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, syscall.SIGPIPE, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(ignored)

	err = demo.Run(ctx, o)
	var (
		missing    *localserver.NotFoundError
		noPostgres *demo.NoPostgresError
		notEmpty   *demo.DirError
		left       *demo.CleanUpError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &left):
		return &exitError{code: exitFailed, err: err, hint: "look for processes that work in " + left.Dir + ", and remove what is left of it"}
	case errors.As(err, &missing):
		return &exitError{
			code: exitUnreachable,
			err:  fmt.Errorf("there is no %s on this machine (looked in %s); nothing was started", missing.What, strings.Join(missing.Searched, ", ")),
			hint: missing.Hint,
		}
	case errors.As(err, &noPostgres):
		return &exitError{
			code: exitUnreachable, err: fmt.Errorf("%w; nothing was started", err),
			hint: fmt.Sprintf("name the directory of initdb and postgres, version %d or newer, in --pg-bin or PG_BIN, or unset PG_BIN to have the usual places searched; "+
				"to install them: apt-get install postgresql, dnf install postgresql-server, or brew install postgresql@17", localserver.MinPostgres),
		}
	case errors.As(err, &notEmpty):
		return &exitError{code: exitUsage, err: err, hint: "name a directory that does not exist yet"}
	case ctx.Err() != nil:
		return &exitError{code: exitInterrupted, err: errors.New("interrupted; the servers are stopped, and the demo is over")}
	case errors.Is(err, syscall.EPIPE):
		return &exitError{code: exitFailed, err: errors.New("nobody reads the output any more; the servers are stopped")}
	}
	hint := "the servers are stopped; no database but the demo's own was touched"
	if o.Dir != "" && os.Geteuid() == 0 {
		hint += "; as root, PostgreSQL runs under another account, which must be able to enter --dir"
	}
	return &exitError{code: exitFailed, err: fmt.Errorf("demo: %w", err), hint: hint}
}

// screen says how wide the output may be and whether it may have colours.
func (c *cli) screen() (columns int, colour bool) {
	if f, ok := c.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width, colour
		}
	}
	if width, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && width > 0 {
		return width, colour
	}
	return pipeWidth, colour
}
