package tcpserver

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"edged/internal/batch"
)

func BenchmarkParsePub(b *testing.B) {
	in := []byte("PUB telemetry.room.7 _INBOX.abcdefgh.1 128\r\n" + strings.Repeat("x", 128) + "\r\n")
	lim := limits{controlLine: 4096, payload: 1 << 20}
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, n, _, err := parse(in, lim); n != len(in) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkEncodeBatch(b *testing.B) {
	items := make([][]byte, 500)
	for i := range items {
		items[i] = make([]byte, 256)
	}
	bt := batch.Of("items", 0, items...)
	b.SetBytes(int64(bt.Size()))
	b.ReportAllocs()
	for b.Loop() {
		encode(bt, "1", "")
	}
}

// BenchmarkMatch looks a subject up among a thousand subscriptions.
func BenchmarkMatch(b *testing.B) {
	r := newRouter()
	c := &client{}
	for i := range 1000 {
		r.add(&subscription{client: c, subject: fmt.Sprintf("telemetry.room.%d", i)})
		r.add(&subscription{client: c, subject: fmt.Sprintf("telemetry.*.%d", i), wild: true})
	}
	subject := []byte("telemetry.room.7")
	var to receivers
	b.ReportAllocs()
	for b.Loop() {
		if r.match(subject, &to); len(to.plain) != 2 {
			b.Fatal(len(to.plain))
		}
	}
}

// BenchmarkPublish is one message from a client to another, 128 bytes.
func BenchmarkPublish(b *testing.B) {
	_, addr := serve(b, testOptions())
	sub, pub := dial(b, addr), dial(b, addr)
	sub.send("SUB telemetry.room.7 1\r\n")
	sub.sync()
	const perRound = 1000
	message := "PUB telemetry.room.7 128\r\n" + strings.Repeat("x", 128) + "\r\n"
	round := bytes.Repeat([]byte(message), perRound)
	frame := len("MSG telemetry.room.7 1 128\r\n") + 130
	got := make([]byte, frame*perRound)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%perRound != 0 {
			continue
		}
		pub.Write(round)
		if _, err := io.ReadFull(sub.r, got); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFanOut delivers a batch of 500 items of 256 bytes to 100 clients; the
// time is that of one delivery of one item.
func BenchmarkFanOut(b *testing.B) {
	const clients, items = 100, 500
	_, addr, l := withList(b, testOptions(), OnPong)
	raw := make([][]byte, items)
	for i := range raw {
		raw[i] = bytes.Repeat([]byte("x"), 256)
	}
	size := len(encode(batch.Of("items", 0, raw...), "1", "").Data)
	arrived := make(chan error, clients)
	for i := range clients {
		c := dial(b, addr)
		c.send("SUB items 1\r\n")
		l.member(b, i)
		go func() {
			for {
				if _, err := c.r.Discard(size + len(ping)); err != nil {
					return
				}
				_, err := io.WriteString(c, "PONG\r\n")
				arrived <- err
			}
		}()
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%(clients*items) != 0 {
			continue
		}
		bt := batch.Of("items", 0, raw...)
		l.mu.Lock()
		for _, m := range l.joined {
			m.receipts = m.receipts[:0]
			m.deliver(bt)
		}
		l.mu.Unlock()
		for range clients {
			if err := <-arrived; err != nil {
				b.Fatal(err)
			}
		}
	}
}
