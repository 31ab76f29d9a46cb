package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// floorBatch is the number of items that a floor takes in a round trip, as edged does.
const floorBatch = 500

// floor measures how fast n items of size bytes can be taken from Redis without delivering them.
// take takes some from a list and returns their number.
func floor(open func(*lab) (take func(ctx context.Context, list string) (int, error), done func(), err error), n, size int) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		if err := l.conn.ok("FLUSHALL"); err != nil {
			return nil, err
		}

		n := l.few(n)
		if err := l.preload(n, size); err != nil {
			return nil, err
		}

		take, done, err := open(l)
		if err != nil {
			return nil, err
		}
		defer done()
		begin := time.Now()
		for got := 0; got < n; {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			before := got
			for _, list := range lists {
				k, err := take(ctx, list)
				if err != nil {
					return nil, err
				}
				got += k
			}
			if got == before {
				return nil, fmt.Errorf("only %d of %d items are in Redis", got, n)
			}
		}

		return []figure{{"msgs/s", float64(n) / time.Since(begin).Seconds()}}, nil
	}
}

// guarded removes items from a list whose lease is held and whose head is the item that was read.
var guarded = redis.NewScript(`
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 'standby' end
if ARGV[3] ~= '' and redis.call('LINDEX', KEYS[1], 0) ~= ARGV[3] then return 'moved' end
redis.call('LTRIM', KEYS[1], ARGV[2], -1)
return 'ok'
`)

// peekAndTrim does edged's work for a list with ack = "received", with go-redis alone: each round
// trip reads a batch and removes the previous one.
func peekAndTrim(l *lab) (func(context.Context, string) (int, error), func(), error) {
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: l.redis.address, PoolSize: 1, MaxRetries: -1, DisableIdentity: true, Protocol: 2})
	if err := guarded.Load(context.Background(), client).Err(); err != nil {
		client.Close()
		return nil, nil, err
	}

	type window struct {
		head string
		n    int
	}

	held := make(map[string]window)
	for _, list := range lists {
		if err := l.conn.ok("SET", list+":lease", "bench"); err != nil {
			client.Close()
			return nil, nil, err
		}
	}

	take := func(ctx context.Context, list string) (int, error) {
		w := held[list]
		pipe := client.Pipeline()
		items := pipe.LRange(ctx, list, int64(w.n), int64(w.n+floorBatch-1))
		trim := guarded.EvalSha(ctx, pipe, []string{list, list + ":lease"}, "bench", w.n, w.head)
		if _, err := pipe.Exec(ctx); err != nil {
			return 0, err
		}
		if what, _ := trim.Text(); what != "ok" {
			return 0, fmt.Errorf("the guard says %q", what)
		}
		held[list] = window{}
		if got := items.Val(); len(got) > 0 {
			held[list] = window{got[0], len(got)}
		}
		return len(items.Val()), nil
	}
	return take, func() { client.Close() }, nil
}

// moveAndRemove does Redis's work for a list with ack = "explicit": each item is moved by an LMOVE,
// and removed, in a pipeline.
func moveAndRemove(l *lab) (func(context.Context, string) (int, error), func(), error) {
	conn, err := dialRedis(l.redis.address)
	if err != nil {
		return nil, nil, err
	}
	take := func(_ context.Context, list string) (int, error) {
		for range floorBatch {
			conn.send("LMOVE", list, list+":inflight", "LEFT", "RIGHT")
		}
		conn.send("LTRIM", list+":inflight", strconv.Itoa(floorBatch), "-1")
		if err := conn.out.Flush(); err != nil {
			return 0, err
		}
		return conn.skip(floorBatch + 1)
	}
	return take, func() { conn.Close() }, nil
}

// readAndTrim does only Redis's work for items of size bytes.
func readAndTrim(size int) func(*lab) (func(context.Context, string) (int, error), func(), error) {
	return func(l *lab) (func(context.Context, string) (int, error), func(), error) {
		conn, err := dialRedis(l.redis.address)
		if err != nil {
			return nil, nil, err
		}

		batch := max(1, min(floorBatch, 1<<20/size))
		take := func(_ context.Context, list string) (int, error) {
			conn.send("LRANGE", list, "0", strconv.Itoa(batch-1))
			conn.send("LTRIM", list, strconv.Itoa(batch), "-1")
			if err := conn.out.Flush(); err != nil {
				return 0, err
			}
			return conn.skip(2)
		}
		return take, func() { conn.Close() }, nil
	}
}
