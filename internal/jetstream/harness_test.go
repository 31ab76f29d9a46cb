package jetstream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edged/internal/batch"
)

// fakeLog stands for the relay: it has one place for each consumer, and hands out the items that a
// test offers.
type fakeLog struct {
	mu       sync.Mutex
	durables map[string]Terms
	starts   map[string]Start
	members  map[string]batch.Metered
	refuse   error
	acks     []string
	pending  uint64
	missed   uint64
	unknown  bool
	updates  int
	seen     map[uint64]time.Time
}

func (l *fakeLog) Set(name string, t Terms, s Start) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil {
		return l.refuse
	}
	l.durables[name] = t
	if _, there := l.starts[name]; !there {
		l.starts[name] = s
	}
	return nil
}

func (l *fakeLog) Start(name string, s Start) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.starts[name] = s
}

func (l *fakeLog) Remove(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, there := l.durables[name]
	delete(l.durables, name)
	delete(l.starts, name)
	delete(l.members, name)
	return there
}

func (l *fakeLog) Join(name string, m batch.Metered) batch.Consumption {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.members[name] = m
	return fakeMembership{l, name}
}

func (l *fakeLog) View(from uint64, m batch.Metered) batch.Consumption {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := fmt.Sprintf("view from %d", from)
	l.members[name] = m
	return fakeMembership{l, name}
}

func (l *fakeLog) Durable(string, uint64) (State, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return State{Floor: 1, Next: 3, Out: 2, Missed: l.missed, Pending: l.pending}, !l.unknown
}

func (l *fakeLog) Since(t time.Time) uint64 { return uint64(t.Unix()) }
func (l *fakeLog) Done() uint64             { return 5 }
func (l *fakeLog) Seen(n uint64) time.Time  { return l.seen[n] }

// offer hands items to a consumer, as the relay does, and returns how many it took.
func (l *fakeLog) offer(name string, first uint64, items ...string) (taken int) {
	l.mu.Lock()
	m := l.members[name]
	l.mu.Unlock()

	all := make([][]byte, len(items))
	for i, item := range items {
		all[i] = []byte(item)
	}
	b := batch.Of("s", first, all...)
	for taken < len(items) && m.Room() > 0 {
		n := m.Deliver(b, taken, len(items), fakeReceipt{})
		if n == 0 {
			break
		}
		taken += n
	}
	return taken
}

type fakeReceipt struct{}

func (fakeReceipt) Confirm() {}

type fakeMembership struct {
	log  *fakeLog
	name string
}

func (m fakeMembership) Leave() {
	m.log.mu.Lock()
	defer m.log.mu.Unlock()
	delete(m.log.members, m.name)
}
func (m fakeMembership) Finish(int) {}
func (m fakeMembership) Owed() int  { return 0 }
func (m fakeMembership) Update() {
	m.log.mu.Lock()
	defer m.log.mu.Unlock()
	m.log.updates++
}

func (m fakeMembership) Pending(uint64) (uint64, bool) {
	m.log.mu.Lock()
	defer m.log.mu.Unlock()
	return m.log.pending, !m.log.unknown
}

func (m fakeMembership) Acknowledge(epoch string, n uint64, a batch.Ack, saved func(error)) error {
	m.log.mu.Lock()
	m.log.acks = append(m.log.acks, fmt.Sprintf("%s %s %d %d", m.name, epoch, n, a.Kind))
	m.log.mu.Unlock()
	if saved != nil {
		saved(nil)
	}
	return nil
}

// fakeStore is a Redis with one list.
type fakeStore struct {
	mu      sync.Mutex
	part    Part
	configs map[string]string
	fails   error
	stalled chan struct{} // if not nil, Part waits until stalled is closed
	parts   int           // calls of Part
	owner   bool          // this process serves the list
	standby error         // another process serves the list

	standing map[string]State
}

