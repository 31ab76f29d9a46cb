package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// uplinks measures the load of a hub with many boxes, each with its own stream and rate items a
// second. The boxes are uplinks of one edged, each with one list and one connection. Then the hub
// is down for a while.
func uplinks(boxes, rate int, lasts, away time.Duration) run {
	return onFreshRedis(func(ctx context.Context, l *lab) ([]figure, error) {
		boxes := l.few(boxes)
		h, err := l.startHub(ctx, loopback)
		if err != nil {
			return nil, err
		}
		defer h.close()
		bare, err := h.usage()
		if err != nil {
			return nil, err
		}
		server, err := l.manyUplinks(ctx, h, boxes)
		if err != nil {
			return nil, err
		}
		defer server.Kill()
		if err := h.connections(ctx, boxes); err != nil {
			return nil, err
		}

		produced, err := l.trickle(ctx, boxes, rate, l.long(lasts/4)) // all streams exist and have items
		if err != nil {
			return nil, err
		}
		servers := []*process{h.process, server}
		before, err := usagesOf(servers)
		if err != nil {
			return nil, err
		}
		begin := time.Now()
		n, err := l.trickle(ctx, boxes, rate, l.long(lasts))
		if err != nil {
			return nil, err
		}
		if err := h.awaitAll(ctx, boxes, produced+n); err != nil {
			return nil, server.failed(err)
		}
		took := time.Since(begin)
		after, err := usagesOf(servers)
		if err != nil {
			return nil, err
		}
		hubCPU, edgedCPU := after[0].cpu-before[0].cpu, after[1].cpu-before[1].cpu
		figures := []figure{
			{"msgs/s", float64(n) / took.Seconds()},
			{"hub-cpu-µs/msg", micros(hubCPU) / float64(n)}, {"hub-cores", hubCPU.Seconds() / took.Seconds()},
			{"hub-bare-MiB", bare.resident}, {"hub-MiB", after[0].resident},
			{"cpu-µs/msg", micros(edgedCPU) / float64(n)}, {"MiB", after[1].resident},
		}
		back, err := h.restart(ctx, l, boxes, rate, produced+n, away)
		return append(figures, back...), err
	})
}

func box(i int) string { return fmt.Sprintf("box-%03d", i) }

// manyUplinks makes a stream for each box, and starts edged with an uplink for each.
func (l *lab) manyUplinks(ctx context.Context, h *hub, boxes int) (*process, error) {
	c := configured{settings: []string{`http.listen = ""`}}
	var all []string
	for i := range boxes {
		_, err := h.js.CreateStream(ctx, jetstream.StreamConfig{Name: box(i), Subjects: []string{"edge." + box(i) + ".>"}, Storage: jetstream.FileStorage})
		if err != nil {
			return nil, err
		}
		c.lists = append(c.lists, box(i))
		all = append(all, "[[uplink]]", fmt.Sprintf("name = %q\nlists = [%q]", box(i), box(i)),
			fmt.Sprintf("url = [%q]\nsubject = \"edge.%s.events\"", "nats://"+h.address, box(i)))
	}
	c.settings = append(c.settings, all...)
	return c.start(ctx, l)
}

// trickle pushes items for each box at a rate, one at a time, and returns their number.
func (l *lab) trickle(ctx context.Context, boxes, rate int, lasts time.Duration) (n int, err error) {
	item := string(make([]byte, itemSize))
	begin := time.Now()
	total := boxes * max(1, int(lasts.Seconds()*float64(rate)))
	for n < total && ctx.Err() == nil {
		due := min(total, int(time.Since(begin).Seconds()*float64(boxes*rate))+1)
		some := due - n
		for ; n < due; n++ {
			l.conn.send("RPUSH", box(n%boxes), item)
		}
		if err := l.conn.out.Flush(); err != nil {
			return n, err
		}
		if _, err := l.conn.skip(some); err != nil {
			return n, err
		}
		time.Sleep(time.Millisecond)
	}

	return n, context.Cause(ctx)
}

// awaitAll waits until the streams of all boxes together have n items.
func (h *hub) awaitAll(ctx context.Context, boxes, n int) error {
	for {
		info, err := h.js.AccountInfo(ctx)
		if err != nil {
			return err
		}
		got := 0
		if info.Streams >= boxes {
			var all struct {
				Messages int `json:"messages"`
			}
			if err := h.monitor("/jsz", &all); err != nil {
				return err
			}
			got = all.Messages
		}

		if got >= n {
			return nil
		}

		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d of %d items are at the hub: %v", got, n, context.Cause(ctx))
		}
	}
}

// monitor reads an endpoint of the hub's monitoring.
func (h *hub) monitor(path string, into any) error {
	answer, err := http.Get("http://" + h.monitored + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return json.NewDecoder(answer.Body).Decode(into)
}

// connections waits until at least n clients are connected.
func (h *hub) connections(ctx context.Context, n int) error {
	for ctx.Err() == nil {
		var v struct{ Connections int }
		if err := h.monitor("/varz", &v); err == nil && v.Connections >= n {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return context.Cause(ctx)
}

// restart stops the hub, starts it after a while, and measures how the boxes reconnect. Meanwhile
// more items arrive.
func (h *hub) restart(ctx context.Context, l *lab, boxes, rate, items int, away time.Duration) ([]figure, error) {
	var more int
	var failed error
	var producing sync.WaitGroup
	h.Signal(syscall.SIGTERM)
	if _, err := h.Wait(); err != nil {
		return nil, err
	}
	producing.Go(func() { more, failed = l.trickle(ctx, boxes, rate, l.long(away)) })
	defer producing.Wait()
	time.Sleep(l.long(away))
	process, err := launch(ctx, &process{name: "nats-server", address: h.address}, true, program(l.path("nats-server"), "-c", l.path("hub.conf")))
	if err != nil {
		return nil, err
	}
	h.process = process

	begin, most, back := time.Now(), 0, time.Duration(0)
	var seen []int // all connections, each 100 ms
	for back == 0 && ctx.Err() == nil {
		var v struct {
			Connections int
			Total       int `json:"total_connections"`
		}
		if err := h.monitor("/varz", &v); err != nil {
			return nil, err
		}
		if seen = append(seen, v.Total); len(seen) > 10 {
			most = max(most, v.Total-seen[len(seen)-11])
		} else {
			most = max(most, v.Total)
		}
		if v.Connections >= boxes {
			back = time.Since(begin)
		}
		time.Sleep(time.Until(begin.Add(time.Duration(len(seen)) * 100 * time.Millisecond)))
	}
	producing.Wait()
	if failed != nil {
		return nil, failed
	}
	if err := h.awaitAll(ctx, boxes, items+more); err != nil {
		return nil, err
	}
	u, err := h.usage()
	return []figure{
		{"back-s", back.Seconds()}, {"caught-up-s", time.Since(begin).Seconds()}, {"most-connects/s", float64(most)},
		{"restart-hub-cpu-s", u.cpu.Seconds()}, {"restart-hub-peak-MiB", u.peak},
	}, err
}
