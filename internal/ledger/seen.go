package ledger

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Seen says of which removed items {list}:edged:seen has the keys: of those from From to To, To
// excluded, but of the last Items at most. The key of item n has KeySize bytes, at n % Items. Each
// removal writes it, so items that were removed without are told by the list's head: it has
// another number than To.
type Seen struct {
	From, To uint64
	Items    uint64   // 0: there is none
	Cuts     []uint64 // for the items from one of these on, those below it do not count; ascending
	By       string   // which part of an item makes its key
}

// MaxCuts is how many Cuts there are at most.
const MaxCuts = 16

// Equal reports whether both say the same.
func (s Seen) Equal(other Seen) bool {
	return s.From == other.From && s.To == other.To && s.Items == other.Items && s.By == other.By && slices.Equal(s.Cuts, other.Cuts)
}

// Field is the field of the ledger that says it.
func (s Seen) Field() Field {
	cuts := make([]string, len(s.Cuts))
	for i, n := range s.Cuts {
		cuts[i] = strconv.FormatUint(n, 10)
	}
	return Field{SeenKeys, fmt.Sprintf("%d %d %d [%s] %s", s.From, s.To, s.Items, strings.Join(cuts, ","), s.By)}
}

var errSeen = errors.New("not the numbers of items whose keys are known")

func parseSeen(text string) (Seen, error) {
	var s Seen
	words := strings.SplitN(text, " ", 5)
	if len(words) != 5 {
		return s, errSeen
	}
	s.By = words[4]
	for i, n := range []*uint64{&s.From, &s.To, &s.Items} {
		if parse(n, words[i]) != nil || *n > maxPlace {
			return Seen{}, errSeen
		}
	}
	cuts := strings.TrimSuffix(strings.TrimPrefix(words[3], "["), "]")
	for _, word := range strings.Split(cuts, ",") {
		var n uint64
		if cuts == "" {
			break
		}
		if parse(&n, word) != nil || n > maxPlace || len(s.Cuts) == MaxCuts || len(s.Cuts) > 0 && n < s.Cuts[len(s.Cuts)-1] {
			return Seen{}, errSeen
		}
		s.Cuts = append(s.Cuts, n)
	}
	return s, nil
}
