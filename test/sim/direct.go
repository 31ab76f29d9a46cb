package sim

import (
	"fmt"
	"net"
	"strings"
	"time"

	"edged/test/sim/judge"
	"edged/test/sim/network"
	"edged/test/sim/redis"
	"edged/test/sim/scenario"
)

// direct lets the events of the plan happen, each at its time or, if the world took
// longer for the ones before, as soon as possible.
func (w *world) direct() {
	for _, e := range w.plan.Events {
		time.Sleep(e.At - time.Since(w.began))
		w.do(e)
	}
}

// do lets an event happen.
func (w *world) do(e scenario.Event) {
	act, ok := acts[e.Verb]
	if !ok {
		panic(fmt.Sprintf("no such verb: %s", e))
	}
	w.tell("world", "%s %s", e.Verb, e.Args)
	switch {
	case e.Verb == "leave":
		w.faults++
		w.lock(w.judge.Trouble)
	case act.fault && atHub(e): // local consumers don't notice
		w.faults++
	case act.fault && e.Args.Is("mild"):
		w.faults++
		w.lock(w.judge.Mild)
	case act.fault:
		w.faults++
		w.faulty = true
		w.lock(w.judge.Fault)
	}
	act.do(w, e.Args)
}

// atHub reports whether an event is about the hub, or the way to it.
func atHub(e scenario.Event) bool {
	return e.Verb == "hub" || e.Args.Text("to", "") == "hub" || e.Args.Text("host", "") == "hub"
}

// act is the effect of a verb.
type act struct {
	fault bool // it is bad luck
	do    func(*world, scenario.Args)
}

var acts = map[string]act{
	// Producers and others at the lists.
	"push":   {false, (*world).push},
	"pop":    {true, (*world).pop},
	"trim":   {true, (*world).trim},
	"rename": {true, (*world).rename},
	"retype": {true, (*world).retype},
	"delete": {true, func(w *world, a scenario.Args) { w.command("DEL", a.Text("key", "")) }},

	// Redis.
	"redis-stop":    {true, func(w *world, a scenario.Args) { w.stopRedis(a.Int("keep", 0), a.Is("silent")) }},
	"redis-start":   {true, (*world).restartRedis},
	"redis-save":    {false, (*world).save},
	"redis-fault":   {true, func(w *world, a scenario.Args) { w.redis.SetFault(redis.Fault(a.Text("kind", ""))) }},
	"redis-clock":   {true, func(w *world, a scenario.Args) { w.redis.SetClock(a.Seconds("by", 0)) }},
	"redis-clients": {true, func(w *world, a scenario.Args) { w.redis.MaxClients(a.Int("most", 0)) }},
	"redis-kick":    {true, func(w *world, a scenario.Args) { w.redis.Disconnect() }},
	"redis-flush":   {true, func(w *world, a scenario.Args) { w.command("FLUSHALL"); w.lock(w.judge.Forgotten) }},
	"redis-forget":  {true, func(w *world, a scenario.Args) { w.redis.Execute("SCRIPT", "FLUSH") }},
	"redis-evict":   {true, (*world).evict},

	"hub": {true, (*world).afflict},

	// The network.
	"cut":    {true, (*world).cut},
	"reset":  {true, (*world).reset},
	"net":    {true, (*world).weather},
	"hold":   {true, func(w *world, a scenario.Args) { w.each(a, func(l *network.Link) { l.Hold(true) }) }},
	"let-go": {true, func(w *world, a scenario.Args) { w.each(a, func(l *network.Link) { l.Hold(false) }) }},
	"freeze": {true, func(w *world, a scenario.Args) { w.freeze(a.Text("host", ""), true) }},
	"thaw":   {true, func(w *world, a scenario.Args) { w.freeze(a.Text("host", ""), false) }},
	"calm":   {false, (*world).calm},

	// Daemons.
	"start": {false, (*world).start},
	"stop":  {true, func(w *world, a scenario.Args) { w.stopDaemon(a.Text("daemon", "")) }},
	"kill": {true, func(w *world, a scenario.Args) {
		w.killDaemon(a.Text("daemon", ""), a.Int("keep", 0), a.Is("silent"))
	}},
	"disk": {true, func(w *world, a scenario.Args) {
		if d := w.daemons[a.Text("daemon", "")]; d != nil {
			d.log.full.Store(a.Is("full"))
		}
	}},
	"op": {true, (*world).say},

	// Clients.
	"client":  {false, (*world).client},
	"leave":   {true, (*world).leave},
	"publish": {false, (*world).publish},

	"check": {false, (*world).check},
	"flood": {false, (*world).flood},
	"ended": {false, (*world).left},
}

