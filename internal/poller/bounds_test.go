package poller

import (
	"strings"
	"testing"
	"time"

	"edged/internal/redistest"
	"edged/internal/relay"
)

// receivedByHand makes a loop over the list "a" whose turns the test takes.
func receivedByHand(t *testing.T, address string, change ...func(*Options)) (*source, *relay.List) {
	w := relay.NewList(relay.Options{Window: 1000, Memory: 4 << 20})
	opts := Options{
		Redis: RedisOptions{Address: address, Timeout: 2 * time.Second}, Instance: "x",
		MaxPayload: 1 << 20, BatchItems: 500, BatchBytes: 128 << 10, PollInterval: time.Minute, Lease: 5 * time.Minute,
		Lists: []List{{Key: "a", Subject: "sa", Window: w}},
	}
	for _, c := range change {
		c(&opts)
	}
	l := New(opts)
	withoutRun(t, l)
	return l.sources[0].(*source), w
}

// sized is an item of size bytes.
func sized(name string, size int) string { return name + strings.Repeat(".", size-len(name)) }

// Loss: that one item stands in its place does not tell that the head has not moved.
func TestACappedListWhoseLargeItemsComeAgainLosesNone(t *testing.T) {
	for _, c := range []struct{ before, after string }{
		{"ABC", "DEC"}, {"AB", "AC"}, {"AAA", "AEAA"},
	} {
		t.Run(c.before+" then "+c.after, func(t *testing.T) {
			s := redistest.Start(t)
			src, w := receivedByHand(t, s.Address())
			a := &client{t: t, hold: true}
			w.Join("", "1", a)
			push := func(names string) {
				for _, name := range strings.Split(names, "") {
					s.Push("a", sized(name, 5000))
				}
			}
			now := time.Now()
			push(c.before)
			settleDown(t, src, &now)
			if a.count() != len(c.before) {
				t.Fatal("not all arrived")
			}
			do(t, s, "DEL", "a") // the producer caps its list, and goes on
			push(c.after)
			for range 10 {
				a.confirm()
				src.more = true
				settleDown(t, src, &now)
			}
			for _, name := range strings.Split(c.after, "") {
				found := false
				for _, item := range a.got() {
					found = found || string(item[:1]) == name
				}
				if !found {
					t.Errorf("%s was never delivered; %d are left in Redis", name, s.Len("a"))
				}
			}
		})
	}
}
