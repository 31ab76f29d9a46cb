// Package sim simulates years of bad luck: whole daemons of edged on an in-memory
// network and an in-memory Redis, in a testing/synctest bubble, whose clock runs as
// fast as the machine allows.
//
// A scenario says what happens and when; the judge says whether edged kept its
// promises. docs/TESTING.md describes how it is used.
package sim

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"edged/internal/ledger"
	"edged/test/sim/hub"
	"edged/test/sim/judge"
	"edged/test/sim/network"
	"edged/test/sim/redis"
	"edged/test/sim/scenario"
)

// world is everything in a simulation. Its goroutines end before play returns.
type world struct {
	plan    *scenario.Scenario
	network *network.Network
	parts   Parts
	redis   Redis
	began   time.Time
	daemons map[string]*daemon   // that run, by name
	stopped map[string]time.Time // when those were told to end that have not been started since
	past    []*daemon            // that were killed or told to end
	clients map[string]*client
	gone    []*client
	saved   redis.Data // Redis's data as it was once
	serving *server    // nil while Redis does not run
	hub     *hub.Hub   // nil: there is no uplink
	lists   []scenario.Args
	pushed  map[string]int // by list
	started int            // clients

	hubServing *server // nil: there is no uplink

	chance func(n uint64) uint64

	mu         sync.Mutex // guards judge and what its clients share with it
	judge      *judge.Judge
	deliveries int
	story      *story
	faults     int
	logged     int    // lines logged and dropped at the last flood event
	faulty     bool   // there was a fault that is not mild since the last check
	first      vitals // at the first check
}

// result is the outcome of a scenario.
type result struct {
	Findings   []string
	Story      string
	Faults     int
	Deliveries int
	Duplicates int
	Simulated  time.Duration
}

// pulse is how often, in simulated time, a world shows that its clock moves.
const pulse = 10 * time.Second

// play plays a scenario. It must be called in a bubble. It calls moved with each pulse.
func play(plan *scenario.Scenario, moved func()) result {
	w := newWorld(plan, &simulated{})
	clock := time.NewTicker(pulse)
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case <-clock.C:
				moved()
			case <-ended:
				return
			}
		}
	}()

	w.startRedis()
	w.startHub()
	w.direct()
	w.end()
	time.Sleep(time.Minute) // for acknowledgements that are late
	clock.Stop()
	close(ended)
	return w.result()
}

func newWorld(plan *scenario.Scenario, parts Parts) *world {
	w := &world{
		plan: plan, network: network.New(), parts: parts, redis: parts.Redis(), began: time.Now(), lists: plan.Lists,
		daemons: map[string]*daemon{}, stopped: map[string]time.Time{}, clients: map[string]*client{}, pushed: map[string]int{}, story: newStory(),
	}
	var lists []judge.List
	for _, l := range plan.Lists {
		lists = append(lists, judge.List{
			Name: l.Text("key", ""), Mode: judge.Mode(l.Text("ack", "received")), AckWait: w.ackWait(l.Text("key", "")),
			MaxDeliver: l.Int("deliver", 0), MaxPayload: w.maxPayload(),
			Window: max(plan.World.Int("window", 64), l.Int("pending", 100)), Uplink: plan.World.Int("uplink", 0) > 0,
			Dedup: l.Int("dedup", 0),
		})
	}
	w.judge = judge.New(lists)
	random := w.source("chance")
	var drawing sync.Mutex
	w.chance = func(n uint64) uint64 {
		drawing.Lock()
		defer drawing.Unlock()
		return random.Uint64N(n)
	}
	return w
}

func (w *world) result() result {
	w.mu.Lock()
	defer w.mu.Unlock()
	return result{
		Findings: w.judge.Findings(), Story: w.story.String(), Faults: w.faults,
		Deliveries: w.judge.Deliveries, Duplicates: w.judge.Duplicates, Simulated: time.Since(w.began),
	}
}

// source returns a source of chance for a party, the same in each run.
func (w *world) source(party string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(party))
	return rand.New(rand.NewPCG(h.Sum64(), uint64(w.plan.World.Int("seed", 1))))
}

func (w *world) lock(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
}

// tell adds a line to the story of a party.
func (w *world) tell(party, format string, args ...any) {
	w.story.add(time.Since(w.began), party, fmt.Sprintf(format, args...))
}

func (w *world) list(key string) scenario.Args {
	for _, l := range w.lists {
		if l.Text("key", "") == key {
			return l
		}
	}
	return nil
}

func (w *world) ackWait(key string) time.Duration { return w.list(key).Seconds("wait", 5*time.Second) }

// right reports whether the head of a list is its right end.
func (w *world) right(key string) bool { return w.list(key).Text("take", "left") == "right" }

// held sorts the items that Redis holds.
func (w *world) held() judge.Held { return w.sorted(w.redis.Data()) }