// start starts a process. A second one of an instance takes over the lists of the
// first.
func (w *world) start(a scenario.Args) {
	name := a.Text("daemon", "")
	if w.daemons[name] != nil {
		return
	}
	if w.daemons[name[:1]] != nil {
		w.lock(w.judge.Fault)
	}
	w.startDaemon(name)
}

// push pushes n items. Kinds: text, binary, huge, empty, equal, alike, twin.
func (w *world) push(a scenario.Args) {
	if w.serving == nil {
		return
	}
	key := a.Text("list", "")
	head := a.Text("side", "tail") == "head"
	words := []string{"LPUSH", key, ""}
	if head == w.right(key) {
		words[0] = "RPUSH"
	}
	for i := range a.Int("n", 1) {
		w.pushed[key]++
		n, size := w.pushed[key], a.Int("size", 20)
		switch kind := a.Text("kind", "text"); kind {
		case "empty":
			words[2] = ""
		case "equal":
			words[2] = fmt.Sprintf("%s:equal%d", key, n%a.Int("of", 3))
		case "alike":
			words[2] = judge.Alike(key, n, size)
		case "twin":
			if words[2] = judge.Payload(key, n, size, false, false); i%3 == 2 {
				words[2] = key + ":twin:" + strings.Repeat("=", size)
			}
		case "huge":
			words[2] = judge.Payload(key, n, w.maxPayload()+1+size, head, false)
		default:
			words[2] = judge.Payload(key, n, size, head, kind == "binary")
			if w.list(key).Int("dedup", 0) > 0 && kind == "text" {
				words[2] = judge.Identified(a.Text("id", w.identity(key, n)), words[2])
			}
		}
		before := ""
		if head {
			before = w.head(key)
		}
		w.lock(func() {
			w.judge.Pushed(key, words[2])
			if head { // all that is on its way is found at another place
				w.judge.Ahead(key, before)
			}
		})
		if _, err := w.redis.Do(words...); err != nil {
			w.lock(func() { w.judge.Unpushed(words[2]) })
			w.tell(key, "push fails: %v", err)
			return
		}
	}
	if most := a.Int("cap", 0); most > 0 {
		w.lock(w.judge.Fault)
		w.trimTo(key, most)
	}
}

// identity is the id of the n-th item of a list with dedup: its number or, in 30 of 100 items, the
// id of an earlier one, half of which are among the dedup_items before it. It is a function of the
// number, so that an item keeps its id when other events are removed from the scenario.
func (w *world) identity(key string, n int) string {
	for n > 1 {
		random := w.source(fmt.Sprint("id ", key, n))
		if random.IntN(100) >= 30 {
			break
		}
		n -= 1 + random.IntN(min(n-1, 2*w.list(key).Int("dedup", 0)))
	}
	return fmt.Sprint(n)
}

// head is the item at the head of a list, empty if there is none.
func (w *world) head(key string) string {
	index := "0"
	if w.right(key) {
		index = "-1"
	}
	item, _ := w.redis.Execute("LINDEX", key, index)
	text, _ := item.(string)
	return text
}

// pop lets another reader take items.
func (w *world) pop(a scenario.Args) {
	key := a.Text("list", "")
	verb := "LPOP"
	if (a.Text("side", "head") == "head") == w.right(key) {
		verb = "RPOP"
	}
	var pops [][]string
	for range a.Int("n", 1) {
		pops = append(pops, []string{verb, key})
	}
	w.change(pops...)
}

func (w *world) trim(a scenario.Args) { w.trimTo(a.Text("list", ""), a.Int("keep", 10)) }

// trimTo keeps the newest items of a list.
func (w *world) trimTo(key string, most int) {
	if w.right(key) {
		w.command("LTRIM", key, "0", fmt.Sprint(most-1))
	} else {
		w.command("LTRIM", key, fmt.Sprint(-most), "-1")
	}
}

func (w *world) rename(a scenario.Args) {
	w.command("RENAME", a.Text("list", ""), a.Text("to", ""))
}

// endRetype puts lists back whose durable consumers can't be made as long as the key is of
// another type.
func (w *world) endRetype() {
	for _, l := range w.lists {
		key, owed := l.Text("key", ""), false
		w.lock(func() { owed = len(w.judge.Durables(key)) > 0 })
		if kind, _ := w.redis.Execute("TYPE", key); owed && fmt.Sprint(kind) == "string" {
			w.retype(scenario.Of("list", key, "back", true))
		}
	}
}

