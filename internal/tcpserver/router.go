package tcpserver

import (
	"math/rand/v2"
	"strings"
	"sync"

	"edged/internal/subject"
)

// maxTokens is the most tokens that a subject with wildcards may have. Each of them
// costs a node of the router: a control line of dots would cost much more than itself.
const maxTokens = 64

// router finds the subscriptions that a message goes to. Literal subjects are looked up
// in a map and only patterns stand in a trie, so a message costs one lookup and a walk
// past the patterns that could match it.
//
// Its lock is held for lookups and changes only, never while something is sent.
type router struct {
	mu       sync.RWMutex
	literals map[string][]*subscription // guarded by mu
	patterns node                       // guarded by mu
}

// node is a place in the trie of patterns. Guarded by router.mu.
type node struct {
	subs []*subscription // patterns that end here
	tail []*subscription // patterns that end here with ">"
	star *node
	next map[string]*node
}

func newRouter() *router { return &router{literals: make(map[string][]*subscription)} }

func (r *router) add(sub *subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !sub.wild {
		r.literals[sub.subject] = append(r.literals[sub.subject], sub)
		return
	}
	n := &r.patterns
	for token := range strings.SplitSeq(sub.subject, ".") {
		switch token {
		case ">":
			n.tail = append(n.tail, sub)
			return
		case "*":
			if n.star == nil {
				n.star = new(node)
			}
			n = n.star
		default:
			if n.next == nil {
				n.next = make(map[string]*node)
			}
			if n.next[token] == nil {
				n.next[token] = new(node)
			}
			n = n.next[token]
		}
	}
	n.subs = append(n.subs, sub)
}

// remove removes subscriptions. Those that are not there are passed over.
func (r *router) remove(subs ...*subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sub := range subs {
		if sub.wild {
			r.patterns.remove(sub.subject, sub)
			continue
		}
		if left := without(r.literals[sub.subject], sub); len(left) > 0 {
			r.literals[sub.subject] = left
		} else {
			delete(r.literals, sub.subject)
		}
	}
}

// remove removes sub below n, and the nodes that are no longer needed.
func (n *node) remove(pattern string, sub *subscription) {
	token, rest, more := strings.Cut(pattern, ".")
	child := n.next[token]
	switch token {
	case ">":
		n.tail = without(n.tail, sub)
		return
	case "*":
		child = n.star
	}
	if child == nil {
		return
	}
	if more {
		child.remove(rest, sub)
	} else {
		child.subs = without(child.subs, sub)
	}
	if child.empty() {
		if token == "*" {
			n.star = nil
		} else {
			delete(n.next, token)
		}
	}
}

func (n *node) empty() bool {
	return len(n.subs) == 0 && len(n.tail) == 0 && n.star == nil && len(n.next) == 0
}

// without removes sub; the order of the others does not matter.
func without(subs []*subscription, sub *subscription) []*subscription {
	for i, s := range subs {
		if s == sub {
			last := len(subs) - 1
			subs[i], subs[last] = subs[last], nil
			return subs[:last]
		}
	}
	return subs
}

// receivers are the subscriptions that a message goes to: the plain ones, and
// one of each queue group.
type receivers struct {
	except *client // left out: the publisher, if it wants no echo
	only   *client // the only one that gets it; nil for no restriction

	subject []byte
	plain   []*subscription
	groups  []groupPick
}

// groupPick is a queue group's choice among the members seen so far.
type groupPick struct {
	name string
	sub  *subscription
	seen int
}

// match finds the receivers of a message to a literal subject. It overwrites to,
// except for its fields except and only. Subscriptions that have ended are left out.
func (r *router) match(literal []byte, to *receivers) {
	to.reset()
	to.subject = literal
	r.mu.RLock()
	to.add(r.literals[string(literal)])
	r.patterns.match(literal, to)
	r.mu.RUnlock()
}

func (n *node) match(literal []byte, to *receivers) {
	to.add(n.tail)
	token, rest, more := subject.Cut(literal)
	for _, child := range [2]*node{n.next[string(token)], n.star} {
		switch {
		case child == nil:
		case more:
			child.match(rest, to)
		default:
			to.add(child.subs)
		}
	}
}

// reset empties t, so that it keeps no subscription in memory.
func (t *receivers) reset() {
	clear(t.plain)
	clear(t.groups)
	t.subject, t.plain, t.groups = nil, t.plain[:0], t.groups[:0]
}

func (t *receivers) add(subs []*subscription) {
	for _, sub := range subs {
		switch {
		case sub.client == t.except || t.only != nil && sub.client != t.only || !sub.open():
		case len(sub.deny) > 0 && sub.denies(string(t.subject)):
		case sub.queue == "":
			t.plain = append(t.plain, sub)
		default:
			t.addToGroup(sub)
		}
	}
}

// addToGroup lets each member of a group be chosen with the same probability.
func (t *receivers) addToGroup(sub *subscription) {
	for i := range t.groups {
		if g := &t.groups[i]; g.name == sub.queue {
			g.seen++
			if rand.IntN(g.seen) == 0 {
				g.sub = sub
			}
			return
		}
	}
	t.groups = append(t.groups, groupPick{name: sub.queue, sub: sub, seen: 1})
}
