package tcpserver

import (
	"slices"

	"edged/internal/subject"
)

// lists are the lists that are served. A value is never changed.
type lists struct {
	all []list
	own map[string]bool // their subjects
}

// list is a List with the token that stands for it in reply subjects.
type list struct {
	List
	token string
}

// with returns the lists and one more, with a token of its own.
func (ls *lists) with(l List) *lists {
	token := subject.Token(l.Name)
	for slices.ContainsFunc(ls.all, func(other list) bool { return other.token == token }) {
		token += "_"
	}
	return newLists(append(slices.Clip(ls.all), list{l, token}))
}

func newLists(all []list) *lists {
	ls := &lists{all: all, own: make(map[string]bool)}
	for _, l := range all {
		ls.own[l.Subject] = true
	}
	return ls
}

// without returns the lists except the one of this name.
func (ls *lists) without(name string) *lists {
	return newLists(slices.DeleteFunc(slices.Clone(ls.all), func(l list) bool { return l.Name == name }))
}

// owns reports whether a literal subject is that of a list.
func (ls *lists) owns(literal []byte) bool { return ls.own[string(literal)] }

// AddList adds a list: its subject belongs to the daemon from now on, and the
// subscriptions that match it become members, in the order of their clients. No other
// list may have its name or its subject.
func (s *Server) AddList(l List) {
	s.joining.Lock()
	defer s.joining.Unlock()
	all := s.lists.Load().with(l)
	s.lists.Store(all)
	added := all.all[len(all.all)-1]
	for _, c := range s.snapshot() {
		for _, sub := range c.subscriptions() {
			if sub.takes(added) {
				c.join(sub, added)
			}
		}
	}
}

// RemoveList ends a list: its subject no longer belongs to the daemon, its members no
// longer owe anything, their subscriptions become ordinary ones. Items that are queued
// and not yet written are dropped.
func (s *Server) RemoveList(name string) {
	s.joining.Lock()
	defer s.joining.Unlock()
	s.lists.Store(s.lists.Load().without(name))
	for _, c := range s.snapshot() {
		c.quitList(name)
	}
}

// subscriptions returns those that are open.
func (c *client) subscriptions() (all []*subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, sub := range c.subs {
		all = append(all, sub)
	}
	return all
}

// quitList ends the client's memberships in a list, those of past subscriptions too.
func (c *client) quitList(name string) {
	of := func(m *member) bool { return m.list == name }
	c.mu.Lock()
	var left []*member
	for m := range c.members {
		if of(m) {
			m.finished = true
			m.abandon()
			delete(c.members, m)
			left = append(left, m)
		}
	}
	for _, sub := range c.subs {
		sub.members = slices.DeleteFunc(sub.members, of)
	}
	for given, members := range c.given {
		if of(members[0]) { // a name stands for one list
			delete(c.given, given)
		}
	}
	c.dropAbandoned()
	c.mu.Unlock()
	for _, m := range left {
		m.membership.Leave()
	}
}
