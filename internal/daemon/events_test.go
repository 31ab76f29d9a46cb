package daemon

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"edged/internal/config"
	"edged/internal/redistest"
)

// web is a daemon with HTTP in this process.
type web struct {
	*process
	http net.Addr
}

func runWeb(t *testing.T, cfg *config.Config) *web {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	w := &web{process: &process{signals: make(chan os.Signal), ended: make(chan int, 1), log: &logBuffer{}}}
	ready := make(chan Addresses, 1)
	o := Options{Config: cfg, Version: "0.0.0", Stderr: w.log, Signals: w.signals, Ready: func(at Addresses) { ready <- at }}
	go func() { w.ended <- Run(ctx, o) }()
	select {
	case at := <-ready:
		w.address, w.http = at.TCP, at.HTTP
	case code := <-w.ended:
		t.Fatalf("Run returned %d before the daemon served:\n%s", code, w.log)
	}
	return w
}

// stop drains the daemon.
func (w *web) stop(t *testing.T) {
	t.Helper()
	w.signals <- syscall.SIGTERM
	if code := <-w.ended; code != 0 {
		t.Errorf("exit code %d:\n%s", code, w.log)
	}
}

// shown is one event.
type shown struct{ id, name, data string }

// eventStream is a stream of events, line by line.
type eventStream struct {
	t    *testing.T
	body *bufio.Reader
	http *http.Response
	id   string
}

// events begins a stream, which ends with the test.
func (w *web) events(t *testing.T, path, lastID string) *eventStream {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+w.http.String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s: %s", path, answer.Status)
	}
	return &eventStream{t: t, body: bufio.NewReader(answer.Body), http: answer}
}

// next is the next event; ok is false at the end of the stream.
func (s *eventStream) next() (e shown, ok bool) {
	s.t.Helper()
	for filled := false; ; {
		line, err := s.body.ReadString('\n')
		if err != nil {
			return e, false
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "":
			if e.id = s.id; filled {
				return e, true
			}
			e, filled = shown{}, false
		case "id":
			s.id = value
		case "event":
			e.name = value
		case "data":
			e.data, filled = e.data+value, true
		}
	}
}

// expect reads items.
func (s *eventStream) expect(want ...string) {
	s.t.Helper()
	for _, w := range want {
		if e, ok := s.next(); !ok || e.name+e.data != w {
			s.t.Fatalf("the stream has %q, want %q", e, w)
		}
	}
}

// viewable returns a configuration with HTTP and the list a, which keeps so many items.
func viewable(t *testing.T, redis *redistest.Server, keep int) *config.Config {
	t.Helper()
	cfg := configured(t, redis)
	cfg.HTTP.Listen, cfg.Delivery.RejoinGrace = "127.0.0.1:0", 0
	list := cfg.Lists[0]
	list.Key, list.Subject, list.Stream, list.Keep = "a", "a", "a", keep
	cfg.Lists = []config.List{list}
	return cfg
}

// consume subscribes to a list, reads up to an item, and confirms. It may get items again that
// were confirmed: a daemon that has just started lets a consumer begin where the last one was.
func consume(t *testing.T, address net.Addr, list, last string) {
	t.Helper()
	conn, err := net.Dial("tcp", address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CONNECT {}\r\nSUB %s 1\r\nPING\r\n", list)
	in := bufio.NewReader(conn)
	for pongs, seen := 0, false; pongs < 2; {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case line == last+"\r\n":
			seen = true
		case strings.HasPrefix(line, "PING"):
			fmt.Fprint(conn, "PONG\r\n")
			if seen { // that PONG confirms the items: the answer to this says that it was read
				fmt.Fprint(conn, "PING\r\n")
				seen = false
			}
		case strings.HasPrefix(line, "PONG"):
			pongs++
		}
	}
	conn.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, in) // the server has read all that was sent
}

func numberedItems(from, to int) (items []any, texts []string) {
	for i := from; i < to; i++ {
		items, texts = append(items, i), append(texts, fmt.Sprint(i))
	}
	return items, texts
}

