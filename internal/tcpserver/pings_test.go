package tcpserver

import (
	"testing"
	"time"

	"edged/internal/batch"
)

// epoch is when the tests of pings begin; they pass times and never wait.
var epoch = time.Unix(1_700_000_000, 0)

func after(d time.Duration) time.Time { return epoch.Add(d) }

// deliveries are n deliveries of one item each, numbered by their items.
func deliveries(numbers ...int) (all []delivery) {
	m := &member{}
	for _, n := range numbers {
		all = append(all, delivery{member: m, items: n, receipt: batch.Receipt(nil)})
	}
	return all
}

// round puts deliveries in a round, with a PING if one is wanted. It reports whether
// there is one.
func (p *pings) round(numbers ...int) (asks bool) {
	for _, d := range deliveries(numbers...) {
		p.written(d)
	}
	if asks = p.wanted(); asks {
		p.ask()
	}
	return asks
}

// expectConfirmed compares the deliveries that were confirmed.
func expectConfirmed(t *testing.T, got []delivery, want ...int) {
	t.Helper()
	numbers := make([]int, len(got))
	for i, d := range got {
		numbers[i] = d.items
	}
	if len(numbers) != len(want) {
		t.Fatalf("confirmed %v, want %v", numbers, want)
	}
	for i := range want {
		if numbers[i] != want[i] {
			t.Fatalf("confirmed %v, want %v", numbers, want)
		}
	}
}

func TestAPongConfirmsWhatWasWrittenBeforeItsPing(t *testing.T) {
	var p pings
	if !p.round(1, 2) {
		t.Fatal("no PING though items need one")
	}
	expectConfirmed(t, p.roundDone(epoch, true, 100))
	if p.round(3) {
		t.Fatal("a second PING while one is outstanding")
	}
	expectConfirmed(t, p.roundDone(epoch, false, 200))
	expectConfirmed(t, p.pong(epoch), 1, 2)

	if !p.wanted() {
		t.Error("no PING is wanted though an item waits for one")
	}
	if !p.round(4) {
		t.Fatal("no PING")
	}
	expectConfirmed(t, p.roundDone(epoch, true, 300))
	expectConfirmed(t, p.pong(epoch), 3, 4)
	if p.wanted() {
		t.Error("a PING is wanted though nothing waits for one")
	}
}

func TestAPongBeforeTheRoundIsDoneCountsThen(t *testing.T) {
	var p pings
	p.round(1)
	expectConfirmed(t, p.pong(epoch))
	expectConfirmed(t, p.roundDone(epoch, true, 100), 1)
	p.round(2)
	expectConfirmed(t, p.roundDone(epoch, true, 200)) // early belongs to the PING before
	expectConfirmed(t, p.pong(epoch), 2)
}

func TestAPongWithoutAPingMeansNothing(t *testing.T) {
	var p pings
	expectConfirmed(t, p.pong(epoch))
	p.round(1)
	expectConfirmed(t, p.roundDone(epoch, true, 100))
	expectConfirmed(t, p.pong(epoch), 1)
	expectConfirmed(t, p.pong(epoch))
}

func TestDroppedDeliveriesAreNotConfirmed(t *testing.T) {
	var p pings
	p.round(1, 2)
	p.roundDone(epoch, true, 100)
	p.round(3, 4)
	p.drop(func(d delivery) bool { return d.items%2 == 0 })
	expectConfirmed(t, p.pong(epoch), 1)
	p.drop(func(d delivery) bool { return d.items == 3 })
	if p.wanted() {
		t.Error("a PING is wanted for a delivery that was dropped")
	}
}

