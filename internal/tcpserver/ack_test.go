package tcpserver

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"edged/internal/batch"
)

// explicitList is a Joiner whose memberships are batch.Acknowledgers.
type explicitList struct {
	fakeList
	members []*acknowledger // guarded by mu
}

type acknowledger struct {
	*fakeMembership
	acks    []ackCall       // guarded by list.mu
	refuses map[uint64]bool // items that it was not given; guarded by list.mu
}

type ackCall struct {
	epoch string
	seq   uint64
	ack   batch.Ack
	saved func(error)
}

func (l *explicitList) Join(group, key string, m batch.Member) batch.Membership {
	a := &acknowledger{
		fakeMembership: l.fakeList.Join(group, key, m).(*fakeMembership),
		refuses:        make(map[uint64]bool),
	}
	l.mu.Lock()
	l.members = append(l.members, a)
	l.mu.Unlock()
	return a
}

func (a *acknowledger) Acknowledge(epoch string, seq uint64, ack batch.Ack, saved func(error)) error {
	a.list.mu.Lock()
	defer a.list.mu.Unlock()
	if a.refuses[seq] {
		return batch.ErrNotGiven
	}
	a.acks = append(a.acks, ackCall{epoch, seq, ack, saved})
	return nil
}

func (a *acknowledger) refuse(seq uint64) {
	a.list.mu.Lock()
	a.refuses[seq] = true
	a.list.mu.Unlock()
}

func (a *acknowledger) calls() []ackCall {
	a.list.mu.Lock()
	defer a.list.mu.Unlock()
	return slices.Clone(a.acks)
}

// acker waits for the i-th member, counted from 0.
func (l *explicitList) acker(t *testing.T, i int) *acknowledger {
	t.Helper()
	var a *acknowledger
	eventually(t, "a subscription joined the list", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if i < len(l.members) {
			a = l.members[i]
		}
		return a != nil
	})
	return a
}

// give delivers a batch to one member.
func (a *acknowledger) give(b *batch.Batch) int {
	a.list.mu.Lock()
	defer a.list.mu.Unlock()
	return a.deliver(b)
}

// withExplicit serves a list named "my list" under the subject "items".
func withExplicit(t *testing.T) (*Server, string, *explicitList) {
	l := &explicitList{fakeList: fakeList{subject: "items"}}
	opts := testOptions()
	opts.Lists = []List{{Name: "my list", Stream: "my_list", Subject: "items", Confirm: Acknowledged, Joiner: l}}
	s, addr := serve(t, opts)
	return s, addr, l
}

var taken = time.Unix(1700000000, 123456789)

// ackSubject returns the reply subject of an item of "my list".
func ackSubject(seq int) string {
	return fmt.Sprintf("$JS.ACK._.e.my_list.edged.1.%d.%d.%d.0", seq+1, seq+1, taken.UnixNano())
}

func pub(subject, reply, payload string) string {
	return fmt.Sprintf("PUB %s %s %d\r\n%s\r\n", subject, reply, len(payload), payload)
}

func TestExplicitItemsCarryTheReplySubjectOfJetStream(t *testing.T) {
	t.Parallel()
	s, addr, l := withExplicit(t)
	c := dial(t, addr)
	c.send("SUB items 1\r\n")
	m := l.acker(t, 0)
	b := batch.Of("items", 7, []byte("one"), []byte("two")).Stamp("e", taken, 40)
	m.give(b)
	c.expect("MSG items 1 $JS.ACK._.e.my_list.edged.1.8.8.1700000000123456789.41 3", "one",
		"MSG items 1 $JS.ACK._.e.my_list.edged.1.9.9.1700000000123456789.40 3", "two")
	m.give(b.Again(1, 3, 7))
	c.expect("MSG items 1 $JS.ACK._.e.my_list.edged.3.9.9.1700000000123456789.7 3", "two")
	c.sync() // no PING follows them
	eventually(t, "written items are not owed", func() bool { return s.Clients()[0].Owed == 0 })
}

