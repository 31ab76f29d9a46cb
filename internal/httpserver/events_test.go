package httpserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edged/internal/auth"
	"edged/internal/batch"
	"edged/internal/numbers"
)

// lists is a Source in memory.
type lists struct {
	mu    sync.Mutex
	parts map[string]*Part // by key, with all items
	err   error
	reads int
}

func newLists(keys ...string) *lists {
	l := &lists{parts: map[string]*Part{}}
	for _, key := range keys {
		l.parts[key] = &Part{Epoch: key}
	}
	return l
}

func (l *lists) Read(_ context.Context, key string, from From, n, bytes int) (Part, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	if l.err != nil {
		return Part{}, l.err
	}

	p := *l.parts[key]
	p.End = p.First + uint64(len(p.Items))
	items := p.Items
	p.Items = nil
	for _, it := range items {
		if from.AtEnd || it.Number < from.Number || !from.Since.IsZero() && it.Seen.Before(from.Since) || len(p.Items) == n || bytes <= 0 {
			continue
		}
		bytes -= len(it.Data)
		p.Items = append(p.Items, it)
	}

	return p, nil
}

// push appends items to a list.
func (l *lists) push(key string, items ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.parts[key]
	for _, it := range items {
		p.Items = append(p.Items, Item{Number: p.First + uint64(len(p.Items)), Seen: time.Now(), Data: []byte(it), Duplicate: strings.HasPrefix(it, duplicate)})
	}
}

// duplicate begins the items that repeat an earlier one.
const duplicate = "again "

// trim removes the items below a number.
func (l *lists) trim(key string, below uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.parts[key]
	p.Items, p.First = p.Items[below-p.First:], below
}

// set changes a list.
func (l *lists) set(key string, change func(*Part)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l.parts[key])
}

// fail makes reads fail; nil ends that.
func (l *lists) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// loop reads items of a list for consumers, as the poller's loop does, and removes them.
func (l *lists) loop(e *Events, key string, items ...string) {
	l.mu.Lock()
	p := l.parts[key]
	first := p.First + uint64(len(p.Items))
	p.First, p.Items = first+uint64(len(items)), nil
	epoch := p.Epoch
	l.mu.Unlock()

	var data [][]byte
	for _, it := range items {
		data = append(data, []byte(it))
	}

	b := batch.Of(key, first, data...).Stamp(epoch, time.Now(), 0)
	var duplicates []numbers.Span
	for i, it := range items {
		if strings.HasPrefix(it, duplicate) {
			duplicates = append(duplicates, numbers.Span{From: first + uint64(i), To: first + uint64(i) + 1})
		}
	}
	b.SetDuplicates(duplicates)
	e.Show(key, b)
	b.Release()
}

// viewer is a client of Events, as its ResponseWriter.
type viewer struct {
	header http.Header
	cancel context.CancelFunc
	ended  chan struct{}

	mu       sync.Mutex
	status   int
	parser   parser
	fired    []event
	text     strings.Builder
	stalled  chan struct{} // not nil: writes wait for it, or for their deadline
	deadline time.Time
}

func (v *viewer) Header() http.Header { return v.header }
func (v *viewer) WriteHeader(status int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.status = status
}
func (v *viewer) Flush() {}
func (v *viewer) SetWriteDeadline(at time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.deadline = at
	return nil
}

