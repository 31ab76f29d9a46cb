package tcpserver

import (
	"fmt"
	"sync"
	"testing"

	"edged/internal/auth"
	"edged/internal/budget"
)

func TestAListThatIsAddedGetsTheSubscriptionsThatMatchAndMayHaveIt(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.Gate = gated(auth.Security{Users: []auth.User{{Name: "ann", Password: "a"}, {Name: "bob", Password: "b", Subscribe: auth.Rules{Deny: []string{"items"}}}}})
	s, addr := serve(t, opts)
	ann := dialWith(t, addr, `{"user":"ann","pass":"a"}`)
	bob := dialWith(t, addr, `{"user":"bob","pass":"b"}`)
	ann.send("SUB > 1\r\nSUB other 2\r\nSUB items 3\r\nUNSUB 3\r\n")
	bob.send("SUB * 1\r\n")
	ann.sync()
	bob.sync()
	l := &fakeList{subject: "items"}
	s.AddLists(List{Name: "items", Subject: "items", Joiner: l})
	if n := l.members(); n != 1 {
		t.Fatalf("%d subscriptions joined, want 1", n)
	}

	l.member(t, 0).offer("one")
	ann.expect("MSG items 1 3", "one", "PING")
	ann.send("PUB items 1\r\nx\r\n")
	ann.expect(`-ERR 'Permissions Violation for Publish to "items"'`)
}

func TestAListThatIsRemovedLeavesOrdinarySubscriptionsThatOweNothing(t *testing.T) {
	t.Parallel()
	s, addr, l := withList(t, testOptions(), OnPong)
	c := dial(t, addr)
	c.send("SUB items 1\r\n")
	m := l.member(t, 0)
	m.offer("one")
	c.expect("MSG items 1 3", "one", "PING")
	s.RemoveLists("")
	if left, _ := m.state(); left != 1 {
		t.Errorf("the membership was left %d times, want once", left)
	}

	if owed := s.Clients()[0].Owed; owed != 0 {
		t.Errorf("the client owes %d items", owed)
	}

	c.send("PONG\r\nPUB items 3\r\ntwo\r\n")
	c.expect("MSG items 1 3", "two")
	if got := m.confirmed(); got[0] != 0 {
		t.Error("a PONG has confirmed an item of the list that is gone")
	}
	c.send("UNSUB 1\r\n")
	c.sync()
}

func TestSubscriptionsThatComeAndGoMeanwhileJoinAListOnceAndLeaveIt(t *testing.T) {
	t.Parallel()
	s, addr := serve(t, testOptions())
	var clients sync.WaitGroup
	for range 4 {
		c := dial(t, addr)
		clients.Go(func() {
			for i := range 200 {
				fmt.Fprintf(c, "SUB items %d\r\nUNSUB %[1]d\r\nSUB > last%[1]d\r\n", i)
				if i > 0 {
					fmt.Fprintf(c, "UNSUB last%d\r\n", i-1)
				}
			}
		})
	}

	var past []*fakeList
	for range 50 {
		l := &fakeList{subject: "items"}
		past = append(past, l)
		s.AddLists(List{Name: "items", Subject: "items", Joiner: l})
		s.RemoveLists("items")
	}

	clients.Wait()
	for _, l := range past {
		for i := range l.members() {
			if left, finished := l.member(t, i).state(); left+len(finished) == 0 {
				t.Fatal("a subscription is still a member of a list that is gone")
			}
		}
	}
}

func TestLimitsThatChangeDisconnectNoClient(t *testing.T) {
	t.Parallel()
	s, addr := serve(t, testOptions())
	first := dial(t, addr)
	fewer := testOptions().Limits
	fewer.MaxConnections = 1
	s.SetLimits(fewer)
	second := dialRaw(t, addr)
	second.expect("-ERR 'maximum connections exceeded'")
	first.sync()
	s.SetLimits(testOptions().Limits)
	dial(t, addr)
}

// TestManyListsComeAndGoAtOnce counts memberships by the memory that clients are charged for.
func TestManyListsComeAndGoAtOnce(t *testing.T) {
	t.Parallel()
	opts := testOptions()
	opts.Budget = budget.New(1 << 30)
	s, addr := serve(t, opts)
	for _, subs := range []string{"SUB s.* 1\r\nSUB s.1 crew 2\r\n", "SUB s.> crew 1\r\nSUB s.1 crew 2\r\nSUB other.* 3\r\n"} {
		c := dial(t, addr)
		c.send(subs)
		c.sync()
	}
	before := opts.Budget.Used()

	const lists = 1000
	l := &fakeList{}
	added, names := make([]List, lists), make([]string, lists)
	for i := range lists {
		names[i] = fmt.Sprint("l", i)
		added[i] = List{Name: names[i], Subject: fmt.Sprint("s.", i), Joiner: l}
	}
	s.AddLists(added...)
	if n := (opts.Budget.Used() - before) / membershipSize; n != 2*lists+2 {
		t.Errorf("%d memberships began, want %d", n, 2*lists+2)
	}
	s.RemoveLists(names[1:]...)
	if n := (opts.Budget.Used() - before) / membershipSize; n != 2 { // of the two patterns, in list 0
		t.Errorf("%d memberships are left, want 2", n)
	}
	s.RemoveLists(names...)
	if n := opts.Budget.Used(); n != before {
		t.Errorf("%d bytes count as held, and %d before", n, before)
	}
}
