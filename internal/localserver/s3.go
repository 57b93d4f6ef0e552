package localserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// s3StartLimit bounds how long a server may take until it answers; it needs
// less than 0.1 s on an idle machine.
const s3StartLimit = 30 * time.Second

// S3Options says how to start an S3 server. The zero value is a server with
// throw-away data, on a free port, with credentials of its own.
type S3Options struct {
	Dir       string    // root of the data; "" means a run directory, removed by Stop
	Binary    string    // the s3dev program; "" means look for it, see FindS3
	Listen    string    // address; "" means 127.0.0.1 and a free port
	Log       io.Writer // gets what the server and a build of it say; nil discards it
	AccessKey string    // "" means generated
	SecretKey string    // "" means generated
}

// S3 is a running S3 server. It speaks path-style addressing, in region
// us-east-1, over plain HTTP.
type S3 struct {
	Endpoint  string // such as http://127.0.0.1:40123
	AccessKey string
	SecretKey string
	Dir       string
	Pid       int

	stop func() error
}

// StartS3 starts a server and returns once it answers requests. Without a
// program for it the error is a *NotFoundError; when the source tree is at hand,
// the program is built first (see BuildS3). The server ends with Stop, or when
// this process ends in whatever way. ctx bounds the start only.
func StartS3(ctx context.Context, o S3Options) (*S3, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, buildLimit+s3StartLimit, errors.New("the S3 server took too long to start"))
	defer cancel()

	binary := o.Binary
	if binary == "" {
		var err error
		if binary, err = FindS3(ctx, o.Log); err != nil {
			return nil, err
		}
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.AccessKey == "" {
		o.AccessKey = rand.Text()
	}
	if o.SecretKey == "" {
		o.SecretKey = rand.Text()
	}
	if o.Dir != "" {
		dir, err := filepath.Abs(o.Dir)
		if err != nil {
			return nil, fmt.Errorf("start S3 server: %w", err)
		}
		o.Dir = dir
		return startS3In(ctx, binary, o)
	}
	run, err := newRunDir("s3")
	if err != nil {
		return nil, err
	}
	o.Dir = run.Path
	server, err := startS3In(ctx, binary, o)
	if err != nil {
		return nil, errors.Join(err, run.Remove())
	}
	stop := server.stop
	server.stop = func() error { return errors.Join(stop(), run.Remove()) }
	return server, nil
}

// startS3In starts binary with o, in which nothing is left to be chosen.
func startS3In(ctx context.Context, binary string, o S3Options) (*S3, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s3StartLimit, errors.New("the S3 server did not answer in time"))
	defer cancel()
	ready, stderr := newFirstLine(), &tail{next: o.Log}
	c, err := startChild(childOptions{
		Path: binary,
		Args: []string{"--listen", o.Listen, "--data", o.Dir, "--exit-on-stdin-close"},
		Env:  append(os.Environ(), "S3DEV_ACCESS_KEY="+o.AccessKey, "S3DEV_SECRET_KEY="+o.SecretKey),
		Dir:  "/", Stdin: true, DeathSignal: syscall.SIGKILL,
		Stdout: ready, Stderr: stderr,
	})
	if err != nil {
		return nil, err
	}
	select {
	case line := <-ready.line:
		var said struct {
			Endpoint string `json:"endpoint"`
		}
		if err := json.Unmarshal(line, &said); err != nil || said.Endpoint == "" {
			return nil, errors.Join(fmt.Errorf("start S3 server %s: not an s3dev program: it said %.200q", binary, line), c.stop(syscall.SIGTERM))
		}
		return &S3{
			Endpoint: said.Endpoint, AccessKey: o.AccessKey, SecretKey: o.SecretKey, Dir: o.Dir, Pid: c.pid(),
			stop: func() error { return c.stop(syscall.SIGTERM) },
		}, nil
	case <-c.done:
		return nil, fmt.Errorf("start S3 server %s: it ended at once: %w: %s", binary, endedAs(c.err), stderr)
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("start S3 server %s: %w: %s", binary, context.Cause(ctx), stderr), c.stop(syscall.SIGKILL))
	}
}

// endedAs is how a process ended, which was too early even when it was in order.
func endedAs(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// Stop ends the server and removes its data when StartS3 chose their place. A
// second call does nothing.
func (s *S3) Stop() error {
	stop := s.stop
	s.stop = func() error { return nil }
	return stop()
}

// CreateBucket makes a bucket. One that this server has already is kept.
func (s *S3) CreateBucket(ctx context.Context, name string, versioned bool) error {
	client := s3.New(s3.Options{
		Region:       "us-east-1",
		BaseEndpoint: aws.String(s.Endpoint),
		UsePathStyle: true,
		Credentials:  credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey, ""),
	})
	_, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(name)})
	if mine := (*types.BucketAlreadyOwnedByYou)(nil); err != nil && !errors.As(err, &mine) {
		return fmt.Errorf("create bucket %s: %w", name, err)
	}
	if !versioned {
		return nil
	}
	if _, err := client.PutBucketVersioning(ctx, &s3.PutBucketVersioningInput{
		Bucket:                  aws.String(name),
		VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
	}); err != nil {
		return fmt.Errorf("turn versioning on for bucket %s: %w", name, err)
	}
	return nil
}

// ObjectPath is the file that holds the newest version of an object, for tests
// that damage it.
func (s *S3) ObjectPath(bucket, key string) string {
	return filepath.Join(s.Dir, "buckets", bucket, filepath.FromSlash(key))
}

// firstLine is a writer that hands on the first line written to it and drops
// the rest.
type firstLine struct {
	line chan []byte // gets one line
	mu   sync.Mutex
	seen []byte
	done bool
}

func newFirstLine() *firstLine { return &firstLine{line: make(chan []byte, 1)} }

func (f *firstLine) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return len(p), nil
	}
	f.seen = append(f.seen, p...)
	if line, _, complete := bytes.Cut(f.seen, []byte("\n")); complete {
		f.line <- line
		f.done = true
	}
	return len(p), nil
}
