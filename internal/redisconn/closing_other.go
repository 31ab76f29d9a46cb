//go:build !linux

package redisconn

import "net"

// onClose does nothing: the next use of the connection detects that it is closed.
func onClose(net.Conn, func()) (stop func()) { return func() {} }
