package inbound

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"edged/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client returns options like those that edged uses.
func client(server *redistest.Server) *redis.Options {
	return &redis.Options{
		Network: "unix", Addr: strings.TrimPrefix(server.Address(), "unix://"),
		Protocol: 2, DisableIdentity: true, MaxRetries: -1, DialerRetries: 1,
		DialTimeout: time.Second, ReadTimeout: 200 * time.Millisecond, WriteTimeout: 200 * time.Millisecond,
		ContextTimeoutEnabled: true, PoolSize: 1, PipelinePoolSize: -1,
	}
}

// one is a Redis of one server, which has all keys.
type one struct{ client *redis.Client }

func (o one) Client(string) *redis.Client { return o.client }
func (one) Reached(string)                {}
func (one) Failed(string, error) bool     { return false }
func (o one) Close()                      { o.client.Close() }

// writer makes a writer that does not run yet.
func writer(opts *redis.Options, buffer int, lists ...List) *Writer {
	return New(Options{Redis: one{redis.NewClient(opts)}, Lists: lists, Buffer: buffer})
}

// run runs w until the test ends or stop is called.
func run(t *testing.T, w *Writer) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Run:", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// outcome is the answer that a publisher gets.
type outcome struct {
	Stream string
	Seq    uint64
	Error  *struct {
		Code        int
		ErrCode     int `json:"err_code"`
		Description string
	}
}

// ask writes an item and returns a channel with the answer, which comes once.
func ask(t *testing.T, w *Writer, list int, payload string) <-chan outcome {
	answers := make(chan outcome, 1)
	var times atomic.Int32
	w.Write(list, "", []byte(payload), func(reply []byte) {
		if times.Add(1) > 1 {
			t.Errorf("%s was answered more than once", payload)
			return
		}
		var o outcome
		if err := json.Unmarshal(reply, &o); err != nil {
			t.Errorf("the answer to %s is %q: %v", payload, reply, err)
		}
		answers <- o
	})
	return answers
}

func wantSeq(t *testing.T, answer <-chan outcome, stream string, seq uint64) {
	t.Helper()
	if o := <-answer; o.Error != nil || o.Stream != stream || o.Seq != seq {
		t.Fatalf("the answer is %+v (error %+v), want number %d of %s", o, o.Error, seq, stream)
	}
}

func wantError(t *testing.T, answer <-chan outcome, errCode int, text string) {
	t.Helper()
	o := <-answer
	if o.Error == nil || o.Error.Code != 503 || o.Error.ErrCode != errCode || !strings.Contains(o.Error.Description, text) {
		t.Fatalf("the answer is %+v (error %+v), want error %d with %q", o, o.Error, errCode, text)
	}
}

