package tcpserver

import (
	"net"
	"testing"
	"testing/synctest"

	"edged/internal/auth"
	"edged/internal/password"
)

// expectYield waits until a client has made room, the last one of want.
func expectYield(t *testing.T, s *Server, c *conn, want uint64) {
	t.Helper()
	c.expectEnd()
	eventually(t, "it is counted", func() bool { return s.Stats().Yielded == want })
}

// withToken serves clients that know the token "t".
func withToken(t *testing.T, change func(*Options)) (*Server, string) {
	opts := testOptions()
	opts.MaxConnections = 2 * leastShare
	opts.Gate = gated(auth.Security{Token: "t"})
	if change != nil {
		change(&opts)
	}
	return serve(t, opts)
}

const asT = `{"auth_token":"t"}`

func TestSilentClientsKeepNoOtherOut(t *testing.T) {
	t.Parallel()
	s, addr := withToken(t, nil)
	in := dialWith(t, addr, asT)
	var silent []*conn
	for range leastShare {
		silent = append(silent, dialRaw(t, addr))
	}
	silent[1].send("CONNECT {") // half a command is not enough

	dialWith(t, addr, asT)
	expectYield(t, s, silent[0], 1)
	dialWith(t, addr, asT) // takes no room while another newcomer is leaving
	dialRaw(t, addr)
	dialRaw(t, addr)
	expectYield(t, s, silent[1], 2)

	in.sync()
	if got := introduced(silent[leastShare-1], asT); got != "PONG" {
		t.Errorf("the youngest is answered %q, want PONG", got)
	}
	if st := s.Stats(); st.Refused != 0 {
		t.Errorf("%d were refused, want none", st.Refused)
	}
}

func TestSilentClientMakesRoomWhenConnectionsAreFull(t *testing.T) {
	t.Parallel()
	s, addr := withToken(t, func(o *Options) { o.MaxConnections = 4 })
	var in []*conn
	for range 3 {
		in = append(in, dialWith(t, addr, asT))
	}
	silent := dialRaw(t, addr)
	in = append(in, dialWith(t, addr, asT))
	expectYield(t, s, silent, 1)

	over := dialRaw(t, addr)
	over.expect("-ERR 'maximum connections exceeded'")
	over.expectEnd()
	for _, c := range in {
		c.sync()
	}
	if st := s.Stats(); st.Clients != 4 || st.Refused != 1 {
		t.Errorf("stats are %+v, want 4 clients and 1 refused", st)
	}
}

func TestSilentClientMakesRoomForItsOwnAddress(t *testing.T) {
	t.Parallel()
	s, addr := withToken(t, func(o *Options) { o.MaxPerAddress = 2 })
	other := dialFrom(t, addr, 2)
	silent := dialFrom(t, addr, 1)
	dialFrom(t, addr, 1)
	c := dialFrom(t, addr, 1)
	expectYield(t, s, silent, 1)
	for _, c := range []*conn{other, c} {
		if got := introduced(c, asT); got != "PONG" {
			t.Errorf("a client is answered %q, want PONG", got)
		}
	}
}

func TestAddressWithManySilentClientsMakesRoomFirst(t *testing.T) {
	t.Parallel()
	s, addr := withToken(t, nil)
	slow := dialFrom(t, addr, 2) // the oldest
	var silent []*conn
	for range leastShare - 1 {
		silent = append(silent, dialFrom(t, addr, 1))
	}
	for i := range 5 {
		dialFrom(t, addr, 1)
		expectYield(t, s, silent[i], uint64(i+1))
	}
	if got := introduced(slow, asT); got != "PONG" {
		t.Errorf("the only client of its address is answered %q, want PONG", got)
	}
}

func TestClientThatWaitsForEdgedMakesNoRoom(t *testing.T) {
	t.Parallel()
	c := newComparison()
	s, addr := withToken(t, func(o *Options) {
		sec := auth.Security{Token: auth.Secret(password.Decoy(4))}
		o.Gate = auth.New(auth.Options{Security: sec, Compare: c.compare})
	})

	t.Cleanup(func() { c.open(1) })
	busy := dialRaw(t, addr)
	busy.send("CONNECT {\"auth_token\":\"right\"}\r\nPING\r\n")
	<-c.began
	var silent []*conn
	for range leastShare {
		silent = append(silent, dialRaw(t, addr))
	}
	expectYield(t, s, silent[0], 1)
	c.open(1)
	busy.expect("PONG")
}

func TestClientsWhoseConnectionEndsAreNoNewcomers(t *testing.T) {
	t.Parallel()
	s := New(testOptions())
	clients, _ := newcomersOf(t, s, 1, 1)
	clients[0].end(endClosed)
	if got := s.newcomers.order.Len(); got != 1 {
		t.Errorf("there are %d newcomers, want 1", got)
	}
}

// newcomersOf makes clients without readers, one for each address.
func newcomersOf(t *testing.T, s *Server, addresses ...byte) (clients []*client, peers []net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { ln.Close() })
	for _, last := range addresses {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, last)}}
		peer, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { peer.Close() })
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		s.lastID++
		c := newClient(s, s.lastID, conn)
		s.newcomers.add(c)
		clients, peers = append(clients, c), append(peers, peer)
	}

	return clients, peers
}

func TestClientWithBytesThatAreNotReadYetMakesNoRoom(t *testing.T) {
	t.Parallel()
	s := New(testOptions())
	clients, peers := newcomersOf(t, s, 1, 1, 1)
	peers[0].Write([]byte("CONNECT {}\r\n"))
	eventually(t, "the bytes have come", func() bool { return peerOf(clients[0].conn).unread })
	if got := s.newcomers.yields(clients[2], ""); got != clients[1] {
		t.Errorf("the client that makes room is %v, want the second", got)
	}
}

func TestClientsThatAllWaitMakeRoomForOtherAddressesOnly(t *testing.T) {
	t.Parallel()
	s := New(testOptions())
	clients, _ := newcomersOf(t, s, 1, 1, 1, 2)
	for _, c := range clients[:3] {
		c.working.Store(true)
	}
	if got := s.newcomers.yields(clients[0], ""); got != nil {
		t.Errorf("client %d makes room for one of the same address", got.id)
	}
	if got := s.newcomers.yields(clients[3], ""); got != clients[0] {
		t.Errorf("the client that makes room for another address is %v, want the first", got)
	}
}

// Clients that are cut off but still connected take file descriptors.
func TestFewClientsMakeRoomAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(testOptions())
		for range maxLeaving {
			if !s.awaitLeaving() {
				t.Fatal("too few can make room")
			}
		}

		if s.awaitLeaving() {
			t.Error("one more can make room")
		}
		waiting := make(chan bool)
		go func() { waiting <- s.awaitLeaving() }()
		synctest.Wait()
		<-s.leaving // one is gone
		if !<-waiting {
			t.Error("none can make room when one is gone")
		}
	})
}

func TestConnectionIsRefusedWhenNoClientCanMakeRoom(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.MaxConnections = 1
	s := New(opts)
	clients, _ := newcomersOf(t, s, 1)
	s.clients[clients[0].id] = clients[0]
	if yields, limit := s.room(clients[0], true); yields == nil || limit != "" {
		t.Errorf("none makes room: %q", limit)
	}
	if yields, limit := s.room(clients[0], false); yields != nil || limit != "max_connections" {
		t.Errorf("one more makes room, or the limit is %q", limit)
	}
}
