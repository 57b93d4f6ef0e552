package localserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// s3BinaryEnv names the variable that says where the s3dev program is.
	s3BinaryEnv = "ARCHIVER_S3DEV"
	// s3BinaryName is the program's name beside the archiver and on PATH.
	s3BinaryName = "archiver-s3dev"
	// mainModule is the line of go.mod by which the source tree is known.
	mainModule = "module github.com/audit-table-archiver/archiver"
	// buildLimit bounds a build of the server, which takes about a minute on two
	// cores when nothing is cached, and more while others build too.
	buildLimit = 10 * time.Minute
)

// FindS3 returns the s3dev program: the one that ARCHIVER_S3DEV names, then
// archiver-s3dev beside the running program, then on PATH, then one that was
// built before, and at last a new build from the source tree around the working
// directory. Without any of these the error is a *NotFoundError.
func FindS3(ctx context.Context, log io.Writer) (string, error) {
	if named := os.Getenv(s3BinaryEnv); named != "" {
		if !executable(named) {
			return "", fmt.Errorf("find the S3 server: %s=%s is not a program", s3BinaryEnv, named)
		}
		return filepath.Abs(named)
	}
	searched := []string{"$" + s3BinaryEnv}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), s3BinaryName)
		if executable(beside) {
			return beside, nil
		}
		searched = append(searched, beside)
	}
	if found, err := exec.LookPath(s3BinaryName); err == nil {
		return filepath.Abs(found)
	}
	searched = append(searched, s3BinaryName+" on PATH")

	source, err := s3Source()
	if err == nil {
		return buildS3From(ctx, source, log)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("find the S3 server: %w", err)
	}
	// Without its source no build can be told from another: the newest will do.
	if cache, err := s3Cache(); err == nil {
		if newest := newestBuild(cache); newest != "" {
			return newest, nil
		}
		searched = append(searched, filepath.Join(cache, "s3dev-*"))
	}
	return "", &NotFoundError{
		What:     "the local S3 server (s3dev)",
		Searched: append(searched, "the source tree around the working directory"),
		Hint:     "run this inside a checkout of the archiver with go on PATH, which builds it, or name the program in " + s3BinaryEnv,
	}
}

// BuildS3 builds the s3dev program from the source tree around the working
// directory into the user's cache directory and returns its path; a build of
// the same source is used again. It says on log what it does, since a first
// build takes about a minute. Several processes may call it at once: one builds
// and the others wait for it.
func BuildS3(ctx context.Context, log io.Writer) (string, error) {
	source, err := s3Source()
	if err != nil {
		return "", fmt.Errorf("build the S3 server: %w", err)
	}
	return buildS3From(ctx, source, log)
}

func buildS3From(ctx context.Context, source string, log io.Writer) (string, error) {
	if log == nil {
		log = io.Discard
	}
	ctx, cancel := context.WithTimeoutCause(ctx, buildLimit, fmt.Errorf("building took more than %s", buildLimit))
	defer cancel()
	target, err := s3BuildTarget(source)
	if err != nil {
		return "", fmt.Errorf("build the S3 server: %w", err)
	}
	if executable(target) {
		return target, nil
	}
	unlock, err := lockFile(ctx, target+".lock")
	if err != nil {
		return "", fmt.Errorf("build the S3 server: %w", err)
	}
	defer unlock()
	if executable(target) { // built while we waited for the lock
		return target, nil
	}
	fmt.Fprintf(log, "building the local S3 server from %s (once, about a minute)\n", source)
	start := time.Now()
	// Into a name of its own and then renamed: a build that is killed leaves
	// nothing that looks like a program.
	unfinished := fmt.Sprintf("%s.tmp%d", target, os.Getpid())
	defer os.Remove(unfinished) //nolint:errcheck // after the rename it is gone; a leftover is only space
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", unfinished, ".")
	cmd.Dir = source
	// No C compiler is needed, and a workspace file would not know this module.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return "", fmt.Errorf("build the S3 server in %s: %w: %s", source, err, bytes.TrimSpace(output.Bytes()))
	}
	if err := os.Rename(unfinished, target); err != nil {
		return "", fmt.Errorf("build the S3 server: %w", err)
	}
	fmt.Fprintf(log, "built %s in %s\n", target, time.Since(start).Round(time.Second))
	return target, nil
}

// s3Source is the folder of the server's source, in the first directory at or
// above the working directory that is our module. The error wraps os.ErrNotExist
// when there is none.
func s3Source() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if first, _, _ := strings.Cut(string(mod), "\n"); err == nil && strings.TrimSpace(first) == mainModule {
			source := filepath.Join(dir, "tools", "s3dev")
			_, err := os.Stat(filepath.Join(source, "go.mod"))
			return source, err
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("the archiver's source tree: %w", os.ErrNotExist)
		}
		dir = parent
	}
}

// s3BuildTarget names the program after its source, so that a change of the
// source is a new program and an old one is never taken for it.
func s3BuildTarget(source string) (string, error) {
	cache, err := s3Cache()
	if err != nil {
		return "", err
	}
	names, err := filepath.Glob(filepath.Join(source, "*.go"))
	if err != nil {
		return "", err
	}
	names = append(names, filepath.Join(source, "go.mod"), filepath.Join(source, "go.sum"))
	slices.Sort(names)
	sum := sha256.New()
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n", filepath.Base(name), len(content))
		sum.Write(content)
	}
	if err := os.MkdirAll(cache, 0o750); err != nil {
		return "", err
	}
	return filepath.Join(cache, "s3dev-"+hex.EncodeToString(sum.Sum(nil)[:8])), nil
}

// s3Cache is the folder that keeps built servers.
func s3Cache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "archiver"), nil
}

// newestBuild is the program in the cache that was built last, or "".
func newestBuild(cache string) string {
	var newest string
	var at time.Time
	found, _ := filepath.Glob(filepath.Join(cache, "s3dev-*")) // the pattern is valid, and no folder means no match
	for _, name := range found {
		info, err := os.Stat(name)
		// Locks and unfinished builds have a dot in their names.
		if err != nil || filepath.Ext(name) != "" || !executable(name) || info.ModTime().Before(at) {
			continue
		}
		newest, at = name, info.ModTime()
	}
	return newest
}

// lockFile takes the exclusive lock on a file that the kernel drops with this
// process, waiting for another holder until ctx ends.
func lockFile(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // which drops the lock
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s, held by another build: %w", name, context.Cause(ctx)), f.Close())
		}
	}
}

// executable says whether name is a regular file that may be run.
func executable(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}
