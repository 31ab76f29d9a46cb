package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"edged/internal/redisconn"
	"edged/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// box is a Redis with one list, and a connection to it.
type box struct {
	*redistest.Server
	t      testing.TB
	keys   Keys
	server *redisconn.Server
}

func start(t testing.TB, args ...string) *box {
	t.Helper()
	b := &box{Server: redistest.Start(t, args...), t: t, keys: KeysOf("jobs")}
	b.server = b.connect(redisconn.Options{})
	return b
}

// connect opens one more connection.
func (b *box) connect(o redisconn.Options) *redisconn.Server {
	b.t.Helper()
	o.Address, o.Timeout = b.Address(), 10*time.Second
	servers := redisconn.NewServers(o, redisconn.Callbacks{Scripts: Scripts})
	b.t.Cleanup(servers.Close)
	server := servers.Route().Server
	if err := server.LoadScripts(context.Background()); err != nil {
		b.t.Fatal(err)
	}
	return server
}

func (b *box) do(words ...any) any {
	b.t.Helper()
	reply, err := b.Client().Do(context.Background(), words...).Result()
	if err != nil {
		b.t.Fatalf("%v: %v", words[0], err)
	}
	return reply
}

// call runs a call, and checks that the reply tells the truth.
func (b *box) call(c Call) Outcome {
	b.t.Helper()
	return b.run(c.Words(b.keys))
}

func (b *box) run(words []any) Outcome {
	b.t.Helper()
	before := b.snapshot()
	reply, err := b.server.Do(context.Background(), words...)
	if err != nil {
		b.t.Fatal(err)
	}
	o, err := ParseOutcome(reply)
	if err != nil {
		b.t.Fatalf("%v: %v", reply, err)
	}

	after := b.snapshot()
	if o.What != OK && !before.equal(after) {
		b.t.Fatalf("%s %s, but\n%v\nbecame\n%v", o.What, o.Why, before, after)
	}
	if o.Length != int64(len(after.list)) {
		b.t.Fatalf("length %d, want %d", o.Length, len(after.list))
	}
	if o.What != Lost && (after.ledger["serial"] != fmt.Sprint(o.Serial) || after.ledger["first"] != fmt.Sprint(o.First)) {
		b.t.Fatalf("serial %d and first %d do not stand in the ledger: %v", o.Serial, o.First, after.ledger)
	}
	return o
}

// snapshot is all that Redis has of a list.
type snapshot struct {
	list, dead    []string
	ledger, aside map[string]string
}

func (b *box) snapshot() (s snapshot) {
	b.t.Helper()
	ctx := context.Background()
	pipe := b.Client().Pipeline()
	list, dead := pipe.LRange(ctx, b.keys.List, 0, -1), pipe.LRange(ctx, b.keys.Dead, 0, -1)
	ledger, aside := pipe.HGetAll(ctx, b.keys.Ledger), pipe.HGetAll(ctx, b.keys.Aside)
	if _, err := pipe.Exec(ctx); err != nil {
		b.t.Fatal(err)
	}
	return snapshot{list.Val(), dead.Val(), ledger.Val(), aside.Val()}
}

func (s snapshot) equal(other snapshot) bool {
	return slices.Equal(s.list, other.list) && slices.Equal(s.dead, other.dead) &&
		maps.Equal(s.ledger, other.ledger) && maps.Equal(s.aside, other.aside)
}

// process is an owner of the list, or would like to be.
type process struct {
	*box
	holder string
	right  bool
	epoch  string
	serial uint64
	tried  uint64
}

func (b *box) process(holder string) *process { return &process{box: b, holder: holder} }

const lease = 10 * time.Second

// claims claims the list.
func (p *process) claims(c Call) Outcome {
	p.t.Helper()
	p.tried++
	c.Claim, c.Holder, c.FromRight, c.Attempt = true, p.holder, p.right, p.tried
	if c.Epoch == "" {
		c.Epoch = "e" + strings.ReplaceAll(p.holder, "/", "")
	}
	if c.Lease == 0 {
		c.Lease = lease
	}
	o := p.call(c)
	p.learn(o)
	return o
}

func (p *process) learn(o Outcome) {
	if o.What != OK {
		return
	}
	p.serial, p.tried = o.Serial, max(p.tried, o.Serial)
	if o.State != nil {
		p.epoch = o.State.Epoch
	}
}

// filled is an update with the fields of its process.
func (p *process) filled(c Call) Call {
	p.tried++
	c.Holder, c.FromRight, c.Epoch, c.Serial, c.Attempt, c.Lease = p.holder, p.right, p.epoch, p.serial, p.tried, lease
	return c
}

func (p *process) updates(c Call) Outcome {
	p.t.Helper()
	o := p.call(p.filled(c))
	p.learn(o)
	return o
}

// owner returns a process that has claimed a list of these items, head first.
func (b *box) owner(right bool, items ...string) *process {
	b.t.Helper()
	for _, item := range items {
		if right {
			b.do("LPUSH", b.keys.List, item)
		} else {
			b.do("RPUSH", b.keys.List, item)
		}
	}
	p := b.process("a/1")
	p.right = right
	if o := p.claims(Call{Start: true}); o.What != OK || !o.State.Created {
		b.t.Fatalf("claim: %+v", o)
	}
	return p
}

func at(index int64, item string) Landmark { return Landmark{index, MarkOf([]byte(item))} }

// expires lets the owner's lease run out.
func (b *box) expires() {
	b.t.Helper()
	b.do("HSET", b.keys.Ledger, "deadline", time.Now().Add(-time.Second).UnixMilli())
}

func want(t testing.TB, o Outcome, what Result, word string) {
	t.Helper()
	if o.What != what || o.Why+o.Holder != word {
		t.Fatalf("%s %q, want %s %q", o.What, o.Why+o.Holder, what, word)
	}
}

// bothSides runs a test with either end as the head.
func bothSides(t *testing.T, test func(t *testing.T, b *box, right bool)) {
	for name, right := range map[string]bool{"left": false, "right": true} {
		t.Run(name, func(t *testing.T) { test(t, start(t), right) })
	}
}

// items returns the list, head first.
func (p *process) items() []string {
	list := p.snapshot().list
	if p.right {
		slices.Reverse(list)
	}
	return list
}

func (p *process) wantItems(items string) {
	p.t.Helper()
	if got := strings.Join(p.items(), " "); got != items {
		p.t.Fatalf("the list is %q, want %q", got, items)
	}
}

func (b *box) wantField(name, value string) {
	b.t.Helper()
	if got := b.snapshot().ledger[name]; got != value {
		b.t.Fatalf("%s is %q, want %q", name, got, value)
	}
}
