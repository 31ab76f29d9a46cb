package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
)

// worked is the name of the list, or of the stream of nats-server or Redis, that is consumed.
const worked = "events"

// broker is a server whose items one client consumes and acknowledges.
type broker interface {
	// start starts the server empty, and returns it and the Redis that it uses.
	start(ctx context.Context, l *lab) ([]*process, error)
	// producer returns a function that appends an item and waits for the answer.
	producer(ctx context.Context, l *lab) (push func(item string) error, done func(), err error)
	// fill appends items, fast.
	fill(ctx context.Context, l *lab, n int) error
	// consume returns when the server has n acknowledgements.
	consume(ctx context.Context, l *lab, n int, ready func(), got func([]byte)) error
}

// pull measures how fast one client consumes n stored items and acknowledges each.
func pull(b broker, n int) run {
	return onFreshRedis(func(ctx context.Context, l *lab) ([]figure, error) {
		servers, err := b.start(ctx, l)
		if err != nil {
			return nil, err
		}
		defer killAll(servers)
		n := l.few(n)
		if err := b.fill(ctx, l, n); err != nil {
			return nil, err
		}

		before, err := usagesOf(servers)
		if err != nil {
			return nil, err
		}
		mine := ownCPU()
		begin := time.Now()
		if err := b.consume(ctx, l, n, func() {}, func([]byte) {}); err != nil {
			return nil, servers[0].failed(err)
		}
		took := time.Since(begin)
		mine = ownCPU() - mine
		after, err := usagesOf(servers)
		if err != nil {
			return nil, err
		}

		each := func(cpu time.Duration) float64 { return micros(cpu) / float64(n) }
		figures := []figure{{"msgs/s", float64(n) / took.Seconds()}}
		for i, s := range servers {
			prefix := ""
			if s == l.redis {
				prefix = "redis-"
			}
			figures = append(figures,
				figure{prefix + "cpu-µs/msg", each(after[i].cpu - before[i].cpu)}, figure{prefix + "peak-MiB", after[i].peak})
		}
		return append(figures, figure{"client-cpu-µs/msg", each(mine)}), nil
	})
}

// pullLatency measures the time from just before an item is appended until its consumer has it, at
// a rate of items a second.
func pullLatency(b broker, rate int) run {
	return onFreshRedis(func(ctx context.Context, l *lab) ([]figure, error) {
		servers, err := b.start(ctx, l)
		if err != nil {
			return nil, err
		}
		defer killAll(servers)
		push, done, err := b.producer(ctx, l)
		if err != nil {
			return nil, err
		}
		defer done()
		return timed(ctx, l, rate, b.consume, func(_ int, item string) error { return push(item) })
	})
}

// onFreshRedis measures with a new, empty Redis, so that its peak memory is that of this
// measurement.
func onFreshRedis(measure run) run {
	return func(ctx context.Context, l *lab) (_ []figure, err error) {
		fresh := *l
		fresh.redis, err = startRedis(ctx, l.folder, "fresh")
		if err != nil {
			return nil, err
		}
		defer fresh.redis.Kill()
		if fresh.conn, err = dialRedis(fresh.redis.address); err != nil {
			return nil, err
		}
		defer fresh.conn.Close()
		return measure(ctx, &fresh)
	}
}

// killAll ends the servers. onFreshRedis ends its Redis once more, which does no harm.
func killAll(servers []*process) {
	for _, s := range servers {
		s.Kill()
	}
}

