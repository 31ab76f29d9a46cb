package tcpserver

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"edged/internal/subject"
)

// maxTokens is the maximum number of tokens of a subject with wildcards. Each token takes a node of
// the router: a control line of dots would use far more memory than its own size.
const maxTokens = 64

// maxName is the maximum length in bytes of a queue group's name and of a sid. Each message carries
// the sid, and the lookup of a queue group reads its name.
const maxName = 255

// router finds the subscriptions that receive a message. Literal subjects are looked up in a map
// and only patterns are in a trie, so a message costs one lookup and a walk past the patterns that
// could match it. The cost of a queue group does not depend on its size.
//
// Its lock is held for lookups and changes only, never while messages are sent.
type router struct {
	mu       sync.RWMutex
	literals map[string]*set // guarded by mu
	patterns node            // guarded by mu
	added    uint64          // subscriptions since the start; guarded by mu
}

// set holds the subscriptions to one subject or pattern. Guarded by router.mu.
type set struct {
	plain  []*subscription
	groups []*group
	named  map[string]*group // groups by name
}

// group holds the members of a queue group in one set. Guarded by router.mu.
type group struct {
	name    string
	at      int // index in set.groups
	members []*subscription
}

// node is a node in the trie of patterns. Guarded by router.mu. Nodes are the memory that deep
// patterns take: an only child is stored in its parent, because a map takes four times as much.
type node struct {
	subs  *set // patterns that end here; nil for none
	tail  *set // patterns that end here with ">"; nil for none
	star  *node
	token string // of child
	child *node  // the only child with a token; nil if there is none, or if they are in next
	next  map[string]*node
	peak  int // the largest number of children in next so far
}

func newRouter() *router { return &router{literals: make(map[string]*set)} }

func (r *router) add(sub *subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.added++
	if sub.wild {
		add(r.patterns.place([]byte(sub.subject)), sub)
		return
	}
	s := r.literals[sub.subject]
	add(&s, sub)
	r.literals[sub.subject] = s
}

// subscribed returns the number of subscriptions made so far.
func (r *router) subscribed() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.added
}

// place returns the set of a pattern below n. It creates the nodes on the way.
func (n *node) place(pattern []byte) **set {
	token, rest, more := subject.Cut(pattern)
	if string(token) == ">" {
		return &n.tail
	}

	child := n.at(token)
	if child == nil {
		child = n.grow(string(token))
	}
	if more {
		return child.place(rest)
	}
	return &child.subs
}

// at returns the child for a token of a pattern; nil if there is none.
func (n *node) at(token []byte) *node {
	if len(token) == 1 && token[0] == '*' {
		return n.star
	}
	return n.literal(token)
}

// literal returns the child for a token of a literal; nil if there is none.
func (n *node) literal(token []byte) *node {
	if n.child != nil {
		if n.token == string(token) {
			return n.child
		}
		return nil
	}
	return n.next[string(token)]
}

// grow makes a child. token must not be a part of a subject, which would stay in memory with it.
func (n *node) grow(token string) *node {
	child := new(node)
	switch {
	case token == "*":
		n.star = child
	case n.child == nil && n.next == nil:
		n.token, n.child = token, child
	default:
		if n.next == nil {
			n.next = map[string]*node{n.token: n.child}
			n.token, n.child = "", nil
		}
		n.next[token] = child
		n.peak = max(n.peak, len(n.next))
	}
	return child
}

// cut removes a child.
func (n *node) cut(token []byte) {
	switch {
	case string(token) == "*":
		n.star = nil
	case n.child != nil:
		n.token, n.child = "", nil
	default:
		delete(n.next, string(token))
		if len(n.next) == 0 {
			n.next, n.peak = nil, 0
		} else if sparse(len(n.next), n.peak) {
			n.next, n.peak = maps.Collect(maps.All(n.next)), len(n.next)
		}
	}
}

// sparse reports whether memory for room entries is to be replaced by less, because few of them are
// left: entries that are gone are charged to no client.
func sparse(entries, room int) bool { return room > 16 && entries < room/4 }

