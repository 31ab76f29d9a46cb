package ledger

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var rounds = flag.Int("rounds", 200, "how many random stories TestOnlyTheOwnerRemovesWhatItMeantTo tells")

// story is a random sequence of calls by two holders, some of which arrive late,
// twice or without an answer, while producers push and a stranger takes items.
//
// No two items are equal, and the story knows the number of each, which the ledger
// must know too.
type story struct {
	*box
	right   bool
	random  *rand.Rand
	numbers map[string]uint64 // of all items
	next    uint64            // the number of the next item
	actors  []*actor
	late    []sent
	serials map[string]bool // that stood in the ledger
	removed int
	steps   []string
}

// actor is a process with a view of the list.
type actor struct {
	*process
	claimed bool     // and heard of it, and lost no reply since
	clean   bool     // nothing has happened since that can make its calls fail
	items   []string // read and believed, head first
	first   uint64   // the number of items[0]
}

// sent is a call and the items that its sender means to remove.
type sent struct {
	call  Call
	items []string
	first uint64
}

func TestOnlyTheOwnerRemovesWhatItMeantTo(t *testing.T) {
	b := start(t)
	removed := 0
	for round := range *rounds {
		b.do("FLUSHALL")
		random := rand.New(rand.NewPCG(uint64(round), 7))
		s := &story{box: b, right: round%2 == 1, random: random, numbers: map[string]uint64{}, serials: map[string]bool{}}
		for _, name := range []string{"a/1", "z/1"} {
			p := b.process(name)
			p.right = s.right
			s.actors = append(s.actors, &actor{process: p})
		}
		for range 40 {
			s.step()
		}
		if t.Failed() {
			t.Fatalf("round %d:\n%s", round, strings.Join(s.steps, "\n"))
		}
		removed += s.removed
	}
	if removed < *rounds {
		t.Errorf("only %d items were removed in %d rounds", removed, *rounds)
	}
}

func (s *story) say(format string, args ...any) {
	s.steps = append(s.steps, fmt.Sprintf(format, args...))
}

func (s *story) step() {
	a := s.actors[s.random.IntN(2)]
	switch s.random.IntN(12) {
	case 0, 1, 2:
		s.push()
	case 3:
		if s.random.IntN(2) == 0 {
			s.pop()
		} else {
			s.take()
		}
	case 4:
		s.say("the lease ends")
		if s.snapshot().ledger["owner"] != "" {
			s.expires()
		}
	case 5:
		s.arrive()
	case 6:
		if s.random.IntN(4) == 0 {
			s.send(a, sent{call: Call{Release: true, Holder: a.holder}})
			a.claimed = false
		}
	default:
		if !a.claimed {
			s.claim(a)
		} else if len(a.items) == 0 || s.random.IntN(4) == 0 {
			s.read(a)
		} else {
			s.trim(a)
		}
	}
}

func (s *story) push() {
	for range 1 + s.random.IntN(4) {
		item := fmt.Sprintf("%d\x00\xff%s", len(s.numbers), strings.Repeat("x", s.random.IntN(3)*600))
		s.numbers[item] = s.next
		s.next++
		if s.right {
			s.do("LPUSH", "jobs", item)
		} else {
			s.do("RPUSH", "jobs", item)
		}
	}
	s.say("push: %d items", len(s.numbers))
}

// pop takes the head as a stranger does. While the ledger knows no head that can't
// be noticed.
func (s *story) pop() {
	before := s.snapshot()
	if len(before.list) == 0 || before.ledger["head"] == "" {
		return
	}
	command := "LPOP"
	if s.right {
		command = "RPOP"
	}
	s.say("a stranger pops %.5q", s.do(command, "jobs"))
	s.disturb(nil)
}

// take takes an item from the middle as a stranger does. Those after it have lower
// numbers from then on.
func (s *story) take() {
	list := s.actors[0].process.items()
	if len(list) < 2 {
		return
	}
	k := 1 + s.random.IntN(min(4, len(list)-1))
	s.say("a stranger takes %.5q", list[k])
	s.do("LREM", "jobs", 1, list[k])
	for _, item := range list[k+1:] {
		s.numbers[item]--
	}
	s.next--
	s.disturb(nil)
}

func (s *story) disturb(by *actor) {
	for _, a := range s.actors {
		if a != by {
			a.clean = false
		}
	}
}

// arrive lets a call arrive that was sent before.
func (s *story) arrive() {
	if len(s.late) == 0 {
		return
	}
	i := s.random.IntN(len(s.late))
	late := s.late[i]
	if s.random.IntN(3) > 0 {
		s.late = slices.Delete(s.late, i, i+1)
	}
	s.say("late:")
	if o := s.execute(late); o.What == OK {
		s.disturb(nil)
	}
}