func TestAcknowledgementsAreReadAsNatsServerDoes(t *testing.T) {
	t.Parallel()
	acked, nak := batch.Ack{Kind: batch.Acked}, batch.Ack{Kind: batch.Refused}
	later := batch.Ack{Kind: batch.Refused, Delay: 1500 * time.Millisecond}
	for _, tc := range []struct {
		payload string
		want    batch.Ack
		next    bool
	}{
		{"", acked, false}, {" \r\n", acked, false}, {"+ACK", acked, false}, {"+ACK\n", acked, false}, {"+OK", acked, false},
		{"+NXT", acked, true}, {"+NXT 5", acked, true}, {`+NXT {"batch":5}`, acked, true},
		{"-NAK", nak, false}, {"-NAK  ", nak, false}, {"-NAK rubbish", nak, false}, {"-NAK {rubbish", nak, false},
		{`-NAK {"delay": 1500000000}`, later, false}, {`-NAK{"delay":1500000000}`, later, false}, {"-NAK 1.5s", later, false},
		{"+WPI", batch.Ack{Kind: batch.InProgress}, false},
		{"+TERM", batch.Ack{Kind: batch.Terminated}, false}, {"+TERM no use", batch.Ack{Kind: batch.Terminated, Reason: "no use"}, false},
		{"+TERM  it\x00 is\x1b\n\xffbroken: é ", batch.Ack{Kind: batch.Terminated, Reason: "it is broken: é"}, false},
		{"+TERM " + strings.Repeat("é", 1000), batch.Ack{Kind: batch.Terminated, Reason: strings.Repeat("é", 98) + "…"}, false},
	} {
		if got, next, ok := parseAck([]byte(tc.payload)); !ok || got != tc.want || next != tc.next {
			t.Errorf("%q is %+v (next %v, ok %v), want %+v", tc.payload, got, next, ok, tc.want)
		}
	}

	for _, payload := range []string{"ACK", "+ack", "+ACKS", "+WPI now", "hello", "-", "-ERR"} {
		if got, _, ok := parseAck([]byte(payload)); ok {
			t.Errorf("%q is %+v, want nothing", payload, got)
		}
	}
}

func TestAcknowledgementsReachTheMember(t *testing.T) {
	t.Parallel()
	s, addr, l := withExplicit(t)
	c := dial(t, addr)
	c.send("SUB items 1\r\n")
	m := l.acker(t, 0)
	c.send(pub(ackSubject(4), "", "+ACK") + pub(ackSubject(5), "", "-NAK") +
		"HPUB " + ackSubject(6) + " 14 19\r\nNATS/1.0\r\n\r\n\r\n+TERM\r\n")
	c.sync()
	calls := m.calls()
	if len(calls) != 3 {
		t.Fatalf("%d acknowledgements came, want 3", len(calls))
	}

	for i, kind := range []batch.AckKind{batch.Acked, batch.Refused, batch.Terminated} {
		if a := calls[i]; a.seq != uint64(4+i) || a.epoch != "e" || a.ack.Kind != kind || a.saved != nil {
			t.Errorf("acknowledgement %d is %+v", i, a)
		}
	}

	if got := s.Stats().AcksRefused; got != 0 {
		t.Errorf("%d acknowledgements were refused", got)
	}
}

func TestAckWithReplyIsAnsweredWhenRedisHasIt(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, connect string
		err           error
		want          []string
	}{
		{"removed", `{"headers":true}`, nil, []string{"MSG inbox 2 0", ""}},
		{"failed", `{"headers":true}`, errors.New("no luck"), []string{"HMSG inbox 2 24 24", "NATS/1.0 503 no luck", "", ""}},
		{"failed, without headers", `{}`, errors.New("no luck"), []string{"MSG inbox 2 12", "-ERR no luck"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, addr, l := withExplicit(t)
			c := dialWith(t, addr, tc.connect)
			c.send("SUB items 1\r\nSUB inbox 2\r\n")
			m := l.acker(t, 0)
			c.send(pub(ackSubject(0), "inbox", "+ACK"))
			c.sync() // no answer has come yet
			var wg sync.WaitGroup
			wg.Go(func() { m.calls()[0].saved(tc.err) }) // from any goroutine
			c.expect(tc.want...)
			wg.Wait()
			c.sync()
		})
	}
}

