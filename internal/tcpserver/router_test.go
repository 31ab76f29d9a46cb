package tcpserver

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"edged/internal/subject"
)

// TestRouterAgreesWithSimpleMatching compares the router with subject.Matches.
func TestRouterAgreesWithSimpleMatching(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(words string, n int) string {
		parts := make([]string, 1+rng.IntN(n))
		for i := range parts {
			parts[i] = string(words[rng.IntN(len(words))])
		}
		return strings.Join(parts, ".")
	}

	r := newRouter()
	c := &client{}
	var subs []*subscription
	for range 20_000 {
		switch rng.IntN(3) {
		case 0:
			pattern := pick("abcdefgh*", 4)
			if rng.IntN(3) == 0 {
				pattern += ".>"
			}
			_, wild := subject.Valid([]byte(pattern))
			sub := &subscription{client: c, subject: pattern, wild: wild, queue: pick("pqrstuvwxyz", 1)}
			if rng.IntN(2) == 0 {
				sub.queue = ""
			}
			r.add(sub)
			subs = append(subs, sub)
		case 1:
			if most := 20 + rng.IntN(200); len(subs) > most {
				some := subs[most:]
				r.remove(some...)
				r.remove(some...)
				subs = subs[:most]
				rng.Shuffle(most, func(i, j int) { subs[i], subs[j] = subs[j], subs[i] })
			}
		default:
			compare(t, r, subs, pick("abcdefghi", 5))
		}
	}
	r.remove(subs...)
	if len(r.literals) > 0 || !r.patterns.empty() {
		t.Error("the empty router keeps something")
	}
}

// compare compares the receivers of a message with those of subs that match.
func compare(t *testing.T, r *router, subs []*subscription, literal string) {
	t.Helper()
	want, all := make(map[*subscription]bool), make(map[*subscription]bool)
	groups := make(map[string]bool)
	for _, sub := range subs {
		if !subject.Matches(sub.subject, literal) {
			continue
		}
		if all[sub] = true; sub.queue == "" {
			want[sub] = true
		} else {
			groups[sub.queue] = true
		}
	}

	var got receivers
	r.match([]byte(literal), &got)
	for _, sub := range got.plain {
		if !want[sub] {
			t.Fatalf("%q got a message to %q, or got it twice", sub.subject, literal)
		}
		delete(want, sub)
	}
	for _, g := range got.groups {
		if !groups[g.name] || !all[g.sub] || g.sub.queue != g.name {
			t.Fatalf("%q in group %q got a message to %q for group %q", g.sub.subject, g.sub.queue, literal, g.name)
		}
		delete(groups, g.name)
	}
	if len(want)+len(groups) > 0 {
		t.Fatalf("%d subscriptions and %d groups did not get a message to %q", len(want), len(groups), literal)
	}

	every, one := receivers{every: true}, receivers{one: true}
	r.match([]byte(literal), &every)
	if len(every.plain) != len(all) {
		t.Fatalf("%d subscriptions match %q, and %d were found", len(all), literal, len(every.plain))
	}
	r.match([]byte(literal), &one)
	if found := len(one.plain)+len(one.groups) > 0; found != (len(all) > 0) || len(one.plain) > 1 {
		t.Fatalf("%d subscriptions match %q, and one was found: %v", len(all), literal, found)
	}
}

// TestManyQueueGroupsAreLookedUp has groups with members below two matching subjects: they are
// found in a map, and no other case makes a map.
func TestManyQueueGroupsAreLookedUp(t *testing.T) {
	t.Parallel()
	r := newRouter()
	c := &client{}
	for i := range 1000 {
		queue := fmt.Sprint("group-", i)
		r.add(&subscription{client: c, subject: "a", queue: queue})
		r.add(&subscription{client: c, subject: "*", wild: true, queue: queue})
		r.add(&subscription{client: c, subject: "b.c", queue: queue})
	}

	var to receivers
	if r.match([]byte("a"), &to); len(to.groups) != 1000 || len(to.named) != 1000 {
		t.Errorf("%d groups are to get a message and %d were looked up, want 1000", len(to.groups), len(to.named))
	}
	if r.match([]byte("b.c"), &to); len(to.groups) != 1000 || to.named != nil {
		t.Errorf("%d groups are to get a message and %d were looked up, want 1000 and none", len(to.groups), len(to.named))
	}
}

