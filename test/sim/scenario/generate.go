package scenario

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Generate draws a scenario of at least the given simulated length: episodes of bad
// luck, each followed by a check, with quiet times between them. The same seed gives
// the same scenario until this package changes.
func Generate(seed uint64, length time.Duration) *Scenario {
	g := &generator{rand: rand.New(rand.NewPCG(seed, 0x65646765)), uniform: map[string]bool{}, rare: map[int]int{}}
	g.world(seed)
	for _, name := range g.instances {
		g.add(0, "start", "daemon", name)
	}
	g.now = time.Second
	g.populate()
	g.traffic(5 * time.Second)
	g.check()
	for g.now < length {
		if g.percent(45) {
			g.episode()
		} else {
			g.themed()
		}
		g.check()
		g.quiet()
	}
	slices.SortStableFunc(g.s.Events, func(a, b Event) int { return int((a.At - b.At) / time.Millisecond) })
	return &g.s
}

type generator struct {
	rand      *rand.Rand
	s         Scenario
	now       time.Duration // where the current episode begins
	instances []string
	lists     []string
	clients   int
	uniform   map[string]bool // lists with many equal items; others must not take those unseen: docs/DELIVERY.md
	large     bool            // there is room for items of 32 KiB
	rate      int             // bytes a second of the links to Redis, during the next check; 0 is no bound
	away      string          // the daemon that is away during the next check
	rare      map[int]int     // weights of the misfortunes that the seed changes
	uplink    bool            // the lists go to a hub
	tails     bool            // producers push to the tails of lists only, and trim none
}

// in draws a number of low to high-1.
func (g *generator) in(low, high int) int { return low + g.rand.IntN(high-low) }

func (g *generator) percent(n int) bool { return g.rand.IntN(100) < n }

// span draws a time.
func (g *generator) span(low, high time.Duration) time.Duration {
	return (low + time.Duration(g.rand.Int64N(int64(high-low)))).Truncate(time.Millisecond)
}

func pick[T any](g *generator, all ...T) T { return all[g.rand.IntN(len(all))] }

// skewed draws a size: often 0, mostly small, sometimes large.
func (g *generator) skewed(high int) int {
	switch g.rand.IntN(4) {
	case 0:
		return 0
	case 1:
		return g.rand.IntN(high)
	}
	return g.rand.IntN(1 + high/20)
}

func (g *generator) add(at time.Duration, verb string, pairs ...any) {
	g.s.Events = append(g.s.Events, Event{at, verb, Of(pairs...)})
}

