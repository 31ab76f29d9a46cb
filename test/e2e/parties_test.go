package e2e

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"edged/internal/redistest"
)

func TestEveryPlainSubscriberGetsAllItemsAndAQueueGroupSharesThem(t *testing.T) {
	t.Parallel()
	const n = 50_000
	r := redistest.Start(t)
	d := startEdged(t, r)
	var plain, members []*inbox
	for range 3 {
		_, box := subscribe(t, connect(t, d), "events", "")
		plain = append(plain, box)
	}

	for range 3 {
		_, box := subscribe(t, connect(t, d), "events", "workers")
		members = append(members, box)
	}
	r.Push("events", numbers(0, n)...)
	for _, box := range plain {
		wantRun(t, box.wait(t, n), 0, n)
	}
	waitEmpty(t, r, "events")
	redistest.Eventually(t, "the group has handled all", func() bool {
		return len(members[0].all())+len(members[1].all())+len(members[2].all()) == n
	})

	for i, box := range members {
		if len(box.all()) == 0 {
			t.Errorf("member %d got nothing", i)
		}
	}

	if twice := wantAll(t, n, members[0].all(), members[1].all(), members[2].all()); twice > 0 {
		t.Errorf("%d items came to two members", twice)
	}
}

func TestItemsOfAMemberThatDiesGoToOtherMembers(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r)
	_, plain := subscribe(t, connect(t, d), "events", "")
	_, stays := subscribe(t, connect(t, d), "events", "workers")
	dies := startSub(t, d, "-queue", "workers", "events")
	redistest.Eventually(t, "three are subscribed", func() bool { return d.subscriptions() == 3 })
	p := startProducer(t, r, "events")
	dies.inbox.wait(t, 1)
	freeze(t, dies.Process) // so that it ends with unread items
	redistest.Eventually(t, "it owes a hundred items", func() bool { return d.owed("edged sub") >= 100 })
	dies.Kill()
	stays.wait(t, len(stays.all())+window)
	n := p.finish()
	wantRun(t, plain.wait(t, n), 0, n)
	waitEmpty(t, r, "events")
	redistest.Eventually(t, "the group has handled all", func() bool { return distinct(stays.all(), dies.all()) == n })
	twice := wantAll(t, n, stays.all(), dies.all())
	t.Logf("of %d items the member that died printed %d, %d came twice", n, len(dies.all()), twice)

	if twice > window {
		t.Errorf("%d items came twice, want at most %d", twice, window)
	}
}

func distinct(boxes ...[]string) int {
	seen := make(map[string]bool)
	for _, items := range boxes {
		for _, item := range items {
			seen[item] = true
		}
	}
	return len(seen)
}

func TestAListWithoutConfirmationsIsDelivered(t *testing.T) {
	t.Parallel()
	const n = 20_000

	r := redistest.Start(t)
	d := startEdged(t, r, `[[list]]
key = "events"
ack = "none"
[[list]]
key = "readings"`)
	nc := connect(t, d)
	_, events := subscribe(t, nc, "events", "")
	_, readings := subscribe(t, nc, "readings", "")
	mute, _, _ := startMute(t, d, "events") // owes nothing, so no drain waits for it
	redistest.Eventually(t, "three are subscribed", func() bool { return d.subscriptions() == 3 })
	r.Push("events", numbers(0, n)...)
	r.Push("readings", numbers(0, n)...)
	wantRun(t, events.wait(t, n), 0, n)
	wantRun(t, readings.wait(t, n), 0, n)
	wantRun(t, mute.wait(t, n), 0, n)
	waitEmpty(t, r, "events", "readings")
}

// briefly makes a stopped client be cut off after a few seconds: its host takes few bytes, each KiB
// of which gives it a second more.
const briefly = `delivery.receipt_timeout = "1s"
delivery.window_items = 100
delivery.batch_items = 100
`

func TestOnlyTheClientThatStopsReadingIsCutOff(t *testing.T) {
	const n = 50_000
	r := redistest.Start(t)
	d := startEdged(t, r, briefly)
	nc := connect(t, d)
	_, events := subscribe(t, nc, "events", "")
	_, readings := subscribe(t, nc, "readings", "")
	stuck := startSub(t, d, "events")
	redistest.Eventually(t, "three are subscribed", func() bool { return d.subscriptions() == 3 })
	freeze(t, stuck.Process)
	defer thaw(stuck.Process)

	r.Push("events", numbers(0, n)...)
	r.Push("readings", numbers(0, n)...)
	wantRun(t, readings.wait(t, n), 0, n)
	waitEmpty(t, r, "readings")
	line := d.AwaitLog("client disconnected")
	if line["name"] != "edged sub" || line["owed"].(float64) < 1 {
		t.Errorf("the log says %v, want edged sub disconnected with a debt", line)
	}
	wantRun(t, events.wait(t, n), 0, n)
	waitEmpty(t, r, "events")
	redistest.Eventually(t, "one stuck client is counted and one is connected", func() bool {
		s := d.status()
		return s.TCP.Stuck == 1 && s.TCP.Clients == 1
	})
	thaw(stuck.Process)
	if code := stuck.exit(t); code != 1 {
		t.Errorf("edged sub ended with code %d, want 1", code)
	}
	wantRun(t, stuck.all(), 0, len(stuck.all()))
}

// A consumer that lags too much is named, cut off, and owes nothing any more.
func TestAClientThatLagsIsCutOffAndTheListIsEmptied(t *testing.T) {
	const n = 20_000
	r := redistest.Start(t)
	d := startEdged(t, r, `[[list]]
key = "events"
max_lag = "3s"
[[list]]
key = "readings"`)
	_, events := subscribe(t, connect(t, d), "events", "")
	late := startSub(t, d, "events")
	redistest.Eventually(t, "two are subscribed", func() bool { return d.subscriptions() == 2 })
	freeze(t, late.Process)
	defer thaw(late.Process)
	r.Push("events", numbers(0, n)...)
	wantRun(t, events.wait(t, n), 0, n)

	redistest.Eventually(t, "status names it", func() bool {
		return slices.ContainsFunc(d.status().Lagging, func(text string) bool {
			return strings.HasPrefix(text, "events, client 2: ")
		})
	})
	line := d.AwaitLog("a consumer lags too much and is cut off")
	if line["consumer"] != "client 2" || line["list"] != "events" || line["items"].(float64) < 1 {
		t.Errorf("the log says %v, want client 2 with its items", line)
	}
	waitEmpty(t, r, "events")
	if s := d.status(); s.TCP.Lagged != 1 || s.TCP.Stuck != 0 || len(s.Lagging) != 0 {
		t.Errorf("the status is %+v, want one that lagged and is gone", s)
	}
	thaw(late.Process)
	late.exit(t)
}

// Items that the cut-off client has not confirmed wait for the next one.
func TestAClientThatIsCutOffLeavesItsItemsInTheList(t *testing.T) {
	const n = 20_000
	r := redistest.Start(t)
	d := startEdged(t, r, briefly)
	stuck := startSub(t, d, "events")
	redistest.Eventually(t, "edged sub is subscribed", func() bool { return d.subscriptions() == 1 })
	freeze(t, stuck.Process)
	r.Push("events", numbers(0, n)...)
	d.AwaitLog("client disconnected")
	thaw(stuck.Process)
	stuck.exit(t)

	_, box := subscribe(t, connect(t, d), "events", "")
	twice := wantAll(t, n, stuck.all(), box.last(t, strconv.Itoa(n-1)))
	if twice > window {
		t.Errorf("%d items came twice, want at most %d", twice, window)
	}
	waitEmpty(t, r, "events")
}