func TestAskingForTheNextItemIsNotAnswered(t *testing.T) {
	t.Parallel()
	_, addr, l := withExplicit(t)
	c := dial(t, addr)
	c.send("SUB items 1\r\nSUB inbox 2\r\n" + pub(ackSubject(0), "inbox", "+NXT 1"))
	c.sync()
	if calls := l.acker(t, 0).calls(); len(calls) != 1 || calls[0].ack.Kind != batch.Acked || calls[0].saved != nil {
		t.Errorf("the acknowledgements are %+v, want one without a waiting publisher", calls)
	}
}

func TestAcknowledgementsOfItemsThatWereNeverGivenAreRefused(t *testing.T) {
	t.Parallel()
	s, addr, l := withExplicit(t)
	c, other := dial(t, addr), dial(t, addr)
	c.send("SUB items 1\r\nSUB inbox 2\r\nSUB $JS.ACK.> 3\r\nSUB > 4\r\n")
	c.sync()
	for i := range 2 {
		l.acker(t, i).refuse(9)
	}

	for i, subject := range []string{
		ackSubject(9), "$JS.ACK.x", "$JS.ACK._.e.my_list.edged.1.0.0.5.0", "$JS.ACK._.e.my_list.edged.1.1.1.5.0.more",
		"$JS.ACK._.e.my_list.edged.1.x.1.5.0", "$JS.ACK.my_list.edged.1.1.1.5.0", "$JS.ACK._.e.my_list.other.1.1.1.5.0",
		strings.Replace(ackSubject(0), "my_list", "elsewhere", 1),
	} {
		c.send(pub(subject, "", ""))
		c.sync() // no answer
		if got := s.Stats().AcksRefused; got != uint64(i+1) {
			t.Fatalf("%d acknowledgements count as refused after %q, want %d", got, subject, i+1)
		}
	}

	other.send(pub(ackSubject(0), "", "")) // without a subscription
	other.sync()
	other.send("SUB inbox 1\r\n" + pub(ackSubject(0), "inbox", ""))
	status := "NATS/1.0 503 " + batch.ErrNotGiven.Error()
	size := strconv.Itoa(len(status) + 4)
	other.expect("HMSG inbox 1 "+size+" "+size, status, "", "")
	other.sync()
}

func TestAMalformedAcknowledgementIsCountedAndIgnored(t *testing.T) {
	t.Parallel()
	s, addr, l := withExplicit(t)
	c := dial(t, addr)
	c.send("SUB items 1\r\nSUB inbox 2\r\n" + pub(ackSubject(0), "", "+NEW"))
	c.sync()
	c.send(pub(ackSubject(0), "inbox", "hello"))
	if line := c.line(); !strings.HasPrefix(line, "HMSG inbox 2 ") {
		t.Fatalf("got %q, want an answer", line)
	}
	c.expect("NATS/1.0 503 "+errAckPayload.Error(), "", "")
	if got := s.Stats().AcksRefused; got != 2 {
		t.Errorf("%d count as refused, want 2", got)
	}

	if calls := l.acker(t, 0).calls(); len(calls) != 0 {
		t.Errorf("the member got %+v", calls)
	}
}

func TestAReplySubjectOfAnItemMayBePassedOn(t *testing.T) {
	t.Parallel()
	_, addr := serve(t, testOptions())
	c := dial(t, addr)
	c.send("SUB work 1\r\n" + pub("work", ackSubject(0), "hi"))
	c.expect("MSG work 1 "+ackSubject(0)+" 2", "hi")
}

