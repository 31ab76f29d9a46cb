package tcpserver

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"testing"

	"edged/internal/auth"
)

// stepGate blocks steps of TLS handshakes until the test releases them.
type stepGate struct {
	began chan struct{} // one for each step that has begun
	goOn  chan struct{} // one for each step
}

// withStepGate serves TLS, and stops at each ClientHello.
func withStepGate(t *testing.T, change func(*auth.Gate)) (*Server, string, *authority, *stepGate) {
	a := newAuthority(t)
	g := &stepGate{began: make(chan struct{}, 1000), goOn: make(chan struct{}, 1000)}
	opts := testOptions()
	opts.MaxConnections = 1000
	sec := a.secured()
	sec.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		g.began <- struct{}{}
		<-g.goOn
		return nil, nil
	}

	opts.Gate = gated(sec)
	if change != nil {
		change(opts.Gate)
	}
	s, addr := serve(t, opts)
	t.Cleanup(func() { close(g.goOn) })
	return s, addr, a, g
}

// shakers waits until n clients wait for a step of their handshake.
func shakers(t *testing.T, s *Server, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " clients wait"), func() bool { return s.opts.Gate.Handshakes.Waiting() == n })
}

// shake does the handshake of a client, and sends CONNECT.
func shake(a *authority, c *conn) {
	c = a.secure(c.Conn)
	c.send("CONNECT {}\r\n")
	c.sync()
}

func TestHandshakesAreDoneOneAtATime(t *testing.T) {
	t.Parallel()
	s, addr, a, g := withStepGate(t, nil)
	const clients = 5
	var shaking sync.WaitGroup
	for i := range clients {
		c := dialRaw(t, addr)
		shaking.Go(func() { shake(a, c) })
		if i == 0 {
			<-g.began
		}
	}

	shakers(t, s, clients-1)
	if len(g.began) > 0 {
		t.Error("another step began before the first one had ended")
	}

	for range clients {
		g.goOn <- struct{}{}
	}
	shaking.Wait()
}

// record is the header of a TLS record with a handshake message, and that message's first byte.
var record = []byte{22, 3, 1, 2, 0, 1}

// clientHello returns the first bytes that a client sends.
func clientHello(t *testing.T, a *authority) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	go tls.Client(client, &tls.Config{RootCAs: a.pool(), ServerName: "127.0.0.1"}).Handshake()
	hello := make([]byte, 16<<10)
	n, err := server.Read(hello)
	if err != nil {
		t.Fatal(err)
	}
	return hello[:n]
}

func TestClientThatTakesNoAnswerToItsHelloHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	opts := testOptions()
	opts.Gate = gated(a.secured())
	_, ln := servePipes(t, opts)
	ln.dial(t).Write(clientHello(t, a)) // a pipe has no buffer
	c := a.secure(ln.dial(t).Conn)
	c.send("CONNECT {}\r\n")
	c.sync()
}

func TestHandshakeThatWaitsForItsClientHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	opts := testOptions()
	opts.Gate = gated(a.secured())
	_, addr := serve(t, opts)
	slow := dialRaw(t, addr)
	slow.Write(record)
	// A client that stops after its ClientHello: the server has answered, and waits for Finished.
	stops := dialRaw(t, addr)
	stops.Write(clientHello(t, a))
	if _, err := stops.r.ReadByte(); err != nil {
		t.Fatal(err)
	}

	for range 3 {
		shake(a, dialRaw(t, addr))
	}
}

func TestHandshakesOfClientsThatAreGoneAreNotDone(t *testing.T) {
	t.Parallel()
	s, addr, a, g := withStepGate(t, nil)
	first := dialRaw(t, addr)
	go tls.Client(first.Conn, &tls.Config{InsecureSkipVerify: true}).Handshake()
	<-g.began
	const gone = 10
	for i := range gone {
		c := dialRaw(t, addr)
		c.Write(record)
		shakers(t, s, i+1)
		c.Conn.(*net.TCPConn).SetLinger(0)
		c.Close()
	}

	c := dialRaw(t, addr)
	var shaking sync.WaitGroup
	shaking.Go(func() { shake(a, c) })
	shakers(t, s, gone+1)
	g.goOn <- struct{}{}
	<-g.began
	g.goOn <- struct{}{}
	shaking.Wait()
	eventually(t, "the rest is counted", func() bool { return s.Stats().Abandoned == gone })
}

func TestHandshakesThatWaitAreBounded(t *testing.T) {
	t.Parallel()
	s, addr, _, g := withStepGate(t, func(g *auth.Gate) { g.Handshakes = auth.NewTurns(3) })
	first := dialRaw(t, addr)
	go tls.Client(first.Conn, &tls.Config{InsecureSkipVerify: true}).Handshake()
	<-g.began
	for i := range 3 {
		dialFrom(t, addr, 1).Write(record)
		shakers(t, s, i+1)
	}

	crowded := dialFrom(t, addr, 1)
	crowded.Write(record)
	crowded.expectEnd()
	dialFrom(t, addr, 2).Write(record)
	eventually(t, "both refusals are counted", func() bool { return s.Stats().Crowded == 2 })
	if st := s.Stats(); st.TLSFailures != 0 {
		t.Errorf("%d count as failures of TLS", st.TLSFailures)
	}
}
