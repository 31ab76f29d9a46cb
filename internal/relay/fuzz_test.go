package relay

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"edged/internal/batch"
	"edged/internal/numbers"
)

// FuzzLoad begins a list with a ledger that another program has written, and serves it: nothing may
// panic, or go on for ever.
func FuzzLoad(f *testing.F) {
	f.Add(uint64(5), uint64(9), "7+1", "8 9", uint64(8), uint64(6), "5+1,1", int64(30), true)
	f.Add(uint64(0), uint64(3), "0", "18446744073709551615 0 4", uint64(1<<64-1), uint64(1<<64-1), "18446744073709551615", int64(-1), true)
	f.Add(uint64(1<<62), uint64(100), "0+1,1,1", "4611686018427387904", uint64(1<<63), uint64(0), "18446744073709551614+1", int64(1), false)
	f.Add(uint64(2), uint64(50), "1+3,18446744073709551610", "2 2 3", uint64(3), uint64(1<<53), "9+9223372036854775807", int64(1<<40), true)
	f.Fuzz(func(t *testing.T, first, items uint64, finished, aside string, done, plain uint64, record string, grace int64, explicit bool) {
		if first > 1<<62 { // ParseOutcome refuses it
			return
		}
		s := batch.Snapshot{First: first, Done: done, Plain: plain, HasPlain: plain%2 == 0, Grace: time.Duration(grace)}
		s.End = first + items%1000
		s.Finished, _ = numbers.Parse(finished)
		s.Finished.Raise(first)
		acked, _ := numbers.Parse(record)
		s.Records = map[batch.Name]numbers.Set{{Name: "group"}: acked, {Durable: true, Name: "durable"}: acked}
		for _, word := range strings.Fields(aside) {
			if n, err := strconv.ParseUint(word, 10, 64); err == nil {
				s.Aside = append(s.Aside, n)
			}
		}

		d := newDesk(t, Options{Terms: Terms{Explicit: explicit, MaxAckPending: 100, AckWait: time.Minute, MaxDeliver: 3}}, s)
		d.end = s.End
		readers := []*reader{d.join(""), d.join("group"), d.join("other")}
		for range 3 {
			for range 10_000 {
				if !d.turn() {
					break
				}
				for _, r := range readers {
					r.acknowledge(explicit)
				}
			}
			if d.turn() {
				t.Fatal("the log goes on for ever")
			}
			d.now = d.now.Add(time.Hour)
		}
		d.log.State()
	})
}

// acknowledge confirms all that the reader was handed.
func (r *reader) acknowledge(explicit bool) {
	for _, n := range r.got {
		if explicit {
			_ = r.Membership.(batch.Acknowledger).Acknowledge("e", n, batch.Ack{Kind: batch.Acked}, nil)
		}
	}
	r.got = nil
	r.confirm()
}
