package ledger

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"edged/internal/numbers"
	"edged/internal/redisconn"
)

func TestKeysAreInTheListsHashSlot(t *testing.T) {
	for list, ledger := range map[string]string{"jobs": "{jobs}:edged", "{a}jobs": "{a}jobs:edged", "{}x": "{{}x}:edged", "a{b": "{a{b}:edged"} {
		if got := KeysOf(list).Ledger; got != ledger {
			t.Errorf("ledger of %s: %s, want %s", list, got, ledger)
		}
	}
}

func TestAnItemsMarkIsTheSameInRedisAndFromPieces(t *testing.T) {
	b := start(t)
	p := b.owner(false)
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, 511, 512, 513, 1023, 1024, 1025, 3000, 100_000} {
		item := make([]byte, size)
		for i := range item {
			item[i] = byte(random.Uint32())
		}
		b.do("DEL", "jobs")
		b.do("RPUSH", "jobs", item)
		if o := p.updates(Call{Landmarks: []Landmark{{0, MarkOf(item)}, {1, ""}}}); o.What != OK {
			t.Errorf("%d bytes: %s %s", size, o.What, o.Why)
		}
		var m Marker
		for rest := item; len(rest) > 0; {
			n := 1 + random.IntN(len(rest))
			m.Add(rest[:n])
			rest = rest[n:]
		}
		if m.Mark() != MarkOf(item) {
			t.Errorf("%d bytes: %s from pieces, %s at once", size, m.Mark(), MarkOf(item))
		}
	}
}

func TestAnUpdateRemovesItemsAndWritesTheLedger(t *testing.T) {
	bothSides(t, func(t *testing.T, b *box, right bool) {
		p := b.owner(right, "i0", "i1", "i2", "\x00\r\n\xff", "i4")
		o := p.updates(Call{
			Trim: 3, Landmarks: []Landmark{at(0, "i0"), at(2, "i2"), at(3, "\x00\r\n\xff")},
			Set: []Field{{Finished, "3"}, {Done, "4"}, {Durable("d"), "3+1"}},
		})
		want(t, o, OK, "")
		if o.First != 3 || o.Length != 2 {
			t.Errorf("%+v", o)
		}
		p.wantItems("\x00\r\n\xff i4")
		b.wantField("head", string(MarkOf([]byte("\x00\r\n\xff"))))

		want(t, p.updates(Call{Trim: 2, Landmarks: []Landmark{at(1, "i4")}, Delete: []string{Durable("d")}}), OK, "")
		p.wantItems("")
		b.wantField("head", "")
		b.wantField("first", "5")
		b.wantField(Durable("d"), "")
		b.wantField(Done, "4")

		b.Push("jobs", "i5") // an empty list may get any head
		want(t, p.updates(Call{Renew: true}), OK, "")
		b.wantField("head", string(MarkOf([]byte("i5"))))
	})
}

func TestACheckChangesNothing(t *testing.T) {
	b := start(t)
	p := b.owner(false, "i0", "i1")
	before := b.snapshot()
	want(t, p.updates(Call{Landmarks: []Landmark{at(1, "i1"), {2, ""}}}), OK, "")
	if !b.snapshot().equal(before) {
		t.Error("it did")
	}
}

func TestACallIsRefusedWhenTheListIsNotAsItWasRead(t *testing.T) {
	bothSides(t, func(t *testing.T, b *box, right bool) {
		p := b.owner(right, "i0", "i1", "i2")
		want(t, p.updates(Call{Trim: 2, Landmarks: []Landmark{at(1, "i2")}}), Moved, "landmark")
		want(t, p.updates(Call{Landmarks: []Landmark{at(3, "i3")}}), Moved, "landmark")
		want(t, p.updates(Call{Trim: 4}), Moved, "length")
		want(t, p.updates(Call{Dead: []DeadLetter{{Index: 3}}}), Moved, "item")
		want(t, p.updates(Call{Dead: []DeadLetter{{Aside: true, Number: 3}}}), Moved, "item")

		pop, push := "LPOP", "LPUSH"
		if right {
			pop, push = "RPOP", "RPUSH"
		}
		b.do(pop, "jobs")
		want(t, p.updates(Call{Renew: true}), Moved, "head")
		want(t, p.updates(Call{Landmarks: []Landmark{at(0, "i1")}}), Moved, "head")
		b.do(push, "jobs", "x")
		want(t, p.updates(Call{Renew: true}), Moved, "head")
		b.do("DEL", "jobs")
		want(t, p.updates(Call{Renew: true}), Moved, "head")
	})
}

