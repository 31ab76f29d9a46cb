package relay

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"edged/internal/batch"
)

// link is a member whose client reads a number of bytes a second.
type link struct {
	batch.Membership
	desk  *desk
	rate  int
	delay time.Duration // there and back, of an empty link
	free  time.Time     // when all bytes are read
	onWay []crossing
}

// crossing is a delivery on its way.
type crossing struct {
	items   int
	at      time.Time // when it is confirmed
	receipt batch.Receipt
}

func (k *link) Deliver(b *batch.Batch, from, to int, receipt batch.Receipt) int {
	size := 0
	for i := from; i < to; i++ {
		size += len(b.Item(i)) + 30
	}
	if k.free.Before(k.desk.now) {
		k.free = k.desk.now
	}
	k.free = k.free.Add(time.Duration(size) * time.Second / time.Duration(k.rate))
	k.onWay = append(k.onWay, crossing{to - from, k.free.Add(k.delay), receipt})
	return to - from
}

// cross lets time pass until the next delivery is confirmed, and returns its items.
func (k *link) cross() (items int) {
	next := k.onWay[0]
	k.onWay = k.onWay[1:]
	k.desk.now = next.at
	next.receipt.Confirm()
	return next.items
}

// read is a turn of the loop that reads as many items as a plan allows, of so many bytes each.
func (d *desk) readItems(size int) bool {
	p := d.log.Plan(d.first, d.end)
	d.log.Changes()
	d.log.Saved(true)
	if p.Items == 0 || p.From >= d.end {
		return p.Dirty
	}
	n := min(p.Items, max(1, p.Bytes/size), 1000)
	d.log.Offer(batch.Of("list", p.From, slices.Repeat([][]byte{bytes.Repeat([]byte("x"), size)}, n)...).Stamp("e", d.now, 0), p.Sweep)
	return true
}

func TestAConsumerHasAboutASecondOnItsWay(t *testing.T) {
	const size = 100
	for name, c := range map[string]struct {
		rate      int // bytes a second
		delay     time.Duration
		most      time.Duration // that the items on their way take
		mostItems int           // … or so many of them
	}{
		"64 kbit/s":           {8_000, 100 * time.Millisecond, 1500 * time.Millisecond, 0},
		"9600 bit/s":          {1_200, 600 * time.Millisecond, 0, 40},
		"10 Mbit/s, far away": {1_250_000, 600 * time.Millisecond, 1500 * time.Millisecond, 0},
		"as fast as it goes":  {1_000_000_000, 100 * time.Microsecond, time.Second, 0},
	} {
		for _, explicit := range []bool{false, true} {
			o := Options{Window: 4000, Delay: time.Second, Terms: Terms{Explicit: explicit, AckWait: time.Hour, MaxAckPending: 60_000}}
			d := newFull(t, o, 1<<40)
			k := &link{desk: d, rate: c.rate, delay: c.delay}
			k.Membership = d.log.Join("", "k", k)

			began, items, next := time.Time{}, 0, uint64(0)
			for round := range 2000 {
				for d.readItems(size) {
				}
				inFlight := 0
				for _, x := range k.onWay {
					inFlight += x.items
				}
				took := time.Duration(inFlight*(size+30)) * time.Second / time.Duration(c.rate)
				if took > c.most && inFlight > c.mostItems && round > 20 {
					t.Fatalf("%s: after %d items, %d are on their way", name, items, inFlight)
				}
				n := k.cross()
				if explicit { // the work on an item takes no time
					for range n {
						if err := k.Membership.(batch.Acknowledger).Acknowledge("e", next, batch.Ack{Kind: batch.Acked}, nil); err != nil {
							t.Fatal(err)
						}
						next++
					}
				}
				if items += n; round == 20 {
					began, items = d.now, 0
				}
			}
			rate := float64(items*(size+30)) / d.now.Sub(began).Seconds()
			if most := min(float64(c.rate), 4000*(size+30)/c.delay.Seconds()); rate < most/3 {
				t.Errorf("%s: %.0f bytes a second arrived, of at most %.0f", name, rate, most)
			}
		}
	}
}

func TestTheDelayCanBeSetWhileItemsAreOnTheirWay(t *testing.T) {
	d := newFull(t, Options{Window: 4000}, 1<<20)
	k := &link{desk: d, rate: 8_000}
	k.Membership = d.log.Join("", "k", k)
	for d.readItems(100) {
	}
	if n := len(k.onWay); d.log.Stats().Owed != 4000 {
		t.Fatalf("%d items are on their way, in %d batches", d.log.Stats().Owed, n)
	}
	d.log.Set(Options{Window: 4000, Memory: 1 << 20, Delay: time.Second})
	for len(k.onWay) > 0 {
		k.cross()
	}
	for d.readItems(100) {
	}
	if n := d.log.Stats().Owed; n == 0 || n > 80 {
		t.Errorf("%d items are on their way", n)
	}
}
