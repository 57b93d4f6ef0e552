//go:build unix && !linux

package localserver

import (
	"os/exec"
	"strconv"
	"syscall"
)

// setDeathSignal has no counterpart here; see watchOwner.
func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}

// watchOwner starts a shell that waits for the end of a pipe which only the owner
// holds open, and then signals the child. Without a shell the child is stopped
// only by an owner that ends in order.
func watchOwner(pid int, sig syscall.Signal) (unwatch func()) {
	sh := exec.Command("/bin/sh", "-c", `read -r _; kill -"$1" "$2"`, "sh", //nolint:noctx // fixed program; it lives as long as the child
		strconv.Itoa(int(sig)), strconv.Itoa(pid))
	sh.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := sh.StdinPipe()
	if err != nil {
		return func() {}
	}
	if err := sh.Start(); err != nil {
		return func() {}
	}
	return func() {
		// First the shell, then its pipe: the child's number may be given to
		// another process by now.
		_ = sh.Process.Kill()
		_ = in.Close()
		_ = sh.Wait()
	}
}
