//go:build !linux

package edgedtest

import "syscall"

// attributes leave the new process in this process's group, so that Ctrl-C ends it too.
func attributes() *syscall.SysProcAttr { return nil }
