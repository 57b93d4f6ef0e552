package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/localserver"
)

const (
	sourceDatabase  = "shop"
	controlDatabase = "archiver"
	ownerRole       = "shop" // of the audit table, as an application's role would
	archiverRole    = "archiver"
	bucketName      = "audit-archive"
	bucketPrefix    = "demo"
	retentionDays   = 365
)

// stage is what a demo starts and must remove again.
type stage struct {
	dir        string
	scratch    *localserver.Scratch // nil with a directory that the caller named
	postgres   *localserver.Postgres
	s3         *localserver.S3
	logs       []*os.File
	configFile string
	source     *pgx.Conn // as the superuser: the demo's own eyes
}

// open starts the servers. What it started is in s.stage also when it fails.
func (s *story) open(ctx context.Context) error {
	s.stage = &stage{}
	s.heading("Start the servers")
	// Before anything is created, look for both programs. Building the S3 server is
	// the one thing that may take a minute, and says so itself.
	bin, err := localserver.FindPostgres(s.PostgresBin)
	if err != nil {
		return &NoPostgresError{Err: err}
	}
	progress := &lines{show: func(line string) { s.linef("%s", line) }}
	s3Program, err := localserver.FindS3(ctx, progress)
	progress.Close()
	if err != nil {
		return err
	}
	if err := s.makeDir(s.Dir); err != nil {
		return err
	}
	if err := s.startPostgres(ctx, bin); err != nil {
		return err
	}
	if err := s.startS3(ctx, s3Program); err != nil {
		return err
	}
	return s.writeConfig()
}

func (s *stage) makeDir(named string) error {
	if named == "" {
		scratch, err := localserver.NewScratch("demo")
		if err != nil {
			return err
		}
		s.scratch, s.dir = scratch, scratch.Path()
		return nil
	}
	dir, err := filepath.Abs(named)
	if err != nil {
		return fmt.Errorf("use the directory %s: %w", named, err)
	}
	// The account that PostgreSQL runs under, if we are root, must pass through it.
	if err := os.MkdirAll(dir, 0o711); err != nil { //nolint:gosec // what lies in it sets its own permissions
		return fmt.Errorf("use the directory %s: %w", named, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("use the directory %s: %w", named, err)
	}
	if len(entries) > 0 {
		return &DirError{Dir: dir}
	}
	s.dir = dir
	return nil
}

// NoPostgresError says that PostgreSQL's server programs are not on this machine, or
// not where the caller said. Nothing was started.
type NoPostgresError struct{ Err error }

func (e *NoPostgresError) Error() string { return e.Err.Error() }
func (e *NoPostgresError) Unwrap() error { return e.Err }

// DirError says that Options.Dir holds something already.
type DirError struct{ Dir string }

func (e *DirError) Error() string {
	return fmt.Sprintf("the directory %s is not empty: nothing was started", e.Dir)
}

func (s *story) startPostgres(ctx context.Context, bin string) (err error) {
	began := time.Now()
	log, err := s.newLog("postgres.log")
	if err != nil {
		return err
	}
	s.postgres, err = localserver.StartPostgres(ctx, localserver.PostgresOptions{
		BinDir: bin, DataDir: filepath.Join(s.dir, "postgres"), Log: log,
		// Flattering times would be no use: this is how a real server writes.
		Settings: map[string]string{"fsync": "on", "max_wal_size": "2GB"},
	})
	if err != nil {
		return err
	}
	s.done(began, "PostgreSQL %s on 127.0.0.1:%d, from %s", s.postgres.Version, s.postgres.Port, bin)
	return nil
}

func (s *story) startS3(ctx context.Context, program string) (err error) {
	began := time.Now()
	log, err := s.newLog("s3.log")
	if err != nil {
		return err
	}
	data := filepath.Join(s.dir, "s3")
	if err := os.Mkdir(data, 0o700); err != nil {
		return fmt.Errorf("prepare the S3 server: %w", err)
	}
	s.s3, err = localserver.StartS3(ctx, localserver.S3Options{Binary: program, Dir: data, Log: log})
	if err != nil {
		return err
	}
	if err := s.s3.CreateBucket(ctx, bucketName, true); err != nil {
		return err
	}
	s.done(began, "S3 server on %s, bucket %s (versioned)", strings.TrimPrefix(s.s3.Endpoint, "http://"), bucketName)
	return nil
}

func (s *stage) newLog(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open a server's log: %w", err)
	}
	s.logs = append(s.logs, f)
	return f, nil
}

// writeConfig writes the configuration that the commands of the story read. A
// quoted Go string of plain ASCII is a quoted YAML string.
func (s *stage) writeConfig() error {
	spool := filepath.Join(s.dir, "spool")
	if err := os.Mkdir(spool, 0o700); err != nil {
		return fmt.Errorf("make the spool folder: %w", err)
	}
	s.configFile = filepath.Join(s.dir, "archiver.yaml")
	text := fmt.Sprintf(`control:
  url: %q
s3:
  bucket: %s
  prefix: %s
  region: us-east-1
  endpoint: %q
  access_key_id: %q
  secret_access_key: %q
databases:
  - name: %s
    url: %q
    tables:
      - name: public.audit_logs
        retention: %dd
worker:
  concurrency: 2
  spool_dir: %q
  shutdown_timeout: 10s
  listen: "" # two workers on one machine cannot share a port
ui: {enabled: false}
`, s.roleDSN(controlDatabase), bucketName, bucketPrefix, s.s3.Endpoint, s.s3.AccessKey, s.s3.SecretKey,
		sourceDatabase, s.roleDSN(sourceDatabase), retentionDays, spool)
	if err := os.WriteFile(s.configFile, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the demo's configuration: %w", err)
	}
	return nil
}

// roleDSN is the URL of a database for the archiver's own role.
func (s *stage) roleDSN(database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", archiverRole, s.postgres.Port, database)
}

// close stops the servers and removes their files. Nothing can be left out, so
// errors do not stop it.
func (s *stage) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var errs []error
	if s.source != nil {
		_ = s.source.Close(ctx) // the server ends with or without a goodbye
	}
	if s.postgres != nil {
		errs = append(errs, s.postgres.Stop())
	}
	if s.s3 != nil {
		errs = append(errs, s.s3.Stop())
	}
	for _, f := range s.logs {
		errs = append(errs, f.Close())
	}
	if s.scratch != nil {
		errs = append(errs, s.scratch.Remove())
	}
	return errors.Join(errs...)
}

// showLogs writes the last lines of each server's log.
func (s *stage) showLogs(w io.Writer) {
	const last = 10
	for _, f := range s.logs {
		text, err := os.ReadFile(f.Name())
		text = bytes.TrimSpace(text)
		if err != nil || len(text) == 0 {
			continue
		}
		all := strings.Split(string(text), "\n")
		fmt.Fprintf(w, "the last lines of %s:\n", filepath.Base(f.Name()))
		for _, line := range all[max(0, len(all)-last):] {
			fmt.Fprintf(w, "%s%s\n", indent, line)
		}
	}
}
