package tcpserver

import (
	"net"
	"net/netip"

	"edged/internal/auth"
)

// peer is the state of a connection's other side, as far as the kernel knows it.
type peer struct {
	gone   bool // it takes nothing more
	closed bool // it sends nothing more
	unread bool // bytes from it, or its end, have arrived and are not read
}

// peer returns the client as a peer that waits for its turn.
func (c *client) peer() auth.Peer {
	return auth.Peer{Origin: c.origin, Look: func() (gone, closed bool) {
		p := peerOf(c.conn)
		return p.gone || c.ended.Load(), p.closed
	}}
}

// originOf returns the origin of a connection's other side.
func originOf(conn net.Conn) string {
	var ip netip.Addr
	if addr, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		ip = addr.AddrPort().Addr()
	}
	return auth.Origin(ip)
}
