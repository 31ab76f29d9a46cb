package main

import (
	"slices"
	"strings"
	"time"

	"edged/test/sim/scenario"
)

// elder is the daemon that no event ends, so it shows growth over time.
const elder = "b"

// plan makes a scenario for real time of the first seed, from the given one on, that has two
// instances. In it elder is never killed, lists get more items at once, and the daemons have more
// room for them. Faults are never mild, and links are not slow during a check.
func plan(seed uint64, length time.Duration) (uint64, *scenario.Scenario) {
	for ; ; seed++ {
		s := scenario.Generate(seed, length)
		if s.World.Int("instances", 1) != 2 || s.World.Int("uplink", 0) > 0 {
			continue
		}

		s.World = s.World.With("window", 16*s.World.Int("window", 64)).With("batch", 16*s.World.Int("batch", 16)).
			With("memory", "4MiB").With("payload", 64<<10)
		var events []scenario.Event
		for _, e := range s.Events {
			if (e.Verb == "kill" || e.Verb == "stop") && e.Args.Text("daemon", "") == elder {
				continue
			}
			switch e.Verb {
			case "push":
				e.Args = more(e.Args)
			case "flood", "ended": // they need simulated time
				continue
			}
			e.Args = slices.DeleteFunc(slices.Clone(e.Args), func(a scenario.Arg) bool {
				return a.Key == "mild" || e.Verb == "check" && a.Key == "rate"
			})
			events = append(events, e)
		}

		s.Events = events
		return seed, s
	}
}

// most is the maximum number of bytes of a push.
const most = 4 << 20

// more makes bursts larger, and some items too.
func more(push scenario.Args) scenario.Args {
	n, size := push.Int("n", 1), push.Int("size", 20)
	if size == 1500 && n%3 == 0 {
		size = 40_000
	}
	n *= 20
	if push.Text("kind", "") == "huge" {
		n = min(n, most/(64<<10))
	}
	return push.With("n", max(1, min(n, most/size))).With("size", size)
}

// pace turns the times of a plan into pauses.
type pace struct {
	last  time.Duration
	quiet bool // there was a long pause since the last check
}

// pause returns the real time before an event. The first hour between two checks in which the plan
// is quiet becomes 100 s, at the end of which the judge allows no duplicates; other pauses end
// after a second.
func (p *pace) pause(e scenario.Event) time.Duration {
	gap := max(0, e.At-p.last)
	p.last = e.At
	if e.Verb == "check" {
		p.quiet = false
	}
	if gap > time.Hour && !p.quiet {
		p.quiet = true
		return 100 * time.Second
	}
	return min(gap, time.Second)
}

// describe describes a plan in one line.
func describe(s *scenario.Scenario) string {
	var lists []string
	for _, l := range s.Lists {
		lists = append(lists, strings.TrimSpace(l.Text("key", "")+" "+l.Text("ack", "")+" "+l.Text("take", "")))
	}
	return s.World.String() + "; lists " + strings.Join(lists, ", ")
}