func usagesOf(servers []*process) ([]usage, error) {
	all := make([]usage, len(servers))
	for i, s := range servers {
		var err error
		if all[i], err = s.usage(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// ownCPU returns the processor time of this process, which is the client.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// jsConsumer makes a durable pull consumer with the official Go client.
func jsConsumer(ctx context.Context, address string) (jetstream.Consumer, *nats.Conn, error) {
	nc, err := nats.Connect("nats://"+address, nats.NoReconnect())
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}

	c, err := js.CreateOrUpdateConsumer(ctx, worked, jetstream.ConsumerConfig{
		Durable: "bench", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 10_000,
	})
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return c, nc, nil
}

// jsConsume consumes by the library's unmodified Consume.
func jsConsume(ctx context.Context, address string, n int, ready func(), got func([]byte)) error {
	c, nc, err := jsConsumer(ctx, address)
	if err != nil {
		return err
	}
	defer nc.Close()
	ended := make(chan error, 1)
	left := n

	running, err := c.Consume(func(m jetstream.Msg) {
		got(m.Data())
		if left--; left > 0 {
			m.Ack()
		} else if left == 0 {
			ended <- m.DoubleAck(ctx) // the server has all acknowledgements
		}
	}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		select {
		case ended <- err:
		default:
		}
	}))
	if err != nil {
		return err
	}
	defer running.Stop()
	ready()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// edgedBroker is edged and the Redis with its lists.
type edgedBroker struct{}

func (edgedBroker) start(ctx context.Context, l *lab) ([]*process, error) {
	server, err := edged("received")(ctx, l)
	if err != nil {
		return nil, err
	}
	return []*process{server, l.redis}, nil
}

func (edgedBroker) producer(_ context.Context, l *lab) (func(string) error, func(), error) {
	return func(item string) error { return l.conn.ok("RPUSH", worked, item) }, func() {}, nil
}

func (edgedBroker) fill(_ context.Context, l *lab, n int) error { return l.fill(worked, n, itemSize) }

func (edgedBroker) consume(ctx context.Context, l *lab, n int, ready func(), got func([]byte)) error {
	return jsConsume(ctx, l.address, n, ready, got)
}

// natsBroker is nats-server with a stream. A stream with WorkQueuePolicy removes acknowledged
// items, as edged does; a stream with LimitsPolicy keeps them.
type natsBroker struct {
	storage   jetstream.StorageType
	retention jetstream.RetentionPolicy
}

func (b natsBroker) start(ctx context.Context, l *lab) ([]*process, error) {
	store := l.path("jetstream")
	if err := os.RemoveAll(store); err != nil {
		return nil, err
	}
	host, port, _ := strings.Cut(l.address, ":")
	server, err := launch(ctx, &process{name: "nats-server", address: l.address}, true,
		program(l.path("nats-server"), "-a", host, "-p", port, "-js", "-sd", store))
	if err != nil {
		return nil, err
	}
	if err := b.makeStream(ctx, l.address); err != nil {
		return nil, server.failed(err)
	}
	return []*process{server}, nil
}

func (b natsBroker) makeStream(ctx context.Context, address string) error {
	return withJetStream(address, func(js jetstream.JetStream) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{
			Name: worked, Subjects: []string{worked}, Storage: b.storage, Retention: b.retention,
		})
		return err
	})
}

func withJetStream(address string, use func(jetstream.JetStream) error) error {
	nc, err := nats.Connect("nats://"+address, nats.NoReconnect())
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return use(js)
}

func (natsBroker) producer(ctx context.Context, l *lab) (func(string) error, func(), error) {
	nc, err := nats.Connect("nats://"+l.address, nats.NoReconnect())
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	push := func(item string) error {
		_, err := js.Publish(ctx, worked, []byte(item))
		return err
	}
	return push, nc.Close, nil
}

func (natsBroker) fill(ctx context.Context, l *lab, n int) error {
	return withJetStream(l.address, func(js jetstream.JetStream) error {
		padding := strings.Repeat("x", itemSize-stampSize)
		for i := 0; i < n; {
			for range min(n-i, 1000) {
				if _, err := js.PublishAsync(worked, fmt.Appendf(nil, "%0*d%s", stampSize, i, padding)); err != nil {
					return err
				}
				i++
			}
			select {
			case <-js.PublishAsyncComplete():
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}

		return nil
	})
}

func (natsBroker) consume(ctx context.Context, l *lab, n int, ready func(), got func([]byte)) error {
	return jsConsume(ctx, l.address, n, ready, got)
}

// streamBroker is a stream of Redis with a consumer group, used by go-redis. It keeps acknowledged
// entries.
type streamBroker struct {
	one bool // one command for the acknowledgements of a batch, instead of one each
}

func (streamBroker) start(_ context.Context, l *lab) ([]*process, error) {
	return []*process{l.redis}, l.conn.ok("XGROUP", "CREATE", worked, "bench", "0", "MKSTREAM")
}

func (streamBroker) producer(_ context.Context, l *lab) (func(string) error, func(), error) {
	return func(item string) error { return l.conn.ok("XADD", worked, "*", "item", item) }, func() {}, nil
}

func (streamBroker) fill(ctx context.Context, l *lab, n int) error {
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: l.redis.address})
	defer client.Close()
	padding := strings.Repeat("x", itemSize-stampSize)
	for i := 0; i < n; {
		pipe := client.Pipeline()
		for range min(n-i, 1000) {
			pipe.XAdd(ctx, &redis.XAddArgs{Stream: worked, Values: []string{"item", fmt.Sprintf("%0*d%s", stampSize, i, padding)}})
			i++
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b streamBroker) consume(ctx context.Context, l *lab, n int, ready func(), got func([]byte)) error {
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: l.redis.address, MaxRetries: -1, DisableIdentity: true})
	defer client.Close()
	defer context.AfterFunc(ctx, func() { client.Close() })()
	ready()
	for left := n; left > 0; {
		streams, err := client.XReadGroup(ctx, &redis.XReadGroupArgs{
			Group: "bench", Consumer: "one", Streams: []string{worked, ">"}, Count: floorBatch,
		}).Result()
		if err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		var ids []string
		for _, m := range streams[0].Messages {
			got([]byte(m.Values["item"].(string)))
			if ids = append(ids, m.ID); !b.one || len(ids) == len(streams[0].Messages) {
				if err := client.XAck(ctx, worked, "bench", ids...).Err(); err != nil {
					return err
				}
				ids = nil
			}
			left--
		}
	}

	return nil
}