func TestViewersSeeItemsWithAndWithoutConsumers(t *testing.T) {
	redis := redistest.Start(t)
	w := runWeb(t, viewable(t, redis, 0))
	defer w.stop(t)
	viewer := w.events(t, "/events/a?since=all", "")
	items, texts := numberedItems(0, 100)
	redis.Push("a", items...)
	viewer.expect(texts...)
	if n := redis.Len("a"); n != 100 {
		t.Errorf("looking at the list has taken items: %d are left", n)
	}
	if n := redis.Client().Exists(t.Context(), "{a}:edged").Val(); n != 0 {
		t.Error("looking at the list has claimed it")
	}

	ended := make(chan struct{})
	go func() {
		defer close(ended)
		consume(t, w.address, "a", "199")
	}()
	redistest.Eventually(t, "the list is consumed", func() bool { return redis.Len("a") == 0 })
	items, texts = numberedItems(100, 200)
	redis.Push("a", items...)
	<-ended
	viewer.expect(texts...)
	if !strings.HasSuffix(viewer.id, "-199") {
		t.Errorf("the last id is %s", viewer.id)
	}
}

func TestAViewerGoesOnAfterARestart(t *testing.T) {
	redis := redistest.Start(t)
	cfg := viewable(t, redis, 1000)
	w := runWeb(t, cfg)
	items, texts := numberedItems(0, 300)
	redis.Push("a", items...)
	consume(t, w.address, "a", "299")
	first := w.events(t, "/events/a?since=all", "")
	first.expect(texts[:123]...)
	id := first.id
	w.stop(t)

	w = runWeb(t, cfg)
	defer w.stop(t)
	more, moreTexts := numberedItems(300, 310)
	redis.Push("a", more...)
	again := w.events(t, "/events/a?since=all", id)
	again.expect(append(slices.Clone(texts[123:]), moreTexts...)...)
	consume(t, w.address, "a", "309")
	more, moreTexts = numberedItems(310, 320)
	redis.Push("a", more...)
	again.expect(moreTexts...)
}

func TestAViewerIsToldOfItemsThatAreGone(t *testing.T) {
	redis := redistest.Start(t)
	w := runWeb(t, viewable(t, redis, 0))
	defer w.stop(t)
	items, texts := numberedItems(0, 10)
	redis.Push("a", items...)
	consume(t, w.address, "a", "9")
	epoch := redis.Client().HGet(t.Context(), "{a}:edged", "epoch").Val()
	items, _ = numberedItems(10, 20)
	redis.Push("a", items...)
	consume(t, w.address, "a", "19")
	redistest.Eventually(t, "the items are removed", func() bool { return redis.Len("a") == 0 })
	viewer := w.events(t, "/events/a", epoch+"-4")
	viewer.expect(fmt.Sprintf(`gap{"list":"a","after":"%s-4","next":"%[1]s-20"}`, epoch))
	redis.Push("a", texts[0])
	viewer.expect(texts[0])
}

func TestADrainEndsStreamsCleanly(t *testing.T) {
	redis := redistest.Start(t)
	w := runWeb(t, viewable(t, redis, 0))
	viewer := w.events(t, "/events/a", "")
	w.signals <- syscall.SIGTERM
	e, ok := viewer.next()
	if !ok || e.name != "drain" {
		t.Errorf("the stream has %q", e)
	}
	if e, ok = viewer.next(); ok {
		t.Errorf("after the end the stream has %q", e)
	}
	if code := <-w.ended; code != 0 {
		t.Errorf("exit code %d:\n%s", code, w.log)
	}
}

func TestAStandbyTellsItsViewers(t *testing.T) {
	redis := redistest.Start(t)
	owner := runWeb(t, viewable(t, redis, 0))
	redis.Push("a", "0")
	consume(t, owner.address, "a", "0")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		consume(t, owner.address, "a", "2")
	}()
	standby := runWeb(t, viewable(t, redis, 0))
	defer standby.stop(t)
	redistest.Eventually(t, "the list has an owner", func() bool {
		return redis.Client().HExists(t.Context(), "{a}:edged", "owner").Val()
	})
	viewer := standby.events(t, "/events/a", "")
	e, _ := viewer.next()
	if e.name != "status" || !strings.Contains(e.data, `"state":"standby"`) {
		t.Errorf("the stream has %q", e)
	}
	redis.Push("a", "1", "2")
	<-ended
	owner.stop(t)
	if e, _ = viewer.next(); e.name != "status" || !strings.Contains(e.data, `"state":"served"`) {
		t.Errorf("the stream has %q", e)
	}
	if e, _ = viewer.next(); e.name != "gap" {
		t.Errorf("the stream has %q", e)
	}
}

