package judge

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// copies are a client of a list in which three items before an item count. Its items have a
// number and an id.
type copies struct {
	j *Judge
	s *Session
	n int
}

func (c *copies) item(n int, id string) string { return Identified(id, numbered(n)) }

// push pushes an item for each letter of ids, a second apart.
func (c *copies) push(ids string) {
	for _, id := range ids {
		time.Sleep(time.Second)
		c.n++
		c.j.Pushed("l", c.item(c.n, string(id)))
	}
}

// ahead pushes an item to the head, before another.
func (c *copies) ahead(id, head string) (item string) {
	time.Sleep(time.Second)
	item = Identified(id, Payload("l", 1, 10, true, false))
	c.j.Pushed("l", item)
	c.j.Ahead("l", head)
	return item
}

func (c *copies) get(n int, id string) { c.receive(c.item(n, id)) }

func (c *copies) receive(item string) {
	c.s.Received([]byte(item))
	c.s.Ponged()
}

func TestTheJudgeKnowsDuplicates(t *testing.T) {
	for name, c := range map[string]struct {
		run  func(c *copies) Held
		want string
	}{
		"the second copy is dropped": {func(c *copies) Held {
			c.push("aa")
			c.get(1, "a")
			return Held{}
		}, ""},
		"the second copy is delivered": {func(c *copies) Held {
			c.push("aa")
			c.get(1, "a")
			c.get(2, "a")
			return Held{}
		}, "duplicate"},
		"the second copy is delivered, the first one is not": {func(c *copies) Held {
			c.push("aa")
			c.get(2, "a")
			return Held{}
		}, "duplicate lost"},
		"both copies are missing": {func(c *copies) Held {
			c.push("aa")
			return Held{}
		}, "lost lost"},
		"an item without a copy is missing": {func(c *copies) Held {
			c.push("abc")
			c.get(1, "a")
			c.get(3, "c")
			return Held{}
		}, "lost skipped"},
		"an item without an id is missing": {func(c *copies) Held {
			c.j.Pushed("l", numbered(1))
			c.j.Pushed("l", numbered(2))
			c.receive(numbered(1))
			return Held{}
		}, "lost skipped"},
		"the last copy that counts is dropped": {func(c *copies) Held {
			c.push("abca")
			c.get(1, "a")
			c.get(2, "b")
			c.get(3, "c")
			return Held{}
		}, ""},
		"a copy too far from the first one is dropped": {func(c *copies) Held {
			c.push("abcda")
			c.get(1, "a")
			c.get(2, "b")
			c.get(3, "c")
			c.get(4, "d")
			return Held{}
		}, "lost skipped"},
		"a copy too far from the first one is delivered": {func(c *copies) Held {
			c.push("abcda")
			c.get(1, "a")
			c.get(2, "b")
			c.get(3, "c")
			c.get(4, "d")
			c.get(5, "a")
			return Held{}
		}, ""},
		"a copy of a dropped copy is dropped": {func(c *copies) Held {
			c.push("abcaa")
			c.get(1, "a")
			c.get(2, "b")
			c.get(3, "c")
			return Held{}
		}, ""},
		"a copy of a dropped copy is delivered": {func(c *copies) Held {
			c.push("abcade")
			c.get(1, "a")
			c.get(2, "b")
			c.get(3, "c")
			c.push("a")
			c.get(5, "d")
			c.get(6, "e")
			c.get(7, "a")
			return Held{}
		}, "duplicate"},
		"the first copy was before the last check": {func(c *copies) Held {
			c.push("a")
			c.get(1, "a")
			c.j.Check(Held{})
			c.push("a")
			return Held{}
		}, ""},
		"the first copy was before the last check but one": {func(c *copies) Held {
			c.push("a")
			c.get(1, "a")
			c.j.Check(Held{})
			c.push("bca")
			c.get(2, "b")
			c.get(3, "c")
			c.j.Check(Held{})
			c.push("a")
			return Held{}
		}, ""},
		"the first copy was before the last check, the second is delivered": {func(c *copies) Held {
			c.push("a")
			c.get(1, "a")
			c.j.Check(Held{})
			c.push("a")
			c.get(2, "a")
			return Held{}
		}, "duplicate"},
		"the first copy is a dead letter": {func(c *copies) Held {
			c.push("aa")
			c.j.lists["l"].MaxPayload = 0
			return Held{Dead: map[string][]string{c.item(1, "a"): {"larger than max_payload"}}}
		}, ""},
		"another program has removed the first copy": {func(c *copies) Held {
			c.push("aa")
			c.j.Changed(Held{Waiting: map[string]int{c.item(1, "a"): 1}}, Held{})
			c.j.Touched("l")
			return Held{}
		}, ""},
		"a copy is delivered after another program has removed items": {func(c *copies) Held {
			c.push("aa")
			c.get(1, "a")
			c.j.Touched("l")
			c.get(2, "a")
			return Held{}
		}, ""},
		"a copy is delivered after later items, because another program has removed the first one": {func(c *copies) Held {
			c.push("aab")
			c.get(1, "a")
			c.get(3, "b")
			c.j.Touched("l")
			c.get(2, "a")
			return Held{}
		}, ""},
		"both copies were pushed after another program had removed items": {func(c *copies) Held {
			c.push("z")
			c.j.Touched("l")
			c.push("aa")
			c.get(1, "z")
			c.get(2, "a")
			c.get(3, "a")
			return Held{}
		}, "duplicate"},
		"an item behind one pushed to the head is dropped": {func(c *copies) Held {
			c.push("ab")
			c.receive(c.ahead("b", c.item(1, "a")))
			c.get(1, "a")
			return Held{}
		}, ""},
		"an item pushed to the head is dropped": {func(c *copies) Held {
			c.push("ab")
			c.get(1, "a")
			c.ahead("a", c.item(2, "b"))
			c.get(2, "b")
			return Held{}
		}, ""},
		"an item pushed to the head is missing": {func(c *copies) Held {
			c.push("ab")
			c.ahead("a", c.item(1, "a"))
			c.get(1, "a")
			c.get(2, "b")
			return Held{}
		}, "lost"},
		"a requeue may still come": {func(c *copies) Held {
			c.j.Requeued("l")
			c.push("aa")
			c.get(1, "a")
			c.get(2, "a")
			return Held{}
		}, ""},
		"a requeue is over": {func(c *copies) Held {
			c.j.Requeued("l")
			c.j.RequeueEnded("l")
			c.push("aa")
			c.get(1, "a")
			c.get(2, "a")
			return Held{}
		}, "duplicate"},
		"published items may be between the copies": {func(c *copies) Held {
			c.push("ab")
			c.j.Published("l", numbered(10))
			c.push("a")
			c.get(1, "a")
			c.get(2, "b")
			c.get(3, "a")
			return Held{}
		}, ""},
		"published items were before the copies": {func(c *copies) Held {
			c.j.Published("l", numbered(10))
			c.j.Check(Held{})
			c.push("aba")
			c.get(1, "a")
			c.get(2, "b")
			c.get(3, "a")
			return Held{}
		}, "duplicate"},
		"Redis refused the first copy": {func(c *copies) Held {
			c.push("aa")
			c.j.Unpushed(c.item(1, "a"))
			c.get(2, "a")
			return Held{}
		}, ""},
		"a durable consumer owes no duplicate": {func(c *copies) Held {
			c.j.Created("l", "d", time.Now())
			d := c.j.Consuming("w", "a", "l", "d", time.Second, true)
			c.push("aa")
			c.get(1, "a")
			d.Received([]byte(c.item(1, "a")))
			d.Acknowledged([]byte(c.item(1, "a")))
			return Held{}
		}, ""},
		"a durable consumer lacks the first copy": {func(c *copies) Held {
			c.j.Created("l", "d", time.Now())
			c.push("aa")
			c.get(1, "a")
			return Held{}
		}, "lost"},
		"a viewer gets the second copy": {func(c *copies) Held {
			c.push("aa")
			c.get(1, "a")
			c.j.Viewing("v", "a", "l", true).Received([]byte(c.item(2, "a")))
			return Held{}
		}, "duplicate"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := New([]List{{Name: "l", Mode: "received", MaxPayload: 100, Dedup: 3}})
				j.Trouble() // only duplicates are looked for
				run := &copies{j: j, s: j.Subscribed("c", "a", "l", "", true)}
				if got := found(j, c.run(run)); got != c.want {
					t.Errorf("found %q, want %q: %q", got, c.want, j.Findings())
				}
			})
		})
	}
}

func TestTheJudgeFindsADuplicateInTheStreamOfAnUplink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := New([]List{{Name: "l", Mode: "received", MaxPayload: 100, Uplink: true, Dedup: 3}})
		c := &copies{j: j}
		c.push("abaa")
		j.Stored("l", c.item(1, "a"), "a")
		j.Stored("l", c.item(2, "b"), "a")
		j.Stored("l", c.item(3, "a"), "a")
		if got := found(j, Held{}); got != "duplicate" {
			t.Errorf("found %q: %q", got, j.Findings())
		}
	})
}

func TestTheJudgeForgetsTheOrderOfItemsThatNoneCanRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := New([]List{{Name: "l", Mode: "received", MaxPayload: 100, Dedup: 3}})
		c := &copies{j: j, s: j.Subscribed("c", "a", "l", "", true)}
		for n := range 100 {
			id := fmt.Sprint(n)
			j.Pushed("l", c.item(n+1, id))
			c.get(n+1, id)
		}
		j.Check(Held{})
		if l := j.lists["l"]; len(l.order) != 3 || len(j.Findings()) > 0 {
			t.Errorf("%d items are left: %q", len(l.order), j.Findings())
		}
	})
}
