package tcpserver

// Hold and Flush stand around the offer of a batch, and belong to the goroutine
// that offers batches: what is delivered in between is written by Flush, to idle
// clients and as far as their sockets take it at once, without the client's own
// goroutine. Where it is for many, or much, that one is woken as ever.

// held are clients to be written to. Guarded by Server.holding.
type held struct {
	on      bool
	clients []*client
}

const (
	// promptClients is how many clients Flush writes to.
	promptClients = 4
	// promptBytes is how much it writes to each.
	promptBytes = 32 << 10
)

// Hold begins to hold back what is delivered.
func (s *Server) Hold() {
	s.holding.Lock()
	s.held.on = true
	s.holding.Unlock()
}

// wakeForItems lets somebody write items that are being queued: Flush, or the
// client's own goroutine. The client's mu is held.
func (s *Server) wakeForItems(c *client) {
	if !c.idle {
		return
	}
	s.holding.Lock()
	defer s.holding.Unlock()
	if !s.held.on {
		c.wakeWriter()
		return
	}
	c.hireWriter()
	s.held.clients = append(s.held.clients, c)
}

// Flush writes what was held back.
func (s *Server) Flush() {
	s.holding.Lock()
	s.held.on = false
	clients := s.held.clients
	s.held.clients = s.spare
	s.holding.Unlock()
	for i, c := range clients {
		if clients[i] = nil; len(clients) <= promptClients {
			c.writeNow()
		} else {
			s.wg.Add(1)
			go c.write()
		}
	}
	s.spare = clients[:0]
}
