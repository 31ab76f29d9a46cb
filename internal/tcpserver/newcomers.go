package tcpserver

import "container/list"

// newcomers are the clients whose CONNECT has not been accepted yet. A client with the right
// password must find a place however many there are. So newcomers have a share of the connections,
// and one of them makes room when it is full. The server's mu guards them.
type newcomers struct {
	order list.List      // of *client, in order of arrival
	from  map[string]int // number of newcomers of each origin
}

const (
	// leastShare and mostShare bound the share of newcomers, which is half of MaxConnections. The
	// upper bound keeps the search for one that makes room short.
	leastShare, mostShare = 16, 1024

	// maxLeaving is the number of clients that may have made room and still be connected. Each has
	// a file descriptor, and 64 of those are kept free (see MaxConnections in the daemon).
	maxLeaving = 32
)

// share returns the number of newcomers that may be connected.
func share(connections int) int { return min(max(connections/2, leastShare), mostShare) }

func (n *newcomers) add(c *client) {
	c.place = n.order.PushBack(c)
	n.from[c.origin]++
}

// remove removes a client, if it is a newcomer.
func (n *newcomers) remove(c *client) {
	if c.place == nil {
		return
	}
	n.order.Remove(c.place)
	c.place = nil
	if n.from[c.origin]--; n.from[c.origin] == 0 {
		delete(n.from, c.origin)
	}
}

// yields returns the newcomer that makes room for c: the oldest silent one of an origin that has at
// least as many newcomers as the average. If ip is not empty, it must have that address. If all
// candidates are at work, one of them makes room, provided that its origin has more newcomers than
// c's. nil means that c is refused.
func (n *newcomers) yields(c *client, ip string) (oldest *client) {
	var busy *client
	for e := n.order.Front(); e != nil; e = e.Next() {
		other := e.Value.(*client)
		has := n.from[other.origin]
		switch {
		case ip != "" && other.ip != ip, ip == "" && has*len(n.from) < n.order.Len():
		case !other.working.Load() && !peerOf(other.conn).unread:
			return other
		case busy == nil && has > n.from[c.origin]+1:
			busy = other
		}
	}
	return busy
}
