package tcpserver

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"edged/internal/auth"
	"edged/internal/batch"
	"edged/internal/budget"
)

// fakeAPI records its calls.
type fakeAPI struct {
	mu       sync.Mutex
	told     []string
	requests []Request
}

func (a *fakeAPI) tell(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told = append(a.told, fmt.Sprintf(format, args...))
}

func (a *fakeAPI) Request(r Request) {
	a.tell("request %s %s %s", r.Subject, r.Payload, r.Reply)
	a.mu.Lock()
	a.requests = append(a.requests, r)
	a.mu.Unlock()
}

func (a *fakeAPI) Acknowledge(stream, consumer, epoch string, n uint64, ack batch.Ack, saved func(error)) error {
	a.tell("ack %s %s %s %d %d", stream, consumer, epoch, n, ack.Kind)
	if consumer == "none" {
		return batch.ErrNotGiven
	}
	if saved != nil {
		saved(nil)
	}
	return nil
}

func (a *fakeAPI) Resume(reply string)     { a.tell("resume %s", reply) }
func (a *fakeAPI) Left(client uint64)      { a.tell("left %d", client) }
func (a *fakeAPI) Interest(subject string) { a.tell("interest %s", subject) }

// take returns the calls since the last take, except those with the word without.
func (a *fakeAPI) take(without string) (told []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, text := range a.told {
		if !strings.HasPrefix(text, without) {
			told = append(told, text)
		}
	}
	a.told = nil
	return told
}

// last returns the sender of the last request.
func (a *fakeAPI) last() Requester {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requests[len(a.requests)-1].From
}

// withAPI serves the list S under the subject "items", with an API.
func withAPI(t *testing.T, opts Options) (*Server, string, *fakeAPI) {
	t.Helper()
	api := &fakeAPI{}
	opts.API = api
	opts.Lists = []List{{Name: "list", Stream: "S", Subject: "items", Joiner: &fakeList{subject: "items"}}}
	s, addr := serve(t, opts)
	return s, addr, api
}

// counted is a receipt that counts its confirmations.
type counted struct{ confirmed chan bool }

func (c counted) Confirm() { c.confirmed <- true }

func receipt() counted { return counted{make(chan bool, 10)} }

func TestMessagesToTheAPIReachIt(t *testing.T) {
	t.Parallel()
	_, addr, api := withAPI(t, testOptions())
	c := dialWith(t, addr, `{"headers":true,"no_responders":true}`)
	c.send("SUB in.* 1\r\nUNSUB 1\r\n")
	c.send(pub("$JS.API.INFO", "re", "x") + pub("$JS.FC.S.w.1", "", "") + pub("$JS.ACK._.e.S.w.1.5.5.0.0", "", "-NAK"))
	c.send(pub("$JS.ACK._.e.S.w.1.5.5.0.0", "re", `+NXT {"batch":2}`))
	c.sync()
	want := "[interest in.* interest in.* request INFO x re resume $JS.FC.S.w.1 ack S w e 4 1 ack S w e 4 0 request CONSUMER.MSG.NEXT.S.w  {\"batch\":2} re]"
	if got := fmt.Sprint(api.take("-")); got != want {
		t.Errorf("it was told\n%s, want\n%s", got, want)
	}
}

// A push consumer sends no more heartbeats to a subscription that has got all its items.
func TestTheAPILearnsThatASubscriptionHasGotAllItAskedFor(t *testing.T) {
	t.Parallel()
	s, addr, api := withAPI(t, testOptions())
	c := dialWith(t, addr, `{}`)
	c.send("SUB inbox 9\r\nUNSUB 9 2\r\n")
	c.sync()
	out := s.Outlet(OutletOptions{Subject: "inbox", Consumer: "S.w", Confirm: Acknowledged})
	api.take("")

	out.Deliver(batch.Of("items", 4, []byte("one"), []byte("two")).Stamp("e", taken, 0), 0, 2, 1, receipt())
	var told []string
	eventually(t, "the API is told", func() bool { told = api.take("-"); return len(told) > 0 })
	if got := fmt.Sprint(told); got != "[interest inbox]" || out.Open() {
		t.Errorf("the API is told %s, and the subscription takes more: %v", got, out.Open())
	}
}