// send sends a call, which may arrive at once, late, or be repeated. It reports
// whether the sender hears the outcome.
func (s *story) send(a *actor, call sent) (Outcome, bool) {
	fate := s.random.IntN(10)
	if fate == 0 {
		s.say("%s sends a call that arrives late", a.holder)
		s.late = append(s.late, call)
		return Outcome{}, false
	}
	o := s.execute(call)
	if o.What == OK && call.call.Changes() || o.State != nil {
		s.disturb(a)
	}
	if fate == 1 {
		s.say("the answer is lost")
		return o, false
	}
	if fate == 2 {
		s.say("it will come again")
		s.late = append(s.late, call)
	}
	return o, true
}

func (s *story) claim(a *actor) {
	a.tried++
	o, heard := s.send(a, sent{call: Call{
		Claim: true, Holder: a.holder, FromRight: s.right, Attempt: a.tried, Epoch: "e", Lease: time.Hour, Start: true, Grace: time.Hour,
		First: s.truth(),
	}})
	if !heard || o.What != OK {
		return
	}
	a.learn(o)
	a.items, a.claimed, a.clean = nil, true, false
	if !o.State.HeadMoved {
		a.first, a.clean = o.First, true
		return
	}

	list := a.process.items()
	rebase := Call{Rebase: true, First: s.truth()}
	if len(list) > 0 {
		rebase.First = s.numbers[list[0]]
		rebase.Landmarks = []Landmark{at(0, list[0])}
	}
	o, heard = s.send(a, sent{call: a.filled(rebase), first: rebase.First})
	a.claimed = heard && o.What == OK
	a.learn(o)
	a.first, a.clean = rebase.First, a.claimed
}

// truth is the number of the head.
func (s *story) truth() uint64 {
	if list := s.actors[0].process.items(); len(list) > 0 {
		return s.numbers[list[0]]
	}
	return s.next
}

// read reads items, and believes them if a check after it succeeds.
func (s *story) read(a *actor) {
	list := a.process.items()
	check := a.filled(Call{})
	o, heard := s.send(a, sent{call: check})
	s.judgeFresh(a, o, heard)
	if a.claimed = heard && o.What == OK; a.claimed {
		a.items = list[:min(len(list), s.random.IntN(8))]
		a.first = o.First
	}
}

func (s *story) trim(a *actor) {
	n := 1 + s.random.IntN(len(a.items))
	call := a.filled(Call{Trim: int64(n), Landmarks: []Landmark{at(int64(n-1), a.items[n-1])}, Renew: s.random.IntN(2) == 0})
	o, heard := s.send(a, sent{call: call, items: a.items[:n], first: a.first})
	s.judgeFresh(a, o, heard)
	if a.claimed = heard && o.What == OK; a.claimed {
		a.learn(o)
		a.items, a.first = a.items[n:], a.first+uint64(n)
	}
}

// judgeFresh checks that nothing is refused without a reason.
func (s *story) judgeFresh(a *actor, o Outcome, heard bool) {
	if heard && a.clean && o.What != OK {
		s.t.Errorf("%s was refused without a reason: %s %s", a.holder, o.What, o.Why)
	}
}

// execute runs a call in Redis and judges its changes.
func (s *story) execute(call sent) Outcome {
	before := s.snapshot()
	o := s.call(call.call) // which checks that a refused call changes nothing
	after := s.snapshot()
	s.say("%s: claim %v release %v trim %d, serial %d, attempt %d: %s %s%s, first %d, serial %d", call.call.Holder, call.call.Claim,
		call.call.Release, call.call.Trim, call.call.Serial, call.call.Attempt, o.What, o.Why, o.Holder, o.First, o.Serial)

	if serial := after.ledger["serial"]; serial != before.ledger["serial"] {
		if s.serials[serial] {
			s.t.Errorf("serial %s was used twice", serial)
		}
		s.serials[serial] = true
	}
	s.judgeRemoval(call, before, after)
	return o
}

func (s *story) judgeRemoval(call sent, before, after snapshot) {
	if s.right {
		slices.Reverse(before.list)
		slices.Reverse(after.list)
	}
	n := len(before.list) - len(after.list)
	if n == 0 && slices.Equal(before.list, after.list) {
		return
	}
	if n < 0 || !slices.Equal(before.list[n:], after.list) {
		s.t.Fatal("the list was changed in another way than by removing its head")
	}

	s.removed += n
	switch {
	case !slices.Equal(before.list[:n], call.items):
		s.t.Errorf("%q were removed, %q were meant", before.list[:n], call.items)
	case before.ledger["owner"] != call.call.Holder:
		s.t.Errorf("%s removed, but %s is the owner", call.call.Holder, before.ledger["owner"])
	case before.ledger["first"] != fmt.Sprint(call.first) || call.first != s.numbers[call.items[0]]:
		s.t.Errorf("number %d was removed as %d, which the ledger calls %s", s.numbers[call.items[0]], call.first, before.ledger["first"])
	case after.ledger["first"] != fmt.Sprint(call.first+uint64(n)):
		s.t.Errorf("the head is number %s after %d from %d were removed", after.ledger["first"], n, call.first)
	}
}
