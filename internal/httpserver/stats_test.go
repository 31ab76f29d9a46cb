package httpserver

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"edged/internal/auth"
)

// numbered is a Stats whose snapshots are numbers from 1 on.
func numbered() *Stats {
	var n atomic.Int64
	return NewStats(func() []byte { return []byte("past") }, func() []byte { return strconv.AppendInt(nil, n.Add(1), 10) })
}

// watch opens a stream at an address. Its events come without their blank lines.
func watch(t *testing.T, address string) (events *bufio.Scanner) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })

	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if kind := answer.Header.Get("Content-Type"); answer.StatusCode != 200 || kind != "text/event-stream" {
		t.Fatalf("the answer is %s, %s", answer.Status, kind)
	}

	events = bufio.NewScanner(answer.Body)
	events.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if i := strings.Index(string(data), "\n\n"); i >= 0 {
			return i + 2, data[:i], nil
		}
		return 0, nil, nil
	})
	return events
}

func want(t *testing.T, events *bufio.Scanner, text string) {
	t.Helper()
	if !events.Scan() || events.Text() != text {
		t.Fatalf("the event is %q (%v), want %q", events.Text(), events.Err(), text)
	}
}

func TestAPageGetsTheHistoryAndASnapshotASecond(t *testing.T) {
	events := watch(t, serve(t, Options{Routes: []Route{{Pattern: "/", Handler: numbered()}}}))
	want(t, events, "event: history\ndata: past")
	want(t, events, "data: 1")
	want(t, events, "data: 2")
	want(t, events, "data: 3")
}

func TestPagesShareASnapshot(t *testing.T) {
	s := numbered()
	s.started = time.Now().Add(-statsInterval) // the interval has just begun
	first, _ := s.now()
	if second, _ := s.now(); string(first) != "1" || string(second) != "1" {
		t.Errorf("two pages got %s and %s", first, second)
	}
	s.started = s.started.Add(-statsInterval)
	if next, at := s.now(); string(next) != "2" || time.Until(at) > statsInterval {
		t.Errorf("in the next interval it is %s, and the one after it begins in %v", next, time.Until(at))
	}
}

func TestTheStreamEndsCleanlyWithTheServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Gate: auth.New(auth.Options{}), Routes: []Route{{Pattern: "/", Open: true, Handler: numbered()}}, MaxClients: 10, Log: zap.NewNop()})
	ended := make(chan error)
	go func() { ended <- s.Serve(l) }()
	events := watch(t, l.Addr().String())
	want(t, events, "event: history\ndata: past")
	want(t, events, "data: 1")

	l.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	all := make(chan struct{})
	go func() {
		s.End()
		close(all)
	}()
	for events.Scan() && strings.HasPrefix(events.Text(), "data: ") {
	}
	var retry, again int
	if n, _ := fmt.Sscanf(events.Text(), "retry: %d\nevent: end\ndata: %d", &retry, &again); n != 2 || retry < 1000 || retry > 3000 || retry != again {
		t.Errorf("the last event is %q", events.Text())
	}
	if events.Scan() || events.Err() != nil {
		t.Errorf("the body ends with %q, %v", events.Text(), events.Err())
	}
	<-all
}

func TestTooManyPagesAreToldToComeLater(t *testing.T) {
	s := numbered()
	s.viewers = statsViewers
	events := watch(t, serve(t, Options{Routes: []Route{{Pattern: "/", Handler: s}}}))
	want(t, events, "retry: 30000\nevent: full\ndata: 30000")
	if events.Scan() {
		t.Errorf("then it says %q", events.Text())
	}
}