func TestRightsToAcknowledgeForAConsumer(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.Gate = gated(auth.Security{Users: []auth.User{
		{Name: "ann", Password: "a", Publish: auth.Rules{Allow: []string{"$JS.ACK.S.w.>"}}, Subscribe: auth.Rules{Allow: []string{"re", "items"}}},
		{Name: "all", Password: "all", Publish: auth.Rules{Allow: []string{"$JS.>"}}, Subscribe: auth.Rules{Allow: []string{"re"}}},
	}})

	_, addr, api := withAPI(t, opts)
	ann, all := dialWith(t, addr, asAnn), dialWith(t, addr, `{"user":"all","pass":"all","headers":true}`)
	ann.send(pub("$JS.ACK._.e.S.w.1.5.5.0.0", "", "") + pub("$JS.ACK._.e.S.v.1.5.5.0.0", "", ""))
	ann.sync()
	if got := fmt.Sprint(api.take("interest")); got != "[ack S w e 4 0]" {
		t.Errorf("of a user with a right to the consumer w it was told %s", got)
	}

	all.send(pub("$JS.ACK._.e.S.w.1.5.5.0.0", "", ""))
	all.sync()
	if got := api.take("interest"); len(got) > 0 {
		t.Errorf("of a user without a right to the list it was told %q", got)
	}
}

func TestItemsOfAConsumerGoToOneSubscription(t *testing.T) {
	t.Parallel()
	s, addr, api := withAPI(t, testOptions())
	c, other := dialWith(t, addr, `{"headers":true}`), dialWith(t, addr, `{}`)
	other.send("SUB inbox.> 7\r\n")
	other.sync()
	c.send("SUB inbox.1 9\r\n" + pub("$JS.API.x", "", ""))
	c.sync()
	out := api.last().Outlet(OutletOptions{Subject: "inbox.1", Consumer: "S.w", Confirm: Acknowledged})
	b := batch.Of("items", 4, []byte("one"), []byte("two"), []byte("three")).Stamp("e", taken, 10)
	r := receipt()
	if n := out.Deliver(b, 1, 3, 8, r); n != 2 {
		t.Errorf("%d items were taken", n)
	}
	c.expect("MSG items 9 $JS.ACK._.e.S.w.1.6.8.1700000000123456789.11 3", "two", "MSG items 9 $JS.ACK._.e.S.w.1.7.9.1700000000123456789.10 5", "three")
	<-r.confirmed // when they are written

	sizes := api.last().Outlet(OutletOptions{Subject: "inbox.1", Consumer: "S.w", Incarnation: "i", Confirm: Acknowledged, HeadersOnly: true})
	sizes.Deliver(b, 2, 3, 1, r)
	c.expect("HMSG items 9 $JS.ACK._.e-i.S.w.1.7.1.1700000000123456789.10 30 30", "NATS/1.0", "Nats-Msg-Size: 5", "", "")
	out.Send("NATS/1.0 100 Idle Heartbeat\r\n\r\n", "fc")
	c.expect("HMSG inbox.1 9 fc 31 31", "NATS/1.0 100 Idle Heartbeat", "", "")
	other.expect("MSG inbox.1 7 fc 0", "")

	c.Close()
	eventually(t, "the client is gone", func() bool { return len(s.Clients()) == 1 })
	if n := out.Deliver(b, 0, 1, 3, r); n != 1 {
		t.Error("the other subscription does not get the item")
	}
	other.expect("MSG items 7 $JS.ACK._.e.S.w.1.5.3.1700000000123456789.12 3", "one")
	other.send("UNSUB 7\r\n")
	other.sync()
	if out.Open() || out.Deliver(b, 0, 1, 3, r) != 0 {
		t.Error("it is open without a subscription")
	}
}

