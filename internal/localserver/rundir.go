package localserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// ownerLock is the file in a run directory on which its owner holds a lock.
const ownerLock = "owner.lock"

// runDir is a private temporary directory which goes when its owner is done with
// it, or after its owner's death at the next newRunDir of any owner.
type runDir struct {
	Path string
	lock *os.File
}

// newRunDir creates a run directory named after kind ("postgres"). Every account
// may pass through it; what lies in it sets its own permissions.
func newRunDir(kind string) (*runDir, error) {
	base, err := runBase()
	if err != nil {
		return nil, err
	}
	// The user is in the name so that nobody trips over another user's leftovers.
	prefix := "archiver-" + kind + "-" + strconv.Itoa(os.Geteuid()) + "-"
	sweep(filepath.Join(base, prefix+"*"))

	dir, err := os.MkdirTemp(base, prefix)
	if err != nil {
		return nil, fmt.Errorf("create a run directory: %w", err)
	}
	lock, err := takeOwnerLock(dir)
	if err == nil {
		err = os.Chmod(dir, 0o711) //nolint:gosec // the server's account must pass through it
	}
	if err != nil {
		_ = os.RemoveAll(dir) // it is empty and ours; the error below is what matters
		return nil, fmt.Errorf("create the run directory %s: %w", dir, err)
	}
	return &runDir{Path: dir, lock: lock}, nil
}

// takeOwnerLock creates the lock file under another name and renames it when the
// lock is held, so that no sweep ever sees it unlocked while its owner lives.
func takeOwnerLock(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "lock-")
	if err != nil {
		return nil, err
	}
	// Go opens files close-on-exec: no child inherits the lock and outlives us with it.
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, ownerLock)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Remove deletes the directory with all that is in it.
func (d *runDir) Remove() error {
	err := os.RemoveAll(d.Path)
	return errors.Join(err, d.lock.Close())
}

// sweep removes the run directories whose owners are dead. It is best effort: what
// it cannot look at or remove stays for the next sweep.
func sweep(pattern string) {
	dirs, err := filepath.Glob(pattern)
	if err != nil {
		return
	}
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || !ownedByUs(info) {
			continue
		}
		f, err := os.Open(filepath.Join(dir, ownerLock))
		if errors.Is(err, os.ErrNotExist) {
			// Being created right now, or its owner died just then.
			if time.Since(info.ModTime()) > time.Hour {
				_ = os.RemoveAll(dir)
			}
			continue
		}
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(dir)
		}
		_ = f.Close()
	}
}

func ownedByUs(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// runBase returns the first temporary directory that the server's account can
// reach. TMPDIR may lie in root's closed home.
func runBase() (string, error) {
	candidates := []string{os.TempDir(), "/tmp", "/var/tmp"}
	if os.Geteuid() != 0 {
		return candidates[0], nil
	}
	for _, dir := range candidates {
		if reachableByAll(dir) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("create a run directory: no other account can enter any of %v; set TMPDIR to one that all can enter", candidates)
}

// reachableByAll says whether every account may enter a directory.
func reachableByAll(dir string) bool {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}
