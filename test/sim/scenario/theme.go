package scenario

import (
	"fmt"
	"time"
)

// theme is an episode of one kind of bad luck, whose consequences the judge knows
// better than those of a mixture: after lost replies nothing may come twice, for
// example. Faults of earlier episodes must have no consequences any more when it begins.
type theme struct {
	weight int
	draw   func(g *generator, length time.Duration)
}

var themes = []theme{
	{12, (*generator).comings},
	{12, (*generator).lostReplies},
	{10, (*generator).lateCommands},
	{6, (*generator).forgottenScripts},
	{6, (*generator).slowLink},
	{5, (*generator).refusedWrites},
	{5, (*generator).requeues},
	{5, (*generator).cappedLists},
	{6, (*generator).replacedLists},
	{5, (*generator).largeItems},
	{5, (*generator).brokenDrains},
}

// themed draws an episode of one theme, with the check behind it.
func (g *generator) themed() {
	if g.uplink && g.percent(50) {
		g.uplinks(g.span(20*time.Second, 150*time.Second))
		return
	}
	total := 0
	for _, t := range themes {
		total += t.weight
	}
	n := g.rand.IntN(total)
	for _, t := range themes {
		if n -= t.weight; n < 0 {
			t.draw(g, g.span(20*time.Second, 100*time.Second))
			return
		}
	}
}

// well waits until no earlier fault has consequences any more.
func (g *generator) well() { g.now += 95 * time.Second }

// allLeave lets all clients go, so that a list has only those that come now.
func (g *generator) allLeave() {
	for i := range 12 {
		g.add(g.now, "leave", "name", fmt.Sprintf("c%d", i+1), "how", "close")
	}
	g.now += time.Second
}

// steps calls do at times until an end.
func (g *generator) steps(end, low, high time.Duration, do func(at time.Duration)) {
	for at := g.now + g.span(0, high); at < end; at += g.span(low, high) {
		do(at)
	}
}

// pushes lets a producer push to a list until an end.
func (g *generator) pushes(list string, end, low, high time.Duration, most int, pairs ...any) {
	g.steps(end, low, high, func(at time.Duration) {
		g.add(at, "push", append([]any{"list", list, "n", g.in(1, most+1)}, pairs...)...)
	})
}

// equals lets producers push to all lists, many equal items among others.
func (g *generator) equals(end, low, high time.Duration, most int) {
	for _, list := range g.lists {
		if g.percent(70) {
			g.pushes(list, end, low, high, most, "kind", "equal", "of", pick(g, 1, 1, 3))
		}
		if g.percent(60) {
			g.pushes(list, end, 4*low, 8*high, most, "size", 20)
		}
	}
}

// comings lets clients come, take some, and go, while Redis and the network are well.
func (g *generator) comings(length time.Duration) {
	g.well()
	busy := g.percent(40) // what clients say arrives while Redis is waited for
	if busy {
		for _, name := range g.instances {
			g.add(g.now, "net", "from", name, "to", "redis", "delay", pick(g, 0.002, 0.02), "mild", true)
		}
		g.well()
	}
	end := g.now + length
	if busy {
		list := g.lists[len(g.lists)-1]
		g.add(g.now, "client", "name", "reader", "daemon", pick(g, g.instances...), "list", list, "reconnect", 1)
		g.pushes(list, end, 20*time.Millisecond, 60*time.Millisecond, 1)
	}
	for g.now < end {
		g.allLeave()
		round := g.now + g.span(5*time.Second, 15*time.Second)
		switch g.rand.IntN(3) {
		case 0:
			g.adoption()
		case 1:
			g.client(g.now, pick(g, g.lists...), "", "wild", true, "read", 0.05, "unsub", g.in(1, 8), "more", g.in(0, 8))
		}
		g.steps(round, 500*time.Millisecond, 5*time.Second, func(at time.Duration) {
			for _, list := range g.lists {
				if g.percent(70) {
					g.add(at, "push", "list", list, "n", g.in(1, 40))
				}
			}
		})
		g.steps(round, time.Second, 10*time.Second, g.coming)
		g.now = round
	}
}

