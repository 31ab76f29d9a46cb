package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"edged/internal/edgedtest"
)

// sseRate is the number of items a second that viewers are shown.
const sseRate = 1000

// sse measures viewers of a list with sseRate items a second: the items they get, and their cost.
// Meanwhile a NATS client takes n items from another list as fast as it can. Its rate is compared
// with its rate without viewers in the same run.
func sse(viewers, n int) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		viewers, n := l.few(viewers), l.few(n)
		web, release, err := edgedtest.Reserve()
		if err != nil {
			return nil, err
		}
		defer release()
		server, err := configured{lists: lists, settings: []string{"http.listen = \"" + web + "\"", fmt.Sprint("http.max_clients = ", viewers)}}.start(ctx, l)
		if err != nil {
			return nil, err
		}
		defer server.Kill()
		alone, err := l.saturated(ctx, server, n)
		if err != nil {
			return nil, err
		}

		audience, err := watch(ctx, web, viewers)
		if err != nil {
			return nil, err
		}
		defer audience.close()
		if err := pause(ctx, l.long(settling)); err != nil {
			return nil, err
		}
		idle, err := server.usage()
		if err != nil {
			return nil, err
		}
		shown, busy, err := l.watched(ctx, server, audience)
		if err != nil {
			return nil, err
		}
		with, err := l.saturated(ctx, server, n)
		return []figure{
			{"msgs/s", shown},
			{"idle-MiB", idle.resident},
			{"MiB", busy.resident},
			{"cpu-s/s", busy.cpu.Seconds()},
			{"client-msgs/s", with},
			{"client-of-alone", with / alone},
		}, err
	}
}

// saturated measures the rate of a client of the first list while the second has sseRate items a
// second.
func (l *lab) saturated(ctx context.Context, server *process, n int) (rate float64, err error) {
	if err := errors.Join(server.command("pause all"), l.fill(lists[0], n, itemSize)); err != nil {
		return 0, err
	}
	c, err := dial(ctx, server.address, bigBuffer, "SUB "+lists[0]+" 1")
	if err != nil {
		return 0, err
	}
	defer c.Close()

	other, err := dial(ctx, server.address, bigBuffer, "SUB "+lists[1]+" 1")
	if err != nil {
		return 0, err
	}
	defer goOn([]*client{other})()

	producing, err := l.steady(ctx)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := server.command("resume all"); err != nil {
		return 0, err
	}
	err = c.receive(n)
	took := time.Since(begin)
	return float64(n) / took.Seconds(), errors.Join(err, producing())
}

// watched measures how many items a second an audience gets, all viewers together, and the memory
// and the processor time a second that edged uses for that.
func (l *lab) watched(ctx context.Context, server *process, a *audience) (rate float64, u usage, err error) {
	other, err := dial(ctx, server.address, bigBuffer, "SUB "+lists[1]+" 1")
	if err != nil {
		return 0, u, err
	}
	defer goOn([]*client{other})()

	producing, err := l.steady(ctx)
	if err != nil {
		return 0, u, err
	}

	window := l.long(10 * time.Second)
	before, err := server.usage()
	if err != nil {
		return 0, u, err
	}
	begin, got := time.Now(), a.got.Load()
	err = pause(ctx, window)
	seconds, more := time.Since(begin).Seconds(), a.got.Load()-got
	u, failed := server.usage()
	u.cpu = time.Duration(float64(u.cpu-before.cpu) / seconds)
	return float64(more) / seconds, u, errors.Join(err, failed, producing())
}

// steady pushes sseRate items a second into the second list until end is called.
func (l *lab) steady(ctx context.Context) (end func() error, err error) {
	conn, err := dialRedis(l.redis.address)
	if err != nil {
		return nil, err
	}

	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		defer conn.Close()
		item, begin := strings.Repeat("x", itemSize), time.Now()
		for sent := 0; ctx.Err() == nil; sent++ {
			time.Sleep(time.Until(begin.Add(time.Duration(sent) * time.Second / sseRate)))
			if err := conn.ok("RPUSH", lists[1], item); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()

	return func() error {
		cancel()
		return <-ended
	}, nil
}

// audience are viewers that count their items.
type audience struct {
	got     atomic.Int64
	conns   []net.Conn
	running sync.WaitGroup
}

// watch connects viewers to the second list, and returns when all have their header.
func watch(ctx context.Context, web string, viewers int) (_ *audience, err error) {
	a := new(audience)
	for range viewers {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", web)
		if err != nil {
			a.close()
			return nil, err
		}
		a.conns = append(a.conns, conn)
		fmt.Fprintf(conn, "GET /events/%s HTTP/1.1\r\nHost: localhost\r\n\r\n", lists[1])
		buf := make([]byte, smallBuffer/4)
		k, err := conn.Read(buf)
		if ok := fmt.Sprint("HTTP/1.1 ", http.StatusOK); err != nil || !bytes.HasPrefix(buf[:k], []byte(ok)) {
			a.close()
			return nil, fmt.Errorf("a viewer gets %q: %v", buf[:k], err)
		}
		a.running.Go(func() { a.count(conn, buf) })
	}

	return a, nil
}

// count counts items, which begin with this text.
func (a *audience) count(conn net.Conn, buf []byte) {
	mark := []byte("data: x")
	for held := 0; ; {
		k, err := conn.Read(buf[held:])
		if err != nil {
			return
		}
		read := buf[:held+k]
		a.got.Add(int64(bytes.Count(read, mark)))
		held = copy(buf, read[max(0, len(read)-len(mark)+1):])
	}
}

func (a *audience) close() {
	for _, conn := range a.conns {
		conn.Close()
	}
	a.running.Wait()
}
