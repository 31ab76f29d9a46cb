package scenario

import "time"

// hubTrouble lets the link to the hub break or delay, or the hub's stream fail.
func (g *generator) hubTrouble(at, until time.Duration, daemon, _ string) {
	switch g.rand.IntN(12) {
	case 0, 1, 2: // confirmations or items are lost
		args := []any{"from", daemon, "to", "hub", "dir", pick(g, "down", "down", "up"), "after", g.skewed(3000)}
		if g.percent(20) {
			args = append(args, "silent", true)
		}
		g.add(at, "cut", args...)
	case 3:
		g.add(at, "reset", "from", daemon, "to", "hub")
	case 4, 5: // items come late, after those of later connections
		g.add(at, "hold", "from", daemon, "to", "hub")
		if g.percent(70) {
			g.add(at+g.span(0, 2*time.Second), "cut", "from", daemon, "to", "hub", "dir", "down", "after", 0)
		}
		g.add(until, "let-go", "from", daemon, "to", "hub")
	case 6:
		rule := pick(g, []any{"rate", 8000, "delay", 0.6}, []any{"delay", 0.05}, []any{"delay", 3}, []any{"refuse", true}, []any{"drop", true})
		g.add(at, "net", append([]any{"from", daemon, "to", "hub"}, rule...)...)
		g.add(until, "net", "from", daemon, "to", "hub")
	case 7:
		g.add(at, "freeze", "host", "hub")
		g.add(until, "thaw", "host", "hub")
	case 8:
		g.add(at, "op", "daemon", daemon, "cmd", "pause uplink up")
		g.add(until, "op", "daemon", daemon, "cmd", "resume uplink up")
	default:
		g.add(at, "hub", "kind", pick(g, "full", "leaderless", "deaf", "mute"))
		g.add(until, "hub", "kind", "")
	}
}

// uplinks lets the link to the hub, daemons and Redis fail, while producers push to the tails of lists. Half of
// the episodes lose no data of Redis: the hub gets nothing twice.
func (g *generator) uplinks(length time.Duration) {
	end := g.now + length
	defer func() { g.now = end }()
	for _, list := range g.lists {
		g.pushes(list, end, 100*time.Millisecond, g.span(time.Second, 6*time.Second), pick(g, 3, 12, 40), "size", pick(g, 20, 20, 400))
	}
	loses := g.percent(50)
	g.steps(end, 500*time.Millisecond, 12*time.Second, func(at time.Duration) {
		until := min(end, at+g.span(200*time.Millisecond, 40*time.Second))
		daemon := pick(g, g.instances...)
		if g.percent(60) {
			g.hubTrouble(at, until, daemon, "")
			return
		}
		g.lostDaemon(at, until, daemon, loses)
	})
}

// lostDaemon ends a daemon or Redis, or lets them stand still. Redis loses data only if loses is set.
func (g *generator) lostDaemon(at, until time.Duration, daemon string, loses bool) {
	switch g.rand.IntN(8) {
	case 0, 1, 2:
		g.add(at, "kill", "daemon", daemon, "keep", g.skewed(4000))
		g.add(pick(g, at, at, until), "start", "daemon", daemon)
	case 3:
		g.add(at, "stop", "daemon", daemon)
		g.add(until, "start", "daemon", daemon)
	case 4:
		g.add(at, "start", "daemon", daemon+"2")
		g.add(until, pick(g, "stop", "kill"), "daemon", daemon+"2")
	case 5: // another instance takes the lists over
		g.add(at, "freeze", "host", daemon)
		g.add(until, "thaw", "host", daemon)
	default:
		data := "same"
		if loses {
			data = pick(g, "older", "older", "none")
			if g.repeats() { // equal items are taken for removed ones: docs/DELIVERY.md
				data = "none"
			}
			g.add(max(0, at-g.span(0, 10*time.Second)), "redis-save")
		}
		g.add(at, "redis-stop", "keep", g.skewed(4000))
		g.add(pick(g, at, until), "redis-start", "data", data)
	}
}
