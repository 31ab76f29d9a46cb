package tcpserver

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edged/internal/auth"
	"edged/internal/password"
)

// comparison blocks password comparisons until the test releases them. Only "right" is the right
// password.
type comparison struct {
	began chan string   // the passwords, as their comparisons begin
	goOn  chan struct{} // one for each comparison
}

func newComparison() *comparison {
	return &comparison{began: make(chan string, 1000), goOn: make(chan struct{}, 1000)}
}

func (g *comparison) compare(_, given string) bool {
	g.began <- given
	<-g.goOn
	return given == "right"
}

// open lets n comparisons go on.
func (g *comparison) open(n int) {
	for range n {
		g.goOn <- struct{}{}
	}
}

// order lets all comparisons go on, and returns the passwords of the next n.
func (g *comparison) order(n int) (all []string) {
	g.open(n + 1)
	for range n {
		all = append(all, <-g.began)
	}
	return all
}

// withComparison serves the user "ann", whose password is a hash. The comparison of a first client
// has begun.
func withComparison(t *testing.T) (*Server, string, *comparison) {
	opts, g := testOptions(), newComparison()
	sec := auth.Security{Users: []auth.User{{Name: "ann", Password: auth.Secret(password.Decoy(4))}}}
	opts.MaxConnections = 1000
	opts.Gate = auth.New(auth.Options{Security: sec, Compare: g.compare})
	s, addr := serve(t, opts)
	t.Cleanup(func() { g.open(500) }) // before the server is closed, which waits for clients
	login(dialRaw(t, addr), "first")
	if got := <-g.began; got != "first" {
		t.Fatalf("the comparison of %q began, want first", got)
	}
	return s, addr, g
}

func login(c *conn, pass string) { c.send(`CONNECT {"user":"ann","pass":"` + pass + "\"}\r\nPING\r\n") }

// waits waits until n clients wait for their password's comparison.
func waits(t *testing.T, s *Server, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " clients wait"), func() bool { return s.opts.Gate.Hashing() == n })
}

// peersAre waits until cond holds for all clients after the first.
func peersAre(t *testing.T, s *Server, cond func(peer) bool) {
	t.Helper()
	eventually(t, "the kernel knows of the clients' ends", func() bool {
		return !slices.ContainsFunc(s.snapshot()[1:], func(c *client) bool { return !cond(peerOf(c.conn)) })
	})
}

// dialFrom connects from an address of this host, and reads INFO.
func dialFrom(t *testing.T, addr string, last byte) *conn {
	t.Helper()
	return dialBy(t, &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, last)}}, addr)
}

func TestPasswordsOfClientsThatAreGoneAreNotCompared(t *testing.T) {
	t.Parallel()
	s, addr, g := withComparison(t)
	const gone = 200 // more than can wait
	for i := range gone {
		c := dialRaw(t, addr)
		login(c, "wrong")
		eventually(t, "it waits, or other clients have left", func() bool { return s.waitedFor() > uint64(i) })
		c.Conn.(*net.TCPConn).SetLinger(0)
		c.Close()
		peersAre(t, s, func(p peer) bool { return p.gone })
	}

	c := dialRaw(t, addr)
	login(c, "right")
	eventually(t, "it waits too", func() bool { return s.waitedFor() == gone+1 })
	if got := g.order(1); got[0] != "right" {
		t.Errorf("the password %q was compared", got[0])
	}
	c.expect("PONG")
	eventually(t, "the rest is counted", func() bool { return s.Stats().Abandoned == gone })
	if st := s.Stats(); st.Crowded != 0 || st.AuthFailures != 1 {
		t.Errorf("%d were refused as too many and %d for their password, want 0 and 1", st.Crowded, st.AuthFailures)
	}
}

// waitedFor returns how many clients have begun to wait. It is lower while one of them leaves.
func (s *Server) waitedFor() uint64 {
	waiting := s.opts.Gate.Hashing()
	st := s.Stats()
	return uint64(waiting) + st.Abandoned + st.Crowded
}

// A client may close its sending side and wait for the answer, as socat does at the end of its
// input. Until edged sends, it cannot be told from a client that is gone.
func TestClientsThatHaveClosedTheirSendingSideComeLast(t *testing.T) {
	t.Parallel()
	s, addr, g := withComparison(t)
	var last *conn
	for i := range 3 {
		last = dialRaw(t, addr)
		login(last, []string{"wrong", "wrong", "right"}[i])
		last.Conn.(*net.TCPConn).CloseWrite()
		waits(t, s, i+1)
	}

	peersAre(t, s, func(p peer) bool { return p.closed && !p.gone })
	c := dialRaw(t, addr)
	login(c, "right")
	waits(t, s, 4)
	if got := g.order(4); !slices.Equal(got, []string{"right", "wrong", "wrong", "right"}) {
		t.Errorf("passwords were compared in the order %q", got)
	}

	c.expect("PONG")
	last.expect("PONG")
	last.expectEnd()
}