// adoption lets a client's items go to those that have come after it had got them.
func (g *generator) adoption() {
	list, daemon := g.explicit(), pick(g, g.instances...)
	g.clientAt(g.now, daemon, list, "", "ack", "never")
	name := fmt.Sprintf("c%d", g.clients%12+1)
	g.add(g.now+500*time.Millisecond, "push", "list", list, "n", g.in(1, 5))
	for range g.in(1, 8) {
		g.clientAt(g.now+time.Second, daemon, list, "", "reconnect", 1, "sync", true)
	}
	g.add(g.now+g.span(1500*time.Millisecond, 3*time.Second), "leave", "name", name, "how", "close")
	g.now += 3 * time.Second
}

// explicit draws a list with acknowledgements, if there is one.
func (g *generator) explicit() string {
	for _, l := range g.s.Lists {
		if l.Text("ack", "") == "explicit" && g.percent(70) {
			return l.Text("key", "")
		}
	}
	return pick(g, g.lists...)
}

// setting is the configuration of a list.
func (g *generator) setting(key string) Args {
	for _, l := range g.s.Lists {
		if l.Text("key", "") == key {
			return l
		}
	}
	return nil
}

// coming lets a client come, or go.
func (g *generator) coming(at time.Duration) {
	if g.percent(25) {
		g.add(at, "leave", "name", fmt.Sprintf("c%d", g.in(1, 13)), "how", pick(g, "close", "silent"))
		return
	}
	habits := pick(g,
		[]any{"most", g.in(1, 20), "ack", 0.3, "sync", true}, []any{"most", g.in(1, 4), "ack", 0.3, "sync", true},
		[]any{"read", 0.05, "unsub", g.in(1, 8), "more", g.in(0, 8), "sync", true}, []any{"ack", 0.5, "sync", true},
		[]any{"nak", 20, "sync", true}, []any{"wpi", 50}, []any{"die", g.in(1, 20)}, []any{"reconnect", 1})
	if g.percent(25) {
		g.client(at, pick(g, g.lists...), "", append(habits, g.consumer()...)...)
		return
	}
	g.client(at, pick(g, g.lists...), pick(g, "", "", "g1"), habits...)
}

// slowClients connects clients that confirm late, so that items wait for others to be
// removed.
func (g *generator) slowClients() {
	for _, list := range g.lists {
		if g.percent(50) {
			g.client(g.now, list, "", "reconnect", 1, "pong", pick(g, 0.2, 1), "ack", 0.3)
		}
	}
}

// lostReplies cuts connections to Redis while all clients are good.
func (g *generator) lostReplies(length time.Duration) {
	g.slowClients()
	g.well()
	end := g.now + length
	defer func() { g.now = end }()
	g.equals(end, 50*time.Millisecond, 500*time.Millisecond, 8)
	g.steps(end, 200*time.Millisecond, 10*time.Second, func(at time.Duration) {
		daemon := pick(g, g.instances...)
		args := []any{"from", daemon, "to", "redis", "dir", "down", "after", pick(g, 0, 0, g.in(0, 100), g.in(0, 1500)), "mild", true}
		if g.percent(30) {
			args = append(args, "silent", true)
		}
		g.add(at, "cut", args...)
		if g.percent(10) {
			g.add(at, pick(g, "redis-kick", "redis-forget"), "mild", true)
		}
	})
	if g.percent(30) {
		g.add(end-time.Second, "kill", "daemon", pick(g, g.instances...), "keep", 0)
	}
}