func items(t *testing.T, server *redistest.Server, key string) []string {
	t.Helper()
	all, err := server.Client().LRange(context.Background(), key, 0, -1).Result()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWritesInOrderAndAnswersWithTheNumberWritten(t *testing.T) {
	server := redistest.Start(t)
	w := writer(client(server), 1<<20, List{Key: "left"}, List{Key: "right", FromRight: true})
	payload := []byte("a")
	w.Write(0, "", payload, nil)
	payload[0] = 'x' // it was copied
	first := ask(t, w, 0, "b")
	other := ask(t, w, 1, "1")
	w.Write(1, "", []byte("2"), nil)
	run(t, w)
	wantSeq(t, first, "left", 2)
	wantSeq(t, other, "right", 1)
	w.Write(0, "", nil, nil)
	wantSeq(t, ask(t, w, 0, "c\x00\r\n"), "left", 4)
	wantSeq(t, ask(t, w, 1, "3"), "right", 3)
	if got, want := items(t, server, "left"), []string{"a", "b", "", "c\x00\r\n"}; !slices.Equal(got, want) {
		t.Errorf("left holds %q, want %q", got, want)
	}

	if got, want := items(t, server, "right"), []string{"3", "2", "1"}; !slices.Equal(got, want) {
		t.Errorf("right holds %q, want %q: its head is the right end", got, want)
	}

	if st := w.Stats(); st[0].Written != 4 || st[1].Written != 3 || st[0].Waiting != 0 || st[0].WaitingBytes != 0 {
		t.Errorf("the books are %+v", st)
	}
}

func TestManyItemsKeepTheirOrder(t *testing.T) {
	server := redistest.Start(t)
	w := writer(client(server), 64<<20, List{Key: "plain"}, List{Key: "bounded", MaxLen: 1 << 20})
	run(t, w)
	const n = 20_000
	var want []string
	for i := range n {
		item := fmt.Sprint(i)
		want = append(want, item)
		w.Write(0, "", []byte(item), nil)
		w.Write(1, "", []byte(item), nil)
	}

	wantSeq(t, ask(t, w, 0, "end"), "plain", n+1)
	wantSeq(t, ask(t, w, 1, "end"), "bounded", n+1)
	for _, key := range []string{"plain", "bounded"} {
		if got := items(t, server, key); !slices.Equal(got[:n], want) {
			t.Errorf("%s holds other items, or in another order", key)
		}
	}
}

func TestMaxLenRefusesAndDropsNothing(t *testing.T) {
	server := redistest.Start(t)
	w := writer(client(server), 1<<20, List{Key: "l", MaxLen: 3})
	server.Push("l", "old")
	a, b := ask(t, w, 0, "a"), ask(t, w, 0, "b")
	c, d := ask(t, w, 0, "c"), ask(t, w, 0, "d")
	w.Write(0, "", []byte("e"), nil)
	run(t, w)
	wantSeq(t, a, "l", 1)
	wantSeq(t, b, "l", 2)
	wantError(t, c, 10077, `list "l": it is full: max_len is 3`)
	wantError(t, d, 10077, "full")
	if got, want := items(t, server, "l"), []string{"old", "a", "b"}; !slices.Equal(got, want) {
		t.Fatalf("the list holds %q, want %q", got, want)
	}

	if st := w.Stats()[0]; st.RefusedMaxLen != 3 || st.Failing != "" {
		t.Errorf("the books are %+v, want 3 refused", st)
	}

	server.Client().LPop(context.Background(), "l")
	wantSeq(t, ask(t, w, 0, "f"), "l", 3)
}

func TestAFullListIsAFaultUntilItHasRoom(t *testing.T) {
	server := redistest.Start(t)
	w := writer(client(server), 1<<20, List{Key: "l", MaxLen: 2})
	defer run(t, w)()
	wantSeq(t, ask(t, w, 0, "a"), "l", 1)
	wantSeq(t, ask(t, w, 0, "b"), "l", 2)
	if st := w.Stats()[0]; st.Full != "" || !st.FullSince.IsZero() {
		t.Errorf("it is full before it has refused anything: %+v", st)
	}
	wantError(t, ask(t, w, 0, "c"), 10077, "full")
	if st := w.Stats()[0]; !strings.Contains(st.Full, "max_len = 2") || st.FullSince.IsZero() {
		t.Errorf("it has refused an item, and the state is %+v", st)
	}

	// No client publishes meanwhile.
	server.Client().LPop(t.Context(), "l")
	redistest.Eventually(t, "it is full no more", func() bool { return w.Stats()[0].Full == "" })

	// A client publishes again and again.
	wantSeq(t, ask(t, w, 0, "d"), "l", 3)
	wantError(t, ask(t, w, 0, "e"), 10077, "full")
	server.Client().Del(t.Context(), "l")
	redistest.Eventually(t, "it is full no more", func() bool {
		w.Write(0, "", []byte("f"), nil)
		server.Client().Del(t.Context(), "l")
		return w.Stats()[0].Full == ""
	})
}

func TestAFullBufferRefusesItemsOfItsListOnly(t *testing.T) {
	server := redistest.Start(t)
	w := writer(client(server), 2*1000, List{Key: "full"}, List{Key: "other"})
	big := strings.Repeat("x", 1000)
	first := ask(t, w, 0, big) // one item may exceed the share
	wantError(t, ask(t, w, 0, "y"), 10023, "too much waits")
	w.Write(0, "", []byte("z"), nil)
	other := ask(t, w, 1, "1")
	if st := w.Stats()[0]; st.RefusedBuffer != 2 || st.Waiting != 1 {
		t.Errorf("the books are %+v, want 2 refused and 1 waiting", st)
	}
	run(t, w)
	wantSeq(t, first, "full", 1)
	wantSeq(t, other, "other", 1)
	wantSeq(t, ask(t, w, 0, "y"), "full", 2)
}

func TestWhileRedisIsAwayPublishersThatAskAreRefusedAndTheRestWaits(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := writer(client(server), 1<<20, List{Key: "l"})
	run(t, w)
	wantSeq(t, ask(t, w, 0, "before"), "l", 1)
	server.Kill()
	w.Write(0, "", []byte("one"), nil)
	redistest.Eventually(t, "it is seen that Redis is away", func() bool { return w.Stats()[0].Failing != "" })
	wantError(t, ask(t, w, 0, "refused"), 10008, "Redis does not take it")
	w.Write(0, "", []byte("two"), nil)
	server.Restart()
	redistest.Eventually(t, "waiting items are written", func() bool { return w.Stats()[0].Waiting == 0 })
	if got, want := items(t, server, "l"), []string{"one", "two"}; !slices.Equal(got, want) {
		t.Errorf("the list holds %q, want %q", got, want)
	}

	wantSeq(t, ask(t, w, 0, "three"), "l", 4)
	if st := w.Stats()[0]; st.Failing != "" || st.RefusedRedis != 1 || st.WaitingBytes != 0 {
		t.Errorf("the books are %+v", st)
	}
}

func TestAnAskedForItemIsItselfTheNextAttempt(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := writer(client(server), 1<<20, List{Key: "l"})
	run(t, w)
	server.Kill()
	wantError(t, ask(t, w, 0, "a"), 10008, "") // the attempt that failed
	server.Restart()
	redistest.Eventually(t, "an item is written", func() bool { return (<-ask(t, w, 0, "b")).Error == nil })
}

func TestAKeyThatHoldsNoListStopsNoOther(t *testing.T) {
	server := redistest.Start(t)
	ctx := context.Background()
	server.Client().Set(ctx, "bad", "a string", 0)
	w := writer(client(server), 1<<20, List{Key: "bad"}, List{Key: "good"}, List{Key: "bad", MaxLen: 100})
	run(t, w)
	w.Write(0, "", []byte("1"), nil)
	wantError(t, ask(t, w, 2, "x"), 10008, "WRONGTYPE")
	redistest.Eventually(t, "the fault is visible", func() bool { return strings.Contains(w.Stats()[0].Failing, "WRONGTYPE") })
	wantSeq(t, ask(t, w, 1, "1"), "good", 1)
	server.Client().Del(ctx, "bad")
	redistest.Eventually(t, "waiting items are written", func() bool { return w.Stats()[0].Written == 1 })
	if st := w.Stats(); st[0].Failing != "" || st[0].Uncertain != 0 || st[2].RefusedRedis != 1 {
		t.Errorf("the books are %+v", st)
	}
}

// deaf is a connection that loses the next reply when it is told to.
type deaf struct {
	net.Conn
	lose *atomic.Bool
}

func (d deaf) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	if err == nil && d.lose.CompareAndSwap(true, false) {
		return 0, syscall.ECONNRESET
	}
	return n, err
}

