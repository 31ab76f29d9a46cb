package browser

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"edged/internal/auth"
	"edged/internal/httpserver"

	"go.uber.org/zap"
)

type object = map[string]any

// example is a box whose state, as sent to the page, is made up by a test.
type example struct {
	change  func(s object) // sets its special state; may be nil
	history bool           // it has run for 15 minutes and more
	asked   atomic.Int64   // snapshots
	gate    *auth.Gate     // set by serve; asks for no password at first
}

// serve serves the page with the state of an example, and returns its address.
func (e *example) serve(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	e.gate = auth.New(auth.Options{})
	s := httpserver.New(httpserver.Options{
		Gate: e.gate,
		Routes: []httpserver.Route{
			{Pattern: "/{$}", Handler: httpserver.Page()},
			{Pattern: "/stats/stream", Handler: httpserver.NewStats(e.past, e.now)},
		},
		MaxClients: 10, Log: zap.NewNop(),
	})

	ended := make(chan error)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		<-ended
		s.End()
	})
	return l.Addr().String()
}

func asJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// wave returns a number that goes up and down over the minutes, always in the same way.
func wave(i int, low, high float64) float64 {
	x := float64(i)
	y := .5 + .28*math.Sin(x/17) + .14*math.Sin(x/6.3) + .05*math.Sin(x*.9)
	return math.Round((low+(high-low)*math.Max(0, y))*10) / 10
}

// jam returns a backlog that grows for two minutes and is then worked off.
func jam(i int) int {
	switch {
	case i < 70 || i > 130:
		return int(wave(i, 0, 6))
	case i < 95:
		return (i - 70) * 38
	}
	return max(0, (25*38)-(i-95)*30)
}

func (e *example) past() []byte {
	const samples = 180
	h := object{"interval_seconds": 5, "lists": object{}}
	if !e.history {
		for _, column := range []string{"at", "taken", "confirmed", "backlog", "clients"} {
			h[column] = []int{}
		}
		return asJSON(h)
	}

	var at []int64
	var taken, confirmed []float64
	var backlog, clients, events, readings []int
	for i := range samples {
		at = append(at, time.Now().Add(time.Duration(i-samples)*5*time.Second).UnixMilli())
		taken, confirmed = append(taken, wave(i, 80, 420)), append(confirmed, wave(i, 80, 420))
		events, readings = append(events, jam(i)), append(readings, int(wave(i, 0, 9)))
		backlog, clients = append(backlog, events[i]+readings[i]), append(clients, 2+i/60)
	}
	h["at"], h["taken"], h["confirmed"], h["backlog"], h["clients"] = at, taken, confirmed, backlog, clients
	h["lists"] = object{"events": events, "readings": readings}
	return asJSON(h)
}

func (e *example) now() []byte {
	n := int(e.asked.Add(1))
	taken := wave(180+n, 80, 420)

	s := object{
		"time": time.Now(), "state": "serving", "version": "0.1.0", "instance": "box-7", "pid": 812, "uptime_seconds": 1.2e6 + n,
		"redis": "unix:///run/redis/redis.sock", "listen": "0.0.0.0:4222", "health": object{"ok": true, "reasons": []string{}},
		"backlog": 5 + n%4, "in_flight": 3, "taken": 48211377 + 301*n, "confirmed": 48211374 + 301*n, "returned": 0, "dead": 0, "gone": 0,
		"redelivered": 12, "rates": object{"taken": taken, "confirmed": taken}, "oldest": .1,
		"faults": []string{}, "lagging": []string{}, "unclaimed": []string{},
		"lists": []object{
			list("events", object{"backlog": 2 + n%4, "rates": object{"taken": taken * .7, "confirmed": taken * .7}, "owed": 3, "lag_seconds": .2}),
			list("readings", object{"backlog": 3, "kept": 12000, "subject": "plant.readings", "rates": object{"taken": taken * .3, "confirmed": taken * .3}}),
		},
		"lists_total": 2,
		"consumers": []object{
			consumer("events", "plain", object{"clients": []int{12}, "owed": 3}),
			consumer("events", "group", object{"group": "archive", "clients": []int{14, 15}, "members": 2, "front": false, "lag_seconds": .2, "lag_items": 61}),
			consumer("readings", "durable", object{"consumer": "billing", "clients": []int{17}, "next": 9}),
			consumer("readings", "plain", object{"clients": []int{12}}),
		},
		"consumers_total": 4,
		"clients": []object{
			client(12, "dashboard", "nats.js", "3.4.0"), client(14, "archive-a", "go", "1.55.0"), client(15, "archive-b", "go", "1.55.0"), client(17, "billing", "python3", "2.11.0"),
		},
		"clients_total": 4, "inbound": []object{}, "tasks": []object{}, "log": []object{},
		"tcp": object{"auth_failures": 0, "refused": 0, "crowded": 0, "slow_consumers": 0, "over_memory": 0, "stuck": 0, "lagged": 0, "stale": 0},
	}
	if e.change != nil {
		e.change(s)
	}
	return asJSON(s)
}