func (v *viewer) Write(p []byte) (int, error) {
	v.mu.Lock()
	stalled, deadline := v.stalled, v.deadline
	v.mu.Unlock()
	if stalled != nil {
		select {
		case <-stalled:
		case <-time.After(time.Until(deadline)):
			return 0, os.ErrDeadlineExceeded
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.text.Write(p)
	v.fired = append(v.fired, v.parser.feed(string(p))...)
	return len(p), nil
}

// stall blocks writes until goOn is called.
func (v *viewer) stall() (goOn func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	stalled := make(chan struct{})
	v.stalled = stalled
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.stalled = nil
		close(stalled)
	}
}

// got returns the events since the last call, as "name data".
func (v *viewer) got() []string {
	synctest.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	got := []string{}
	for _, e := range v.fired {
		got = append(got, strings.TrimPrefix(e.name+" "+e.data, " "))
	}
	v.fired = nil
	return got
}

// id returns the Last-Event-ID that a browser would send.
func (v *viewer) id() string {
	synctest.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.parser.lastID
}

// comments returns the number of comments so far.
func (v *viewer) comments() int {
	synctest.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.parser.comments
}

// isOpen reports whether the stream is still open.
func (v *viewer) isOpen() bool {
	synctest.Wait()
	select {
	case <-v.ended:
		return false
	default:
		return true
	}
}

// show begins a stream, which ends with the test.
func show(t *testing.T, e *Events, url string, user *auth.User, header ...string) *viewer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(context.WithValue(ctx, userKey{}, user), "GET", url, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}

	mux := http.NewServeMux()
	mux.Handle("/events", e)
	mux.Handle("/events/{subject...}", e)
	v := &viewer{header: http.Header{}, cancel: cancel, ended: make(chan struct{}), status: 200}
	go func() {
		defer close(v.ended)
		mux.ServeHTTP(v, r)
	}()

	t.Cleanup(func() {
		cancel()
		<-v.ended
	})
	synctest.Wait()
	return v
}

// gone ends a stream from the client's side.
func (v *viewer) gone() {
	v.cancel()
	<-v.ended
}

// newEvents makes Events for lists whose keys are their subjects.
func newEvents(l *lists, most int) *Events {
	var all []List
	for key := range l.parts {
		all = append(all, List{key, key})
	}
	return NewEvents(EventsOptions{Source: l, Lists: all, MaxStreams: most, Random: func(n uint64) uint64 { return n - 1 }})
}

func expect(t *testing.T, v *viewer, want ...string) {
	t.Helper()
	if got := v.got(); !slices.Equal(got, want) {
		t.Errorf("the stream has %q, want %q", got, want)
	}
}

func TestAStreamShowsItemsWhetherOrNotTheLoopReadsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a")
		e := newEvents(l, 9)
		l.push("a", "before")
		v := show(t, e, "/events/a", nil)
		expect(t, v)
		if v.id() != "a-0" {
			t.Errorf("before its first event a client has the id %q", v.id())
		}

		l.loop(e, "a", "one", "two")
		expect(t, v, "one", "two")
		l.push("a", "three")
		time.Sleep(pollInterval)
		expect(t, v, "three")
		time.Sleep(leastPause)
		l.loop(e, "a", "four")
		expect(t, v, "four")
		if v.id() != "a-4" {
			t.Errorf("the last id is %q", v.id())
		}
		v.gone()
		if len(*e.shown.Load()) != 0 || e.Streams() != 0 {
			t.Error("the feed is there without a stream")
		}
	})
}

func TestAStreamResumesAtItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a")
		e := newEvents(l, 9)
		var items []string
		for i := range 1000 {
			items = append(items, fmt.Sprint(i))
		}
		l.push("a", items...)

		expect(t, show(t, e, "/events/a", nil, "Last-Event-ID", "a-9"), items[10:]...)
		expect(t, show(t, e, "/events/a?last_event_id=a-989", nil), items[990:]...)
		expect(t, show(t, e, "/events/a?since=all&last_event_id=a-3", nil, "Last-Event-ID", "a-997"), items[998:]...)
		expect(t, show(t, e, "/events/a?since=all", nil), items...)
		expect(t, show(t, e, "/events/a?since=1m", nil), items...)

		reader := show(t, e, "/events/a", nil)
		l.loop(e, "a", "1000", "1001")
		expect(t, reader, "1000", "1001")
		expect(t, show(t, e, "/events/a", nil, "Last-Event-ID", "a-1000"), "1001") // from memory: Redis no longer has it
		expect(t, show(t, e, "/events/a", nil, "Last-Event-ID", "a-990"),
			`gap {"list":"a","after":"a-990","next":"a-1000"}`, "1000", "1001")
	})
}