func TestAClaimReportsAnotherHeadAndARebaseCountsIt(t *testing.T) {
	bothSides(t, func(t *testing.T, b *box, right bool) {
		p := b.owner(right, "i0", "i1", "i2", "i3")
		if right {
			b.do("RPOP", "jobs", 2)
		} else {
			b.do("LPOP", "jobs", 2)
		}
		o := p.claims(Call{})
		if o.What != OK || !o.State.HeadMoved || o.State.Created || o.State.RunChanged || o.First != 0 {
			t.Fatalf("%+v, %+v", o, o.State)
		}
		want(t, p.updates(Call{Renew: true}), Moved, "head")

		want(t, p.updates(Call{Rebase: true, First: 2, Landmarks: []Landmark{at(0, "i3")}}), Moved, "landmark")
		o = p.updates(Call{Rebase: true, First: 2, Landmarks: []Landmark{at(0, "i2")}, Trim: 1})
		want(t, o, OK, "")
		if o.First != 3 {
			t.Errorf("first is %d", o.First)
		}
		p.wantItems("i3")
		want(t, p.updates(Call{Renew: true}), OK, "")
	})
}

func TestACallThatArrivesLateIsRefused(t *testing.T) {
	b := start(t)
	p := b.owner(false, "i0", "i0", "i0", "i0") // equal items: only the serial tells
	late := p.filled(Call{Trim: 1, Landmarks: []Landmark{at(0, "i0")}})
	want(t, p.updates(Call{Trim: 1, Landmarks: []Landmark{at(0, "i0")}}), OK, "")
	want(t, b.call(late), Moved, "serial")
	want(t, p.claims(Call{}), OK, "")
	want(t, b.call(late), Moved, "serial")
	p.wantItems("i0 i0 i0")

	late = p.filled(Call{Renew: true})
	want(t, p.updates(Call{Set: []Field{{Epoch, "e2"}}}), OK, "")
	late.Serial = p.serial
	want(t, b.call(late), Moved, "epoch")
	b.wantField(Epoch, "e2")
}

func TestAClaimTellsWhatALostReplyWouldHaveTold(t *testing.T) {
	b := start(t)
	p := b.owner(false, "i0", "i1", "i2")
	unanswered := p.filled(Call{Trim: 2, Set: []Field{{Done, "2"}}})
	b.call(unanswered)
	want(t, b.call(unanswered), Moved, "serial") // carried out once

	o := p.claims(Call{})
	if o.First != 2 || o.State.Done != 2 || o.State.Serial != unanswered.Attempt || o.Serial <= o.State.Serial {
		t.Errorf("%+v, %+v", o, o.State)
	}
}

func TestSerialsNeverGoBack(t *testing.T) {
	b := start(t)
	p := b.owner(false, "i0")
	for range 5 {
		want(t, p.updates(Call{Renew: true}), OK, "")
	}
	stood := p.serial
	again := b.process("a/1") // it knows no serial
	o := again.claims(Call{})
	if o.Serial != stood+1 || o.State.Serial != stood {
		t.Errorf("serial %d after %d, want %d after %d", o.Serial, o.State.Serial, stood+1, stood)
	}

	b.do("HSET", b.keys.Ledger, "serial", "9007199254740990")
	if o := again.claims(Call{}); o.Serial != 9007199254740991 {
		t.Errorf("serial %d", o.Serial)
	}
}