// TestMemoryOfEndedSubscriptionsIsGivenBack leaves one of many subscriptions in each structure that
// holds them all.
func TestMemoryOfEndedSubscriptionsIsGivenBack(t *testing.T) {
	t.Parallel()
	r := newRouter()
	c := &client{}

	var subs []*subscription
	for i := range 1000 {
		for _, sub := range []*subscription{
			{subject: "a"}, {subject: "a", queue: "q"}, {subject: "a", queue: fmt.Sprint("q", i)}, {subject: fmt.Sprint(i, ".*"), wild: true},
		} {
			sub.client = c
			r.add(sub)
			subs = append(subs, sub)
		}
	}
	r.remove(subs[4:]...)
	s := r.literals["a"]
	for what, room := range map[string]int{
		"plain subscriptions": cap(s.plain), "groups": cap(s.groups), "members": cap(s.named["q"].members), "tokens": r.patterns.peak,
	} {
		if room > 16 {
			t.Errorf("there is room for %d %s, and 1 is left", room, what)
		}
	}
}

func TestMessagesReachEveryMatchingSubscription(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	a, b, pub := dial(t, addr), dial(t, addr), dial(t, addr)
	a.send("SUB foo.bar 1\r\n")
	a.sync()
	b.send("SUB foo.* 1\r\nSUB other 2\r\n")
	b.sync()
	pub.send("PUB foo.bar re.ply 5\r\nhello\r\n")
	a.expect("MSG foo.bar 1 re.ply 5", "hello")
	b.expect("MSG foo.bar 1 re.ply 5", "hello")
	b.send("UNSUB 1\r\n")
	b.sync()
	pub.send("PUB foo.bar 2\r\nhi\r\n")
	a.expect("MSG foo.bar 1 2", "hi")
	b.sync()
}

func TestQueueGroupGetsEachMessageOnce(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	a, b, pub := dial(t, addr), dial(t, addr), dial(t, addr)
	a.send("SUB foo q 1\r\nSUB foo 2\r\n")
	a.sync()
	b.send("SUB * q 1\r\nSUB > other 3\r\n")
	b.sync()
	const n = 200
	pub.send(strings.Repeat("PUB foo 0\r\n\r\n", n))
	pub.sync()
	a.send("PING\r\n")
	b.send("PING\r\n")
	count := map[string]int{}
	for name, c := range map[string]*conn{"a": a, "b": b} {
		for line := c.line(); line != "PONG"; line = c.line() {
			count[name+line]++
		}
	}

	if got := count["aMSG foo 1 0"] + count["bMSG foo 1 0"]; got != n {
		t.Errorf("the group got %d messages, want %d", got, n)
	}
	if count["aMSG foo 1 0"] == 0 || count["bMSG foo 1 0"] == 0 {
		t.Error("one member of the group got everything")
	}
	if count["aMSG foo 2 0"] != n || count["bMSG foo 3 0"] != n {
		t.Errorf("the other clients got %v, want all", count)
	}
}

func TestQueueGroupPassesOverFinishedMembers(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	a, b, pub := dial(t, addr), dial(t, addr), dial(t, addr)
	a.send("SUB foo q 1\r\nUNSUB 1 3\r\n")
	a.sync()
	b.send("SUB foo q 1\r\n")
	b.sync()
	const n = 100
	pub.send(strings.Repeat("PUB foo 0\r\n\r\n", n))
	pub.sync()
	for _, c := range []*conn{a, b} {
		c.send("PING\r\n")
	}

	got := 0
	for _, c := range []*conn{a, b} {
		for line := c.line(); line != "PONG"; line = c.line() {
			if line != "" {
				got++
			}
		}
	}

	if got != n {
		t.Errorf("the group got %d messages, want %d", got, n)
	}
}

func TestUnsubWithCount(t *testing.T) {
	t.Parallel()
	s, addr := serve(t, testOptions())
	c := dial(t, addr)
	c.send("SUB foo 1\r\nUNSUB 1 2\r\n" + strings.Repeat("PUB foo 0\r\n\r\n", 5))
	c.expect("MSG foo 1 0", "", "MSG foo 1 0", "")
	c.sync()
	c.send("SUB foo 2\r\nPUB foo 0\r\n\r\nPUB foo 0\r\n\r\nUNSUB 2 1\r\nPUB foo 0\r\n\r\n")
	c.expect("MSG foo 2 0", "", "MSG foo 2 0", "")
	c.sync()
	if n := s.Clients()[0].Subscriptions; n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
}

