package flow

import (
	"testing"
	"time"
)

// crossing is an item in flight.
type crossing struct{ sent, confirmed time.Time }

// cross sends items of 1000 bytes over a link. It returns the bytes in flight at the end and the
// bytes that arrived in a second.
func cross(w *Window, rate int, delay time.Duration, most int) (onWay, perSecond int) {
	const size, items = 1000, 3000
	began := time.Unix(0, 0)
	now, free := began, began // free is when the link has taken all bytes
	var queue []crossing
	for range items {
		for len(queue) == 0 || len(queue)*size < w.Bytes {
			if free.Before(now) {
				free = now
			}
			free = free.Add(size * time.Second / time.Duration(rate))
			queue = append(queue, crossing{now, free.Add(delay)})
		}
		next := queue[0]
		now = next.confirmed
		w.Confirmed(size, next.sent, now, true, most)
		queue = queue[1:]
	}

	return len(queue) * size, int(items * size / now.Sub(began).Seconds())
}

func TestTheWindowFollowsTheTimeOfConfirmations(t *testing.T) {
	for _, c := range []struct {
		rate  int           // bytes a second
		delay time.Duration // round trip
		least int
		most  int
	}{
		{8_000, 600 * time.Millisecond, 8 << 10, 24 << 10},
		{8_000, 0, 8 << 10, 24 << 10},
		{1_000_000, 50 * time.Millisecond, 255 << 10, 256 << 10},
		{200_000, 2500 * time.Millisecond, 255 << 10, 256 << 10}, // slow for other reasons
		{500, 600 * time.Millisecond, 3 << 10, 5 << 10},
	} {
		w := New(16<<10, 4<<10, 2*time.Second)
		onWay, perSecond := cross(&w, c.rate, c.delay, 256<<10)
		if onWay < c.least || onWay > c.most {
			t.Errorf("at %d bytes a second %d are in flight", c.rate, onWay)
		}
		if perSecond < c.rate/3 {
			t.Errorf("%d bytes of %d arrive in a second", perSecond, c.rate)
		}
	}
}

func TestAWindowThatIsNotFullDoesNotGrow(t *testing.T) {
	w := New(4<<10, 4<<10, time.Second)
	for range 100 {
		w.Confirmed(1000, time.Unix(0, 0), time.Unix(0, 1), false, 1<<20)
	}
	if w.Bytes != 4<<10 {
		t.Errorf("the window is %d bytes", w.Bytes)
	}
}