func (w *world) sorted(data redis.Data) judge.Held {
	h := judge.Held{Waiting: map[string]int{}, Dead: map[string][]string{}, Aside: map[string]int{}, Records: map[string]string{}}
	for _, key := range data {
		switch value := key.Value.(type) {
		case []string:
			for _, item := range value {
				w.sort(h, key.Name, item)
			}
		case map[string]string:
			if strings.HasSuffix(key.Name, ":edged:aside") {
				for _, item := range value {
					h.Waiting[item]++
				}
			}
			for field, record := range value {
				if strings.HasPrefix(field, ledger.Durable("uplink/")) {
					h.Records[key.Name+" "+field] = record
				}
			}
		}
	}
	return h
}

// sort adds an item of the list at key to what is held.
func (w *world) sort(h judge.Held, key, item string) {
	switch {
	case strings.HasSuffix(key, "}:dead"):
		head, item, _ := strings.Cut(item, "\n")
		h.Dead[item] = append(h.Dead[item], reason(head))
	case w.list(key) != nil, strings.Contains(key, ":edged"):
		h.Waiting[item]++
	default:
		h.Aside[item]++
	}
}

// reason reads why an item is among the dead letters.
func reason(head string) string {
	_, rest, _ := strings.Cut(head, `"reason":"`)
	text, _, _ := strings.Cut(rest, `"`)
	return text
}

// change does something to Redis's data that edged has no part in.
func (w *world) change(commands ...[]string) {
	w.changed(w.redis.Change(commands...))
}

// changed tells the judge of a change of Redis's data that edged has no part in.
func (w *world) changed(before, after redis.Data) {
	w.lock(func() {
		w.judge.Changed(w.sorted(before), w.sorted(after))
		for _, l := range w.lists {
			list := l.Text("key", "")
			keys := ledger.KeysOf(list)
			same := true
			for _, key := range []string{keys.List, keys.Ledger, keys.Seen} {
				same = same && reflect.DeepEqual(value(before, key), value(after, key))
			}
			if !same {
				w.judge.Touched(list)
			}
		}
	})
}

// value returns the value of a key, nil if there is none.
func value(data redis.Data, name string) any {
	for _, key := range data {
		if key.Name == name {
			return key.Value
		}
	}
	return nil
}

// check waits until all faults must be over, judges, and clears up.
func (w *world) check(a scenario.Args) {
	w.calm(a)
	began := w.logLines()
	w.polite()
	time.Sleep(time.Second)
	w.resume() // an operator's command may have been on its way
	settled := func() bool { return len(w.held().Waiting) == 0 }
	w.parts.Rest(time.Minute-time.Second+w.carriage(a.Int("rate", 0))+w.comeback(), settled)
	if more := w.silence(); more > 0 {
		w.parts.Rest(more+w.carriage(a.Int("rate", 0)), settled)
	}

	held := w.held()
	w.lock(func() {
		w.judge.Check(held)
		w.examine(w.logLines() - began)
	})
	w.faulty = false
	w.redis.SetFault(redis.None)
	w.network.Calm()
	w.askAll()
	for _, l := range w.lists {
		w.command("DEL", "{"+l.Text("key", "")+"}:dead")
	}
	for _, name := range slices.Sorted(maps.Keys(w.clients)) {
		if strings.HasPrefix(name, "polite-") {
			w.dismiss(name)
		}
	}
	w.reap()
}

// comeback is how long it takes at most until an uplink has noticed that its link is dead and has
// connected again.
func (w *world) comeback() time.Duration {
	if w.hub == nil {
		return 0
	}
	return scenario.Comeback
}

// silence is how long at most daemons wait now for clients that are gone without a word: beside the
// receipt timeout they allow a second for each KiB, as a proxy might hold it.
func (w *world) silence() time.Duration {
	bytes := 0
	for name := range w.daemons {
		bytes = max(bytes, w.network.InVain(name))
	}
	return time.Duration(bytes) * time.Second / 1024
}

// carriage is how long all items take over a link of so many bytes a second, each with
// the commands of a round trip, some of them twice, and once more for each durable consumer;
// 0 bytes is no bound.
func (w *world) carriage(rate int) time.Duration {
	if rate == 0 {
		return 0
	}
	const commands = 1000
	bytes := 0
	for item, copies := range w.held().Waiting {
		bytes += copies * (len(item) + commands)
	}
	least := 2
	if w.hub != nil {
		least++
	}
	times := least
	w.lock(func() {
		for _, l := range w.lists { // each at a place of its own
			times = max(times, least+len(w.judge.Durables(l.Text("key", ""))))
		}
	})
	return time.Duration(times*bytes) * time.Second / time.Duration(rate)
}

// lacksConsumers reports whether Redis lacks a durable consumer: while Redis is full it can't
// be made again, and what it owes can't be delivered.
func (w *world) lacksConsumers() bool {
	lacks := false
	w.lock(func() {
		for _, l := range w.lists {
			for _, name := range w.judge.Durables(l.Text("key", "")) {
				there, _ := w.redis.Execute("HEXISTS", "{"+l.Text("key", "")+"}:edged:consumers", name)
				lacks = lacks || there != int64(1)
			}
		}
	})
	return lacks
}

