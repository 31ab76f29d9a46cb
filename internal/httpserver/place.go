package httpserver

import (
	"strconv"
	"strings"
)

// place is a place in a list, before the item with number next.
type place struct {
	epoch string // empty: the list has no ledger yet, so its items have no ids
	next  uint64
}

// placed is the id of the last item before a place, <epoch>-<n>. Before the first item of all
// n is -1. Without an epoch there is none.
func placed(epoch string, next uint64) string {
	if epoch == "" {
		return ""
	}
	return epoch + "-" + strconv.FormatInt(int64(next)-1, 10)
}

func (p place) String() string { return placed(p.epoch, p.next) }

// places are those that an event's id holds: one of each list of the stream, that of the event
// first, separated by commas. An epoch belongs to one list, so no names are needed.
type places []place

// parsePlaces reads an id. ok is false if it is not one of ours.
func parsePlaces(id string) (all places, ok bool) {
	for _, word := range strings.Split(id, ",") {
		epoch, number, _ := strings.Cut(word, "-")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || epoch == "" || n < -1 {
			return nil, false
		}
		all = append(all, place{epoch, uint64(n + 1)})
	}
	return all, true
}

// of returns the place in an epoch.
func (all places) of(epoch string) (p place, ok bool) {
	for _, p := range all {
		if p.epoch == epoch {
			return p, true
		}
	}
	return p, false
}
