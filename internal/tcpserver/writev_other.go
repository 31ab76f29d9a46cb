//go:build !linux

package tcpserver

import "syscall"

// writev writes the first of bufs, because unix.Writev exists on Linux only.
func writev(fd uintptr, bufs [][]byte) (int, error) { return syscall.Write(int(fd), bufs[0]) }
