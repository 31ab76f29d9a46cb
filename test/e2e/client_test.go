package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"edged/internal/redistest"
)

// startPlainSub starts `edged sub` with its arguments; it reconnects.
func startPlainSub(t *testing.T, d *daemon, args ...string) *printer {
	t.Helper()
	return startSub(t, d, slices.Concat([]string{"-reconnect=true"}, args)...)
}

func TestEdgedSubOutlivesADaemonThatIsKilledAndLosesNoLine(t *testing.T) {
	const n, kills = 60_000, 3
	r := redistest.Start(t)
	d := startEdged(t, r, `delivery.rejoin_grace = "0s"`) // otherwise items delivered in it come again after a kill
	sub := startPlainSub(t, d, "events")
	r.Push("events", numbers(0, n)...)
	for i := range kills {
		sub.wait(t, n*(i+1)/(kills+2))
		d.Kill()
		d.Start()
	}

	items := sub.last(t, strconv.Itoa(n-1))
	if twice := wantAll(t, n, items); twice > kills*window {
		t.Errorf("%d items came twice, more than a window after each kill", twice)
	}

	wantNoGaps(t, items)
	waitEmpty(t, r, "events")
	sub.Signal(syscall.SIGTERM)
	if code := sub.exit(t); code != 0 {
		t.Errorf("edged sub ended with code %d, want 0", code)
	}
}

func TestEdgedSubLeavesADrainingDaemonAndComesBackToTheNext(t *testing.T) {
	const n = 20_000
	r := redistest.Start(t)
	d := startEdged(t, r, `drain.timeout = "1h"`)
	sub := startPlainSub(t, d, "-count", strconv.Itoa(n), "events")
	r.Push("events", numbers(0, n/2)...)
	sub.wait(t, 1)
	d.Signal(syscall.SIGTERM)
	d.close()
	d.Start()
	r.Push("events", numbers(n/2, n)...)
	wantRun(t, sub.last(t, strconv.Itoa(n-1)), 0, n)
	if code := sub.exit(t); code != 0 {
		t.Errorf("edged sub ended with code %d, want 0", code)
	}
	waitEmpty(t, r, "events")
}

// An item is confirmed, or acknowledged, after it is printed.
func TestAnEdgedSubThatIsKilledHasPrintedAllThatItConfirmed(t *testing.T) {
	for mode, args := range map[string][]string{
		"received":          {"events"},
		"explicit":          {"-ack", "events"},
		"explicit, a group": {"-ack", "-queue", "workers", "events"},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			const n, kills = 30_000, 4
			r := redistest.Start(t)
			settings := []string{}
			if mode != "received" {
				settings = append(settings, explicit)
			}

			d := startEdged(t, r, settings...)
			r.Push("events", numbers(0, n)...)
			var seen [][]string
			for range kills {
				sub := startSub(t, d, args...)
				sub.wait(t, 2_000)
				sub.Kill()
				redistest.Eventually(t, "the client is gone", func() bool { return len(d.clients()) == 0 })
				seen = append(seen, sub.all())
			}

			last := startSub(t, d, args...)
			waitEmpty(t, r, "events")
			last.Signal(syscall.SIGTERM)
			last.exit(t)
			wantAll(t, n, append(seen, last.all())...)
		})
	}
}

func TestEdgedSubTakesAsManyItemsOfEachSubjectAsItWasAsked(t *testing.T) {
	r := redistest.Start(t)
	d := startEdged(t, r)
	r.Push("events", numbers(0, 5_000)...)
	r.Push("readings", numbers(0, 5_000)...)
	sub := startSub(t, d, "-count", "10", "events", "readings")
	if code := sub.exit(t); code != 0 {
		t.Errorf("edged sub ended with code %d, want 0", code)
	}
	if items := sub.all(); len(items) != 20 {
		t.Errorf("%d items came, want 10 of each list", len(items))
	}
	for _, list := range []string{"events", "readings"} {
		redistest.Eventually(t, fmt.Sprintf("ten items of %s are confirmed", list), func() bool { return r.Len(list) == 4_990 })
	}
}
