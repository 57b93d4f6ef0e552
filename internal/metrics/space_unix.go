//go:build linux || darwin || freebsd

package metrics

import (
	"os"
	"syscall"
)

// space is how much a file system has left for this user, and its size.
func space(dir string) (free, size float64, ok bool) {
	if dir == "" {
		dir = os.TempDir()
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0, false
	}
	block := float64(s.Bsize)
	return float64(s.Bavail) * block, float64(s.Blocks) * block, true
}
