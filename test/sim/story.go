package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// told is how many lines of each party a story keeps.
const told = 30

// story is what happened, as far as it is worth telling: the last lines of each
// party.
type story struct {
	mu      sync.Mutex
	number  int
	parties map[string][]line
}

type line struct {
	at     time.Duration
	number int
	party  string
	text   string
}

func newStory() *story { return &story{parties: map[string][]line{}} }

func (s *story) add(at time.Duration, party, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.parties[party]
	if len(lines) == told {
		lines = append(lines[:0], lines[1:]...)
	}
	s.number++
	s.parties[party] = append(lines, line{at, s.number, party, text})
}

// String tells the story in the order of time.
func (s *story) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []line
	for _, lines := range s.parties {
		all = append(all, lines...)
	}
	slices.SortFunc(all, func(a, b line) int { return cmp.Compare(a.number, b.number) })
	var b strings.Builder
	for _, l := range all {
		fmt.Fprintf(&b, "%12.3f  %-10s %s\n", l.at.Seconds(), l.party, l.text)
	}
	return b.String()
}