func TestAPingIsAskedForEachInterval(t *testing.T) {
	const interval = time.Minute
	p := pings{next: after(2 * time.Second)}
	if p.tick(after(time.Second), interval, true) || p.wanted() {
		t.Error("a PING before its time")
	}
	if p.tick(after(2*time.Second), interval, false) || p.wanted() {
		t.Error("a PING for a client that is not ready")
	}
	if !p.tick(after(62*time.Second), interval, true) || !p.wanted() {
		t.Error("no PING when it is due")
	}
	if !p.round() {
		t.Error("no PING in the round")
	}
	p.roundDone(after(62*time.Second), true, 6)

	if p.tick(after(122*time.Second), interval, true) || p.stale() {
		t.Error("stale, or a second PING, after one interval")
	}
	if p.tick(after(182*time.Second), interval, true) || !p.stale() {
		t.Error("not stale after two intervals without an answer")
	}
	p.pong(after(183 * time.Second))
	if p.stale() {
		t.Error("stale after the answer")
	}
}

func TestTheNextLookIsSoonerWhenItemsAreOwed(t *testing.T) {
	p := pings{next: after(time.Minute)}
	look := func(want time.Duration) {
		t.Helper()
		if got := p.nextLook(epoch, 10*time.Second); !got.Equal(after(want)) {
			t.Errorf("the next look is after %v, want %v", got.Sub(epoch), want)
		}
	}
	look(time.Minute)
	if !p.owe(3) || p.owe(1) {
		t.Error("only the first items owed begin the time to make progress")
	}
	look(10 * time.Second)
	p.settle(4)
	look(time.Minute)
	p.owe(1)
	p.next = after(5 * time.Second)
	look(5 * time.Second)
}

func TestProgressKeepsAClientFromBeingStuck(t *testing.T) {
	const timeout = 10 * time.Second
	for name, progress := range map[string]func(*pings, time.Time){
		"bytes that the socket took": func(p *pings, now time.Time) { p.moved(now) },
		"a round that is written":    func(p *pings, now time.Time) { p.roundDone(now, false, 500) },
		"a PONG":                     func(p *pings, now time.Time) { p.pong(now) },
		"bytes that the kernel sent": func(p *pings, now time.Time) { p.looked(now, 100, 50) },
	} {
		var p pings
		p.round(1)
		p.roundDone(epoch, true, 100)
		p.looked(epoch, 100, 100)
		if p.stuck(after(timeout-1), timeout) || !p.stuck(after(timeout), timeout) {
			t.Errorf("%s: the time is not %v without it", name, timeout)
		}
		progress(&p, after(timeout))
		if p.stuck(after(2*timeout-1), timeout) || !p.stuck(after(2*timeout), timeout) {
			t.Errorf("%s: the time is not %v with it", name, timeout)
		}
	}
}

func TestOnlyThePongCountsOnceTheClientHasThePing(t *testing.T) {
	const timeout = 10 * time.Second
	var p pings
	p.round(1)
	p.roundDone(epoch, true, 100)
	p.looked(after(time.Second), 300, 201) // one byte of the PING is missing
	p.moved(after(9 * time.Second))
	if p.stuck(after(11*time.Second), timeout) {
		t.Error("stuck though bytes moved")
	}
	p.looked(after(12*time.Second), 300, 200)
	for s := 13; s < 22; s++ {
		p.moved(after(time.Duration(s) * time.Second))
	}
	if p.stuck(after(22*time.Second-1), timeout) || !p.stuck(after(22*time.Second), timeout) {
		t.Errorf("the time is not %v from when the host had the PING", timeout)
	}
	expectConfirmed(t, p.pong(after(22*time.Second)), 1)
	if p.stuck(after(31*time.Second), timeout) {
		t.Error("stuck after the PONG")
	}
}

// More may be written between the two questions, how much was written and how much of
// that the kernel holds.
func TestMoreUnsentThanWrittenIsNoArrival(t *testing.T) {
	var p pings
	p.round(1)
	p.roundDone(epoch, true, 100)
	p.looked(epoch, 100, 1000)
	p.moved(after(time.Minute))
	if p.stuck(after(time.Minute+time.Second), 10*time.Second) {
		t.Error("stuck as if the host had the PING")
	}
}
