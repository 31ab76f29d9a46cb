package relay

import (
	"slices"
	"time"

	"edged/internal/batch"
)

func (w *world) works(p batch.Place) bool {
	return p.Dirty || p.Judge > 0 || p.Items > 0 && p.From < w.end
}

// checkWoken looks whether the loop, which sleeps, is woken for new work.
func (w *world) checkWoken() {
	q := &w.quiet
	if q.yes && !q.woken && q.end == w.end && (q.wake.IsZero() || w.now.Before(q.wake)) {
		if p := w.log.Plan(w.first, w.end); w.works(p) {
			w.t.Errorf("nothing woke the loop for %+v", p)
			w.dump()
		}
	}
}

// isOwed reports whether a consumer has to confirm an item.
func (w *world) isOwed(o *owes, n uint64) bool {
	return n >= o.start && !o.confirmed.Has(n) && !o.finished.Has(n) && !w.dead.Has(n) && !w.repeats(n)
}

// check looks whether an item is gone that a consumer still owed.
func (w *world) check() {
	w.invariants()
	w.checkWoken()
	for n := range w.first {
		if w.aside[n] {
			continue
		}
		if !w.known.Has(n) && !w.repeats(n) {
			w.t.Errorf("%d is gone, but no consumer has confirmed it", n)
		}
		for name, o := range w.durables {
			if w.isOwed(o, n) {
				w.t.Errorf("%d is gone, but durable %q has not confirmed it", n, name)
			}
		}
		for _, c := range w.clients {
			if w.isOwed(c.owes, n) {
				w.t.Errorf("%d is gone, but %s has not confirmed it", n, c.name)
			}
		}
		if w.t.Failed() {
			return
		}
	}
	st := w.log.Stats()
	if st.Taken != st.Confirmed+st.Dead+st.Gone+st.Returned+uint64(st.InFlight) || st.InFlight < 0 || int64(st.Confirmed) < 0 {
		w.t.Errorf("the books are wrong: %+v", st)
	}
}

// finish lets all clients confirm: then nothing is left.
func (w *world) finish() {
	for name := range w.durables {
		if name != "tap" || !slices.ContainsFunc(w.clients, func(c *client) bool { return c.tap != nil }) {
			w.joinDurable(name)
		}
	}
	if w.join(""); w.t.Failed() {
		return
	}
	for range 2000 {
		w.ask(100)
		w.turn(false)
		if len(w.cut) > 0 {
			w.leaveCut()
			w.join("") // the one that is there for the items that no other consumer wants may be cut off too
		}
		for _, c := range w.clients {
			for _, d := range c.debts {
				if !c.explicit() {
					c.confirmed(d.from, d.to)
				}
				d.receipt.Confirm()
				for n := d.from; c.explicit() && n < d.to; n++ {
					c.acknowledge(n, batch.Ack{Kind: batch.Acked})
				}
			}
			c.debts = nil
		}
		w.now = w.now.Add(100 * time.Millisecond)
	}
	w.check()
	if w.first+w.keep < w.end || len(w.aside) > 0 {
		w.t.Errorf("%d items are left of the list: %d to %d, and %v aside", w.end-w.first, w.first, w.end, w.aside)
		w.dump()
	}
	if st := w.log.Stats(); st.InFlight != 0 || st.Behind != 0 {
		w.t.Errorf("after the end: %+v", st)
	}
}

// invariants compares fields of a Log that depend on each other.
func (w *world) invariants() {
	l := w.log
	for _, c := range l.consumers {
		if c.closing || len(c.members) == 0 {
			continue
		}
		if out := int(c.cursor - c.acked.Below(c.cursor)); out != c.out {
			w.t.Errorf("consumer %q: out is %d, not %d; cursor %d, acked %s", c.name.Name, c.out, out, c.cursor, c.acked.String())
		}
		owed := 0
		for _, m := range c.members {
			owed += m.owed
			held := 0
			for _, s := range l.holds(m) {
				held += int(s.To - s.From)
			}
			if held != m.owed {
				w.t.Errorf("consumer %q: a member owes %d, but holds %d", c.name.Name, m.owed, held)
			}
		}
		waiting := 0
		for _, k := range c.singles {
			if k.member == nil {
				waiting++
			}
		}
		if !c.terms.Explicit {
			waiting = int(c.again.Count())
		}
		if owed+waiting != c.out {
			w.t.Errorf("consumer %q: %d in hands and %d waiting, but %d are out", c.name.Name, owed, waiting, c.out)
		}
	}
}

// dump adds the consumers to the story.
func (w *world) dump() {
	for _, c := range w.log.consumers {
		w.say("  consumer %q: %v, cursor %d, again %v, out %d, ready %v, front %v, closing %v", c.name.Name, c.acked.String(), c.cursor, c.again.String(),
			c.out, c.ready, c.front, c.closing)
	}
	w.say("  front %d, done %s, finished %s, taken %s", w.log.front, w.log.done.String(), w.log.finished.String(), w.log.taken.String())
}