// retype puts a string in the place of a list, or the list back.
func (w *world) retype(a scenario.Args) {
	key := a.Text("list", "")
	if !a.Is("back") {
		w.change([]string{"RENAME", key, "retyped-" + key}, []string{"SET", key, "a string"})
		return
	}
	w.change([]string{"DEL", key}, []string{"RENAME", "retyped-" + key, key})
}

// command changes Redis's data by a command of another program.
func (w *world) command(words ...string) { w.change(words) }

func (w *world) save(scenario.Args) {
	w.saved = w.redis.Save()
}

// evict removes a key that begins with list and ends with the given end.
func (w *world) evict(a scenario.Args) {
	keys := w.redis.Keys()
	of := a.Int("which", 0)
	if len(keys) > 0 {
		key := keys[of%len(keys)]
		w.tell("redis", "evicts %s", key)
		w.command("DEL", key)
		w.lock(w.judge.Forgotten)
	}
}

func direction(a scenario.Args) network.Direction {
	if a.Text("dir", "down") == "up" {
		return network.Up
	}
	return network.Down
}

// cut cuts connections between two hosts, all or one of them.
func (w *world) cut(a scenario.Args) {
	w.each(a, func(l *network.Link) { l.Cut(direction(a), a.Int("after", 0), a.Is("silent")) })
}

func (w *world) reset(a scenario.Args) { w.each(a, (*network.Link).Reset) }

func (w *world) each(a scenario.Args, do func(*network.Link)) {
	links := w.network.Links(a.Text("from", ""), a.Text("to", ""))
	which := a.Int("which", -1)
	for i, l := range links {
		if which < 0 || i == which%len(links) {
			do(l)
		}
	}
}

func (w *world) freeze(host string, frozen bool) {
	w.network.Freeze(host, frozen)
	w.parts.Freeze(host, frozen)
}

func (w *world) weather(a scenario.Args) {
	w.network.Set(a.Text("from", ""), a.Text("to", ""), network.Rules{
		Delay: a.Seconds("delay", 0), Rate: a.Int("rate", 0), Refuse: a.Is("refuse"), Drop: a.Is("drop"),
	})
}

// say lets an operator say a command.
func (w *world) say(a scenario.Args) {
	requeued := a.Text("requeue", "")
	if requeued != "" {
		w.lock(func() { w.judge.Requeued(requeued) })
	}
	go func() {
		_, err := w.operate(a.Text("daemon", ""), a.Text("cmd", ""))
		if requeued != "" && err == nil {
			w.lock(func() { w.judge.RequeueEnded(requeued) })
		}
	}()
}

func (w *world) client(a scenario.Args) {
	name := a.Text("name", "")
	if w.clients[name] != nil {
		w.dismiss(name)
	}
	if durable := a.Text("durable", ""); durable != "" {
		w.lock(func() { w.judge.Asked(a.Text("list", ""), durable) })
	}
	w.clients[name] = w.startClient(name, a)
}

// leave lets a client go: it closes its connection, it is gone without a word, or it
// says UNSUB and closes later.
func (w *world) leave(a scenario.Args) {
	name := a.Text("name", "")
	c := w.clients[name]
	if c == nil {
		return
	}
	if a.Text("how", "close") == "silent" {
		for _, l := range w.network.Links(name, c.args.Text("daemon", "")) {
			l.Silence()
		}
		w.lock(w.judge.Fault) // edged delivers to it for a while
	}
	w.dismiss(name)
}

// publish lets a client publish to a list that edged writes.
func (w *world) publish(a scenario.Args) {
	c := w.clients[a.Text("name", "")]
	if c == nil {
		return
	}
	var conn net.Conn
	w.lock(func() { conn = c.conn })
	if conn == nil {
		return
	}
	key := c.args.Text("subject", "")
	for range a.Int("n", 1) {
		w.pushed[key]++
		payload := judge.Payload(key, w.pushed[key], a.Int("size", 20), false, false)
		inbox := fmt.Sprintf("%s.%d", c.own, w.pushed[key])
		w.lock(func() {
			w.judge.Published(key, payload)
			c.syncs[inbox] = question{item: payload}
		})
		c.publish(conn, "in."+key, inbox, payload)
	}
}