func TestAnotherInstanceStandsByUntilTheLeaseEnds(t *testing.T) {
	b := start(t)
	a, z := b.owner(false, "i0", "i1"), b.process("z/1")
	want(t, z.claims(Call{Start: true}), Standby, "a/1")
	want(t, z.updates(Call{Trim: 1}), Standby, "a/1")

	b.expires()
	want(t, z.updates(Call{Trim: 1}), Standby, "a/1") // only a claim takes over
	want(t, a.updates(Call{Landmarks: []Landmark{at(0, "i0")}}), OK, "")
	want(t, a.updates(Call{Renew: true}), OK, "") // an owner without successor goes on
	want(t, z.claims(Call{Start: true}), Standby, "a/1")

	late := a.filled(Call{Trim: 1})
	b.expires()
	o := z.claims(Call{Start: true, Epoch: "other"})
	want(t, o, OK, "")
	if o.State.Created || o.State.Epoch != a.epoch {
		t.Errorf("%+v", o.State)
	}
	want(t, b.call(late), Standby, "z/1")
	want(t, a.claims(Call{}), Standby, "z/1")
	want(t, z.updates(Call{Trim: 1}), OK, "")
}

func TestARestartedProcessTakesItsOwnLeaseAtOnce(t *testing.T) {
	b := start(t)
	a := b.owner(false, "i0")
	late := a.filled(Call{Trim: 1})
	again, other := b.process("a/2"), b.process("ab/2")
	want(t, other.claims(Call{Instead: "ab/", Start: true}), Standby, "a/1")
	want(t, again.claims(Call{Instead: "a/", Start: true}), OK, "")
	want(t, b.call(late), Standby, "a/2")
}

func TestAReleasedListIsTakenAtOnce(t *testing.T) {
	b := start(t)
	a, z := b.owner(false, "i0"), b.process("z/1")
	late := a.filled(Call{Trim: 1})
	want(t, b.call(Call{Release: true, Holder: "z/1"}), Standby, "a/1")
	want(t, b.call(Call{Release: true, Holder: "a/1"}), OK, "")
	want(t, b.call(Call{Release: true, Holder: "a/1"}), OK, "")
	want(t, b.call(late), Moved, "owner")
	want(t, z.claims(Call{Start: true}), OK, "")
	want(t, b.call(late), Standby, "z/1")
}

func TestAClockThatWasSetBackKeepsNoInstanceOutForLongerThanALease(t *testing.T) {
	b := start(t)
	a, z := b.owner(false, "i0"), b.process("z/1")
	b.do("HSET", b.keys.Ledger, "deadline", time.Now().Add(time.Hour).UnixMilli())
	reply, err := b.server.Do(context.Background(), (&Call{Claim: true, Holder: "z/1", Lease: time.Minute}).Words(b.keys)...)
	if o, err2 := ParseOutcome(reply); err != nil || err2 != nil || o.What != Standby {
		t.Fatal(o, err, err2)
	}
	var deadline int64
	fmt.Sscan(b.snapshot().ledger["deadline"], &deadline)
	if ahead := time.Until(time.UnixMilli(deadline)); ahead > lease || ahead < 0 {
		t.Errorf("the deadline is %v ahead, and the owner's lease %v", ahead, lease)
	}
	before := b.snapshot()
	want(t, z.claims(Call{}), Standby, "a/1")
	if !b.snapshot().equal(before) {
		t.Error("the deadline was moved again")
	}
	want(t, a.updates(Call{Renew: true}), OK, "")
}