// nats.c's ordered consumers do not understand a reply subject with an epoch.
func TestItemsThatAreNotAcknowledgedHaveTheShortReplySubject(t *testing.T) {
	t.Parallel()
	s, addr, _ := withAPI(t, testOptions())
	c := dialWith(t, addr, `{"headers":true}`)
	c.send("SUB inbox 9\r\nSUB answers 1\r\n")
	c.sync()
	b := batch.Of("items", 4, []byte("one")).Stamp("e", taken, 2)
	for _, headersOnly := range []bool{false, true} {
		s.Outlet(OutletOptions{Subject: "inbox", Consumer: "S.view", Confirm: OnPong, HeadersOnly: headersOnly}).Deliver(b, 0, 1, 7, receipt())
	}
	c.expect("MSG items 9 $JS.ACK.S.view.1.5.7.1700000000123456789.2 3", "one")
	c.expect("HMSG items 9 $JS.ACK.S.view.1.5.7.1700000000123456789.2 30 30", "NATS/1.0", "Nats-Msg-Size: 3", "", "", "PING")
	c.send("PONG\r\n" + pub("$JS.ACK.S.view.1.5.7.1700000000123456789.2", "answers", "+ACK"))
	c.expect("HMSG answers 1 47 47", "NATS/1.0 503 no item has this reply subject", "", "")
}

func TestReceiptsOfAClientThatGoesAreConfirmed(t *testing.T) {
	t.Parallel()
	s, addr, _ := withAPI(t, testOptions())
	c := dialWith(t, addr, `{}`)
	c.send("SUB inbox 9\r\n")
	c.sync()
	out, r := s.Outlet(OutletOptions{Subject: "inbox", Consumer: "S.w", Confirm: OnPong}), receipt()
	b := batch.Of("items", 4, []byte("one")).Stamp("e", taken, 0)
	out.Deliver(b, 0, 1, 1, r)
	c.expect("MSG items 9 $JS.ACK.S.w.1.5.1.1700000000123456789.0 3", "one", "PING")
	out.Deliver(b, 0, 1, 2, r)
	select {
	case <-r.confirmed:
		t.Error("an item counts as read before the PONG")
	default:
	}

	c.Close()
	<-r.confirmed
	<-r.confirmed
}

func TestTheAPILearnsThatAClientHasLeft(t *testing.T) {
	t.Parallel()
	s, addr, api := withAPI(t, testOptions())
	c := dialWith(t, addr, `{}`)
	c.send(pub("$JS.API.x", "", ""))
	c.sync()
	want := fmt.Sprintf("left %d", api.last().ID())
	api.take("")
	c.Close()
	eventually(t, "the client is forgotten", func() bool { return len(s.Clients()) == 0 })
	if told := api.take("interest"); len(told) != 1 || told[0] != want {
		t.Errorf("the API is told %q, want %q", told, want)
	}
}

func TestARequestThatWaitsHoldsMemoryOfItsClient(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.Budget = budget.New(10_000)
	_, addr, api := withAPI(t, opts)
	c := dialWith(t, addr, `{}`)
	c.send(pub("$JS.API.x", "", ""))
	c.sync()
	out := api.last().Outlet(OutletOptions{Subject: "inbox", Consumer: "S.w"})
	if opts.Budget.Used() < outletSize {
		t.Errorf("%d bytes are held", opts.Budget.Used())
	}

	out.Close()
	if opts.Budget.Used() != 0 {
		t.Errorf("%d bytes are held after Close", opts.Budget.Used())
	}

	for range 30 {
		api.last().Outlet(OutletOptions{Subject: "inbox", Consumer: "S.w"})
	}
	c.expectEnd()
}
