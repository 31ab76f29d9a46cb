package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"edged/internal/edgedtest"
)

// atHub is the name of the hub's stream.
const atHub = "EDGE"

// route is the way to the hub.
type route struct {
	delay time.Duration // in each direction
	rate  int           // bytes a second; 0: no bound
}

// The routes: a direct one, and one whose round trip takes 50 ms.
var (
	loopback = route{}
	far      = route{delay: 25 * time.Millisecond}
)

// shipper sends items to a stream of a hub.
type shipper interface {
	// load starts the servers with n items waiting. begin releases the items.
	load(ctx context.Context, l *lab, h *hub, n int) (s shipping, err error)
}

// shipping is a shipper with its items.
type shipping struct {
	servers []*process // the measured one, and Redis if it takes part
	begin   func() error
	end     func()
}

// hub is a nats-server with file storage, and the way to it.
type hub struct {
	*process
	js        jetstream.JetStream
	leaves    string // address for leaf nodes
	monitored string // address of its monitoring
	wires     []*wire
	via       route
	close     func()
}

// uplink measures how fast a shipper sends n items to a stream with file storage and one replica.
// It measures from the first tenth of the items to the last, because the beginning is dominated by
// round trips.
func uplink(s shipper, via route, n int) run {
	return onFreshRedis(func(ctx context.Context, l *lab) ([]figure, error) {
		h, err := l.startHub(ctx, via)
		if err != nil {
			return nil, err
		}
		defer h.close()
		n := l.few(n)
		shipping, err := s.load(ctx, l, h, n)
		if err != nil {
			return nil, err
		}
		defer shipping.end()

		servers := append([]*process{h.process}, shipping.servers...)
		before, err := usagesOf(servers)
		if err != nil {
			return nil, err
		}
		mine, begin := ownCPU(), time.Now()
		if err := shipping.begin(); err != nil {
			return nil, err
		}
		first, err := h.await(ctx, n/10)
		if err != nil {
			return nil, err
		}
		if first == n {
			first = 0 // so few, in a quick run, that all have arrived already
		} else if before, err = usagesOf(servers); err != nil {
			return nil, err
		} else {
			mine, begin = ownCPU(), time.Now()
		}
		last, err := h.await(ctx, n)
		if err != nil {
			return nil, err
		}
		took := time.Since(begin)
		mine = ownCPU() - mine
		after, err := usagesOf(servers)
		if err != nil {
			return nil, err
		}

		carried := float64(last - first)
		figures := []figure{{"msgs/s", carried / took.Seconds()}}
		for i, prefix := range []string{"hub-", "", "redis-"}[:len(servers)] {
			cpu := micros(after[i].cpu-before[i].cpu) / carried
			figures = append(figures, figure{prefix + "cpu-µs/msg", cpu}, figure{prefix + "MiB", after[i].resident})
		}
		if len(shipping.servers) == 0 {
			figures = append(figures, figure{"client-cpu-µs/msg", micros(mine) / carried})
		}
		return figures, nil
	})
}

// startHub starts a hub.
func (l *lab) startHub(ctx context.Context, via route) (h *hub, err error) {
	h = &hub{via: via}
	var undo []func()
	h.close = func() {
		for i := range undo {
			undo[len(undo)-1-i]()
		}
	}
	defer func() {
		if err != nil {
			h.close()
		}
	}()

	address, release, err := edgedtest.Reserve()
	if err != nil {
		return nil, err
	}
	undo = append(undo, release)
	if h.leaves, release, err = edgedtest.Reserve(); err != nil {
		return nil, err
	}
	undo = append(undo, release)
	if h.monitored, release, err = edgedtest.Reserve(); err != nil {
		return nil, err
	}
	undo = append(undo, release)
	more := fmt.Sprintf("http: %q\nleafnodes {listen: %q}", h.monitored, h.leaves)
	if h.process, err = l.natsWith(ctx, "hub", address, more); err != nil {
		return nil, err
	}
	undo = append(undo, func() { h.Kill() })
	nc, err := nats.Connect("nats://" + h.address)
	if err != nil {
		return nil, err
	}
	undo = append(undo, nc.Close)
	h.js, err = jetstream.New(nc)
	undo = append(undo, func() {
		for _, w := range h.wires {
			w.close()
		}
	})
	return h, err
}

// natsWith starts a nats-server with JetStream and more lines of configuration. Its name is also
// that of its domain.
func (l *lab) natsWith(ctx context.Context, name, address, more string) (*process, error) {
	store, config := l.path(name+"-store"), l.path(name+".conf")
	text := fmt.Sprintf("server_name: %s\nlisten: %q\njetstream {store_dir: %q, domain: %s}\n%s\n", name, address, store, name, more)
	err := errors.Join(os.RemoveAll(store), os.WriteFile(config, []byte(text), 0o600))
	if err != nil {
		return nil, err
	}
	return launch(ctx, &process{name: "nats-server", address: address}, true, program(l.path("nats-server"), "-c", config))
}

// over returns an address by which to reach one of the hub's addresses.
func (h *hub) over(address string) (string, error) {
	if h.via == loopback {
		return address, nil
	}
	w, err := newWire(address, h.via.delay, h.via.rate)
	if err != nil {
		return "", err
	}
	h.wires = append(h.wires, w)
	return w.address(), nil
}

// makeStream makes the hub's stream.
func (h *hub) makeStream(ctx context.Context, change func(*jetstream.StreamConfig)) error {
	c := jetstream.StreamConfig{Name: atHub, Storage: jetstream.FileStorage, Replicas: 1}
	change(&c)
	_, err := h.js.CreateStream(ctx, c)
	return err
}

// ofSubjects lets the stream receive published messages.
func ofSubjects(c *jetstream.StreamConfig) { c.Subjects = []string{"edge.>"} }