func TestWithoutALedgerOnlyAClaimGoesOn(t *testing.T) {
	b := start(t)
	p := b.owner(false, "i0", "i1")
	late := p.filled(Call{Trim: 1})
	b.do("DEL", b.keys.Ledger)
	want(t, b.call(late), Lost, "")
	o := p.claims(Call{Epoch: "e2", First: 7})
	if !o.State.Created || o.First != 7 || o.State.Done != 7 || o.State.Finished.Floor() != 7 || o.State.Epoch != "e2" || o.State.HeadMoved {
		t.Errorf("%+v, %+v", o, o.State)
	}
	want(t, b.call(late), Moved, "serial")
	if ttl := b.do("TTL", b.keys.Ledger); ttl != int64(-1) {
		t.Errorf("the ledger has a TTL of %v", ttl)
	}

	b.do("HDEL", b.keys.Ledger, "first")
	b.do("HSET", b.keys.Ledger, Group("g"), "5")
	want(t, p.updates(Call{Renew: true}), Lost, "")
	for _, made := range []bool{true, false} {
		if o := p.claims(Call{}); o.State.Created != made || len(o.State.Groups) > 0 {
			t.Errorf("of a ledger that lacks its first number something was kept: %+v", o.State)
		}
	}
}

func TestAGraceBeginsAtAStartAndIsNotMovedByTheNext(t *testing.T) {
	b := start(t)
	p := b.owner(false, "i0") // no grace asked for
	if o := p.claims(Call{Grace: time.Minute}); !o.State.Grace.IsZero() {
		t.Error("a claim that is no start began a grace")
	}
	o := p.claims(Call{Start: true, Grace: time.Minute})
	if o.State.Grace.Sub(o.State.Now) != time.Minute {
		t.Fatalf("the grace ends %v after now", o.State.Grace.Sub(o.State.Now))
	}
	end := o.State.Grace

	z := b.process("z/1")
	b.expires()
	if o := z.claims(Call{Start: true, Grace: time.Hour}); !o.State.Grace.Equal(end) {
		t.Error("the next start moved it")
	}
	b.do("HSET", b.keys.Ledger, Grace, time.Now().Add(-time.Minute).UnixMilli()) // it ended while the box was off
	if o := z.claims(Call{Start: true, Grace: time.Minute}); !o.State.Grace.After(o.State.Now) {
		t.Error("a start after the end of one began none")
	}
	want(t, z.updates(Call{Delete: []string{Grace}}), OK, "")
	b.expires()
	if o := p.claims(Call{Grace: time.Minute}); !o.State.Grace.After(o.State.Now) {
		t.Error("a change of owner did not begin one")
	}
}

func TestAnotherRunOfRedisBeginsAnEpoch(t *testing.T) {
	b := start(t, "--appendonly", "yes", "--appendfsync", "always")
	p := b.owner(false, "i0", "i1")
	want(t, p.updates(Call{Trim: 1, Set: []Field{{Finished, "1"}, {Group("g"), "1"}}}), OK, "")
	late := p.filled(Call{Trim: 1})

	b.Kill()
	b.Restart()
	b.server = b.connect(redisconn.Options{})
	o := p.claims(Call{Epoch: "e2"})
	if !o.State.RunChanged || o.State.Created || o.State.Epoch != "e2" || o.First != 1 || len(o.State.Groups) != 1 || len(o.State.Run) != 40 {
		t.Errorf("%+v", o.State)
	}
	want(t, b.call(late), Moved, "serial")
	if o := p.claims(Call{Epoch: "e3"}); o.State.RunChanged || o.State.Epoch != "e2" {
		t.Errorf("%+v", o.State)
	}
	if o := p.claims(Call{Epoch: "e3", ByReplication: true}); !o.State.RunChanged || len(o.State.Run) != 40 {
		t.Errorf("by the replication id: %+v", o.State)
	}
}

// An epoch is a part of reply subjects.
func TestAnEpochThatCannotStandInASubjectIsReplaced(t *testing.T) {
	b := start(t)
	p := b.owner(false, "i0", "i1")
	for _, epoch := range []string{"", " ", "x y", "x.y", "*", "x\r\n", "x\x00", strings.Repeat("x", 65)} {
		b.do("HSET", b.keys.Ledger, Epoch, epoch)
		if o := p.claims(Call{Epoch: "e2"}); o.State.Epoch != "e2" || o.State.Created || !slices.Equal(o.State.Malformed, []string{Epoch}) {
			t.Errorf("%q: %+v", epoch, o.State)
		}
		want(t, p.updates(Call{Renew: true}), OK, "")
	}
	b.do("HDEL", b.keys.Ledger, Epoch)
	if o := p.claims(Call{Epoch: "e3"}); o.State.Epoch != "e3" {
		t.Errorf("none: %+v", o.State)
	}
}