// add adds a subscription to a set, and makes the set if there is none.
func add(to **set, sub *subscription) {
	if *to == nil {
		*to = new(set)
	}
	s := *to
	sub.set = s
	if sub.queue == "" {
		sub.at = len(s.plain)
		s.plain = append(s.plain, sub)
		return
	}

	g := s.named[sub.queue]
	if g == nil {
		g = &group{name: strings.Clone(sub.queue), at: len(s.groups)}
		if s.named == nil {
			s.named = make(map[string]*group)
		}
		s.named[g.name] = g
		s.groups = append(s.groups, g)
	}
	sub.group, sub.at = g, len(g.members)
	g.members = append(g.members, sub)
}

// remove removes subscriptions. Those that are not there are skipped.
func (r *router) remove(subs ...*subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()

	for _, sub := range subs {
		s := sub.set
		if s == nil {
			continue
		}
		s.remove(sub)
		switch {
		case !s.empty():
		case sub.wild:
			r.patterns.prune([]byte(sub.subject))
		default:
			delete(r.literals, sub.subject)
		}
	}
}

func (s *set) remove(sub *subscription) {
	g := sub.group
	sub.set, sub.group = nil, nil
	if g == nil {
		s.plain = removeAt(s.plain, sub.at)
		return
	}

	if g.members = removeAt(g.members, sub.at); len(g.members) > 0 {
		return
	}
	last := s.groups[len(s.groups)-1]
	s.groups[g.at], last.at = last, g.at
	s.groups[len(s.groups)-1] = nil
	s.groups = s.groups[:len(s.groups)-1]
	delete(s.named, g.name)
	if sparse(len(s.groups), cap(s.groups)) {
		s.groups = append([]*group(nil), s.groups...)
		s.named = maps.Collect(maps.All(s.named))
	}
}

// removeAt removes the subscription at an index, which the last one takes.
func removeAt(subs []*subscription, at int) []*subscription {
	last := len(subs) - 1
	subs[at] = subs[last]
	subs[at].at = at
	subs[last] = nil
	if subs = subs[:last]; sparse(last, cap(subs)) {
		return append([]*subscription(nil), subs...)
	}
	return subs
}

func (s *set) empty() bool { return s == nil || len(s.plain) == 0 && len(s.groups) == 0 }

// prune removes the empty set of a pattern below n, and the nodes that are no longer needed.
func (n *node) prune(pattern []byte) {
	token, rest, more := subject.Cut(pattern)
	if string(token) == ">" {
		n.tail = nil
		return
	}

	child := n.at(token)
	if more {
		child.prune(rest)
	} else {
		child.subs = nil
	}
	if child.empty() {
		n.cut(token)
	}
}

func (n *node) empty() bool {
	return n.subs == nil && n.tail == nil && n.star == nil && n.child == nil && n.next == nil
}

// receivers are the subscriptions that receive a message: the plain ones, and one of each queue
// group.
type receivers struct {
	except *client // left out: the publisher, if it wants no echo
	only   *client // the only client that gets the message; nil for no restriction
	one    bool    // one receiver is enough
	every  bool    // plain gets all members of queue groups too

	subject []byte
	plain   []*subscription
	groups  []groupPick
	named   map[string]int // indices in groups, if a second set has groups and they are many
}

// groupPick is a queue group's choice among the members seen so far.
type groupPick struct {
	name string
	sub  *subscription
	seen int
}

const (
	// fewGroups is the number of groups up to which a linear search is used.
	fewGroups = 8
	// keptReceivers is the maximum number of receivers for which memory is kept between messages.
	keptReceivers = 1024
)

// match finds the receivers of a message to a literal subject. It overwrites to, except for its
// fields except, only, one and every. Subscriptions that have ended are left out.
func (r *router) match(literal []byte, to *receivers) {
	to.reset()
	to.subject = literal
	if to.only != nil {
		to.addOwn(to.only)
		return
	}
	r.mu.RLock()
	to.add(r.literals[string(literal)])
	r.patterns.match(literal, to)
	r.mu.RUnlock()
}