func TestSecondSubWithTheSameSidChangesNothing(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	c := dial(t, addr)
	c.send("SUB foo 1\r\nSUB bar 1\r\nPUB bar 0\r\n\r\nPUB foo 0\r\n\r\n")
	c.expect("MSG foo 1 0", "")
	c.sync()
}

func TestNoEcho(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	c, other := dialWith(t, addr, `{"echo":false,"headers":true,"no_responders":true}`), dial(t, addr)
	c.send("SUB foo 1\r\nSUB foo q 2\r\nSUB re 3\r\n")
	c.sync()
	c.send("PUB foo 2\r\nhi\r\n")
	c.sync()
	other.send("PUB foo 2\r\nho\r\n")
	other.sync()
	for range 2 {
		c.line()
		c.expect("ho")
	}

	c.send("PUB foo re 2\r\nhi\r\n") // no client but itself
	c.expect("HMSG re 3 35 35", "NATS/1.0 503", "Nats-Subject: foo", "", "")
	c.sync()
}

func TestRequestAndReply(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.Services = echo
	_, addr := serve(t, opts)
	service, c := dial(t, addr), dialWith(t, addr, `{"echo":false,"headers":true,"no_responders":true}`)
	service.send("SUB svc 1\r\n")
	service.sync()
	c.send("SUB inbox.* 9\r\nPUB svc inbox.1 1\r\n?\r\n")
	service.expect("MSG svc 1 inbox.1 1", "?")
	service.send("PUB inbox.1 1\r\n!\r\n")
	c.expect("MSG inbox.1 9 1", "!")
	c.send("PUB edged.echo inbox.2 2\r\nhi\r\n")
	c.expect("MSG inbox.2 9 5", "re:hi")
	c.send("PUB edged.echo 2\r\nhi\r\n")
	c.sync()
}

func TestNoRespondersIsSentAtOnceToClientsThatAskedForIt(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	c := dial(t, addr)
	c.send("SUB inbox.* 4\r\nPUB nobody inbox.1 2\r\nhi\r\n")
	c.expect("HMSG inbox.1 4 38 38", "NATS/1.0 503", "Nats-Subject: nobody", "", "")
	c.send("PUB nobody 2\r\nhi\r\nPUB nobody elsewhere 2\r\nhi\r\n")
	c.sync()
	plain := dialWith(t, addr, `{"headers":true}`)
	plain.send("SUB inbox.* 4\r\nPUB nobody inbox.1 2\r\nhi\r\n")
	plain.sync()
}

func TestHeadersAreTakenOffForClientsWithoutThem(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	with, without := dial(t, addr), dialWith(t, addr, `{}`)
	for _, c := range []*conn{with, without} {
		c.send("SUB foo 1\r\n")
		c.sync()
	}
	with.send("HPUB foo re 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\n")
	with.expect("HMSG foo 1 re 18 20", "NATS/1.0", "A: b", "", "hi")
	without.expect("MSG foo 1 re 2", "hi")
}

func TestLargeAndBinaryPayloads(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	c, pub := dial(t, addr), dial(t, addr)
	c.send("SUB foo 1\r\n")
	c.sync()
	payload := make([]byte, 1<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range payload {
		payload[i] = byte(rng.Uint32())
	}

	copy(payload, "\r\nPING\r\n\x00")
	for _, n := range []int{0, 1, chunkSize - 1, chunkSize, 100_000, 1 << 20} {
		go fmt.Fprintf(pub, "PUB foo %d\r\n%s\r\n", n, payload[:n])
		c.expect(fmt.Sprintf("MSG foo 1 %d", n))
		got := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[:n], payload[:n]) || string(got[n:]) != crlf {
			t.Fatalf("%d bytes came back changed", n)
		}
	}
}

func TestHalfAMessageDelaysNoOtherClient(t *testing.T) {
	t.Parallel()
	s, addr := serve(t, testOptions())
	half, c := dial(t, addr), dial(t, addr)
	c.send("SUB foo 1\r\n")
	c.sync()
	half.send("PUB foo 1000000\r\nabc")
	c.send("PUB foo 2\r\nhi\r\n")
	c.expect("MSG foo 1 2", "hi")
	half.Close()
	eventually(t, "the half message is gone with its client", func() bool { return s.Stats().Clients == 1 })
	c.sync()
}
