package daemon

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"edged/internal/config"
	"edged/internal/poller"
)

// fill adds n samples, 5 s apart, in which 10 items a second were taken.
func (h *history) fill(from time.Time, n int, lists ...poller.Status) {
	for i := range n {
		at := from.Add(time.Duration(i) * historyInterval)
		h.add(tally{at: at, total: counts{taken: uint64(50 * i)}}, lists, i)
	}
}

func TestTheHistoryKeepsTheLastSamples(t *testing.T) {
	var h history
	start := time.Unix(1_800_000_000, 0)
	h.fill(start, historySamples+2, poller.Status{Key: "a", Backlog: 3}, poller.Status{Key: "b", Backlog: 4})

	c := h.columns()
	if len(c.At) != historySamples || c.At[0] != start.Add(2*historyInterval).UnixMilli() || !slices.IsSorted(c.At) {
		t.Errorf("%d samples, the first of %d", len(c.At), c.At[0])
	}
	last := historySamples - 1
	if c.Taken[last] != 10 || c.Backlog[last] != 7 || c.Clients[last] != historySamples+1 || c.Lists["a"][last] != 3 {
		t.Errorf("the last sample is %v, %v, %v, %v", c.Taken[last], c.Backlog[last], c.Clients[last], c.Lists["a"][last])
	}
	if s := h.last(); s.At != c.At[last] || s.Taken != 10 {
		t.Errorf("the last sample is %+v", s)
	}
}

func TestAListThatIsAddedHasNoHistory(t *testing.T) {
	var h history
	a, b := poller.Status{Key: "a", Backlog: 3}, poller.Status{Key: "b", Backlog: 4}
	h.fill(time.Now(), 2, a)
	h.fill(time.Now(), 1, a, b)
	h.fill(time.Now(), 1, b)
	for key, want := range map[string][]int64{"a": {3, 3, 3, unknown}, "b": {unknown, unknown, 4, 4}} {
		if got := h.columns().Lists[key]; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", key, got, want)
		}
	}
}

func TestTheHistoryHasPlotsOfSomeLists(t *testing.T) {
	var h history
	var lists []poller.Status
	for i := range historyLists + 5 {
		lists = append(lists, poller.Status{Key: fmt.Sprint(i)})
	}
	h.fill(time.Now(), 1, lists...)
	if n := len(h.columns().Lists); n != historyLists || h.columns().Lists["0"] == nil {
		t.Errorf("%d lists have plots", n)
	}
	h.fill(time.Now(), 2, lists[historyLists:]...) // the first ones are removed
	if c := h.columns().Lists[fmt.Sprint(historyLists)]; c == nil {
		t.Error("lists that were removed hold the places of plots")
	}
}

func TestRatesCountFromTheSnapshotBefore(t *testing.T) {
	var h history
	now := time.Now()
	h.add(tally{at: now.Add(-4 * time.Second)}, nil, 0)
	for _, c := range []struct {
		age  time.Duration // of the last snapshot
		want time.Duration
	}{{time.Second, time.Second}, {100 * time.Millisecond, 4 * time.Second}, {time.Minute, 4 * time.Second}} {
		h.shown(tally{at: now.Add(-c.age)})
		if got := now.Sub(h.before(now).at); got != c.want {
			t.Errorf("with a snapshot %v before, rates are those of the last %v, want %v", c.age, got, c.want)
		}
	}

	if r := (counts{130, 20}).since(counts{100, 20}, 2*time.Second); r != (rates{15, 0}) {
		t.Errorf("30 items in 2 s are %+v", r)
	}
	if r := (counts{1, 1}).since(counts{100, 20}, 2*time.Second); r != (rates{}) {
		t.Errorf("a list that was added again has %+v", r)
	}
}

func TestASnapshotIsBounded(t *testing.T) {
	var lists []pageList
	for i := range pageRows + 50 {
		l := pageList{listAnswer: listAnswer{Key: fmt.Sprint(i), State: "serving", Backlog: int64(i)}}
		if i == 7 {
			l.State = string(poller.Failing)
		}
		lists = append(lists, l)
	}
	worst := worstLists(lists)
	if len(worst) != pageRows || worst[0].Key != "7" || worst[1].Key != fmt.Sprint(pageRows+49) {
		t.Errorf("%d lists, the first are %s and %s", len(worst), worst[0].Key, worst[1].Key)
	}

	texts := firstTexts(slices.Repeat([]string{"x"}, pageTexts+5))
	if len(texts) != pageTexts+1 || texts[pageTexts] != "and 5 more" {
		t.Errorf("%d texts, the last is %q", len(texts), texts[len(texts)-1])
	}
}

// A field of the same name in an embedded struct hides both of them, unless one is outermost.
func TestTheSnapshotHasEachFieldOnce(t *testing.T) {
	text := string(pageJSON(pageSnapshot{Lists: []pageList{{}}, Consumers: []pageConsumer{{}}}))
	var s map[string]any
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}

	for _, name := range []string{"state", "instance", "backlog", "tcp", "lists", "lists_total", "consumers", "clients", "tasks", "log", "health", "rates"} {
		if _, ok := s[name]; !ok {
			t.Errorf("the snapshot has no %s: %s", name, text)
		}
	}
	if lists, ok := s["lists"].([]any); !ok || lists[0].(map[string]any)["rates"] == nil {
		t.Errorf("lists are %v", s["lists"])
	}
	if strings.Contains(text, "\n") {
		t.Error("it has a line break, which ends an event")
	}
}

func TestThePageNeedsTheRightToAskForTheState(t *testing.T) {
	needed := make(map[string]string)
	for _, r := range (&daemon{}).routes(&config.Config{}) {
		if !r.Open {
			needed[r.Pattern] = r.Subject
		}
	}
	for _, path := range []string{"/{$}", "/stats/stream"} {
		if needed[path] != statusSubject {
			t.Errorf("%s needs the right to publish to %q, want %s", path, needed[path], statusSubject)
		}
	}
}