func (g *generator) world(seed uint64) {
	window := pick(g, 4, 16, 64, 256)
	lease := pick(g, 6, 10, 20)
	g.instances = []string{"a"}
	if g.percent(45) {
		g.instances = append(g.instances, "b")
	}
	g.s.World = Of("seed", seed, "instances", len(g.instances), "window", window, "batch", min(window, pick(g, 1, 4, 16, 64)),
		"lease", lease, "timeout", pick(g, 1, 2), "poll", pick(g, 1, 2), "ping", pick(g, 3, 6, 12),
		"receipt", pick(g, 5, 10, 30), "drain", pick(g, 1, 3, 10))

	g.s.World = g.s.World.With("payload", 8<<10)
	if g.large = g.percent(25); g.large {
		g.s.World = g.s.World.With("payload", 32<<10).With("memory", "1MiB")
	}
	if g.percent(50) { // some kinds of bad luck never happen, the others more often
		for i := range misfortunes {
			g.rare[i] = pick(g, 0, misfortunes[i].weight)
		}
	}

	if g.uplink = g.percent(35); g.uplink {
		g.s.World = g.s.World.With("uplink", pick(g, 2, 4, 16, 64))
		g.tails = g.percent(60)
	} else {
		g.rare[len(misfortunes)-1] = 0
	}

	// A third of the lists have dedup, by a source of its own: the seed gives the same for all else.
	windows := 0
	dedup := rand.New(rand.NewPCG(seed, 0x6465647570))
	// So do half of the worlds have classes.
	classes := rand.New(rand.NewPCG(seed, 0x636c617373))
	if classes.IntN(2) == 0 {
		g.s.World = g.s.World.With("share", []int{0, 2, 3, 10}[classes.IntN(4)])
	}
	modes := pick(g, []string{"received", "explicit"}, []string{"explicit", "received"}, []string{"received", "received"}, []string{"explicit", "explicit"})
	modes = append(modes, pick(g, "received", "explicit", "none"))
	for i := range pick(g, 1, 2, 2, 3) {
		key := fmt.Sprintf("l%d", i+1)
		g.lists = append(g.lists, key)
		g.uniform[key] = g.percent(25)
		list := Of("key", key, "ack", modes[i], "take", pick(g, "left", "right"))
		if modes[i] == "explicit" {
			list = list.With("wait", pick(g, 1, 3, 8)).With("deliver", pick(g, 0, 0, 2, 3, 3)).With("pending", pick(g, 1, 5, 100))
		}
		if g.percent(30) {
			list = list.With("inbound", true)
		}
		if !g.uniform[key] && dedup.IntN(9) < 4 {
			list = list.With("dedup", 5+dedup.IntN(56))
			windows++
			g.s.World = g.s.World.With("memory", fmt.Sprintf("%dMiB", windows)) // a quarter is enough for the keys
		}
		if g.s.World.Text("share", "") != "" {
			list = list.With("class", classes.IntN(3))
		}
		g.s.Lists = append(g.s.Lists, list)
	}
}

// repeats reports whether a list has many equal items.
func (g *generator) repeats() bool {
	for _, uniform := range g.uniform {
		if uniform {
			return true
		}
	}
	return false
}

// populate connects clients that stay, to each list.
func (g *generator) populate() {
	for _, list := range g.lists {
		for range g.in(1, 3) {
			group := ""
			if g.percent(40) {
				group = pick(g, "g1", "g2")
			}
			habits := []any{"reconnect", pick(g, 1, 3)}
			if g.percent(50) {
				habits = append(habits, "sync", true)
			}
			if g.percent(30) {
				group, habits = "", append(habits, g.consumer()...)
			}
			g.client(g.now, list, group, habits...)
		}
	}
}

// consumer draws a JetStream consumer. Most are durable.
func (g *generator) consumer() []any {
	return pick(g, []any{"durable", "d1"}, []any{"durable", "d1", "batch", g.in(1, 40)}, []any{"durable", "d2"}, []any{"durable", "push1"}, []any{"ordered", true})
}

// client connects a client, in place of one of the same name.
func (g *generator) client(at time.Duration, list, group string, habits ...any) {
	g.clientAt(at, pick(g, g.instances...), list, group, habits...)
}

// clientAt connects a client to a daemon.
func (g *generator) clientAt(at time.Duration, daemon, list, group string, habits ...any) {
	g.clients++
	args := []any{"name", fmt.Sprintf("c%d", g.clients%12+1), "daemon", daemon, "list", list}
	if group != "" {
		args = append(args, "group", group)
	}
	g.add(at, "client", append(args, habits...)...)
}

// habits draws bad habits of a client.
func (g *generator) habits() (h []any) {
	if g.percent(70) {
		h = append(h, "reconnect", pick(g, 1, 3, 10))
	}
	for range g.in(0, 3) {
		h = append(h, pick(g,
			[]any{"pong", 0.2}, []any{"pong", 3}, []any{"pong", "never"}, []any{"read", 0.01}, []any{"read", 0.5},
			[]any{"ack", 0.3}, []any{"ack", "never"}, []any{"nak", 20}, []any{"term", 10}, []any{"wpi", 30}, []any{"late", 30},
			[]any{"dribble", 0.01}, []any{"most", g.in(1, 20), "ack", 0.3, "sync", true}, []any{"die", g.in(1, 40)}, []any{"sync", true}, []any{"sync", true})...)
	}
	return h
}