func (n *node) match(literal []byte, to *receivers) {
	to.add(n.tail)
	token, rest, more := subject.Cut(literal)
	for _, child := range [2]*node{n.literal(token), n.star} {
		switch {
		case child == nil:
		case more:
			child.match(rest, to)
		default:
			to.add(child.subs)
		}
	}
}

// reset empties t, so that it keeps neither subscriptions nor much memory.
func (t *receivers) reset() {
	clear(t.plain)
	clear(t.groups)
	t.subject, t.named = nil, nil
	if t.plain = t.plain[:0]; cap(t.plain) > keptReceivers {
		t.plain = nil
	}
	if t.groups = t.groups[:0]; cap(t.groups) > keptReceivers {
		t.groups = nil
	}
}

// wants reports whether a subscription is one of the receivers.
func (t *receivers) wants(sub *subscription) bool {
	return sub.client != t.except && sub.open() && (len(sub.deny) == 0 || !sub.denies(string(t.subject)))
}

// add adds the receivers in a set.
func (t *receivers) add(s *set) {
	if s == nil || t.one && len(t.plain) > 0 {
		return
	}
	for _, sub := range s.plain {
		if t.wants(sub) {
			t.plain = append(t.plain, sub)
			if t.one {
				return
			}
		}
	}

	before := len(t.groups) // names differ within this set
	first := 0
	if t.one && len(s.groups) > 1 {
		first = rand.IntN(len(s.groups))
	}
	for i := range s.groups {
		g := s.groups[(first+i)%len(s.groups)]
		if t.every {
			t.addMembers(g)
		} else if sub := t.choose(g); sub != nil {
			t.addToGroup(g.name, sub, len(g.members), before)
			if t.one {
				return
			}
		}
	}
}

// addMembers adds all members of a group.
func (t *receivers) addMembers(g *group) {
	for _, sub := range g.members {
		if t.wants(sub) {
			t.plain = append(t.plain, sub)
		}
	}
}

// choose returns a member of a group; nil if none is a receiver. Each is chosen with the same
// probability, unless the member before it is not a receiver.
func (t *receivers) choose(g *group) *subscription {
	first := 0
	if len(g.members) > 1 {
		first = rand.IntN(len(g.members))
	}
	for i := range g.members {
		if sub := g.members[(first+i)%len(g.members)]; t.wants(sub) {
			return sub
		}
	}
	return nil
}

// addOwn adds a client's own subscriptions to the subject. It does not visit subscriptions of other
// clients, because there may be any number of them.
func (t *receivers) addOwn(c *client) {
	literal := string(t.subject)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, sub := range c.subs {
		switch {
		case !subject.Matches(sub.subject, literal) || !t.wants(sub):
		case sub.queue == "":
			t.plain = append(t.plain, sub)
		default:
			t.addToGroup(sub.queue, sub, 1, len(t.groups))
		}
	}
}

// addToGroup adds one of n members of a group; the first before groups may already have a member.
// Each member is chosen with the same probability.
func (t *receivers) addToGroup(name string, sub *subscription, n, before int) {
	i := t.find(name, before)
	if i < 0 {
		if t.named != nil {
			t.named[name] = len(t.groups)
		}
		t.groups = append(t.groups, groupPick{name: name, sub: sub, seen: n})
		return
	}

	g := &t.groups[i]
	if g.seen += n; rand.IntN(g.seen) < n {
		g.sub = sub
	}
}

// find returns the index of a group among the first before ones; -1 if it is not there. Many groups
// are looked up in a map; a linear search would cost the square of the groups that clients make.
func (t *receivers) find(name string, before int) int {
	if before <= fewGroups {
		return slices.IndexFunc(t.groups[:before], func(g groupPick) bool { return g.name == name })
	}
	if t.named == nil {
		t.named = make(map[string]int, len(t.groups))
		for i, g := range t.groups {
			t.named[g.name] = i
		}
	}
	if i, ok := t.named[name]; ok {
		return i
	}
	return -1
}