func TestEachMembershipOfAClientIsAcknowledgedByItself(t *testing.T) {
	t.Parallel()
	_, addr, l := withExplicit(t)
	c := dial(t, addr)
	c.send("SUB items 1\r\nSUB > 2\r\nSUB items q 3\r\n")
	c.sync()
	b := batch.Of("items", 0, []byte("x")).Stamp("e", taken, 0)
	for i, consumer := range []string{"edged", "edged-2", "edged-3"} {
		m := l.acker(t, i)
		m.give(b)
		subject := strings.Replace(ackSubject(0), "edged", consumer, 1)
		c.expect(fmt.Sprintf("MSG items %d %s 1", i+1, subject), "x")
		c.send(pub(subject, "", ""))
		c.sync()
		for j := range 3 {
			if got, want := len(l.acker(t, j).calls()), 0; j <= i && got != 1 || j > i && got != want {
				t.Fatalf("after an acknowledgement for %s member %d has got %d", consumer, j, got)
			}
		}
		if i > 0 && m.key == strconv.Itoa(i+1) {
			t.Errorf("%s shares its encodings with members of another name", consumer)
		}
	}

	c.send("UNSUB 2\r\nSUB items 4\r\n") // a name is free again
	c.sync()
	l.acker(t, 3).give(b)
	c.expect("MSG items 4 "+strings.Replace(ackSubject(0), "edged", "edged-2", 1)+" 1", "x")
}

func TestUnsubFromExplicitListLeavesAtOnce(t *testing.T) {
	t.Parallel()
	_, addr, l := withExplicit(t)
	c := dial(t, addr)
	c.send("SUB items q 1\r\nUNSUB 1\r\n")
	m := l.acker(t, 0)
	c.sync()
	if left, finished := m.state(); left != 1 || finished != nil {
		t.Errorf("left %d times and finished %v, want to have left once", left, finished)
	}
	c.send(pub(ackSubject(0), "", "")) // late: the relay has to judge it
	c.sync()
	if got := len(m.calls()); got != 1 {
		t.Errorf("%d acknowledgements came, want 1", got)
	}
}

func TestUnsubWithCountFromExplicitListGoesOnOwing(t *testing.T) {
	t.Parallel()
	s, addr, l := withExplicit(t)
	c := dial(t, addr)
	b := batch.Of("items", 0, []byte("a"), []byte("b"), []byte("c")).Stamp("e", taken, 0)
	c.send("SUB items 1\r\nUNSUB 1 2\r\n")
	c.sync()
	m := l.acker(t, 0)
	if n := m.give(b); n != 2 {
		t.Fatalf("took %d items, want 2", n)
	}
	c.send("SUB items 2\r\n")
	for _, i := range []string{"a", "b"} {
		c.line()
		c.expect(i)
	}
	eventually(t, "the subscription finished", func() bool {
		_, finished := m.state()
		return slices.Equal(finished, []int{math.MaxInt})
	})
	again := l.acker(t, 1)
	again.refuse(0)
	c.send(pub(ackSubject(0), "", ""))
	c.sync()
	if got := len(m.calls()); got != 1 {
		t.Errorf("%d acknowledgements came to the finished member, want 1", got)
	}

	again.give(b) // a count that has passed already
	for range 6 {
		c.line()
	}
	c.send("UNSUB 2 1\r\n")
	c.sync()
	if left, finished := again.state(); left != 0 || !slices.Equal(finished, []int{math.MaxInt}) {
		t.Errorf("left %d times and finished %v, want to go on owing", left, finished)
	}
	c.Close()
	eventually(t, "the client is gone", func() bool { return s.Stats().Clients == 0 })
	for i := range 2 {
		if left, _ := l.acker(t, i).state(); left != 1 {
			t.Errorf("member %d left %d times, want once", i, left)
		}
	}
}

