//go:build !linux

package tcpserver

import "net"

// sendQueue is supported on Linux only.
func sendQueue(net.Conn) (n int, known bool) { return 0, false }
