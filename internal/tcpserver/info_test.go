package tcpserver

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSubscriptionsAreDescribedAndCounted(t *testing.T) {
	s, addr := serve(t, testOptions())
	c := dial(t, addr)
	c.send("SUB b 2\r\nSUB a.* crew 1\r\nSUB c 3\r\nUNSUB 1 5\r\nUNSUB 3\r\nPUB b 2\r\nhi\r\n")
	c.expect("MSG b 2 2")
	c.expect("hi")
	c.sync()

	id := s.Clients()[0].ID
	want := []SubscriptionInfo{{ID: "1", Subject: "a.*", Queue: "crew", Max: 5}, {ID: "2", Subject: "b", Sent: 1}}
	if got := s.Subscriptions(id); !slices.Equal(got, want) {
		t.Errorf("the subscriptions are %+v, want %+v", got, want)
	}
	if got := s.Subscriptions(id + 1); got != nil {
		t.Errorf("a client that is not there has the subscriptions %+v", got)
	}
	if st := s.Stats(); st.Subscriptions != 2 || st.Subscribed != 3 {
		t.Errorf("%d subscriptions of %d made are left, want 2 of 3", st.Subscriptions, st.Subscribed)
	}
}

func TestPingAndPongAreNoActivity(t *testing.T) {
	s, addr := serve(t, testOptions())
	c := dial(t, addr)
	c.send("SUB a 1\r\n")
	c.sync()

	long := time.Unix(1, 0)
	s.mu.Lock()
	for _, one := range s.clients {
		one.active.Store(long.UnixNano())
	}
	s.mu.Unlock()
	c.sync() // PING and PONG
	if got := s.Clients()[0].Active; !got.Equal(long) {
		t.Errorf("the client was active at %v, want %v", got, long)
	}

	c.send("PUB a 0\r\n\r\n")
	c.expect("MSG a 1 0")
	c.expect("")
	if got := s.Clients()[0].Active; !got.After(long) {
		t.Errorf("the client was active at %v although it has got a message", got)
	}
}

func TestTLSIsDescribed(t *testing.T) {
	a := newAuthority(t)
	o := testOptions()
	o.Gate = gated(a.secured())
	s, addr := serve(t, o)
	a.mustDialTLS(addr, false, &tls.Config{MaxVersion: tls.VersionTLS12}).sync()

	if c := s.Clients()[0]; c.TLSVersion != "1.2" || !strings.HasPrefix(c.TLSCipher, "TLS_ECDHE_") {
		t.Errorf("the connection is described as TLS %q with %q", c.TLSVersion, c.TLSCipher)
	}
}