func (s *fakeStore) Part(_ context.Context, _ string, from uint64, n int) (Part, error) {
	if s.stalled != nil {
		<-s.stalled
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts++
	p := s.part
	p.Items = nil
	for _, item := range s.part.Items {
		if item.Number >= from && len(p.Items) < n {
			p.Items = append(p.Items, item)
		}
	}
	return p, s.fails
}

func (s *fakeStore) Register(_ context.Context, _, name, from, config string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()

	switch from {
	case End:
		from = strconv.FormatUint(s.part.End(), 10)
	case Last:
		from = strconv.FormatUint(s.part.End()-1, 10)
	default:
		n, _ := strconv.ParseUint(from, 10, 64)
		from = strconv.FormatUint(min(n, s.part.End()), 10)
	}
	text := `{"from":` + from + `,"epoch":"e",` + strings.TrimPrefix(config, "{")
	err := cmp.Or(s.fails, s.standby)
	if err == nil {
		s.configs[name] = text
	}
	return text, err
}

func (s *fakeStore) Restore(_ context.Context, _, name string, from uint64, epoch, config string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, there := s.configs[name]
	if s.fails == nil && s.owner && !there {
		s.configs[name] = fmt.Sprintf(`{"from":%d,"epoch":%q,%s`, from, epoch, strings.TrimPrefix(config, "{"))
		there = true
	}
	return there, s.fails
}

// set sets the errors with which Redis answers.
func (s *fakeStore) set(fails, standby error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails, s.standby = fails, standby
}

// forget makes Redis lose a consumer's configuration, or another process delete it.
func (s *fakeStore) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.configs, name)
}

// names returns the names of the registered consumers.
func (s *fakeStore) names() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(s.configs)), " ")
}

func (s *fakeStore) Unregister(_ context.Context, _, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := cmp.Or(s.fails, s.standby)
	if err == nil {
		delete(s.configs, name)
	}
	return err
}

func (s *fakeStore) Registered(_ context.Context, key string) (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key != "list" {
		return nil, s.fails
	}
	return maps.Clone(s.configs), s.fails
}

func (s *fakeStore) Standing(_ context.Context, _, name string, p Part) (State, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, there := s.standing[name]
	return st, there, s.fails
}

func (s *fakeStore) Close() {}

// count returns the number of registered consumers.
func (s *fakeStore) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.configs)
}

// network receives answers, statuses and items.
type network struct {
	mu     sync.Mutex
	got    []string // "to: message"
	closed map[string]bool
	gone   map[uint64]bool // clients
	open   int             // outlets
	held   int             // bytes of waiting requests
}

// close ends the subscriptions to subjects.
func (n *network) close(subjects ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, to := range subjects {
		n.closed[to] = true
	}
}

// leave disconnects a client.
func (n *network) leave(id uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone[id] = true
}

// subscribe begins a subscription.
func (n *network) subscribe(to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.closed, to)
}

func (n *network) say(to, what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got = append(n.got, to+": "+what)
}

func (n *network) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	got := n.got
	n.got = nil
	return got
}

type fakeOutlet struct {
	*network
	Target
}

func (n *network) outlet(to Target) Outlet {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open++
	return fakeOutlet{n, to}
}

func (o fakeOutlet) Open() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.closed[o.Subject]
}

func (o fakeOutlet) Deliver(b *batch.Batch, from, to int, count uint64, _ batch.Receipt) int {
	if !o.Open() {
		return 0
	}
	for i := from; i < to; i++ {
		o.say(o.Subject, fmt.Sprintf("%s %d/%d %s", o.Consumer, b.First()+uint64(i), count+uint64(i-from), b.Item(i)))
	}
	return to - from
}

func (o fakeOutlet) Send(header, reply string) {
	text := strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(header, "NATS/1.0 "), "\r\n\r\n"), "\r\n", "|")
	if reply != "" {
		text += " -> " + reply
	}
	o.say(o.Subject, text)
}

func (o fakeOutlet) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open--
}

// fakeClient has the rights that its fields say.
type fakeClient struct {
	*network
	subscribes func(string) bool
	keeps      bool
	id         uint64
	user       string
}

func (c fakeClient) ID() uint64   { return c.id }
func (c fakeClient) User() string { return c.user }
func (c fakeClient) Hold(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held += n
}

func (c fakeClient) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.gone[c.id]
}

