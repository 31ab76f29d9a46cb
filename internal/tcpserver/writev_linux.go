package tcpserver

import "golang.org/x/sys/unix"

// writev writes bufs in one system call.
func writev(fd uintptr, bufs [][]byte) (int, error) { return unix.Writev(int(fd), bufs) }
