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

// placed returns the id of the last item before a place, <epoch>-<n>. Before the first item of all,
// n is -1. Without an epoch there is no id.
func placed(epoch string, next uint64) string {
	if epoch == "" {
		return ""
	}
	return epoch + "-" + strconv.FormatInt(int64(next)-1, 10)
}

func (p place) String() string { return placed(p.epoch, p.next) }

// places are the places in an event's id, separated by commas: one of each list of the stream, the
// event's own list first. An epoch belongs to one list, so no names are needed.
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