// traffic lets producers push for a while.
func (g *generator) traffic(length time.Duration) {
	for _, list := range g.lists {
		every := g.span(100*time.Millisecond, 5*time.Second)
		for at := g.now; at < g.now+length; at += g.span(every/4, every*2) {
			n := g.in(1, 10)
			if g.percent(8) {
				n = g.in(50, 300)
			}
			args := []any{"list", list, "n", n, "size", pick(g, 16, 16, 40, 200, 1500)}
			switch draw := g.rand.IntN(25); {
			case g.tails && (draw == 0 || draw == 3):
			case g.uniform[list] && draw > 8:
				args = append(args, "kind", "equal")
			case draw == 0:
				args = append(args, "side", "head")
			case draw <= 2 && g.uniform[list]:
				args = append(args, "kind", pick(g, "empty", "binary"))
			case draw == 1:
				args = append(args, "kind", "binary")
			case draw == 2:
				args = append(args[:2], "n", g.in(1, 4), "size", 16, "kind", "huge")
			case draw == 3 && !g.uniform[list]:
				args = append(args, "cap", g.in(1, 200))
			}
			g.add(at, "push", args...)
		}
	}
}

func (g *generator) episode() {
	length := g.span(10*time.Second, 100*time.Second)
	g.traffic(length)
	for range g.in(3, 45) {
		at := g.now + g.span(0, length)
		g.misfortune(at, g.now+length)
	}
	g.now += length
}

func (g *generator) check() {
	switch away := pick(g, g.instances...); {
	case g.away != "":
		g.add(g.now, "check", "away", g.away)
	case g.rate > 0:
		g.add(g.now, "check", "rate", g.rate)
	case g.percent(15): // at maxmemory, lists are drained nevertheless
		g.add(g.now, "check", "redis", "OOM")
	case len(g.instances) > 1 && g.percent(20): // a box is gone for good
		g.add(g.now, "kill", "daemon", away)
		g.add(g.now, "check", "away", away)
	default:
		g.add(g.now, "check")
	}
	g.rate, g.away = 0, ""
	g.now += 62 * time.Second
	if g.uplink {
		g.now += Comeback
	}
}

// Comeback is how much longer a check of a world with an uplink takes: a dead link is noticed within
// 40 s, an attempt to connect takes 10 s, and the longest wait for the next one is 68 s.
const Comeback = 2 * time.Minute

// quiet lets time pass in which nothing is wrong.
func (g *generator) quiet() {
	length := g.span(0, 10*time.Second)
	switch g.rand.IntN(10) {
	case 0:
		length = g.span(time.Hour, 12*time.Hour)
	case 1, 2:
		length = g.span(time.Minute, time.Hour)
	}
	for range g.in(0, 5) {
		g.add(g.now+g.span(0, length+time.Second), "push", "list", pick(g, g.lists...), "n", g.in(1, 5))
	}
	g.now += length
	g.populate()
}

// misfortune draws something that goes wrong at a time, and its end, if it has one,
// before another.
func (g *generator) misfortune(at, end time.Duration) {
	until := min(end, at+g.span(200*time.Millisecond, 25*time.Second))
	daemon := pick(g, g.instances...)
	list := pick(g, g.lists...)
	weight := func(i int) int {
		if w, ok := g.rare[i]; ok {
			return w
		}
		return misfortunes[i].weight
	}
	total := 1
	for i := range misfortunes {
		total += weight(i)
	}
	n := g.rand.IntN(total)
	for i, m := range misfortunes {
		if n -= weight(i); n < 0 {
			m.draw(g, at, until, daemon, list)
			return
		}
	}
}

