package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
	"github.com/versity/versitygw/s3api"
)

// bindAttempts bounds how often a free port is looked for again after another
// process took it between our choosing it and the gateway's binding it.
const bindAttempts = 5

// stopGrace is how long requests that are being served may take to end.
const stopGrace = 500 * time.Millisecond

// options is the command line together with the credentials.
type options struct {
	listen           string
	data             string
	buckets          bucketList
	versioned        bool
	exitOnStdinClose bool
	accessKey        string
	secretKey        string
}

func main() {
	// The gateway's packages print to os.Stdout, which belongs to the one line
	// that a parent reads; they are given standard error instead.
	ready := os.Stdout
	os.Stdout = os.Stderr
	if err := run(ready, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "s3dev: "+err.Error())
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func run(ready io.Writer, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if o.exitOnStdinClose {
		go func() {
			// Any end of the pipe, clean or not, means that the parent is gone.
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop()
		}()
	}
	served := make(chan error, 1)
	go func() { served <- listenAndServe(ctx, o, ready) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	// The gateway waits ten seconds for clients to close their idle connections,
	// which they keep for reuse.
	select {
	case err := <-served:
		return err
	case <-time.After(stopGrace):
		return nil
	}
}

func parse(args []string) (options, error) {
	o := options{accessKey: os.Getenv("S3DEV_ACCESS_KEY"), secretKey: os.Getenv("S3DEV_SECRET_KEY")}
	flags := flag.NewFlagSet("s3dev", flag.ContinueOnError)
	flags.StringVar(&o.listen, "listen", "127.0.0.1:0", "`address` to serve on; port 0 picks a free one")
	flags.StringVar(&o.data, "data", "", "`folder` of the objects, made when it is missing (required)")
	flags.Var(&o.buckets, "bucket", "`name` of a bucket to have from the start; may be repeated")
	flags.BoolVar(&o.versioned, "versioned", false, "turn versioning on for the buckets of --bucket")
	flags.BoolVar(&o.exitOnStdinClose, "exit-on-stdin-close", false, "end when standard input is closed")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.data == "":
		return o, errors.New("--data is required")
	case o.accessKey == "" || o.secretKey == "":
		return o, errors.New("S3DEV_ACCESS_KEY and S3DEV_SECRET_KEY are required in the environment")
	}
	// The gateway changes the working directory, after which a relative path
	// would mean another folder.
	data, err := filepath.Abs(o.data)
	o.data = data
	return o, err
}

// listenAndServe serves until ctx ends. With port 0 it tries another port when
// the chosen one was taken in between.
func listenAndServe(ctx context.Context, o options, ready io.Writer) error {
	host, port, err := net.SplitHostPort(o.listen)
	if err != nil {
		return fmt.Errorf("--listen %q: %w", o.listen, err)
	}
	if port != "0" {
		return serve(ctx, o, o.listen, ready)
	}
	for range bindAttempts {
		address, err := freeAddress(ctx, host)
		if err != nil {
			return err
		}
		if err := serve(ctx, o, address, ready); !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
	}
	return fmt.Errorf("no free port on %s after %d attempts", host, bindAttempts)
}

// freeAddress asks the system for a port that nobody uses at this moment.
func freeAddress(ctx context.Context, host string) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", fmt.Errorf("find a free port on %s: %w", host, err)
	}
	return l.Addr().String(), l.Close()
}

// serve runs one gateway on address until ctx ends.
func serve(ctx context.Context, o options, address string, ready io.Writer) error {
	backend, err := newBackend(o.data)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	announce := func() {
		// In a goroutine: the gateway accepts connections only after this returns.
		go func() {
			if err := announceReady(ctx, o, "http://"+address, ready); err != nil {
				cancel(err)
			}
		}()
	}
	err = embedgw.RunVersityGW(ctx, backend, &embedgw.Config{
		RootUserAccess:    o.accessKey,
		RootUserSecret:    o.secretKey,
		Ports:             []string{address},
		MaxConnections:    4096,
		MaxRequests:       2048,
		MultipartMaxParts: 10_000,
		KeepAlive:         true,
		Quiet:             true,
		S3Options:         []s3api.Option{s3api.WithOnListen(announce)},
	})
	if err == nil && !errors.Is(context.Cause(ctx), context.Canceled) {
		err = context.Cause(ctx)
	}
	return err
}

// newBackend opens the folder tree: objects in buckets/, older versions in
// versions/ and, where the file system keeps no extended attributes, metadata
// in meta/.
func newBackend(data string) (*posix.Posix, error) {
	buckets, versions, sidecar := filepath.Join(data, "buckets"), filepath.Join(data, "versions"), filepath.Join(data, "meta")
	for _, dir := range []string{buckets, versions} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	o := posix.PosixOpts{VersioningDir: versions}
	var store meta.MetadataStorer = meta.XattrMeta{}
	if err := (meta.XattrMeta{}).Test(buckets); err != nil {
		if err := os.MkdirAll(sidecar, 0o700); err != nil {
			return nil, err
		}
		if store, err = meta.NewSideCar(sidecar); err != nil {
			return nil, fmt.Errorf("metadata folder: %w", err)
		}
		o.SideCarDir = sidecar
	}
	backend, err := posix.New(buckets, store, o)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", buckets, err)
	}
	return backend, nil
}

// announceReady makes the wanted buckets and then tells the parent where the
// server is.
func announceReady(ctx context.Context, o options, endpoint string, ready io.Writer) error {
	if err := makeBuckets(ctx, o, endpoint); err != nil {
		return err
	}
	return json.NewEncoder(ready).Encode(struct {
		Endpoint string `json:"endpoint"`
	}{endpoint})
}
