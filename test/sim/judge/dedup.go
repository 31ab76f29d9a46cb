package judge

import (
	"slices"
	"strings"
	"time"
)

// Lists with dedup have two more promises. An item is a duplicate if one of the Dedup items
// before it in list order has its id. A duplicate is delivered to no consumer; any other item
// is delivered as in other lists.
//
// The judge does not see the numbers of items, but it knows their order. Where a number may
// differ from the order, each promise takes the distance that accuses less.

// Identified returns an item with an id, made of one that has none.
func Identified(id, payload string) string { return `{"id":"` + id + `","item":"` + payload + `"}` }

// identified takes an item apart. Its id is empty if it has none.
func identified(payload string) (id, inner string) {
	rest, ok := strings.CutPrefix(payload, `{"id":"`)
	if !ok {
		return "", payload
	}
	id, inner, _ = strings.Cut(rest, `","item":"`)
	return id, inner
}

// enqueue puts an item at the tail of its list's order.
func (l *list) enqueue(it *item) {
	if l.Dedup == 0 {
		return
	}
	if it.maybe {
		l.published++
	}
	it.id, _ = identified(it.payload)
	it.published, it.settledBefore = l.published, l.settled
	l.order = append(l.order, it)
}

// position returns the position of an item in the list's order, or -1. Of equal items it is that
// of the last one.
func (l *list) position(it *item) int {
	for i := len(l.order) - 1; i >= 0; i-- {
		if l.order[i] == it {
			return i
		}
	}
	return -1
}

// overtake puts the item that was pushed last before the item that was at the head.
func (l *list) overtake(head *item) {
	at, last := l.position(head), len(l.order)-1
	if at < 0 {
		return
	}
	it := l.order[last]
	it.loose = true
	l.order = slices.Insert(l.order[:last], at, it)
}

// Touched notes that a list or its ledger has changed, neither by edged nor by a push to the tail.
// edged may have lost the ids of earlier items, and these may have other numbers.
func (j *Judge) Touched(name string) {
	l := j.lists[name]
	l.touched = time.Now()
	for _, it := range l.order {
		it.loose = true
	}
}

// RequeueEnded notes that a requeue is over. One without an answer may still come, until the next check.
func (j *Judge) RequeueEnded(name string) {
	j.Touched(name)
	j.lists[name].requeues = max(0, j.lists[name].requeues-1)
}

// duplicated judges an item that is delivered: none of the items shortly before it has its id.
func (j *Judge) duplicated(it *item, to string) {
	l := it.list
	at := l.position(it)
	if it.id == "" || at < 0 || l.requeues > 0 {
		return
	}

	for i := at - 1; i >= max(0, at-l.Dedup); i-- {
		first := l.order[i]
		unseen := 2 * (it.published - first.settledBefore) // they may be between, even twice
		if first.id == it.id && at-i+unseen <= l.Dedup && first.at.After(l.touched) {
			j.Find("duplicate", "%s got %s, and %s, %d items before it, has the same id %s",
				to, label(it.payload), label(first.payload), at-i, it.id)
			return
		}
	}
}

// late reports whether an item may have been a duplicate until the list was touched. Such an item is
// delivered after later ones.
func (l *list) late(it *item) bool {
	at := l.position(it)
	return it.id != "" && at >= 0 && !it.at.After(l.touched) &&
		slices.ContainsFunc(l.order[:at], func(first *item) bool { return first.id == it.id })
}

// drops marks the items that may have been removed as duplicates: of an earlier item that is not
// lost itself.
func (l *list) drops(held Held) {
	for at, it := range l.order {
		it.dropped = it.dropped || it.id != "" && held.copies(it.payload) == 0 && l.repeats(at, held)
	}
}

// repeats reports whether the item at a position may be a duplicate of one before it.
func (l *list) repeats(at int, held Held) bool {
	distance := 1
	for i := at - 1; i >= 0 && distance <= l.Dedup; i-- {
		first := l.order[i]
		lost := first.confirms == 0 && first.excused == 0 && !first.dropped && held.copies(first.payload) == 0
		if first.id == l.order[at].id && !lost {
			return true
		}
		if !first.loose && !first.maybe && first.excused == 0 {
			distance++
		}
	}
	return false
}

// shorten forgets the items of the order that no later one can be a duplicate of. Items that Redis
// holds may still be delivered or dropped.
func (l *list) shorten(held Held) {
	l.settled, l.requeues = l.published, 0
	from := slices.IndexFunc(l.order, func(it *item) bool { return held.copies(it.payload) > 0 })
	if from < 0 {
		from = len(l.order)
	}
	for certain := 0; from > 0 && certain < l.Dedup; from-- {
		if it := l.order[from-1]; !it.loose && !it.maybe && it.excused == 0 {
			certain++
		}
	}
	l.order = slices.Clone(l.order[from:])
}
