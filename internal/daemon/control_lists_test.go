package daemon

import (
	"strings"
	"testing"

	"edged/internal/uds"
)

func TestTablesOfListsAndConsumersFitAScreen(t *testing.T) {
	long := strings.Repeat("sensors:ü", 10)
	lists := listsAnswer{[]listAnswer{{
		Key: long, State: "starting", Backlog: 1_234_567, Done: 123_456_789, Lag: 599, Owed: 65_536, Oldest: 599, Consumers: 1000,
	}}}
	consumers := consumersAnswer{[]consumerAnswer{{
		List: long, Kind: "group", Group: long, Clients: make([]uint64, 100), Next: 123_456_789,
		Lag: 599, LagItems: 1_234_567, Owed: 65_536, Oldest: 599,
	}, {List: "a", Kind: "plain", Clients: []uint64{123_456}}, {List: "a", Kind: "plain"}}}
	for name, a := range map[string]uds.Answer{"lists": lists, "consumers": consumers} {
		var text strings.Builder
		a.Text(&text)
		for line := range strings.Lines(text.String()) {
			if n := len([]rune(strings.TrimSpace(line))); n > 80 {
				t.Errorf("%s: the line has %d columns: %s", name, n, line)
			}
		}
	}
}