func TestNoStreamShowsADuplicate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a", "b")
		e := newEvents(l, 9)
		one, both := show(t, e, "/events/a", nil), show(t, e, "/events?subject=a&subject=b", nil)
		l.loop(e, "a", "one", "again one", "two", "again two")
		expect(t, one, "one", "two")
		expect(t, both, "one", "two")
		if one.id() != "a-2" {
			t.Errorf("the id is %q, not that of the last event", one.id())
		}

		l.push("a", "again one", "three")
		time.Sleep(pollInterval)
		expect(t, one, "three")
		expect(t, both, "three")
		expect(t, show(t, e, "/events/a", nil, "Last-Event-ID", "a-3"), "three")
	})
}

func TestAGapIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a")
		e := newEvents(l, 9)
		l.push("a", "0", "1", "2", "3")
		l.trim("a", 2)
		v := show(t, e, "/events/a", nil, "Last-Event-ID", "a-0")
		expect(t, v, `gap {"list":"a","after":"a-0","next":"a-2"}`, "2", "3")

		l.push("a", "4", "5", "6")
		l.trim("a", 6)
		time.Sleep(pollInterval)
		expect(t, v, `gap {"list":"a","after":"a-3","next":"a-6"}`, "6")

		l.set("a", func(p *Part) { p.Epoch = "b" })
		time.Sleep(pollInterval)
		expect(t, v, `gap {"list":"a","after":"a-6","next":"b-7"}`)
		if v.id() != "b-6" {
			t.Errorf("after the gap the id is %q", v.id())
		}

		expect(t, show(t, e, "/events/a", nil, "Last-Event-ID", "other-99"), `gap {"list":"a","after":"other-99","next":"b-6"}`, "6")
		expect(t, show(t, e, "/events/a", nil, "Last-Event-ID", "of another server"), `gap {"list":"a","next":"b-7"}`)
	})
}

func TestAnIDHoldsAPlaceOfEachList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a", "b", "c")
		e := newEvents(l, 9)
		l.push("b", "b0")
		v := show(t, e, "/events?subject=a&subject=b", nil)
		l.loop(e, "a", "a0", "a1")
		expect(t, v, "a0", "a1")
		id := v.id()
		if id != "a-1,b-0" {
			t.Errorf("the id is %q", id)
		}
		time.Sleep(leastPause)
		l.loop(e, "b", "b1")
		expect(t, v, "b1")
		if v.id() != "b-1,a-1" {
			t.Errorf("the id is %q", v.id())
		}

		again := show(t, e, "/events?subject=a&subject=b", nil, "Last-Event-ID", id)
		expect(t, again, "b1")
		wider := show(t, e, "/events?subject=%3E", nil, "Last-Event-ID", id).got()
		slices.Sort(wider)
		if want := []string{"b1", `gap {"list":"c","next":"c-0"}`}; !slices.Equal(wider, want) {
			t.Errorf("with a list that the id does not know: %q, want %q", wider, want)
		}
	})
}

func TestAStreamThatRestsHasCommentsAndOneThatStallsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a")
		e := newEvents(l, 9)
		v := show(t, e, "/events/a", nil)
		for want := 1; want <= 3; want++ {
			if got := v.comments(); got != want {
				t.Fatalf("%d comments, want %d", got, want)
			}
			time.Sleep(heartbeat)
		}

		v.stall()
		l.loop(e, "a", "one")
		synctest.Wait()
		time.Sleep(writeTimeout - time.Millisecond)
		if !v.isOpen() {
			t.Error("the stream ended before its deadline")
		}
		time.Sleep(2 * time.Second)
		if v.isOpen() {
			t.Error("the stream goes on")
		}
	})
}

func TestOnlyASlowStreamSkips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a")
		e := newEvents(l, 9)
		slow, fast := show(t, e, "/events/a", nil), show(t, e, "/events/a", nil)
		goOn := slow.stall()
		large := strings.Repeat("x", ringBytes/8)
		for range 20 {
			l.loop(e, "a", large)
			time.Sleep(leastPause)
		}

		if got := fast.got(); len(got) != 20 {
			t.Errorf("the fast stream has %d items", len(got))
		}
		goOn()
		got := slow.got()
		if len(got) != 9 || got[0] != large || got[1] != `gap {"list":"a","after":"a-0","next":"a-13"}` || got[2] != large {
			t.Errorf("the slow stream has %d events: %.60q", len(got), got)
		}
	})
}

func TestADrainEndsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a")
		e := newEvents(l, 9)
		v := show(t, e, "/events/a", nil)
		e.Drain()
		expect(t, v, `drain {"retry_ms":10000}`)
		if v.isOpen() || v.parser.retry != "10000" {
			t.Errorf("open %v, retry %s", v.isOpen(), v.parser.retry)
		}
		expect(t, show(t, e, "/events/a", nil), `drain {"retry_ms":10000}`)
	})
}

func TestStreamsOfUsersWhoseRightsChangeAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvents(newLists("a"), 9)
		stays, goes := &auth.User{Name: "ann"}, &auth.User{Name: "bob"}
		first, second := show(t, e, "/events/a", stays), show(t, e, "/events/a", goes)
		for range 2 {
			e.Renew(func(u *auth.User) bool { return u == stays })
		}
		expect(t, second, `renew {"retry_ms":10000}`)
		if synctest.Wait(); !first.isOpen() {
			t.Error("the stream of a user with the same rights ends")
		}
	})
}

func TestAStreamTooManyIsToldToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvents(newLists("a"), 1)
		first := show(t, e, "/events/a", nil)
		v := show(t, e, "/events/a", nil)
		expect(t, v, `full {"streams":1}`)
		if v.isOpen() || v.status != 200 || v.parser.retry != "60000" {
			t.Errorf("open %v, status %d, retry %s", v.isOpen(), v.status, v.parser.retry)
		}
		first.gone()
		if v := show(t, e, "/events/a", nil); !v.isOpen() {
			t.Error("there is no room after one has left")
		}
	})
}

func TestRequestsThatGetNoStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a", "a.b")
		for i := range maxLists + 1 {
			l.parts[fmt.Sprintf("many.%d", i)] = &Part{}
		}

		e := newEvents(l, 9)
		for url, want := range map[string]int{
			"/events": 400, "/events?subject=": 400, "/events?subject=a..b": 400, "/events/a?as=xml": 400, "/events/a?since=soon": 400,
			"/events/a?since=-5m": 400, "/events/a?last_event_id=7": 400, "/events/a?form=json": 400, "/events/many.*": 400,
			"/events/none": 404, "/events/none.*": 404, "/events?subject=a&subject=none": 404,
			"/events/a": 200, "/events?subject=a.*": 200, "/events/a?since=2026-11-27T08:00:00Z": 200,
		} {
			v := show(t, e, url, nil)
			if v.status != want || v.isOpen() != (want == 200) {
				t.Errorf("%s: %d, want %d: %s", url, v.status, want, v.text.String())
			}
			v.gone()
		}

		for url, want := range map[string]int{"/events/a.b": 403, "/events/a": 200, "/events?subject=a&subject=a.b": 403, "/events/a.*": 403, "/events/*": 200} {
			v := show(t, e, url, &auth.User{Subscribe: auth.Rules{Deny: []string{"a.b"}}})
			if v.status != want {
				t.Errorf("%s: %d, want %d: %s", url, v.status, want, v.text.String())
			}
			v.gone()
		}
	})
}

func TestListsThatAUserMayNotSeeAreLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a", "b")
		e := newEvents(l, 9)
		v := show(t, e, "/events/*", &auth.User{Subscribe: auth.Rules{Deny: []string{"b"}}})
		l.loop(e, "b", "b0")
		l.loop(e, "a", "a0")
		expect(t, v, "a0")
		if v.id() != "a-0" {
			t.Errorf("the id is %q", v.id())
		}
	})
}

func TestListsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a")
		e := newEvents(l, 9)
		v := show(t, e, "/events/*", nil)
		l.loop(e, "a", "a0")
		expect(t, v, "a0")

		l.mu.Lock()
		l.parts["b"] = &Part{Epoch: "b"}
		l.mu.Unlock()
		l.push("b", "old")
		e.AddLists(List{"b", "b"})
		expect(t, v, `list {"list":"b","state":"added"}`)
		l.push("b", "new")
		time.Sleep(pollInterval)
		expect(t, v, "new")

		e.RemoveLists("a")
		expect(t, v, `list {"list":"a","state":"removed"}`)
		l.push("a", "a1")
		time.Sleep(pollInterval)
		expect(t, v)
		e.AddLists(List{"a", "a"})
		expect(t, v, `list {"list":"a","state":"added"}`, "a1")
	})
}

func TestAStreamSaysWhyItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a")
		e := newEvents(l, 9)
		v := show(t, e, "/events/a", nil)
		l.set("a", func(p *Part) { p.Owner = "other/1" })
		time.Sleep(pollInterval)
		expect(t, v, `status {"list":"a","state":"standby","holder":"other/1"}`)
		late := show(t, e, "/events/a?since=all", nil)
		expect(t, late, `status {"list":"a","state":"standby","holder":"other/1"}`)
		l.push("a", "0", "1")
		time.Sleep(pollInterval)
		expect(t, v)

		l.trim("a", 1)
		l.set("a", func(p *Part) { p.Owner = "" })
		time.Sleep(pollInterval)
		expect(t, v, `status {"list":"a","state":"served"}`, `gap {"list":"a","after":"a--1","next":"a-1"}`, "1")
		l.fail(errors.New("Redis is away"))
		time.Sleep(2 * pollInterval)
		expect(t, v, `status {"list":"a","state":"unavailable"}`)
		l.fail(nil)
		time.Sleep(2 * pollInterval)
		expect(t, v, `status {"list":"a","state":"served"}`)
	})
}

func TestAListGetsItsLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a")
		l.parts["a"].Epoch = ""
		e := newEvents(l, 9)
		l.push("a", "0")
		v := show(t, e, "/events/a", nil)
		l.push("a", "1")
		time.Sleep(pollInterval)
		expect(t, v, "1")
		if v.id() != "" {
			t.Errorf("an item without an id has %q", v.id())
		}

		l.set("a", func(p *Part) { p.Epoch = "a" })
		l.loop(e, "a", "2")
		expect(t, v, "2")
		if v.id() != "a-2" {
			t.Errorf("the id is %q", v.id())
		}
	})
}

func TestTheLoopWaitsForNoFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a")
		e := newEvents(l, 9)
		v := show(t, e, "/events/a", nil)
		items := slices.Repeat([]string{"an item"}, 1000)
		for range 100 { // faster than the feed wakes its streams
			l.loop(e, "a", items...)
		}
		time.Sleep(leastPause)
		shown, gaps := 0, 0
		for _, s := range v.got() {
			if strings.HasPrefix(s, "gap ") {
				gaps++
			} else {
				shown++
			}
		}

		if shown == 0 || gaps == 0 || v.id() != "a-99999" {
			t.Errorf("%d items, %d gaps, up to %s", shown, gaps, v.id())
		}
		f := (*e.shown.Load())["a"]
		f.mu.Lock()
		defer f.mu.Unlock()

		if f.held > ringBytes+1000*(itemCost+7) {
			t.Errorf("the ring holds %d bytes", f.held)
		}
	})
}

func TestAThousandStreamsShareTheEncodedItems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists("a")
		e := newEvents(l, 1000)
		var all []*viewer
		for range 1000 {
			all = append(all, show(t, e, "/events/a", nil))
		}

		var want []string
		for i := range 50 {
			want = append(want, fmt.Sprint(i))
			l.loop(e, "a", fmt.Sprint(i))
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(mostPause)
		for _, v := range all {
			expect(t, v, want...)
		}
		l.mu.Lock()
		defer l.mu.Unlock()

		if most := int(time.Minute / pollInterval); l.reads > most {
			t.Errorf("the list was read %d times", l.reads)
		}
	})
}