func TestPasswordsAreComparedInTurnsByAddress(t *testing.T) {
	t.Parallel()
	s, addr, g := withComparison(t)
	for i, from := range []byte{1, 1, 1, 1, 2, 2, 3} {
		login(dialFrom(t, addr, from), fmt.Sprint("from ", from))
		waits(t, s, i+1)
	}
	want := []string{"from 1", "from 2", "from 3", "from 1", "from 2", "from 1", "from 1"}
	if got := g.order(7); !slices.Equal(got, want) {
		t.Errorf("passwords were compared in the order %q, want %q", got, want)
	}
}

func TestQueueOfPasswordsIsBounded(t *testing.T) {
	t.Parallel()
	s, addr, g := withComparison(t)
	const most = 64
	var all []*conn
	for i := range most {
		all = append(all, dialFrom(t, addr, 1))
		login(all[i], "wrong")
		waits(t, s, i+1)
	}

	crowded := dialFrom(t, addr, 1)
	login(crowded, "right")
	crowded.expect("-ERR 'maximum connections exceeded'")
	crowded.expectEnd()
	other := dialFrom(t, addr, 2)
	login(other, "right")
	all[most-1].expect("-ERR 'maximum connections exceeded'") // the last of the address with the most
	if st := s.Stats(); st.Crowded != 2 {
		t.Errorf("%d were counted, want 2", st.Crowded)
	}
	g.open(3)
	other.expect("PONG")
}

func TestTimeForThePasswordCountsFromAccept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts, g := testOptions(), newComparison()
		sec := auth.Security{Token: auth.Secret(password.Decoy(4))}
		opts.ConnectTimeout = 3 * time.Second
		opts.Gate = auth.New(auth.Options{Security: sec, Compare: g.compare})
		s, ln := servePipes(t, opts)
		first := ln.dial(t)
		first.send("CONNECT {\"auth_token\":\"right\"}\r\nPING\r\n")
		<-g.began
		passed := sinceStart()
		c := ln.dial(t)
		time.Sleep(2 * time.Second)
		c.send("CONNECT {\"auth_token\":\"right\"}\r\n")
		c.expect("-ERR 'Authentication Timeout'")
		if got := passed(); got != opts.ConnectTimeout {
			t.Errorf("it was refused after %v, want %v", got, opts.ConnectTimeout)
		}
		c.expectEnd()
		if st := s.Stats(); st.ConnectTimeouts != 1 {
			t.Errorf("%d were counted, want 1", st.ConnectTimeouts)
		}

		g.open(1) // the first one's time is over as well, although its password is right
		first.expect("PONG")
		time.Sleep(time.Minute) // a later CONNECT has a time of its own, even if it has to wait
		ln.dial(t).send("CONNECT {\"auth_token\":\"right\"}\r\n")
		<-g.began
		first.expect("PING")
		first.send("PONG\r\nCONNECT {\"auth_token\":\"right\"}\r\nPING\r\n")
		synctest.Wait()
		g.open(2)
		first.expect("PONG")
	})
}

func TestClosingComparesNoMorePasswords(t *testing.T) {
	t.Parallel()
	s, addr, g := withComparison(t)
	for i := range 10 {
		login(dialRaw(t, addr), "right")
		waits(t, s, i+1)
	}

	var closing sync.WaitGroup
	closing.Go(s.Close)
	eventually(t, "all clients have ended", func() bool {
		return !slices.ContainsFunc(s.snapshot(), func(c *client) bool { return !c.ended.Load() })
	})
	g.open(1)
	closing.Wait()
	if len(g.began) > 0 {
		t.Errorf("%d more passwords were compared", len(g.began))
	}
}

type remote struct {
	net.Conn
	addr net.Addr
}

func (r remote) RemoteAddr() net.Addr { return r.addr }

func TestOriginOfAClient(t *testing.T) {
	for ip, want := range map[string]string{"192.0.2.7": "192.0.2.7", "2001:db8:1:2:3::4": "2001:db8:1:2::/64"} {
		if got := originOf(remote{addr: &net.TCPAddr{IP: net.ParseIP(ip)}}); got != want {
			t.Errorf("the origin of %s is %q, want %q", ip, got, want)
		}
	}
	if got := originOf(remote{addr: &net.UnixAddr{}}); got != "" {
		t.Errorf("the origin without an IP address is %q, want none", got)
	}
}