// await waits until the hub's stream has n items, and returns how many it has.
func (h *hub) await(ctx context.Context, n int) (int, error) {
	for {
		s, err := h.js.Stream(ctx, atHub)
		if err != nil {
			return 0, err
		}
		if has := int(s.CachedInfo().State.Msgs); has >= n {
			return has, nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// edgedUplink is edged, with settings of its uplink.
type edgedUplink struct{ settings []string }

func (e edgedUplink) load(ctx context.Context, l *lab, h *hub, n int) (s shipping, err error) {
	if err := h.makeStream(ctx, ofSubjects); err != nil {
		return s, err
	}

	address, err := h.over(h.address)
	if err != nil {
		return s, err
	}
	server, err := e.start(ctx, l, address)
	if err != nil {
		return s, err
	}
	err = errors.Join(server.command("pause uplink hub"), l.fill(worked, n, itemSize))
	if err != nil {
		return s, server.failed(err)
	}
	return shipping{[]*process{server, l.redis}, func() error { return server.command("resume uplink hub") }, server.Kill}, nil
}

func (e edgedUplink) start(ctx context.Context, l *lab, address string) (*process, error) {
	settings := append([]string{"[[uplink]]", `name = "hub"`, fmt.Sprintf("url = [%q]", "nats://"+address)}, e.settings...)
	return configured{lists: []string{worked}, list: settings}.start(ctx, l)
}

// asyncPublisher is nats.go in this process: as many messages as the window are in flight. This is
// like `nats bench js pub async`, which waits for a whole window before it sends the next one.
type asyncPublisher struct{ window int }

func (a asyncPublisher) load(ctx context.Context, l *lab, h *hub, n int) (s shipping, err error) {
	if err := h.makeStream(ctx, ofSubjects); err != nil {
		return s, err
	}

	address, err := h.over(h.address)
	if err != nil {
		return s, err
	}

	nc, err := nats.Connect("nats://"+address, nats.NoReconnect())
	if err != nil {
		return s, err
	}

	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(a.window))
	if err != nil {
		nc.Close()
		return s, err
	}
	ended := make(chan struct{})
	publish := func() {
		defer close(ended)
		padding := make([]byte, itemSize)
		for i := range n {
			if _, err := js.PublishAsync("edge.bench."+worked, padding, jetstream.WithMsgID(fmt.Sprint(i))); err != nil {
				nc.Close() // the stream never has all
				return
			}
		}
	}
	begin := func() error { go publish(); return nil }
	return shipping{nil, begin, func() { nc.Close(); <-ended }}, nil
}

// leafNode is another nats-server, a leaf node of the hub. It has the items in a file stream that
// the hub's stream mirrors, or has as a source.
type leafNode struct{ source bool }

func (k leafNode) load(ctx context.Context, l *lab, h *hub, n int) (s shipping, err error) {
	leaves, err := h.over(h.leaves)
	if err != nil {
		return s, err
	}

	server, err := l.natsWith(ctx, "leaf", l.address, fmt.Sprintf("leafnodes {remotes [{url: %q}]}", "nats-leaf://"+leaves))
	if err != nil {
		return s, err
	}
	broker := natsBroker{jetstream.FileStorage, jetstream.LimitsPolicy}
	err = errors.Join(broker.makeStream(ctx, l.address), broker.fill(ctx, l, n), h.awaitLeaf(ctx))
	if err != nil {
		return s, server.failed(err)
	}

	begin := func() error {
		origin := jetstream.StreamSource{Name: worked, External: &jetstream.ExternalStream{APIPrefix: "$JS.leaf.API"}}
		return h.makeStream(ctx, func(c *jetstream.StreamConfig) {
			if k.source {
				c.Sources = []*jetstream.StreamSource{&origin}
			} else {
				c.Mirror = &origin
			}
		})
	}
	return shipping{[]*process{server}, begin, server.Kill}, nil
}

// awaitLeaf waits until the leaf's JetStream answers at the hub.
func (h *hub) awaitLeaf(ctx context.Context) error {
	for {
		_, err := h.js.Conn().Request("$JS.leaf.API.INFO", nil, time.Second)
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// uplinkShare measures how much of a slow link an uplink with a backlog uses, and of `rate` if it
// has one (0: none). For the link the bytes that reach the hub count; for rate the items' bytes and
// 300 for each.
func uplinkShare(link, rate int, lasts time.Duration) run {
	return onFreshRedis(func(ctx context.Context, l *lab) ([]figure, error) {
		h, err := l.startHub(ctx, route{rate: link})
		if err != nil {
			return nil, err
		}
		defer h.close()
		const counted = itemSize + 300 // as the uplink does
		n := 2 * link * int(lasts/time.Second) / counted
		s, err := edgedUplink{[]string{fmt.Sprintf("rate = %d", rate)}}.load(ctx, l, h, n)
		if err != nil {
			return nil, err
		}
		defer s.end()
		if err := s.begin(); err != nil {
			return nil, err
		}

		time.Sleep(l.long(lasts / 5)) // its window has grown by then
		first, err := h.await(ctx, 1)
		if err != nil {
			return nil, err
		}
		carried, begin := h.wires[0].carried.Load(), time.Now()
		time.Sleep(l.long(lasts))
		last, err := h.await(ctx, first+1)
		if err != nil {
			return nil, err
		}
		took := time.Since(begin).Seconds()
		bytes, items := float64(h.wires[0].carried.Load()-carried), float64(last-first)
		figures := []figure{{"msgs/s", items / took}, {"of-link", bytes / took / float64(link)}, {"link-B/msg", bytes / items}}
		if rate > 0 {
			figures = append(figures, figure{"of-rate", items * counted / took / float64(rate)})
		}
		return figures, nil
	})
}
