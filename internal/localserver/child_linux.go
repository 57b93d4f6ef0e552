package localserver

import "syscall"

// setDeathSignal asks the kernel to signal the child when its owner ends.
func setDeathSignal(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// watchOwner has nothing to do where the kernel watches.
func watchOwner(int, syscall.Signal) (unwatch func()) { return func() {} }
