package tcpserver

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

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

// BenchmarkEncodeExplicit encodes items with reply subjects.
func BenchmarkEncodeExplicit(b *testing.B) {
	bt := bytesOf(500).Stamp("epoch", time.Unix(1700000000, 123456789), 1000)
	b.ReportAllocs()
	for b.Loop() {
		encode(bt, "1", ackBegin(bt, "items.edged"))
	}
}

func BenchmarkParseAckSubject(b *testing.B) {
	subject := []byte("$JS.ACK._.epoch.items.edged.1.123456.123456.1700000000123456789.1000")
	b.ReportAllocs()
	for b.Loop() {
		if _, _, _, ok := parseAckSubject(subject); !ok {
			b.Fatal("not read")
		}
	}
}

// bytesOf returns a batch of n items of one byte.
func bytesOf(n int) *batch.Batch {
	m := new(batch.Memory)
	for range n {
		m.Add([]byte("x"))
	}
	return batch.New("items", 0, m)
}

func TestHotPathsCostNoAllocationAMessage(t *testing.T) {
	pub := []byte("PUB telemetry.room.7 _INBOX.abcdefgh.1 5\r\nhello\r\n")
	lim := limits{controlLine: 4096, payload: 1 << 20}
	ack := []byte("$JS.ACK._.epoch.items.edged.1.123456.123456.1700000000123456789.1000")
	r := newRouter()
	r.add(&subscription{client: &client{}, subject: "telemetry.room.7"})
	r.add(&subscription{client: &client{}, subject: "telemetry.*.7", wild: true})
	subject := []byte("telemetry.room.7")
	var to receivers
	r.match(subject, &to) // allocates the memory
	for what, do := range map[string]func(){
		"parsing PUB":                           func() { parse(pub, lim) },
		"parsing an acknowledgement":            func() { parseAckSubject(ack) },
		"looking up the receivers of a message": func() { r.match(subject, &to) },
	} {
		if allocs := testing.AllocsPerRun(100, do); allocs != 0 {
			t.Errorf("%s: %v allocations", what, allocs)
		}
	}

	count := func(items int) float64 {
		b := bytesOf(items).Stamp("epoch", time.Unix(1, 0), 0)
		return testing.AllocsPerRun(20, func() { encode(b, "1", ackBegin(b, "items.edged")) })
	}
	if few, many := count(10), count(1000); many > few {
		t.Errorf("encoding: %v allocations for 1000 items, %v for 10", many, few)
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

// BenchmarkMatchGroup looks up the receiver of a message: one member of a queue group of some.
func BenchmarkMatchGroup(b *testing.B) {
	for _, members := range []int{3, 10_000} {
		b.Run(fmt.Sprint(members), func(b *testing.B) {
			r := newRouter()
			for range members {
				r.add(&subscription{client: &client{}, subject: "telemetry.room.7", queue: "crew"})
			}
			var to receivers
			for b.Loop() {
				if r.match([]byte("telemetry.room.7"), &to); len(to.groups) != 1 {
					b.Fatal(len(to.groups))
				}
			}
		})
	}
}

// BenchmarkMatchGroups looks up the receivers of a message: one of each of some queue groups.
func BenchmarkMatchGroups(b *testing.B) {
	for _, groups := range []int{1, 20_000} {
		b.Run(fmt.Sprint(groups), func(b *testing.B) {
			r := newRouter()
			for i := range groups {
				r.add(&subscription{client: &client{}, subject: "telemetry.room.7", queue: fmt.Sprint("crew-", i)})
				r.add(&subscription{client: &client{}, subject: "telemetry.*.7", queue: fmt.Sprint("crew-", i), wild: true})
			}
			var to receivers
			for b.Loop() {
				if r.match([]byte("telemetry.room.7"), &to); len(to.groups) != groups {
					b.Fatal(len(to.groups))
				}
			}
		})
	}
}

// BenchmarkPublish sends one message of 128 bytes from a client to another.
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

// BenchmarkFanOut delivers a batch of 500 items of 256 bytes to 100 clients; the time is that of
// one item for one client.
func BenchmarkFanOut(b *testing.B) {
	const clients, items = 100, 500
	_, addr, l := withList(b, testOptions(), OnPong)
	raw := make([][]byte, items)
	for i := range raw {
		raw[i] = bytes.Repeat([]byte("x"), 256)
	}

	_, size := encode(batch.Of("items", 0, raw...), "1", "").Append(nil, 0, items)
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

// BenchmarkNameForAcks gives names to the members of a client with many subscriptions to a list.
// The time for each must not grow with their number.
func BenchmarkNameForAcks(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				c := &client{}
				for range n {
					c.nameForAcks(&member{sub: &subscription{client: c}, confirm: Acknowledged}, List{Name: "list", Stream: "list"})
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/name")
		})
	}
}