func TestListsOfAReloadComeToStreamsAndLeaveThem(t *testing.T) {
	redis := redistest.Start(t)
	cfg := viewable(t, redis, 0)
	folder := filepath.Dir(cfg.Control.Socket)
	next := *cfg
	other := cfg.Lists[0]
	other.Key, other.Subject, other.Stream = "b", "b", "b"
	next.Lists = []config.List{other}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ready, ended := make(chan Addresses, 1), make(chan int, 1)
	w := &web{process: &process{log: &logBuffer{}}}
	go func() {
		ended <- Run(ctx, Options{
			Config: cfg, Reread: func() (*config.Config, error) { return &next, nil }, Version: "0.0.0", Stderr: w.log,
			Ready: func(at Addresses) { ready <- at },
		})
	}()
	w.http = (<-ready).HTTP
	viewer := w.events(t, "/events/*", "")

	conn, err := net.Dial("unix", filepath.Join(folder, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, "reload")
	viewer.expect(`list{"list":"a","state":"removed"}`, `list{"list":"b","state":"added"}`)
	redis.Push("b", "of b")
	viewer.expect("of b")
	cancel()
	<-ended
}

var docCommand = regexp.MustCompile(`(?m)^curl .*$`)

func TestTheCommandsOfTheHTTPDocumentShowItems(t *testing.T) {
	commands := docCommand.FindAllString(readDoc(t, "../../docs/HTTP.md"), -1)
	if len(commands) == 0 {
		t.Fatal("docs/HTTP.md has no commands")
	}
	redis := redistest.Start(t)
	cfg := configured(t, redis)
	cfg.HTTP.Listen = "127.0.0.1:0"
	w := runWeb(t, cfg)
	defer w.stop(t)
	redis.Push("events", "first") // a list that has had a consumer has ids
	consume(t, w.address, "events", "first")
	for _, command := range commands {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := exec.CommandContext(ctx, "sh", "-c", "exec "+strings.ReplaceAll(command, "127.0.0.1:8222", w.http.String()))
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		s := &eventStream{t: t, body: bufio.NewReader(out)}
		for line := ""; !strings.HasPrefix(line, "id: "); { // it has its place now
			if line, err = s.body.ReadString('\n'); err != nil {
				t.Fatalf("%s: %v", command, err)
			}
		}
		redis.Push("events", "an item")
		for shown := ""; !strings.Contains(shown, "an item"); {
			e, ok := s.next()
			if shown = e.data; !ok {
				t.Fatalf("%s ends without the item", command)
			}
		}
		cancel()
		cmd.Wait()
	}
}

func TestAViewerThatReconnectsMissesAndRepeatsNothing(t *testing.T) {
	redis := redistest.Start(t)
	w := runWeb(t, viewable(t, redis, 100_000))
	defer w.stop(t)
	const last = 3000
	redis.Push("a", 0)
	consume(t, w.address, "a", "0") // the items have ids from here on
	viewer := w.events(t, "/events/a?since=all", "")
	viewer.expect("0")

	pushed, consumed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(pushed)
		for i := 1; i <= last; i += 10 {
			items, _ := numberedItems(i, i+10)
			redis.Push("a", items...)
		}
		redis.Push("a", "end")
	}()
	go func() {
		defer close(consumed)
		consume(t, w.address, "a", "end")
	}()
	for i := 1; i <= last; i++ {
		if viewer.expect(fmt.Sprint(i)); i%97 == 0 {
			viewer.http.Body.Close()
			viewer = w.events(t, "/events/a", viewer.id)
		}
	}
	viewer.expect("end")
	<-pushed
	<-consumed
}
