package tcpserver

import (
	"cmp"
	"slices"
)

// lists are the lists that are served. A value never changes.
type lists struct {
	all []List
	own map[string]bool // their subjects
}

func newLists(all []List) *lists {
	ls := &lists{all: all, own: make(map[string]bool, len(all))}
	for _, l := range all {
		ls.own[l.Subject] = true
	}
	return ls
}

// owns reports whether a literal subject is that of a list.
func (ls *lists) owns(literal []byte) bool { return ls.own[string(literal)] }

// AddLists adds lists. Their subjects belong to the daemon from now on, and the subscriptions that
// match them become members, in the order of their clients. Names and subjects of lists must be
// unique. Many lists take as long as one, apart from the subscriptions that match.
func (s *Server) AddLists(added ...List) {
	s.joining.Lock()
	defer s.joining.Unlock()
	s.lists.Store(newLists(slices.Concat(s.lists.Load().all, added)))
	for _, l := range added {
		to := receivers{every: true}
		s.router.match([]byte(l.Subject), &to)
		slices.SortStableFunc(to.plain, func(a, b *subscription) int { return cmp.Compare(a.client.id, b.client.id) })
		for _, sub := range to.plain {
			sub.client.join(sub, l)
		}
	}
}

// RemoveLists ends the lists with these names. Their subjects no longer belong to the daemon, their
// members owe nothing more, and their subscriptions become ordinary ones. Queued items that are not
// written yet are dropped. Each client is visited once.
func (s *Server) RemoveLists(names ...string) {
	gone := make(map[string]bool, len(names))
	for _, name := range names {
		gone[name] = true
	}
	s.joining.Lock()
	defer s.joining.Unlock()
	left := slices.DeleteFunc(slices.Clone(s.lists.Load().all), func(l List) bool { return gone[l.Name] })
	s.lists.Store(newLists(left))
	for _, c := range s.snapshot() {
		c.quitLists(gone)
	}
}

// quitLists ends the client's memberships in some lists, including those of past subscriptions.
func (c *client) quitLists(gone map[string]bool) {
	of := func(m *member) bool { return gone[m.list] }
	c.mu.Lock()
	var left []*member
	for m := range c.members {
		if of(m) {
			m.finish()
			m.abandon()
			c.dropMember(m)
			left = append(left, m)
		}
	}

	for _, sub := range c.subs {
		sub.members = slices.DeleteFunc(sub.members, of)
	}

	for name := range gone {
		delete(c.names, name)
	}
	for given, members := range c.given {
		if of(members[0]) { // all members with this name belong to one list
			delete(c.given, given)
		}
	}
	c.dropAbandoned()
	c.mu.Unlock()

	for _, m := range left {
		m.membership.Leave()
	}
}