func TestALostReplyIsToldOrElseTheItemIsWrittenAgain(t *testing.T) {
	server := redistest.Start(t)
	var lose atomic.Bool
	opts := client(server)
	opts.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := net.Dial(network, addr)
		return deaf{conn, &lose}, err
	}
	w := writer(opts, 1<<20, List{Key: "l"})
	stop := run(t, w)
	wantSeq(t, ask(t, w, 0, "first"), "l", 1) // there is a connection now
	stop()

	w = writer(opts, 1<<20, List{Key: "l"})
	if err := w.redis.Client("l").Ping(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
	lose.Store(true)
	w.Write(0, "", []byte("kept"), nil)
	asked := ask(t, w, 0, "asked")
	run(t, w)
	wantError(t, asked, 10008, "may be in the list or not")
	redistest.Eventually(t, "waiting items are written", func() bool { return w.Stats()[0].Waiting == 0 })
	if got, want := items(t, server, "l"), []string{"first", "kept", "asked", "kept"}; !slices.Equal(got, want) {
		t.Errorf("the list holds %q, want %q", got, want)
	}
	if st := w.Stats()[0]; st.Uncertain != 2 || st.Written != 1 {
		t.Errorf("the books are %+v, want 2 uncertain and 1 written", st)
	}
}

