package judge

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"time"
)

// Check judges everything at a time at which all that can be delivered must have
// been, and forgets the items that are over.
func (j *Judge) Check(held Held) {
	for _, name := range slices.Sorted(maps.Keys(j.lists)) {
		l := j.lists[name]
		if !l.sorted {
			slices.SortStableFunc(l.items, func(a, b *item) int { return int(max(-1, min(1, a.place-b.place))) })
			l.sorted = true
		}
		l.drops(held)
		for _, it := range l.items {
			if it.dropped {
				continue
			}
			j.missed(it, held)
			j.unsent(it, held)
			j.lost(it, held)
		}
	}
	for _, payload := range slices.Sorted(maps.Keys(held.Waiting)) {
		if j.items[payload] == nil {
			j.Find("foreign", "Redis holds %s, which was never pushed", label(payload))
		} else {
			j.Find("stalled", "%d of %s still in Redis", held.Waiting[payload], label(payload))
		}
	}
	for _, payload := range slices.Sorted(maps.Keys(held.Dead)) {
		j.dead(payload, held.Dead[payload])
	}
	for _, s := range slices.SortedFunc(maps.Keys(j.sessions), func(a, b *Session) int {
		return bytes.Compare([]byte(a.client), []byte(b.client))
	}) {
		s.gaps(held)
	}
	j.forget(held)
}

// lost judges whether copies are missing.
func (j *Judge) lost(it *item, held Held) {
	if it.list.Mode == "none" {
		return
	}
	if missing := it.pushed - it.excused - held.copies(it.payload) - it.confirms; missing > 0 {
		j.Find("lost", "%s: %d pushed, %d gone without edged, %d confirmed, received %d times, and Redis has %d",
			label(it.payload), it.pushed, it.excused, it.confirms, it.receipts, held.copies(it.payload))
	}
}

// dead judges the dead letters of an item.
func (j *Judge) dead(payload string, reasons []string) {
	it := j.items[payload]
	if it == nil {
		return // it was judged before
	}
	if len(reasons) > it.pushed && !it.maybe && j.troubles == 0 { // a ledger that is lost is one: all comes again
		j.Find("twice-dead", "%s is %d times among the dead letters", label(payload), len(reasons))
	}
	for _, reason := range reasons {
		if it.place == 0 { // it may be of several lists
			break
		}
		large := len(payload) > it.list.MaxPayload
		switch {
		case strings.HasPrefix(reason, "larger") != large,
			!large && !it.given && (it.list.MaxDeliver == 0 || it.receipts == 0 && strings.Contains(reason, "up")):
			j.Find("dead", "%s is dead for the wrong reason: %s", label(payload), reason)
		case !large && !it.given && j.well(it.at) && it.pushed == 1 && j.deliveries(it) < it.list.MaxDeliver:
			j.Find("dead", "%s is dead after %d deliveries to a party: %s", label(payload), j.deliveries(it), reason)
		}
	}
}

// deliveries is how many deliveries of an item a party has had at most, with those to
// the sessions that have ended. One that was not read counts as well.
func (j *Judge) deliveries(it *item) int {
	ended, most := 0, 0
	parties := map[string]int{}
	for s := range j.sessions {
		switch n := s.times[it]; {
		case s.list != it.list, s.ended && s.end.Before(it.at):
		case s.ended && n == 0 && !s.polite, s.ended && n > 0 && s.end.Sub(s.got[it]) > s.wait-time.Second:
			ended += n + 1
		case s.ended:
			ended += n
		case n > 0 && !s.polite:
			parties[s.party()] += n + 1
		case n > 0:
			parties[s.party()] += n
		}
	}
	for _, n := range parties {
		most = max(most, n)
	}
	return ended + most
}

// gaps judges whether a plain subscription was passed over.
func (s *Session) gaps(held Held) {
	if s.group != "" || s.fresh == nil || s.mode == "none" || s.mode == viewer {
		return
	}
	high := s.high
	if s.polite && !s.ended && len(s.list.items) > 0 {
		high = s.list.items[len(s.list.items)-1].place
	}
	for _, it := range s.list.items {
		if it.place <= s.fresh.place || it.place > high || it.place <= s.judged {
			continue
		}
		_, got := s.got[it]
		elsewhere := false
		for daemon := range it.by {
			elsewhere = elsewhere || daemon != s.daemon
		}
		if got || elsewhere || it.unordered || it.dropped || it.pushed <= it.excused || it.given || len(held.Dead[it.payload]) > 0 || held.copies(it.payload) > 0 ||
			!it.confirmed.IsZero() && !it.confirmed.After(s.began) {
			continue
		}
		s.judge.Find("skipped", "%s, subscribed at %s since %s, got %s up to %d and never %s", s.client, s.daemon,
			s.began.Format("15:04:05"), s.list.Name, s.high, label(it.payload))
	}
}

// forget drops the items that are over and the sessions that have ended.
func (j *Judge) forget(held Held) {
	for _, l := range j.lists {
		l.shorten(held)
		over := int64(0)
		for _, it := range l.items {
			over = max(over, it.place)
		}
		l.items = slices.DeleteFunc(l.items, func(it *item) bool {
			if held.copies(it.payload) > 0 {
				return false
			}
			delete(j.items, it.payload)
			for _, d := range l.durables {
				delete(d.acked, it)
			}
			return true
		})
		for s := range j.sessions {
			if s.list == l {
				s.got, s.acked, s.times = map[*item]time.Time{}, map[*item]time.Time{}, map[*item]int{}
				s.again, s.judged, s.owes, s.twices = map[*item]bool{}, over, nil, 0
			}
		}
	}
	j.troubles, j.unsure = 0, false
	maps.DeleteFunc(j.sessions, func(s *Session, _ bool) bool { return s.ended })
}