func TestTheLowestNameThatIsFreeIsGivenNext(t *testing.T) {
	t.Parallel()
	c := &client{}
	name := func() *member {
		m := &member{sub: &subscription{client: c}, confirm: Acknowledged}
		c.nameForAcks(m, List{Name: "my list", Stream: "my_list"})
		return m
	}
	var all []*member
	for range 5 {
		all = append(all, name())
	}

	for _, i := range []int{3, 1, 3} { // also one that has finished already
		all[i].finish()
	}

	for _, want := range []string{"my_list.edged-2", "my_list.edged-4", "my_list.edged-6"} {
		if got := name().name; got != want {
			t.Errorf("the next name is %s, want %s", got, want)
		}
	}
}

func TestPastMembershipsAreBounded(t *testing.T) {
	t.Parallel()
	s, addr, l := withExplicit(t)
	c := dial(t, addr)
	const n = keptMembers + 10
	for i := range n {
		b := batch.Of("items", uint64(i), []byte("x")).Stamp("e", taken, 0)
		c.send(fmt.Sprintf("SUB items %d\r\nUNSUB %d 1\r\n", i, i))
		c.sync()
		m := l.acker(t, i)
		m.give(b)
		c.expect(fmt.Sprintf("MSG items %d %s 1", i, ackSubject(i)), "x")
		eventually(t, "the subscription finished", func() bool {
			_, finished := m.state()
			return finished != nil
		})
		for j := range n {
			if j != i {
				m.refuse(uint64(j))
			}
		}
	}

	if left, _ := l.acker(t, 0).state(); left != 1 {
		t.Errorf("the oldest left %d times, want once", left)
	}

	c.send(pub(ackSubject(0), "", ""))
	c.sync()
	c.send(pub(ackSubject(n-keptMembers), "", ""))
	c.sync()
	if got := len(l.acker(t, n-keptMembers).calls()); got != 1 {
		t.Errorf("%d acknowledgements came to one that is kept, want 1", got)
	}

	c.Close()
	eventually(t, "the client is gone", func() bool { return s.Stats().Clients == 0 })
	for i := range n {
		if left, _ := l.acker(t, i).state(); left != 1 {
			t.Errorf("member %d left %d times, want once", i, left)
		}
	}
}

func FuzzAckSubject(f *testing.F) {
	f.Add("$JS.ACK._.e.my_list.edged.1.8.8.1700000000123456789.41")
	f.Add("$JS.ACK._.e.a.b.1.18446744073709551615.1.-5.0")
	f.Add("$JS.ACK._.e.a.b.1.0.1.5.0")
	f.Add("$JS.ACK._..........")

	f.Fuzz(func(t *testing.T, subject string) {
		epoch, name, seq, ok := parseAckSubject([]byte(subject))
		f := strings.Split(subject, ".")
		if len(f) != 11 || f[0] != "$JS" || f[1] != "ACK" || f[2] != "_" {
			if ok {
				t.Fatal("parsed a malformed reply subject")
			}
			return
		}
		want, err := strconv.ParseUint(f[7], 10, 64)
		if ok != (err == nil && want > 0) {
			t.Fatalf("ok is %v", ok)
		}
		if ok && (string(epoch) != f[3] || string(name) != f[4]+"."+f[5] || seq != want-1) {
			t.Fatalf("got %q, %q, %d", epoch, name, seq)
		}
	})
}

func TestWithReceiptsAPongConfirmsThatItemsArrived(t *testing.T) {
	t.Parallel()
	s, addr, l := withExplicit(t)
	limits := *s.limits.Load()
	limits.Receipts = true
	s.SetLimits(limits)
	c := dial(t, addr)
	c.send("SUB items 1\r\n")
	m := l.acker(t, 0)
	m.give(batch.Of("items", 7, []byte("one")).Stamp("e", taken, 0))
	c.expect("MSG items 1 "+ackSubject(7)+" 3", "one", "PING")
	if n := m.Owed(); n != 1 {
		t.Errorf("%d items are in flight before the PONG, want 1", n)
	}

	c.send(pub(ackSubject(7), "", ""))
	c.send("PONG\r\n")
	c.sync()
	if n := m.Owed(); n != 0 || len(m.calls()) != 1 {
		t.Errorf("%d items are in flight after the PONG, and %d acknowledgements came", n, len(m.calls()))
	}
}