// calm puts everything right, except that the clock may stay wrong, a daemon may be away,
// and a fault of Redis may begin.
func (w *world) calm(a scenario.Args) {
	if w.serving == nil {
		w.startRedis()
	}
	if fault := redis.Fault(a.Text("redis", "")); fault != redis.OOM || !w.lacksConsumers() {
		w.redis.SetFault(fault)
	}
	w.endRetype()
	if a.Text("clock", "") != "stays" {
		w.redis.SetClock(0)
	}
	w.redis.MaxClients(0)
	w.network.Calm()
	w.afflict(nil)
	if rate := a.Int("rate", 0); rate > 0 {
		for i := range w.plan.World.Int("instances", 1) {
			w.network.Set(string(rune('a'+i)), "redis", network.Rules{Rate: rate})
		}
	}
	w.parts.Thaw()
	for _, name := range slices.Sorted(maps.Keys(w.clients)) {
		if !w.clients[name].polite() || w.clients[name].args.Text("list", "") != "" && w.clients[name].args.Text("reconnect", "") == "" {
			w.dismiss(name)
		}
	}
	for i := range w.plan.World.Int("instances", 1) {
		if name := string(rune('a' + i)); w.daemons[name] == nil && name != a.Text("away", "") {
			w.startDaemon(name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.daemons)) {
		w.daemons[name].log.full.Store(false)
	}
	w.resume()
	w.lock(func() {
		if w.faulty {
			w.judge.Fault()
		} else {
			w.judge.Trouble()
		}
	})
	w.tell("world", "all is well from here on")
}

// resume ends all pauses.
func (w *world) resume() {
	for _, name := range slices.Sorted(maps.Keys(w.daemons)) {
		w.operate(name, "resume all")
		if w.hub != nil {
			w.operate(name, "resume uplink up")
		}
	}
}

// polite connects a client to each list of each daemon that confirms all at once, and
// one to each durable consumer.
func (w *world) polite() {
	durables := map[string][]string{}
	w.lock(func() {
		for _, l := range w.lists {
			durables[l.Text("key", "")] = w.judge.Durables(l.Text("key", ""))
		}
	})
	for _, name := range slices.Sorted(maps.Keys(w.daemons)) {
		for _, l := range w.lists {
			key := l.Text("key", "")
			client := "polite-" + key + "-" + name
			w.clients[client] = w.startClient(client, scenario.Of("daemon", name, "list", key, "reconnect", 1))
			for _, durable := range durables[key] {
				client := client + "-" + durable
				w.clients[client] = w.startClient(client, scenario.Of("daemon", name, "list", key, "durable", durable, "reconnect", 1))
			}
		}
	}
}

// vitals are the quantities that must not grow with time.
type vitals struct {
	goroutines, keys int
	heap             uint64 // bytes
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // pools are emptied by the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// examine finds growth and floods. It is called with the judge locked.
func (w *world) examine(lines int) {
	if lines > 200 {
		w.judge.Find("flood", "%d lines of log in a minute in which all was well", lines)
	}
	goroutines, heap := w.parts.Vitals(len(w.clients))
	if w.hub != nil {
		heap -= min(heap, uint64(w.hub.Held())) // its messages are kept to the end
	}
	now := vitals{goroutines, len(w.redis.Keys()), heap}
	if w.first == (vitals{}) {
		w.first = now
	}
	if now.goroutines > 2*max(0, w.first.goroutines)+50 {
		w.judge.Find("goroutines", "%d of them, %d at the first check", now.goroutines, w.first.goroutines)
	}
	if now.keys > w.first.keys+20+8*len(w.lists) {
		w.judge.Find("keys", "Redis has %d keys, %d at the first check: %v", now.keys, w.first.keys, w.redis.Keys())
	}
	if now.heap > 3*w.first.heap+16<<20 {
		w.judge.Find("memory", "%d bytes in use, %d at the first check", now.heap, w.first.heap)
	}
}

// flood judges how many lines the daemons have logged, or dropped because there were
// too many, since the last such event; most is for each list and daemon.
func (w *world) flood(a scenario.Args) {
	lines := w.logLines()
	for _, name := range slices.Sorted(maps.Keys(w.daemons)) {
		lines += w.unlogged(name)
	}
	since := lines - w.logged
	w.logged = lines
	if most := a.Int("most", 0) * len(w.lists) * len(w.daemons); most > 0 && since > most {
		w.lock(func() { w.judge.Find("flood", "%d lines of log, most of them perhaps dropped", since) })
	}
}

func (w *world) dismiss(name string) {
	c := w.clients[name]
	delete(w.clients, name)
	c.stop()
	w.gone = append(w.gone, c)
}

// reap joins the goroutines of those that have ended.
func (w *world) reap() {
	for _, c := range w.gone {
		<-c.ended
	}
	w.gone = nil
	for _, d := range w.past {
		w.ended(d)
	}
	w.past = nil
}

// end ends everything, in good order.
func (w *world) end() {
	w.calm(nil)
	for _, name := range slices.Sorted(maps.Keys(w.clients)) {
		w.dismiss(name)
	}
	for _, name := range slices.Sorted(maps.Keys(w.daemons)) {
		w.stopDaemon(name)
	}
	w.reap()
	w.stopRedis(0, false)
	w.redis.Close()
	w.stopHub()
}
