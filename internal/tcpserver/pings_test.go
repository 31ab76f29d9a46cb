package tcpserver

import (
	"testing"
	"time"

	"edged/internal/batch"
)

// epoch is when the tests of pings begin; they pass times and never wait.
var epoch = time.Unix(1_700_000_000, 0)

func after(d time.Duration) time.Time { return epoch.Add(d) }

// deliveries returns deliveries of one item each, numbered by their items.
func deliveries(numbers ...int) (all []delivery) {
	m := &member{}
	for _, n := range numbers {
		all = append(all, delivery{member: m, items: n, receipt: batch.Receipt(nil)})
	}
	return all
}

// round puts deliveries into a round, with a PING if one is wanted. It reports whether there is
// one.
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

func TestAPongConfirmsDeliveriesBeforeItsPing(t *testing.T) {
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

func TestAPingThatCoversItemsDoesNotCountAsUnanswered(t *testing.T) {
	const interval = time.Minute
	p := pings{next: after(interval)}
	p.round(1)
	p.roundDone(epoch, true, 100)
	for n := 1; n < 10; n++ {
		p.tick(after(time.Duration(n)*interval), interval, true)
	}

	if p.stale() {
		t.Error("stale though the time for the items' bytes decides")
	}
	p.drop(func(delivery) bool { return true })
	for n := 10; n < 10+maxUnanswered; n++ {
		p.tick(after(time.Duration(n)*interval), interval, true)
	}
	if !p.stale() {
		t.Error("not stale after the items have gone to other clients")
	}
}

func TestTheNextLookIsSoonerWhenItemsAreOwed(t *testing.T) {
	const timeout = 40 * time.Second
	p := pings{next: after(time.Minute)}
	p.begin(epoch, 0)
	look := func(now, want time.Duration) {
		t.Helper()
		if got := p.nextLook(after(now), timeout); !got.Equal(after(want)) {
			t.Errorf("the next look is after %v, want %v", got.Sub(epoch), want)
		}
	}
	look(0, time.Minute)
	if !p.owe(3) || p.owe(1) {
		t.Error("only the first items owed begin the client's time")
	}

	look(0, 10*time.Second)
	look(35*time.Second, 40*time.Second) // its time is over
	p.settle(4)
	look(0, time.Minute)
	p.owe(1)
	p.next = after(5 * time.Second)
	look(0, 5*time.Second)
}

// expectTime checks that the client's time ends so long after epoch.
func (p *pings) expectTime(t *testing.T, timeout, want time.Duration) {
	t.Helper()
	if got := p.deadline(timeout).Sub(epoch); got != want {
		t.Errorf("the client's time ends after %v, want %v", got, want)
	}
	if p.tooSlow(after(want-1), timeout) || !p.tooSlow(after(want), timeout) {
		t.Error("tooSlow does not begin at the deadline")
	}
}

func TestAClientHasASecondMoreForEachKiBThatItTakes(t *testing.T) {
	const timeout = 10 * time.Second
	var p pings
	p.begin(epoch, 5000)
	p.round(1)
	p.roundDone(after(time.Second), true, 5000+8192)
	p.looked(5000+8192, 8192)
	p.expectTime(t, timeout, timeout)
	p.looked(5000+8192, 6144)
	p.expectTime(t, timeout, timeout+2*time.Second)
	p.looked(5000+8192, 0)
	p.expectTime(t, timeout, timeout+8*time.Second)
}

func TestAClientsTimeBeginsAnewWithAPong(t *testing.T) {
	const timeout = 10 * time.Second
	var p pings
	p.begin(epoch, 0)
	p.round(1)
	p.roundDone(epoch, true, 4096)
	p.round(2)
	p.roundDone(epoch, false, 8192)
	p.looked(8192, 0)
	p.pong(after(5 * time.Second))
	p.expectTime(t, timeout, timeout+5*time.Second)

	p.round()
	p.roundDone(after(6*time.Second), true, 8198)
	p.looked(8198, 6)
	p.expectTime(t, timeout, timeout+9*time.Second) // 4 KiB more than when it answered
}

// A client that takes 165 bytes a second never makes enough progress.
func TestADribblerIsTooSlowAndASlowLinkIsNot(t *testing.T) {
	const timeout = 2 * time.Second
	last := func(rate int) (seconds int) {
		const item = 1 << 20
		var p pings
		p.begin(epoch, 0)
		p.round(1)
		p.roundDone(epoch, true, item)
		for seconds = 1; seconds*rate < item; seconds++ {
			p.looked(item, item-seconds*rate)
			if p.tooSlow(after(time.Duration(seconds)*time.Second), timeout) {
				break
			}
		}
		return seconds
	}
	if s := last(165); s > 3 {
		t.Errorf("a client that takes 165 bytes a second is kept for %d s", s)
	}

	if s := last(8 << 10); s < 128 {
		t.Errorf("a client that takes 64 kbit/s is cut off after %d s", s)
	}
}

// Messages that were queued before the item may take a while.
func TestBytesBeforeTheItemCount(t *testing.T) {
	const timeout = 10 * time.Second
	var p pings
	p.begin(epoch, 10_240) // 5 KiB of which the host does not have
	p.round(1)
	p.roundDone(epoch, true, 11_264)
	p.looked(11_264, 6144)
	p.expectTime(t, timeout, timeout)
	p.looked(11_264, 0)
	p.expectTime(t, timeout, timeout+6*time.Second)
}

func TestOnlyBytesBeforeThePingCount(t *testing.T) {
	const timeout = 10 * time.Second
	var p pings
	p.begin(epoch, 0)
	p.round(1)
	p.roundDone(epoch, true, 1024)
	p.looked(1<<20, 0) // messages of other clients
	p.expectTime(t, timeout, timeout+time.Second)
}

func TestItemsThatNeedNoPongHaveTheirTimeFromTheLastRound(t *testing.T) {
	const timeout = 10 * time.Second
	var p pings
	p.begin(epoch, 0)
	p.owe(2)
	p.roundDone(after(4*time.Second), false, 2048)
	p.looked(2048, 1024)
	p.expectTime(t, timeout, timeout+4*time.Second)
}

// More may be written between the two measurements: of the bytes written, and of those that the
// kernel still holds.
func TestMoreUnsentThanWrittenIsNothingTaken(t *testing.T) {
	var p pings
	p.begin(epoch, 100)
	p.round(1)
	p.roundDone(epoch, true, 200)
	p.looked(200, 1000)
	p.expectTime(t, time.Second, time.Second)
}

func TestTheRoundTripIsThatOfTheLastPing(t *testing.T) {
	var p pings
	p.round(1)
	p.roundDone(after(time.Second), true, 100)
	p.pong(after(1250 * time.Millisecond))
	if p.rtt != 250*time.Millisecond {
		t.Errorf("the round trip is %v, want 250ms", p.rtt)
	}

	// A PONG that arrives before the PING is known to be written says nothing about this item.
	p.round(2)
	p.pong(after(2 * time.Second))
	expectConfirmed(t, p.roundDone(after(3*time.Second), true, 200), 2)
	if p.rtt != 250*time.Millisecond {
		t.Errorf("the round trip is %v after an early PONG, want that of the PING before", p.rtt)
	}
}