var misfortunes = []struct {
	weight int
	draw   func(g *generator, at, until time.Duration, daemon, list string)
}{
	{22, func(g *generator, at, _ time.Duration, daemon, _ string) { // a reply or a command is lost
		args := []any{"from", daemon, "to", "redis", "dir", pick(g, "down", "down", "up"), "after", g.skewed(4000)}
		if g.percent(50) {
			args = append(args, "which", g.rand.IntN(6))
		}
		if g.percent(15) {
			args = append(args, "silent", true)
		}
		g.add(at, "cut", args...)
	}},
	{4, func(g *generator, at, _ time.Duration, daemon, _ string) {
		g.add(at, "reset", "from", daemon, "to", "redis")
	}},
	{8, func(g *generator, at, _ time.Duration, daemon, _ string) {
		verb, args := "cut", []any{"from", fmt.Sprintf("c%d", g.in(1, 13)), "to", daemon, "dir", pick(g, "down", "up"), "after", g.skewed(4000)}
		if g.percent(25) {
			args = append(args, "silent", true)
		}
		g.add(at, verb, args...)
	}},
	{8, func(g *generator, at, until time.Duration, daemon, _ string) {
		from, to := daemon, "redis"
		if g.percent(30) {
			from, to = fmt.Sprintf("c%d", g.in(1, 13)), daemon
		}
		rule := pick(g, []any{"rate", 8000, "delay", 0.1}, []any{"delay", 0.002}, []any{"delay", 0.3}, []any{"delay", 1.5}, []any{"refuse", true}, []any{"drop", true})
		g.add(at, "net", append([]any{"from", from, "to", to}, rule...)...)
		g.add(until, "net", "from", from, "to", to)
	}},
	{8, func(g *generator, at, until time.Duration, daemon, _ string) {
		g.add(at, "freeze", "host", daemon)
		g.add(until, "thaw", "host", daemon)
	}},
	{10, func(g *generator, at, until time.Duration, daemon, _ string) { // commands come late, behind those of later connections
		g.add(at, "hold", "from", daemon, "to", "redis")
		g.add(until, "let-go", "from", daemon, "to", "redis")
	}},
	{2, func(g *generator, at, until time.Duration, _, _ string) {
		g.add(at, "freeze", "host", "redis")
		g.add(until, "thaw", "host", "redis")
	}},
	{10, func(g *generator, at, until time.Duration, daemon, _ string) {
		args := []any{"daemon", daemon, "keep", g.skewed(4000)}
		if g.percent(20) {
			args = append(args, "silent", true)
		}
		g.add(at, "kill", args...)
		g.add(pick(g, at, until), "start", "daemon", daemon)
	}},
	{4, func(g *generator, at, until time.Duration, daemon, _ string) {
		g.add(at, "stop", "daemon", daemon)
		g.add(pick(g, at, until), "start", "daemon", daemon)
	}},
	{2, func(g *generator, at, until time.Duration, daemon, _ string) { // a second process of the same instance
		g.add(at, "start", "daemon", daemon+"2")
		g.add(until, pick(g, "stop", "kill"), "daemon", daemon+"2")
	}},
	{8, func(g *generator, at, until time.Duration, _, _ string) {
		g.add(max(0, at-g.span(0, 20*time.Second)), "redis-save")
		g.add(at, "redis-stop", "keep", g.skewed(4000))
		data := pick(g, "same", "same", "same", "none", "older", "older")
		if data == "older" && g.repeats() { // equal items are taken for removed ones: docs/DELIVERY.md
			data = "same"
		}
		g.add(pick(g, at, until), "redis-start", "data", data)
	}},
	{1, func(g *generator, at, _ time.Duration, _, _ string) { g.add(at, "redis-flush") }},
	{1, func(g *generator, at, _ time.Duration, _, list string) { g.add(at, "delete", "key", list) }},
	{1, func(g *generator, at, until time.Duration, _, list string) {
		g.add(at, "rename", "list", list, "to", "away-"+list)
		if g.percent(60) {
			g.add(until, "rename", "list", "away-"+list, "to", list)
		}
	}},
	{3, func(g *generator, at, _ time.Duration, _, _ string) {
		g.add(at, "redis-evict", "which", g.rand.IntN(10))
	}},
	{8, func(g *generator, at, until time.Duration, _, _ string) {
		g.add(at, "redis-fault", "kind", pick(g, "OOM", "OOM", "READONLY", "LOADING", "MISCONF", "BUSY"))
		g.add(until, "redis-fault", "kind", "")
	}},
	{4, func(g *generator, at, until time.Duration, _, _ string) {
		g.add(at, "redis-clock", "by", pick(g, -1, 1)*pick(g, 1, 5, 60, 3600, 900000))
		if g.percent(50) {
			g.add(until, "redis-clock", "by", 0)
		}
	}},
	{1, func(g *generator, at, until time.Duration, _, _ string) {
		g.add(at, "redis-clients", "most", g.in(1, 4))
		g.add(at, "redis-kick")
		g.add(until, "redis-clients", "most", 0)
	}},
	{3, func(g *generator, at, _ time.Duration, _, _ string) { g.add(at, "redis-kick") }},
	{3, func(g *generator, at, _ time.Duration, _, _ string) { g.add(at, "redis-forget") }},
	{3, func(g *generator, at, _ time.Duration, _, list string) {
		if !g.uniform[list] {
			g.add(at, "pop", "list", list, "n", g.in(1, 6), "side", pick(g, "head", "head", "tail"))
		}
	}},
	{2, func(g *generator, at, _ time.Duration, _, list string) {
		if !g.uniform[list] {
			g.add(at, "trim", "list", list, "keep", g.in(0, 50))
		}
	}},
	{16, func(g *generator, at, _ time.Duration, _, list string) {
		group, habits := pick(g, "", "", "g1", "g2"), g.habits()
		if g.percent(30) {
			group, habits = "", append(habits, g.consumer()...)
		}
		g.client(at, list, group, habits...)
	}},
	{8, func(g *generator, at, _ time.Duration, _, _ string) {
		g.add(at, "leave", "name", fmt.Sprintf("c%d", g.in(1, 13)), "how", pick(g, "close", "silent"))
	}},
	{3, func(g *generator, at, _ time.Duration, daemon, list string) {
		g.add(max(0, at-200*time.Millisecond), "client", "name", "p1", "daemon", daemon, "subject", list)
		for i := range g.in(1, 5) {
			g.add(at+time.Duration(i)*100*time.Millisecond, "publish", "name", "p1", "n", g.in(1, 20), "size", pick(g, 16, 200))
		}
	}},
	{8, func(g *generator, at, until time.Duration, daemon, list string) {
		switch cmd := pick(g, "pause", "kick", "requeue", "reload", "dead", "peek", "drain 1s", "lists"); cmd {
		case "pause":
			g.add(at, "op", "daemon", daemon, "cmd", "pause "+list)
			g.add(until, "op", "daemon", daemon, "cmd", "resume "+list)
		case "kick":
			g.add(at, "op", "daemon", daemon, "cmd", fmt.Sprintf("kick %d", g.in(1, 30)))
		case "requeue":
			g.add(at, "op", "daemon", daemon, "cmd", "requeue "+list+" "+pick(g, "1", "all"), "requeue", list)
		case "dead", "peek":
			g.add(at, "op", "daemon", daemon, "cmd", cmd+" "+list)
		case "drain 1s":
			g.add(at, "stop", "daemon", daemon, "by", "operator")
			g.add(until, "start", "daemon", daemon)
		default:
			g.add(at, "op", "daemon", daemon, "cmd", cmd)
		}
	}},
	{2, func(g *generator, at, until time.Duration, daemon, _ string) {
		g.add(at, "disk", "daemon", daemon, "full", true)
		g.add(until, "disk", "daemon", daemon, "full", false)
	}},
	{14, (*generator).hubTrouble}, // the last one: worlds without an uplink lack it
}
