package daemon

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"edged/internal/inbound"
	"edged/internal/poller"
	"edged/internal/tcpserver"
	"edged/internal/uds"
	"edged/internal/uplink"
)

// wideAnswers are answers with long names and large numbers.
func wideAnswers() map[string]uds.Answer {
	long := strings.Repeat("sensors:ü", 10)
	const items, place, large = 1_234_567_890, 1_234_567_890_123, 9_876_543_210
	ago := time.Now().Add(-99*time.Hour - 59*time.Minute - 50*time.Second)
	return map[string]uds.Answer{
		"lists": listsAnswer{[]listAnswer{{
			Key: long, State: "starting", Backlog: items, Done: place, Lag: 3.6e5, Owed: 65_536, Oldest: 3.5e6, Consumers: 1000,
			Reason: strings.Repeat("Redis says something ", 10), Holder: long, Dead: 1, Unclaimed: 1, Gone: 1, Class: 9, Shared: large,
		}, {Key: "a"}}},
		"consumers": consumersAnswer{[]consumerAnswer{{
			List: long, Kind: "group", Group: long, Clients: make([]uint64, 100), Next: place, Lag: 3.6e5, LagItems: items, Owed: 65_536, Oldest: 3.5e6,
		}, {List: "a", Kind: "plain", Clients: []uint64{123_456}}, {List: "a", Kind: "plain"}}},
		"inbound": inboundAnswer{[]inbound.Stats{{
			Subject: long, Key: long, Written: large, Waiting: items, RefusedBuffer: large, RefusedMaxLen: large, RefusedRedis: large, Uncertain: large,
			Failing: strings.Repeat("Redis says something ", 10),
		}}},
		"uplinks": uplinksAnswer{Uplinks: []uplinkAnswer{{
			Status: uplink.Status{Name: long, State: "connecting", Since: ago, Reason: strings.Repeat("reason ", 30), Sent: large, Skipped: 12_345_678, Refused: 1_000},
			Lists:  []uplinkList{{List: long, Items: large, Lag: 3.5e6}},
		}}, Strays: []string{strings.Repeat("stray ", 30)}},
		"clients": clientsAnswer{[]tcpserver.ClientInfo{{
			ID: 123_456, Address: "192.168.100.100:65535", Name: long, Since: ago, Subscriptions: 1024, Sent: 123_456_789, Owed: 65_536, Pending: 16 << 20,
		}, {ID: 1, Address: "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535", Lang: long, ClientVersion: "1.2.3"}}},
		"dead": deadAnswer{1, []deadLetter{{
			poller.Epitaph{Reason: strings.Repeat("reason ", 30), Time: ago, Deliveries: 5, Size: 1 << 20}, `"` + strings.Repeat(`\x00`, 200) + `"…`,
		}}},
		"peek":    peekAnswer{1, []peekedItem{{1 << 20, strings.Repeat("x", 500)}}},
		"history": historyAnswer{Items: []historyItem{{ID: itemID("k3v9x2ab", place), Seen: &ago, State: "waiting", Item: strings.Repeat("x", 500)}}},
		"status": statusAnswer{
			State: "draining", Why: "the command drain", Version: "1.2.3-dev+0123456789abcdef", Instance: long, PID: 4_194_304, Uptime: 1e8,
			Redis: "the master " + long, Listen: "192.168.100.100:65535", Lists: 100_000, Backlog: large,
			Taken: large, Confirmed: large, Returned: large, Dead: large, Gone: large, InFlight: items, LogRepeated: large,
			Faults: []string{strings.Repeat("fault ", 30)}, Lagging: []string{strings.Repeat("lag ", 30)}, Free: []string{strings.Repeat("unclaimed ", 30)},
			Uplinks: []string{strings.Repeat("uplink ", 30)}, Standby: []string{strings.Repeat("standby ", 30)},
			TCP: tcpserver.Stats{Clients: 1_000_000, Accepted: large, Stuck: large, AuthFailures: large, Refused: large},
		},
		"health": Health{Reasons: []string{strings.Repeat("reason ", 30)}},
		"watch":  sample{Time: ago, heading: true, Interval: 1, Taken: 3e6, Confirmed: 3e6, Backlog: 999_999_999, Clients: 1000, Oldest: 3.5e6},
	}
}

func TestAnswersFitTheScreen(t *testing.T) {
	for name, a := range wideAnswers() {
		for line := range strings.Lines(textOf(a)) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
				t.Errorf("%s: the line has %d columns: %s", name, n, line)
			}
		}
	}
}

func textOf(a interface{ Text(io.Writer) }) string {
	var text strings.Builder
	a.Text(&text)
	return text.String()
}

func TestATableShowsNamesWholeIfTheyFit(t *testing.T) {
	const name = "plant:hall-3:line-7"
	if text := textOf(listsAnswer{[]listAnswer{{Key: name, State: "serving"}}}); !strings.Contains(text, "\n"+name+" ") {
		t.Errorf("lists cuts a name that fits:\n%s", text)
	}
}

func TestTimesHaveAZone(t *testing.T) {
	at := time.Date(2026, 11, 27, 15, 4, 5, 0, time.UTC)
	letter := deadLetter{poller.Epitaph{Reason: "given up", Time: at}, `"x"`}
	for name, a := range map[string]uds.Answer{
		"dead": deadAnswer{1, []deadLetter{letter}}, "history": historyAnswer{Items: []historyItem{{Seen: &at}}}, "watch": sample{Time: at},
	} {
		zone := at.Local().Format("15:04:05Z07:00")
		if text := textOf(a); !strings.Contains(text, zone) {
			t.Errorf("%s does not show the time %s:\n%s", name, zone, text)
		}
	}
}

func TestLongDurationsAreShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		59*time.Minute + 59*time.Second: "59m59s", time.Hour: "1h0m", 99*time.Hour + 59*time.Minute: "99h59m",
		100 * time.Hour: "4d4h", 100 * 24 * time.Hour: "100d",
	} {
		if got := span(d); got != want {
			t.Errorf("%s is shown as %s, not %s", fmt.Sprint(d), got, want)
		}
	}
}