func (c fakeClient) MaySubscribe(s string) bool { return c.subscribes(s) }
func (c fakeClient) MayKeep() bool              { return c.keeps }
func (c fakeClient) Outlet(to Target) Outlet    { return c.outlet(to) }
func (c fakeClient) Send(to string, header, payload []byte) {
	text := string(payload)
	if len(header) > 0 {
		text = strings.TrimSuffix(strings.ReplaceAll(strings.TrimPrefix(string(header), "NATS/1.0 "), "\r\n", "|"), "||") + string(payload)
	}
	c.say(to, text)
}

// stage is an API with one stream, S, of the list "list" with the subject "s".
type stage struct {
	t      *testing.T
	api    *API
	log    *fakeLog
	store  *fakeStore
	net    *network
	client fakeClient
	late   atomic.Int32    // acknowledgements that were refused after Acknowledge had returned
	owned  map[string]bool // subjects of the daemon, in addition to that of the stream
}

// play runs a test in a bubble.
func play(t *testing.T, test func(*stage)) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, net: &network{closed: map[string]bool{}, gone: map[uint64]bool{}}, owned: map[string]bool{}}
		s.log = &fakeLog{durables: map[string]Terms{}, starts: map[string]Start{}, members: map[string]batch.Metered{}}
		s.store = &fakeStore{configs: map[string]string{}, part: Part{Epoch: "e", First: 2, Length: 3, Items: []Item{
			{Number: 2, Data: []byte("two")}, {Number: 3, Data: []byte("three")}, {Number: 4, Data: []byte("four")},
		}}}

		s.client = fakeClient{s.net, func(string) bool { return true }, true, 1, ""}
		s.api = New(Options{
			Store: s.store, Outlet: s.net.outlet, Refused: func() { s.late.Add(1) },
			Owned: func(to string) bool { return strings.HasPrefix(to, "$") || to == "s" || s.owned[to] },
		})

		s.api.Add(Stream{Name: "S", Subject: "s", Key: "list", Log: s.log})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.api.Run(ctx) }()
		synctest.Wait()
		test(s)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// ask makes a request, and returns all answers.
func (s *stage) ask(name, payload string) []string {
	s.t.Helper()
	s.api.Request(name, []byte(payload), "re", s.client)
	synctest.Wait()
	return s.net.take()
}

// answer is ask for a request with one answer, in JSON.
func (s *stage) answer(name, payload string) (answer map[string]any) {
	s.t.Helper()
	got := s.ask(name, payload)
	if len(got) != 1 {
		s.t.Fatalf("%s is answered %q", name, got)
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(got[0], "re: ")), &answer); err != nil {
		s.t.Fatalf("%s is answered %q: %v", name, got, err)
	}
	return answer
}

// create makes a consumer and returns the error's code and text, 0 if there is none.
func (s *stage) create(config string) (code int, text string) {
	s.t.Helper()
	var cfg Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		s.t.Fatal(err)
	}
	name := "CONSUMER.CREATE.S"
	if cfg.id() != "" {
		name += "." + cfg.id()
	}
	answer := s.answer(name, `{"stream_name":"S","config":`+config+`}`)
	if failed, ok := answer["error"].(map[string]any); ok {
		return int(failed["err_code"].(float64)), failed["description"].(string)
	}
	return 0, ""
}

// worker makes the durable consumer w.
func (s *stage) worker(more string) {
	s.t.Helper()
	if code, text := s.create(`{"durable_name":"w","ack_policy":"explicit"` + more + `}`); code != 0 {
		s.t.Fatal(text)
	}
}

// life returns the token for epoch e and the incarnation in reply subjects of a consumer's items.
func (s *stage) life(name string) string {
	var rec record
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	if err := json.Unmarshal([]byte(s.store.configs[name]), &rec); err != nil {
		s.t.Fatal(err)
	}
	return "e-" + rec.Incarnation
}

// pull requests items for an inbox.
func (s *stage) pull(inbox, request string) {
	s.t.Helper()
	s.api.Request("CONSUMER.MSG.NEXT.S.w", []byte(request), inbox, s.client)
	synctest.Wait()
}

func (s *stage) want(what string, want ...string) {
	s.t.Helper()
	synctest.Wait()
	if got := s.net.take(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		s.t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

var (
	errAway    = errors.New("connection refused")
	errStandby = errors.New("other serves the list")
)
