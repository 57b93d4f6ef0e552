package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dustin/go-humanize"
)

// Limits of Options.Rows: fewer leave months empty, more take the better part of an
// hour and gigabytes of disk.
const (
	MinRows = 1_000
	MaxRows = 5_000_000
)

// Options say how to tell the story.
type Options struct {
	Rows int64  // in the audit table, MinRows to MaxRows; about half are old
	Keep bool   // leave the servers up until ctx ends
	Dir  string // work here, a new or empty directory, and leave the files; "" means a temporary one

	PostgresBin string // directory of initdb and postgres; "" means look for it
	Archiver    string // the program to demonstrate

	Out, Err io.Writer
	Width    int  // columns of Out
	Colour   bool // whether Out shows colours
}

// Run tells the whole story and stops everything that it started, also when ctx
// ends or Out cannot be written to. A missing server program is a *NoPostgresError or a
// *localserver.NotFoundError; an end of ctx gives its cause, except with Keep once the story is told, where that is how it ends.
func Run(ctx context.Context, o Options) error {
	// A reader that has gone, as in a pipe to head, ends the story.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &story{Options: o, screen: newScreen(o.Out, o.Width, o.Colour, cancel), began: time.Now()}
	s.title("archiver demo: %s audit rows, a private PostgreSQL, a private S3 server, two workers", humanize.Comma(o.Rows))
	err := s.open(ctx)
	if err == nil {
		err = s.tell(ctx)
	}
	if err == nil && o.Keep {
		s.keep(ctx)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause // not what it came to in the middle of something
	} else if err != nil {
		s.showLogs(o.Err)
	}
	// The clean-up does not look at ctx: it is what an end of ctx asks for.
	if e := s.close(); e != nil {
		return &CleanUpError{Dir: s.dir, Err: errors.Join(e, err)}
	}
	if err != nil {
		return err
	}
	s.linef("")
	s.linef("Done in %s. %s", seconds(time.Since(s.began)), s.whatIsLeft())
	return s.err()
}

// CleanUpError says that something of the demo may be left: a server, or files in Dir.
type CleanUpError struct {
	Dir string
	Err error // and what had gone wrong before, if anything
}

func (e *CleanUpError) Error() string { return fmt.Sprintf("clean up after the demo: %v", e.Err) }
func (e *CleanUpError) Unwrap() error { return e.Err }

// story is one telling.
type story struct {
	Options
	*screen
	*stage
	began time.Time

	old      int64         // rows past the retention when the table was filled
	before   sizes         // before the archiver ran
	after    sizes         // and when it had
	working  time.Duration // of the workers, from start to end of both
	archived account       // the proof
	contents contents      // of the bucket
}

// tell is the story, a chapter a line.
func (s *story) tell(ctx context.Context) error {
	for _, chapter := range []struct {
		title string
		tell  func(context.Context) error
	}{
		{"An audit table with two years of rows, of which one year is to stay", s.fill},
		{"Prepare the control database, and look before touching anything", s.prepare},
		{"Plan: which rows are old, and in which batches they go", s.plan},
		{"Work: upload, verify, then delete, by two worker processes", s.work},
		{"What the archiver says about it", s.ask},
		{"The proof, counted without the archiver's help", s.prove},
		{"What it cost and what it gave", s.report},
	} {
		s.heading("%s", chapter.title)
		if err := chapter.tell(ctx); err != nil {
			return err
		}
	}
	if !s.Keep {
		s.heading("Try next")
		s.tryNext()
	}
	return nil
}

func (s *story) prepare(ctx context.Context) error {
	s.command("export ARCHIVER_CONFIG=%s", s.configFile)
	if err := s.archiver(ctx, "migrate"); err != nil {
		return err
	}
	return s.archiver(ctx, "check")
}

func (s *story) plan(ctx context.Context) error { return s.archiver(ctx, "plan") }

func (s *story) ask(ctx context.Context) error {
	if err := s.archiver(ctx, "status"); err != nil {
		return err
	}
	return s.archiver(ctx, "ls", "--limit", "5")
}

func (s *story) tryNext() {
	s.linef("archiver demo --keep             the same, and the servers stay up for you to look around")
	s.linef("archiver demo --rows 2000000     with more rows")
	s.linef("archiver demo --dir /tmp/demo    keep the objects as files, to read them with zcat")
	s.linef("archiver --help                  then write a configuration and run: archiver check")
}

// keep shows how to connect and waits for ctx to end.
func (s *story) keep(ctx context.Context) {
	s.heading("The servers are up until you press Ctrl-C here (or: kill %d)", os.Getpid())
	s.linef("export ARCHIVER_CONFIG=%s", s.configFile)
	s.linef("export AWS_ENDPOINT_URL=%s AWS_REGION=us-east-1", s.s3.Endpoint)
	s.linef("export AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s", s.s3.AccessKey, s.s3.SecretKey)
	s.linef("")
	for _, try := range [][2]string{
		{"psql '" + s.postgres.DSN(sourceDatabase) + "'", "the table"},
		{"psql '" + s.postgres.DSN(controlDatabase) + "'", "the ledger, in schema archiver"},
		{"aws s3 ls --recursive s3://" + bucketName + "/", "the objects"},
		{"archiver cat " + s.contents.firstObject(), "the rows of one"},
		{"archiver plan", "adds nothing: all old rows are archived"},
	} {
		s.linef("%-72s # %s", try[0], try[1])
	}
	s.linef("")
	s.linef("Everything is in %s (PostgreSQL is process %d, S3 is process %d).", s.dir, s.postgres.Pid(), s.s3.Pid)
	<-ctx.Done()
	s.linef("")
	s.linef("Stopping the servers.")
}

func (s *story) whatIsLeft() string {
	if s.Dir != "" {
		return fmt.Sprintf("The servers are stopped; the files are in %s.", s.dir)
	}
	return "The servers are stopped and their files removed; nothing is left on this machine."
}