// lateCommands lets commands come late, behind those of later connections, while all
// clients are good.
func (g *generator) lateCommands(length time.Duration) {
	g.slowClients()
	g.well()
	end := g.now + length
	defer func() { g.now = end }()
	g.equals(end, 20*time.Millisecond, pick(g, 200*time.Millisecond, time.Second), pick(g, 4, 30))
	g.steps(end, 6*time.Second, 15*time.Second, func(at time.Duration) {
		daemon := pick(g, g.instances...)
		g.add(at, "hold", "from", daemon, "to", "redis", "mild", true)
		g.add(at+g.span(time.Second, 5*time.Second), "let-go", "from", daemon, "to", "redis", "mild", true)
	})
	if len(g.instances) > 1 && g.percent(50) { // some come after the end of the process
		g.away = pick(g, g.instances...)
		drain := time.Duration(g.s.World.Int("drain", 3)) * time.Second
		g.add(end, "hold", "from", g.away, "to", "redis")
		g.add(end+g.span(0, time.Second), "stop", "daemon", g.away)
		end += drain + 4*time.Second
		g.add(end, "let-go", "from", g.away, "to", "redis")
		end += 100 * time.Millisecond
		return
	}
	if g.percent(60) { // those that have got items without acknowledging them
		at := end - time.Second
		if g.percent(50) {
			g.add(at, "kill", "daemon", pick(g, g.instances...), "keep", 0)
			return
		}
		for i := range 12 {
			g.add(at, "leave", "name", fmt.Sprintf("c%d", i+1), "how", "close")
		}
	}
}

// forgottenScripts flushes the script cache and loses the next replies.
func (g *generator) forgottenScripts(length time.Duration) {
	g.slowClients()
	g.well()
	end := g.now + length
	defer func() { g.now = end }()
	g.equals(end, 100*time.Millisecond, time.Second, 4)
	g.steps(end, time.Second, 10*time.Second, func(at time.Duration) {
		if g.percent(30) {
			g.add(at, "redis-stop", "keep", 0)
			g.add(at, "redis-start", "data", "same")
			at += g.span(0, 500*time.Millisecond)
		} else {
			g.add(at, "redis-forget", "mild", true)
		}
		for _, daemon := range g.instances {
			g.add(at, "cut", "from", daemon, "to", "redis", "dir", "down", "after", g.in(0, 300), "mild", true)
		}
	})
}

// slowLink lets items take longer than the timeout on their way from Redis.
func (g *generator) slowLink(length time.Duration) {
	end := g.now + length
	defer func() { g.now = end }()
	size := pick(g, 500, 1500)
	if g.large {
		size = pick(g, 12000, 30000, 30000)
	}
	g.traffic(end - g.now - 15*time.Second)
	for _, name := range g.instances {
		g.add(end-12*time.Second, "net", "from", name, "to", "redis", "rate", 8000)
	}
	g.add(end-9*time.Second, "push", "list", pick(g, g.lists...), "n", max(1, min(60, 60000/size)), "size", size)
	g.rate = 8000
}

// refusedWrites lets Redis read and not write for a while, with items that clients
// confirm meanwhile.
func (g *generator) refusedWrites(length time.Duration) {
	end := g.now + length
	defer func() { g.now = end }()
	g.add(g.now, "flood")
	bad := g.now + g.span(2*time.Second, 10*time.Second)
	for _, list := range g.lists {
		ack := 3.0
		if g.setting(list).Int("deliver", 0) > 0 {
			ack = 0.5 // or each item becomes a dead letter, and a line of the log
		}
		g.client(g.now, list, "", "reconnect", 1, "pong", 3, "ack", ack)
		g.pushes(list, end, time.Second, 5*time.Second, 10, "size", 20)
		g.add(bad-time.Second, "push", "list", list, "n", g.in(1, 5))
	}
	g.add(bad, "redis-fault", "kind", pick(g, "MISCONF", "MISCONF", "READONLY", "OOM"))
	g.add(min(end, bad+g.span(5*time.Second, 60*time.Second)), "redis-fault", "kind", "")
	g.add(end, "flood", "most", 40)
}

// requeues lets dead letters be put back while the list may be none.
func (g *generator) requeues(length time.Duration) {
	end := g.now + length
	defer func() { g.now = end }()
	list := pick(g, g.lists...)
	g.pushes(list, end, time.Second, 5*time.Second, 3, "kind", "huge", "size", 16)
	g.pushes(list, end, time.Second, 5*time.Second, 3, "size", 16)
	g.steps(end, 5*time.Second, 15*time.Second, func(at time.Duration) {
		length := g.span(500*time.Millisecond, 4*time.Second)
		g.add(at, "retype", "list", list)
		for range g.in(1, 3) {
			g.add(at+g.span(0, 5*time.Second), "op", "daemon", pick(g, g.instances...), "cmd", "requeue "+list+" "+pick(g, "1", "all"), "requeue", list)
		}
		g.add(at+length, "retype", "list", list, "back", true)
	})
}

