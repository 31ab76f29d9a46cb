package tcpserver

// Cork and Uncork surround the delivery of a batch, in the goroutine that offers batches. As with
// TCP_CORK (tcp(7)), items that are delivered in between wait. Uncork writes them to idle clients,
// as far as their sockets take them at once, without starting the clients' writer goroutines. If
// there are many clients or many bytes, it starts those goroutines instead.

// corked holds the clients that wait for Uncork. Server.corking guards it.
type corked struct {
	on      bool
	clients []*client
}

const (
	// corkedClients is the number of clients to which Uncork writes by itself.
	corkedClients = 4
	// corkedBytes is the number of bytes that it writes to each of them.
	corkedBytes = 32 << 10
)

// Cork makes items that are delivered from now on wait for Uncork.
func (s *Server) Cork() {
	s.corking.Lock()
	s.corked.on = true
	s.corking.Unlock()
}

// wakeForItems ensures that items which are being queued are written, by Uncork or by the client's
// writer goroutine. The client's mu is held.
func (s *Server) wakeForItems(c *client) {
	if !c.idle {
		return
	}
	s.corking.Lock()
	defer s.corking.Unlock()
	if !s.corked.on {
		c.wakeWriter()
		return
	}
	c.getWriter()
	s.corked.clients = append(s.corked.clients, c)
}

// Uncork writes the items that were delivered since Cork.
func (s *Server) Uncork() {
	s.corking.Lock()
	s.corked.on = false
	clients := s.corked.clients
	s.corked.clients = s.spare
	s.corking.Unlock()

	for i, c := range clients {
		if clients[i] = nil; len(clients) <= corkedClients {
			c.writeNow()
		} else {
			s.wg.Add(1)
			go c.write()
		}
	}
	s.spare = clients[:0]
}