func TestARedisThatHangsLosesNothing(t *testing.T) {
	server := redistest.Start(t)
	w := writer(client(server), 1<<20, List{Key: "l"})
	run(t, w)
	wantSeq(t, ask(t, w, 0, "first"), "l", 1)
	server.Signal(syscall.SIGSTOP)
	w.Write(0, "", []byte("kept"), nil)
	redistest.Eventually(t, "a round trip timed out", func() bool { return w.Stats()[0].Uncertain > 0 })
	server.Signal(syscall.SIGCONT)
	redistest.Eventually(t, "waiting items are written", func() bool { return w.Stats()[0].Waiting == 0 })
	if got := items(t, server, "l"); got[len(got)-1] != "kept" {
		t.Errorf("the list holds %q, want kept at its end", got)
	}
}

func TestTheEndWritesWaitingItems(t *testing.T) {
	server := redistest.Start(t)
	w := writer(client(server), 64<<20, List{Key: "l"})
	const n = 3 * roundItems
	for range n {
		w.Write(0, "", []byte("x"), nil)
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.Run(ctx); err != nil {
		t.Fatal(err)
	}

	if got := server.Len("l"); got != n {
		t.Errorf("the list holds %d items, want %d", got, n)
	}
	wantError(t, ask(t, w, 0, "late"), 10008, "edged is ending")
	w.Write(0, "", []byte("late"), nil)
	if st := w.Stats()[0]; st.Written != n || st.RefusedRedis != 2 {
		t.Errorf("the books are %+v", st)
	}
}

func TestTheEndRefusesItemsThatRedisDoesNotTake(t *testing.T) {
	t.Parallel()
	opts := &redis.Options{
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errors.New("refused"))}
		},
	}

	w := writer(opts, 1<<20, List{Key: "l"})
	asked := ask(t, w, 0, "a")
	w.Write(0, "", []byte("b"), nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.Run(ctx); err != nil {
		t.Fatal(err)
	}

	wantError(t, asked, 10008, "")
	if st := w.Stats()[0]; st.RefusedRedis != 2 || st.Uncertain != 0 || st.Waiting != 0 || st.WaitingBytes != 0 {
		t.Errorf("the books are %+v, want 2 refused", st)
	}
}

func TestTheEndWaitsForARedisThatComesBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.Kill()
	w := writer(client(server), 1<<20, List{Key: "l"})
	w.Write(0, "", []byte("x"), nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	redistest.Eventually(t, "it has tried", func() bool { return w.Stats()[0].Failing != "" })
	server.Restart()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}

	if n := server.Len("l"); n != 1 {
		t.Errorf("the list holds %d items, want 1", n)
	}
}

func TestAnIDIsWrittenOnceWithinItsWindow(t *testing.T) {
	r := redistest.Start(t)
	w := writer(client(r), 1<<20, List{Subject: "s", Key: "list", IDWindow: time.Hour})
	defer run(t, w)()

	ack := func(id, payload string) (reply string) {
		answered := make(chan string, 1)
		w.Write(0, id, []byte(payload), func(text []byte) { answered <- string(text) })
		return <-answered
	}
	for _, c := range []struct{ id, payload, want string }{
		{"1", "a", `{"stream":"list","seq":1}`},
		{"2", "b", `{"stream":"list","seq":2}`},
		{"1", "c", `{"stream":"list","seq":1,"duplicate":true}`},
		{"", "d", `{"stream":"list","seq":3}`},
		{"", "d", `{"stream":"list","seq":4}`},
	} {
		if got := ack(c.id, c.payload); got != c.want {
			t.Errorf("%s is answered %s, want %s", c.payload, got, c.want)
		}
	}

	if got := strings.Join(items(t, r, "list"), ""); got != "abdd" {
		t.Errorf("the list has %q", got)
	}
}

func TestOldIDsAndThoseOverTheBoundAreForgotten(t *testing.T) {
	var s ids
	now := time.Unix(1000, 0)
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	s.add("old", time.Minute, at(0))
	if s.first("old", time.Minute, at(60)) == nil || s.first("old", time.Minute, at(61)) != nil {
		t.Error("an id is not remembered for as long as its window")
	}
	for i := range maxIDs + 1 {
		s.add(strconv.Itoa(i), time.Minute, at(70))
	}
	if s.first("0", time.Minute, at(70)) != nil || s.first("1", time.Minute, at(70)) == nil || len(s.known) != maxIDs {
		t.Errorf("%d ids are remembered, want the last %d", len(s.known), maxIDs)
	}
}
