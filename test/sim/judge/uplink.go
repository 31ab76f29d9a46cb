package judge

import "time"

// The stream of an uplink is judged as well. It has each item once and in list order, as long as only
// edged and producers at the tail change Redis's data, and otherwise at least once. An item that Redis
// does not have any more is in the stream.

// copyOf identifies an item in the stream.
type copyOf struct{ list, payload string }

// Stored judges an item that the stream has got from a daemon.
func (j *Judge) Stored(name, payload, daemon string) {
	l, it, key := j.lists[name], j.items[payload], copyOf{name, payload}
	j.stored[key]++
	switch {
	case it == nil && j.stored[key] == 1:
		j.Find("hub-invented", "the hub got %s of %s, which was never pushed", label(payload), name)
		return
	case it == nil && !j.unsure:
		j.Find("hub-twice", "the hub got %s %d times, the last time after all was settled", label(payload), j.stored[key])
		return
	case it == nil:
		return
	case it.list != l && it.place != 0:
		j.Find("hub-strayed", "the hub got %s of %s", label(payload), name)
		return
	}

	if it.confirms++; it.confirmed.IsZero() {
		it.confirmed = time.Now()
	}
	it.by[daemon] = true
	j.duplicated(it, "the hub")
	copies := j.stored[key] - it.before
	if copies == 1 && !it.unordered && !l.late(it) {
		if it.place < l.stored {
			j.Find("hub-order", "the hub got %s after %s:%d", label(payload), name, l.stored)
		}
		l.stored = max(l.stored, it.place)
	}
	if copies > it.pushed && !it.maybe && !j.unsure && (!it.unordered || it.pushed > 1) {
		j.Find("hub-twice", "the hub got %s %d times, and it was pushed %d times", label(payload), copies, it.pushed)
	}
}

// unsent judges whether copies are gone that the hub does not have. Equal items may be taken for those that
// Redis has lost.
func (j *Judge) unsent(it *item, held Held) {
	if !it.list.Uplink || it.rhythm || it.payload == "" || it.place == 0 && !j.changed.IsZero() {
		return
	}
	stored := j.stored[copyOf{it.list.Name, it.payload}] - it.before
	if missing := it.pushed - it.excused - held.copies(it.payload) - stored; missing > 0 {
		j.Find("hub-lost", "%s: %d pushed, %d gone without edged, the hub has %d, and Redis has %d",
			label(it.payload), it.pushed, it.excused, stored, held.copies(it.payload))
	}
}
