package poller

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edged/internal/redistest"
)

// network stands in front of a server, and is not to be trusted.
type network struct {
	t       *testing.T
	address string
	gate    sync.RWMutex // while it is locked nothing is forwarded, and every connection kept
	lose    atomic.Int32 // so many replies are lost, and their connections
	delay   atomic.Bool  // the next request is kept back, until release
	kept    chan func()  // sends what was kept back, and waits until the server has dealt with it
}

// newNetwork listens in a server's place.
func newNetwork(t *testing.T, s *redistest.Server) *network {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &network{t: t, address: l.Addr().String(), kept: make(chan func(), 1)}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", strings.TrimPrefix(s.Address(), "unix://"))
			if err != nil {
				client.Close()
				continue
			}
			answered := make(chan struct{})
			all.Go(func() { n.requests(server.(*net.UnixConn), client, answered) })
			all.Go(func() { defer close(answered); n.replies(client, server) })
		}
	})
	return n
}

// requests carries a client's requests to the server; answered is closed when no more
// replies come.
func (n *network) requests(server *net.UnixConn, client net.Conn, answered <-chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		got, err := client.Read(buf)
		if got > 0 && n.delay.CompareAndSwap(true, false) {
			release := sync.OnceFunc(func() {
				server.Write(buf[:got])
				server.CloseWrite()
				<-answered
			})
			n.t.Cleanup(release)
			n.kept <- release
			return
		}
		n.gate.RLock()
		server.Write(buf[:got])
		n.gate.RUnlock()
		if err != nil {
			server.Close()
			return
		}
	}
}

func (n *network) replies(client, server net.Conn) {
	defer client.Close()
	buf := make([]byte, 64<<10)
	for {
		got, err := server.Read(buf)
		if got > 0 && n.lose.Load() > 0 && n.lose.Add(-1) >= 0 {
			client.Close()
			io.Copy(io.Discard, server)
			return
		}
		n.gate.RLock()
		client.Write(buf[:got])
		n.gate.RUnlock()
		if err != nil {
			return
		}
	}
}

func TestLostRepliesLoseAndDoubleNoneOfManyEqualItems(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		t.Parallel()
		s := redistest.Start(t)
		n := newNetwork(t, s)
		a := start(t, n.address, mode, func(o *setup) { o.BatchItems = 50 }).join(0, true)
		const items = 5000
		s.Push("a", equalItems(items)...)
		for before := -1; before <= items && s.Len("a") > 0; { // more than all of them is a failure
			redistest.Eventually(t, "it goes on", func() bool {
				a.confirm()
				return a.count() > before || s.Len("a") == 0
			})
			before = a.count()
			n.lose.Store(2)
		}
		if got := a.count(); got != items {
			t.Fatalf("%d items arrived, want %d", got, items)
		}
	})
}

func TestARemovalThatComesLateRemovesNothingMore(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		n := newNetwork(t, s)
		a := start(t, n.address, mode, func(o *setup) {
			o.Redis.Timeout, o.BatchItems = 100*time.Millisecond, 10
			o.PollInterval = 100 * time.Millisecond // an idle connection that breaks says nothing, and its hints are lost
		}).join(0, true)
		want := 0
		push := func(items int) {
			s.Push("a", equalItems(items)...)
			want += items
			redistest.Eventually(t, fmt.Sprintf("%d items arrived", want), func() bool { return a.count() >= want })
		}
		for round := range 8 {
			push(20)
			n.delay.Store(true)
			a.confirm()
			release := <-n.kept
			if round%2 == 0 { // it comes while the loop looks for its place, or when it has long gone on
				release()
			}
			gone(t, s, a)
			if round%2 == 1 {
				push(20)
				release()
				gone(t, s, a)
			}
		}
		a.wait(t, want)
	})
}

func TestANetworkThatSwallowsPacketsIsWaitedForAndLosesNothing(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		n := newNetwork(t, s)
		l := start(t, n.address, mode, func(o *setup) { o.Redis.Timeout = 200 * time.Millisecond })
		endure(t, s, l, "no answer", false, func() func() {
			n.gate.Lock()
			end := sync.OnceFunc(n.gate.Unlock)
			t.Cleanup(end)
			return end
		})
	})
}