func TestDeadLettersAndItemsSetAsideAreCopiedBeforeAnythingIsRemoved(t *testing.T) {
	bothSides(t, func(t *testing.T, b *box, right bool) {
		p := b.owner(right, "i0", "i1", "i2", "i3")
		want(t, p.updates(Call{
			Trim: 3, Landmarks: []Landmark{at(2, "i2")},
			Dead: []DeadLetter{{Index: 0, Line: "zero"}, {Index: 2, Line: "two"}}, Aside: []Aside{{1, 11}, {3, 13}},
		}), OK, "")
		s := b.snapshot()
		if !slices.Equal(s.dead, []string{"zero2}\ni0", "two2}\ni2"}) || !maps.Equal(s.aside, map[string]string{"11": "i1", "13": "i3"}) {
			t.Fatalf("%+v", s)
		}
		p.wantItems("i3")

		if o := p.claims(Call{}); len(o.State.Aside) != 2 {
			t.Errorf("aside are %v", o.State.Aside)
		}
		want(t, p.updates(Call{Dead: []DeadLetter{{Aside: true, Number: 11, Line: "late"}}, Restored: []uint64{11, 12}}), OK, "")
		s = b.snapshot()
		if len(s.dead) != 3 || s.dead[2] != "late2}\ni1" || len(s.aside) != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestItemsAsideGoBackToTheHeadWithALostLedger(t *testing.T) {
	bothSides(t, func(t *testing.T, b *box, right bool) {
		p := b.owner(right, "i9", "i10", "i11")
		want(t, p.updates(Call{Trim: 2, Aside: []Aside{{0, 9}, {1, 10}}}), OK, "")
		b.do("DEL", b.keys.Ledger)
		o := p.claims(Call{})
		p.wantItems("i9 i10 i11")
		if len(o.State.Aside) > 0 || len(b.snapshot().aside) > 0 {
			t.Error("they are still aside")
		}
		want(t, p.updates(Call{Trim: 1, Landmarks: []Landmark{at(0, "i9")}}), OK, "")
	})
}

func TestAClaimReturnsAllRecords(t *testing.T) {
	b := start(t)
	p := b.owner(false, "i0")
	var long numbers.Set
	for i := range uint64(numbers.MaxSpans) {
		long.Add(3*i+1, 3*i+2)
	}
	want(t, p.updates(Call{Set: []Field{
		{Finished, "4+1"}, {Done, "9"}, {Plain, "5"}, {Grace, "1764243000000"},
		{Group("a:b"), "5+2,1"}, {Durable("d"), "7"}, {Durable("broken"), "x"}, {"later", "version"},
	}}), OK, "")
	s := p.claims(Call{}).State
	group, durable := s.Groups["a:b"], s.Durables["d"]
	if s.Finished.String() != "4+1" || s.Done != 9 || s.Plain != 5 || !s.HasPlain || s.Grace.UnixMilli() != 1764243000000 ||
		group.String() != "5+2,1" || durable.String() != "7" || len(s.Groups) != 1 || len(s.Durables) != 2 ||
		!slices.Equal(s.Malformed, []string{Durable("broken")}) {
		t.Errorf("%+v", s)
	}

	for _, name := range []string{Finished, Done, Plain, Grace} {
		b.do("HSET", b.keys.Ledger, name, "99999999999999999999")
	}
	s = p.claims(Call{Start: true, Grace: time.Minute}).State
	if len(s.Malformed) != 5 || s.Done != 0 || s.Plain != 0 || !s.HasPlain || s.Finished.Count() != 0 {
		t.Errorf("%+v", s)
	}
	for _, name := range []string{"serial", "first", "deadline", "lease", "head"} {
		b.do("HSET", b.keys.Ledger, name, "x")
		want(t, p.claims(Call{}), OK, "")
	}
}

func TestALargeStateFitsIntoAReply(t *testing.T) {
	b := start(t)
	p := b.owner(false, "i0")
	var long numbers.Set
	for i := range uint64(numbers.MaxSpans) {
		long.Add(40000*i+1, 40000*i+40000)
	}
	for i := range 64 {
		b.do("HSET", b.keys.Ledger, Durable(fmt.Sprint(i)), long.String())
	}
	c, err := b.server.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	call := Call{Claim: true, Holder: p.holder, Lease: lease}
	c.Command(call.Words(b.keys)...)
	if err := c.Send(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Receive(nil)
	reply, err := c.ValueWithin(MaxState)
	if err := c.Finish(err); err != nil {
		t.Fatal(err)
	}
	o, err := ParseOutcome(reply)
	if err != nil || len(o.State.Durables) != 64 || len(o.State.Malformed) > 0 {
		t.Errorf("%d durables, %v malformed, %v", len(o.State.Durables), o.State.Malformed, err)
	}
}

func TestParseOutcomeRefusesOtherReplies(t *testing.T) {
	ok := []any{"ok", int64(1), "", "1", "2"}
	if o, err := ParseOutcome(ok); err != nil || o.Serial != 1 || o.First != 2 {
		t.Fatal(o, err)
	}
	broken := []any{nil, "OK", []any(nil), ok[:4], append(slices.Clone(ok), "more")}
	for i, word := range []any{"other", "1", nil, "x", ""} {
		if i != 2 {
			reply := slices.Clone(ok)
			reply[i] = word
			broken = append(broken, reply)
		}
	}
	for _, reply := range broken {
		if o, err := ParseOutcome(reply); err == nil {
			t.Errorf("%v is %+v", reply, o)
		}
	}
	for _, flags := range []any{nil, []any{int64(1)}, []any{int64(1), int64(0), int64(0), "x", "1"}} {
		if _, err := ParseOutcome(append(slices.Clone(ok), flags, []any(nil), []any(nil), []any(nil))); err == nil {
			t.Errorf("%v are flags", flags)
		}
	}
}

// everything is an update that runs all commands.
var everything = Call{
	Renew: true, Trim: 2, Dead: []DeadLetter{{Index: 0}, {Index: 1}, {Aside: true, Number: 50}}, Aside: []Aside{{1, 51}},
	Restored: []uint64{50}, Delete: []string{Plain}, Set: []Field{{Done, "2"}},
	Times: []Time{{Below: 3, At: time.UnixMilli(5)}}, TimesGone: 1,
}

func TestACallThatTheACLDeniesIsNotHalfDone(t *testing.T) {
	b := start(t)
	p := b.owner(false, "i0", "i1", "i2")
	want(t, p.updates(Call{Trim: 1, Aside: []Aside{{0, 50}}, Set: []Field{{Plain, "1"}}}), OK, "")
	b.do("ACL", "SETUSER", "edged", "on", ">secret", "allcommands", "allkeys")
	server := b.connect(redisconn.Options{Username: "edged", Password: "secret"})
	denied := func(c Call, rights ...any) {
		t.Helper()
		c = p.filled(c)
		b.do(append([]any{"ACL", "SETUSER", "edged", "reset", "on", ">secret"}, rights...)...)
		before := b.snapshot()
		if reply, err := server.Do(t.Context(), c.Words(b.keys)...); err == nil {
			t.Errorf("with %v: %v", rights, reply)
		}
		if after := b.snapshot(); !before.equal(after) {
			t.Errorf("with %v\n%v\nbecame\n%v", rights, before, after)
		}
	}

	update := []string{"hmget", "hget", "lindex", "llen", "ltrim", "rpush", "hset", "hdel", "time"}
	for _, command := range update {
		denied(everything, "allkeys", "allcommands", "-"+command)
	}
	for _, command := range []string{"hmget", "lindex", "ltrim", "hset", "time"} {
		denied(Call{Renew: true, Trim: 1, Set: []Field{{Done, "2"}}}, "allkeys", "allcommands", "-"+command)
	}
	claim := Call{Claim: true}
	for _, command := range []string{"hmget", "hgetall", "hkeys", "lrange", "lindex", "llen", "hset", "hdel", "time"} {
		denied(claim, "allkeys", "allcommands", "-"+command)
	}
	keys := b.keys.all()
	for i := range keys {
		rest := []any{"allcommands"}
		for _, key := range slices.Delete(slices.Clone(keys), i, i+1) {
			rest = append(rest, "~"+key)
		}
		denied(everything, rest...)
	}

	b.do("DEL", b.keys.Ledger)
	p.serial = 0
	for _, command := range []string{"lpush", "del", "hget"} {
		denied(claim, "allkeys", "allcommands", "-"+command)
	}
	b.do("ACL", "SETUSER", "edged", "reset", "on", ">secret", "allkeys", "allcommands", "-info")
	b.server = server
	if o := p.claims(Call{}); o.What != OK || o.State.Run != "" {
		t.Errorf("without INFO: %+v", o)
	}
	b.do("ACL", "SETUSER", "edged", "reset", "on", ">secret", "allkeys", "-@all", "+evalsha", "+lpush", "+del", "+hgetall", "+hkeys", "+lrange")
	for _, command := range update {
		b.do("ACL", "SETUSER", "edged", "+"+command)
	}
	want(t, p.updates(Call{Aside: []Aside{{0, 50}}, Trim: 1}), OK, "")
	want(t, p.updates(everything), OK, "")
	want(t, p.claims(Call{}), OK, "")
}

func TestAKeyOfAnotherTypeIsNotHalfDone(t *testing.T) {
	b := start(t)
	p := b.owner(false, "i0", "i1", "i2")
	want(t, p.updates(Call{Trim: 1, Aside: []Aside{{0, 50}}, Set: []Field{{Plain, "1"}}}), OK, "")
	for _, key := range b.keys.all()[:4] { // Free may be overwritten
		value, err := b.Client().Dump(t.Context(), key).Result()
		b.do("DEL", key)
		b.do("SET", key, "other")
		if reply, err := b.server.Do(t.Context(), new(p.filled(everything)).Words(b.keys)...); err == nil {
			t.Errorf("%s: %v", key, reply)
		}
		b.do("DEL", key)
		if err == nil {
			b.do("RESTORE", key, 0, value)
		}
	}
	o := p.updates(everything)
	want(t, o, OK, "")
	if s := b.snapshot(); len(s.dead) != 3 || len(s.list) != 0 || o.First != 3 {
		t.Errorf("something was done before: %+v", s)
	}
}

func TestCallsSucceedInAFullRedis(t *testing.T) {
	b := start(t, "--maxmemory-policy", "noeviction")
	p := b.owner(false, "i0", "i1", "i2", "i3", "i4")
	want(t, p.updates(Call{Trim: 1, Aside: []Aside{{0, 50}}}), OK, "")
	b.do("CONFIG", "SET", "maxmemory", 1)
	if err := b.Client().Set(t.Context(), "x", "y", 0).Err(); err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Fatalf("Redis is not full: %v", err)
	}

	want(t, p.claims(Call{Start: true, Grace: time.Second}), OK, "")
	want(t, p.updates(Call{Renew: true}), OK, "")
	want(t, p.updates(Call{Set: []Field{{Plain, "1"}}}), OK, "")
	want(t, p.updates(Call{Aside: []Aside{{1, 52}}}), OK, "")
	want(t, p.updates(Call{Delete: []string{Plain}}), OK, "")
	want(t, p.updates(everything), OK, "")
}

func TestAStandbyTakesOverInAFullRedis(t *testing.T) {
	b := start(t, "--maxmemory-policy", "noeviction")
	p := b.owner(false, "i0", "i1")
	want(t, p.updates(Call{Trim: 1, Aside: []Aside{{0, 50}}}), OK, "")
	b.do("HSET", b.keys.Ledger, "deadline", time.Now().Add(time.Hour).UnixMilli())
	b.do("CONFIG", "SET", "maxmemory", 1)
	claim := Call{Claim: true, Holder: "z/1", Lease: lease, Epoch: "e"}
	if _, err := b.server.Do(t.Context(), claim.Words(b.keys)...); err != nil {
		t.Error(err)
	}
	want(t, b.call(Call{Release: true, Holder: "a/1"}), OK, "")
	want(t, b.process("z/1").claims(Call{}), OK, "")
	b.do("DEL", b.keys.Ledger)
	want(t, p.claims(Call{}), OK, "")
	p.wantItems("i0 i1")
}

func TestTimesAreAddedAndRemovedAndComeWithAClaim(t *testing.T) {
	b := start(t)
	p := b.owner(false, "i0")
	times := []Time{{5, time.UnixMilli(1000)}, {7, time.UnixMilli(2000)}, {9, time.UnixMilli(3000)}}
	want(t, p.updates(Call{Times: times[:2]}), OK, "")
	want(t, p.updates(Call{Times: times[2:], TimesGone: 1}), OK, "")
	if got := p.claims(Call{}).State.Times; !slices.Equal(got, times[1:]) {
		t.Errorf("the times are %v", got)
	}
	want(t, p.updates(Call{Times: times[:1], TimesGone: AllTimes}), OK, "")
	b.do("RPUSH", b.keys.Times, "x:1", "1", "3:y", "6:9223372036854775807", "6:253402300800000")
	if got := p.claims(Call{}).State.Times; !slices.Equal(got, times[:1]) {
		t.Errorf("the times are %v", got)
	}
	b.do("DEL", b.keys.Ledger)
	if got := p.claims(Call{}).State.Times; len(got) > 0 {
		t.Errorf("with a new ledger the times are %v", got)
	}
}

func TestAnUpdateTellsWhetherRedisIsFull(t *testing.T) {
	b := start(t, "--maxmemory-policy", "noeviction")
	p := b.owner(false, "i0", "i1", "i2")
	if o := p.updates(Call{Kept: true, Trim: 1}); o.What != OK || o.Full {
		t.Errorf("%+v", o)
	}
	b.do("CONFIG", "SET", "maxmemory", 1)
	if o := p.updates(Call{Kept: true, Trim: 1}); o.What != OK || !o.Full || o.First != 2 {
		t.Errorf("%+v", o)
	}
}

func TestAListStaysTrackedAfterAnUpdate(t *testing.T) {
	b := start(t)
	p := b.owner(false, "i0", "i1", "i2", "i3")
	changed := make(chan string, 100)
	servers := redisconn.NewServers(redisconn.Options{Address: b.Address(), Timeout: 10 * time.Second},
		redisconn.Callbacks{Changed: func(key string) { changed <- key }})
	ctx, cancel := context.WithCancel(t.Context())
	defer servers.Close()
	defer cancel()
	server := servers.Route().Server
	servers.Watch(ctx)
	if key := <-changed; key != "" {
		t.Fatalf("a hint for %q before anything was read", key)
	}
	b.server = server
	server.Heed(ctx)

	for _, c := range []Call{{Trim: 1}, {Renew: true}, {Set: []Field{{Done, "1"}}}, {Landmarks: []Landmark{at(0, "i1")}},
		{Trim: 1, Dead: []DeadLetter{{}}, Aside: []Aside{{0, 4}}}} {
		want(t, p.updates(c), OK, "")
		b.Push("jobs", "more")
		if key := <-changed; key != "jobs" {
			t.Errorf("after %+v: a hint for %q", c, key)
		}
	}
	want(t, p.claims(Call{}), OK, "")
	b.Push("jobs", "more")
	if key := <-changed; key != "jobs" {
		t.Errorf("after a claim: a hint for %q", key)
	}
}