// cappedLists lets producers cut lists whose items are alike, while clients are slow to
// confirm.
func (g *generator) cappedLists(length time.Duration) {
	end := g.now + length
	defer func() { g.now = end }()
	g.allLeave()
	for _, list := range g.lists {
		g.client(g.now, list, "", "reconnect", 1, "pong", pick(g, 0.2, 1, 3))
		size := g.in(300, 1000)
		g.steps(end, 200*time.Millisecond, 3*time.Second, func(at time.Duration) {
			n := g.in(1, 20)
			g.add(at, "push", "list", list, "n", n, "size", size, "kind", "alike", "cap", n)
		})
	}
}

// replacedLists lets producers replace lists of large items, some of which are equal,
// while clients are slow to confirm.
func (g *generator) replacedLists(length time.Duration) {
	end := g.now + length
	defer func() { g.now = end }()
	g.allLeave()
	for _, list := range g.lists {
		g.client(g.now, list, "", "reconnect", 1, "pong", pick(g, 0.2, 1, 3))
		g.steps(end, 2*time.Second, 8*time.Second, func(at time.Duration) {
			for range g.in(2, 4) {
				g.add(at, "push", "list", list, "n", 3*g.in(1, 3), "size", 5000, "kind", "twin")
				at += g.span(20*time.Millisecond, time.Second)
				g.add(at, "delete", "key", list)
			}
			g.add(at, "push", "list", list, "n", 3, "size", 5000, "kind", "twin")
		})
	}
}

// largeItems lets items that are too large stand behind others, and clients go while
// they are read.
func (g *generator) largeItems(length time.Duration) {
	end := g.now + length
	defer func() { g.now = end }()
	g.allLeave()
	for _, name := range g.instances {
		g.add(g.now, "net", "from", name, "to", "redis", "delay", pick(g, 0.1, 0.3))
	}
	g.steps(end, 2*time.Second, 6*time.Second, func(at time.Duration) {
		list := pick(g, g.lists...)
		g.client(at, list, "", "pong", "never", "ack", "never")
		name := fmt.Sprintf("c%d", g.clients%12+1)
		at += 200 * time.Millisecond
		g.add(at, "push", "list", list, "n", g.in(1, 4))
		at += g.span(0, 1500*time.Millisecond)
		for range g.in(1, 4) {
			g.add(at, "push", "list", list, "n", 1, "kind", "huge", "size", 16)
			g.add(at, "push", "list", list, "n", g.in(1, 3))
		}
		g.add(at+g.span(0, 1500*time.Millisecond), "leave", "name", name, "how", "close")
	})
}

// brokenDrains lets daemons end while something goes wrong with Redis.
func (g *generator) brokenDrains(length time.Duration) {
	end := g.now + length
	defer func() { g.now = end }()
	g.traffic(end - g.now)
	if g.percent(50) {
		g.client(g.now, pick(g, g.lists...), "", "ack", "never", "pong", "never", "reconnect", 1)
	}
	drain := time.Duration(g.s.World.Int("drain", 3)) * time.Second
	g.steps(end-drain-6*time.Second, drain+7*time.Second, drain+15*time.Second, func(at time.Duration) {
		daemon := pick(g, g.instances...)
		g.add(at, "stop", "daemon", daemon)
		last := at + drain - time.Millisecond // before the leases are given back, if a client stays
		bad := pick(g, last, last, at, at+g.span(0, drain+time.Second))
		switch g.rand.IntN(4) {
		case 0:
			g.add(bad, "redis-forget")
		case 1:
			g.add(bad, "redis-kick")
		default:
			g.add(bad, "cut", "from", daemon, "to", "redis", "dir", pick(g, "up", "down"), "after", pick(g, 0, 0, g.in(0, 200)))
		}
		g.add(at+drain+2500*time.Millisecond, "ended", "daemon", daemon)
		g.add(at+drain+3*time.Second, "start", "daemon", daemon)
	})
}
