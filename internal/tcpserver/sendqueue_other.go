//go:build !linux

package tcpserver

import "net"

// sendQueue is known on Linux only.
func sendQueue(net.Conn) (n int, known bool) { return 0, false }
