package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A waiter waits for items and calls got with each, until ctx is done or the final item has come.
type waiter func(ctx context.Context, l *lab, n int, ready func(), got func([]byte)) error

// latency measures the time from just before an item's RPUSH until its reader has it, at a rate of
// items a second, which go to the first busy lists in turn.
func latency(wait waiter, rate, busy int) run {
	return func(ctx context.Context, l *lab) ([]figure, error) {
		return timed(ctx, l, rate, wait, func(i int, item string) error { return l.conn.ok("RPUSH", lists[i%busy], item) })
	}
}

// timed appends items at a rate while a reader waits for them.
func timed(ctx context.Context, l *lab, rate int, wait waiter, push func(i int, item string) error) ([]figure, error) {
	n := max(20, int(float64(rate)*l.long(4*time.Second).Seconds()))
	base := time.Now()
	took := make([]time.Duration, 0, n)
	ready := make(chan struct{})
	ended := make(chan error, 1)
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running.Go(func() {
		ended <- wait(ctx, l, n, func() { close(ready) }, func(item []byte) {
			pushed, _ := strconv.ParseInt(string(item[:stampSize]), 10, 64)
			took = append(took, time.Since(base)-time.Duration(pushed))
		})
	})
	select {
	case <-ready:
	case err := <-ended:
		return nil, err
	}

	padding := strings.Repeat("x", itemSize-stampSize)
	begin := time.Now()
	for i := range n {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		if err := push(i, fmt.Sprintf("%0*d%s", stampSize, time.Since(base), padding)); err != nil {
			return nil, err
		}
	}
	if err := <-ended; err != nil {
		return nil, err
	}
	slices.Sort(took)
	return []figure{
		{"p50-µs", micros(took[len(took)/2])},
		{"p99-µs", micros(took[len(took)*99/100])},
	}, nil
}

// stampSize is the number of digits at the beginning of an item: the time of its push, or its
// number.
const stampSize = 20

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// relayed waits as a client of edged.
func relayed(ctx context.Context, l *lab, n int, ready func(), got func([]byte)) error {
	server, err := edged("received")(ctx, l)
	if err != nil {
		return err
	}
	defer server.Kill()
	c, err := dial(ctx, server.address, smallBuffer, subscriptions()...)
	if err != nil {
		return err
	}
	defer c.Close()
	c.message = got
	ready()
	return c.receive(n)
}

// blpop is the floor: the reader reads the list itself.
func blpop(ctx context.Context, l *lab, n int, ready func(), got func([]byte)) error {
	if err := l.conn.ok("FLUSHALL"); err != nil {
		return err
	}

	conn, err := dialRedis(l.redis.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	ready()
	for range n {
		item, err := conn.text(append(append([]string{"BLPOP"}, lists...), "0")...)
		if err != nil {
			return err
		}
		got([]byte(item))
	}

	return nil
}

// peeked is the floor without popping. A program learns from Redis that a list has changed, reads
// it, passes new items on over TCP, and removes them. Nothing is guarded and nothing is confirmed.
func peeked(ctx context.Context, l *lab, n int, ready func(), got func([]byte)) error {
	if err := l.conn.ok("FLUSHALL"); err != nil {
		return err
	}
	hints, data, err := tracked(l.redis.address)
	if err != nil {
		return err
	}
	defer hints.Close()
	defer data.Close()
	reader, writer, err := tcpPair()
	if err != nil {
		return err
	}

	var running sync.WaitGroup
	defer running.Wait()
	end := func() { writer.Close(); reader.Close(); data.Close(); hints.Close() }
	defer end()
	defer context.AfterFunc(ctx, end)()
	var failed error // read after the connection has ended
	running.Go(func() {
		defer writer.Close()
		for failed == nil {
			failed = hints.each(func(key []byte) error {
				if !slices.Contains(lists, string(key)) {
					return nil // the rest of the message
				}
				return handOn(data, string(key), writer)
			})
		}
	})
	ready()
	item := make([]byte, itemSize)
	for range n {
		if _, err := io.ReadFull(reader, item); err != nil {
			running.Wait()
			return errors.Join(err, failed)
		}
		got(item)
	}
	return nil
}

// tracked returns a connection that reads lists, data, and one that is sent the names of lists that
// have changed since data read them, hints.
func tracked(address string) (hints, data *redisConn, err error) {
	if hints, err = dialRedis(address); err != nil {
		return nil, nil, err
	}
	if data, err = dialRedis(address); err != nil {
		hints.Close()
		return nil, nil, err
	}

	id, err := hints.number("CLIENT", "ID")
	if err == nil {
		err = errors.Join(hints.ok("SUBSCRIBE", "__redis__:invalidate"),
			data.ok("CLIENT", "TRACKING", "ON", "REDIRECT", strconv.Itoa(id), "NOLOOP"))
	}
	for _, list := range lists { // tracks the lists that were read
		if err == nil {
			_, err = data.number("LLEN", list)
		}
	}
	if err != nil {
		hints.Close()
		data.Close()
		return nil, nil, err
	}
	return hints, data, nil
}

// tcpPair returns both ends of a TCP connection.
func tcpPair() (reader, writer net.Conn, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()

	if reader, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		return nil, nil, err
	}
	if writer, err = listener.Accept(); err != nil {
		reader.Close()
		return nil, nil, err
	}
	return reader, writer, nil
}

// handOn writes all items of a list to w, and removes them.
func handOn(data *redisConn, list string, w io.Writer) error {
	for left := 1; left > 0; {
		n := 0
		data.send("LRANGE", list, "0", "-1")
		if err := data.out.Flush(); err != nil {
			return err
		}
		if err := data.each(func(item []byte) error { n++; _, err := w.Write(item); return err }); err != nil {
			return err
		}
		data.send("LTRIM", list, strconv.Itoa(n), "-1")
		if _, err := data.number("LLEN", list); err != nil { // the reply of LTRIM
			return err
		}
		_, length, err := data.header()
		if err != nil {
			return err
		}
		left = length
	}

	return nil
}