func with(base, more object) object {
	for k, v := range more {
		base[k] = v
	}
	return base
}

func list(key string, more object) object {
	return with(object{"key": key, "subject": key, "state": "serving", "backlog": 0, "kept": 0, "lag_items": 0, "lag_seconds": 0, "owed": 0,
		"oldest_unconfirmed_seconds": 0, "dead": 0, "gone": 0, "rates": object{"taken": 0, "confirmed": 0}}, more)
}

func consumer(of, kind string, more object) object {
	return with(object{"list": of, "kind": kind, "clients": []int{}, "members": 1, "lag_items": 0, "lag_seconds": 0, "owed": 0,
		"oldest_unconfirmed_seconds": 0, "front": true}, more)
}

func client(id int, name, lang, version string) object {
	return object{"id": id, "name": name, "lang": lang, "client_version": version, "address": fmt.Sprintf("192.168.10.%d:%d", 20+id, 50200+id), "user": "",
		"since": time.Now().Add(-time.Duration(id) * time.Hour), "sent": 1000003 * id, "owed": id % 4, "pending": 0}
}

// bad changes an example so that every possible element is there, and many are bad. The names are
// those that an attacker would choose.
func bad(s object) {
	const name = `<img src=x onerror="alert(1)">`
	reason := "nobody listens at unix:///run/redis/redis.sock; is Redis running?"
	s["health"] = object{"ok": false, "reasons": []string{"list events and 1 more: " + reason + " (for 42s)"}}
	s["faults"] = []string{"list events: " + reason + " (for 42s)", "log: 14 lines were lost; the journal or the reader of standard error does not take them"}
	s["rates"] = object{"taken": 99999.4, "confirmed": 2512345}
	s["lagging"] = []string{"readings, billing: away for 31h2m0s, 51200 items"}
	s["unclaimed"] = []string{"plant.hall-2.line-17.vibration: 1200 items without a consumer, the oldest 3m12s old"}

	s["lists"] = []object{
		list("events", object{"state": "failing", "reason": reason, "backlog": 912345, "owed": 512, "lag_seconds": 312.7, "oldest_unconfirmed_seconds": 42.1, "dead": 3}),
		list("readings", object{"state": "paused", "backlog": 51200, "subject": "plant.readings", "lag_seconds": 12.5}),
		list("plant.hall-2.line-17.vibration.raw.before-filter.of-the-second-sensor", object{"state": "waiting", "backlog": 1200}),
		list(name, object{"state": "full"}), list("standby", object{"state": "standby", "holder": "box-8", "gone": 2}),
	}
	s["lists_total"] = 5

	consumers := []object{consumer("readings", "durable", object{"consumer": "billing", "front": false, "away_seconds": 111720, "missed": 12, "lag_items": 51200, "lag_seconds": 12.5})}
	clients := []object{client(3, name, "go", "1.55.0")}
	for i := range 14 {
		consumers = append(consumers, consumer("events", "plain", object{"clients": []int{100 + i}, "owed": 36, "front": i%3 == 0, "lag_items": 31 * (14 - i), "lag_seconds": 3.1 * float64(14-i)}))
		clients = append(clients, with(client(100+i, fmt.Sprint("panel-", i), "c", "3.12.0"), object{"pending": 91234567, "user": "hall-2"}))
	}
	s["consumers"], s["clients"], s["clients_total"], s["consumers_total"] = consumers, clients, 2345, 2349

	s["inbound"] = []object{{"subject": "commands.>", "list": "commands", "written": 1234567, "waiting": 12, "duplicates": 3, "refused_buffer": 1, "refused_max_len": 0, "refused_redis": 2, "uncertain": 1, "failing": reason}}
	s["uplinks"] = []object{{"name": "head-office", "state": "failing", "reason": "nats: no servers available for connection", "waiting": 99812, "sent": 8812345, "lag_seconds": 5123}}
	s["tasks"] = []object{
		{"id": 1, "kind": "requeue", "list": "events", "state": "done", "started": time.Now().Add(-time.Hour), "text": "312 dead letters put back", "done": 312, "total": 312},
		{"id": 2, "kind": "catch up", "list": "readings", "consumer": "billing", "state": "running", "started": time.Now().Add(-time.Minute), "text": "20,480 of 51,200 items", "done": 20480, "total": 51200},
	}
	var log []object
	for i := range 12 {
		log = append(log, object{"time": time.Now().Add(-time.Duration(i) * time.Minute), "level": []string{"warn", "error"}[i%2], "message": "can't serve the list; trying again", "fields": "list=events reason=" + reason})
	}
	s["log"] = append(log, object{"time": time.Now().Add(-50 * time.Hour), "level": "warn", "message": "login" + name})
}
