// Package judge decides whether edged kept its promises. It knows only the items
// that were pushed, those that clients got and confirmed, the items that Redis
// holds, and the times at which something was wrong in the world.
//
// Its findings are lines such as "lost jobs:12: …"; the first word is the kind.
package judge

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Mode is when a list's items count as confirmed: received, explicit or none.
type Mode string

// List describes a list for the judge.
type List struct {
	Name       string
	Mode       Mode
	AckWait    time.Duration // of an explicit list: the shortest time until a redelivery
	MaxDeliver int           // 0: items are never given up
	MaxPayload int           // larger items go to the dead letters
	Window     int           // so many items may come twice to a subscription for each trouble
	Uplink     bool          // the list goes to the stream of a hub
	Dedup      int           // an item is a duplicate if one of so many before it has its id; 0: none is
}

// Held are the items that Redis holds, with the number of copies.
type Held struct {
	Waiting map[string]int      // in the lists, or on their way to clients
	Dead    map[string][]string // reasons of the dead letters
	Aside   map[string]int      // in keys that edged does not serve
	Records map[string]string   // what Redis knows of the items that the hub has confirmed
}

func (h Held) copies(item string) int { return h.Waiting[item] + len(h.Dead[item]) + h.Aside[item] }

// Judge is used by one goroutine at a time.
type Judge struct {
	lists    map[string]*list
	homes    map[string]string // the lists of items that do not name it
	items    map[string]*item
	sessions map[*Session]bool
	findings []string
	kinds    map[string]int
	trouble  time.Time // when something was wrong last
	severe   time.Time // when something was wrong last after which items may come twice
	fault    time.Time // when something was wrong last, other than that a client came or went
	grave    time.Time // when there was such a fault last that is not mild: an instance may have lost its lists
	troubles int       // since the last check
	changed  time.Time // when Redis's data was changed last by others than edged and producers

	forgotten time.Time // when Redis may last have lost the durable consumers

	stored map[copyOf]int // in the stream of the uplink
	unsure bool           // since the last check, an item may have come to the stream twice

	Deliveries, Duplicates int
}

type list struct {
	List
	left   time.Time // when a session ended last
	ahead  time.Time // when items were pushed to its head last
	items  []*item   // in list order
	sorted bool
	stored int64 // the place of the last item in the stream

	durables map[string]*durable

	// Of a list with dedup.
	order     []*item   // in Redis's order, with the last ones that are over; equal ones are there several times
	touched   time.Time // when it was changed last, neither by edged nor by a push to the tail
	published int       // items that clients have published: their positions are not certain
	settled   int       // published items before the last check
	requeues  int       // those that may be under way
}

// item is an item, or all that are equal to it.
type item struct {
	list      *list
	payload   string
	place     int64     // in the order of its list
	at        time.Time // when it was pushed first
	pushed    int
	maybe     bool // a publisher that got no answer wrote it: it may be there, even twice
	excused   int  // copies that Redis lost, or that others took
	rhythm    bool // equal items were removed by others: edged cannot tell which are left
	confirms  int
	receipts  int
	confirmed time.Time          // the first time
	by        map[string]bool    // the daemons at which it was confirmed
	unordered bool               // it was pushed to the head, requeued, or one of several
	given     bool               // a client gave it up with TERM
	before    int                // copies that the stream had when it was pushed first
	settled   map[string]settled // by party

	// In a list with dedup.
	id            string // empty: it has none
	loose         bool   // its number may differ from its position
	dropped       bool   // it may have been removed as a duplicate
	published     int    // items published before it was pushed
	settledBefore int    // those of them that are certainly before it in the list
}

// settled is edged's word that an acknowledgement counts.
type settled struct {
	at      time.Time // of the first
	session *Session  // that got it
}

// New returns a judge of some lists.
func New(lists []List) *Judge {
	j := &Judge{lists: map[string]*list{}, homes: map[string]string{}, items: map[string]*item{}, sessions: map[*Session]bool{}, kinds: map[string]int{}, stored: map[copyOf]int{}}
	for _, l := range lists {
		j.lists[l.Name] = &list{List: l, sorted: true, durables: map[string]*durable{}}
	}
	return j
}

// Findings returns the broken promises so far.
func (j *Judge) Findings() []string { return j.findings }

// most is how many findings of a kind are kept.
const most = 5

// Find notes something wrong.
func (j *Judge) Find(kind, format string, args ...any) {
	if j.kinds[kind]++; j.kinds[kind] <= most {
		j.findings = append(j.findings, kind+" "+fmt.Sprintf(format, args...))
	}
}

// Trouble notes that a client comes or goes, or that something is put right: for a
// while, items may come twice.
func (j *Judge) Trouble() {
	j.trouble = time.Now()
	j.severe = j.trouble
	j.troubles++
}

// Fault notes that something is wrong in the world: for a while, items may come twice,
// and acknowledgements may be refused.
func (j *Judge) Fault() {
	j.Trouble()
	j.fault, j.grave = j.trouble, j.trouble
}

// Ahead notes that the item pushed last was pushed to the head of a list, before another.
// If there are more of them than unused numbers below the head, all of the list comes again.
func (j *Judge) Ahead(list, head string) {
	j.Fault()
	j.unsure = true
	l := j.lists[list]
	l.ahead, l.touched = time.Now(), time.Now()
	l.overtake(j.items[head])
}

// Mild notes a fault after which no item may come twice, such as a lost reply.
func (j *Judge) Mild() {
	j.trouble = time.Now()
	j.fault = j.trouble
	j.troubles++
}

// well reports whether there was no fault for so long, before a time, that none has
// consequences any more.
func (j *Judge) well(since time.Time) bool { return since.Sub(j.fault) >= settling }

// settling is how long a trouble may have consequences: timeouts, leases, pings.
const settling = 90 * time.Second

// Payload makes the n-th item of a list, with at least size bytes. Head tells that it is
// pushed to the head.
func Payload(list string, n, size int, head, binary bool) string {
	side := "t"
	if head {
		side = "h"
	}
	b := []byte(fmt.Sprintf("%s:%s%d:", list, side, n))
	for x := uint32(n)*2654435761 + 1; len(b) < size; {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		if binary {
			b = append(b, byte(x))
		} else {
			b = append(b, 'a'+byte(x%26))
		}
	}
	return string(b)
}

// Alike makes the n-th item of a list. All of a size begin and end with the same half,
// except for a few bytes in the middle.
func Alike(list string, n, size int) string {
	middle := fmt.Sprintf("%s:t%d:", list, n)
	pad := strings.Repeat("=", max(0, (size-len(middle))/2))
	return (pad + middle + pad + "=====")[:max(size, len(middle))]
}

// place reads the order of an item made by Payload; 0 if it is none.
func place(payload string) (list string, at int64) {
	_, payload = identified(payload)
	list, rest, _ := strings.Cut(strings.TrimLeft(payload, "="), ":")
	number, _, ok := strings.Cut(rest, ":")
	if !ok || len(number) < 2 {
		return list, 0
	}
	n, err := strconv.ParseInt(number[1:], 10, 64)
	if err != nil {
		return list, 0
	}
	if number[0] == 'h' {
		n = -n
	}
	return list, n
}

// label is a payload for people.
func label(payload string) string {
	if list, at := place(payload); at != 0 {
		return list + ":" + strconv.FormatInt(at, 10)
	}
	return strconv.Quote(payload[:min(len(payload), 20)])
}

func (j *Judge) item(name, payload string) *item {
	it := j.items[payload]
	if it == nil {
		l := j.lists[name]
		named, at := place(payload)
		if named != name {
			j.homes[payload] = name
		}
		it = &item{list: l, payload: payload, at: time.Now(), place: at, unordered: at <= 0, by: map[string]bool{}, before: j.stored[copyOf{name, payload}]}
		j.items[payload] = it
		if n := len(l.items); n > 0 && l.items[n-1].place > at {
			l.sorted = false
		}
		l.items = append(l.items, it)
	}
	return it
}

// Pushed notes that an item is in Redis now.
func (j *Judge) Pushed(list, payload string) {
	it := j.item(list, payload)
	if it.pushed++; it.pushed > 1 {
		it.unordered = true
	}
	j.lists[list].enqueue(it)
}

// Published notes that a client has published an item to a list that edged writes.
func (j *Judge) Published(list, payload string) {
	it := j.item(list, payload)
	it.maybe, it.unordered = true, true
	j.lists[list].enqueue(it)
}

// Accepted notes that edged has said that Redis has a published item.
func (j *Judge) Accepted(payload string) {
	if it := j.items[payload]; it != nil && it.pushed == 0 {
		it.pushed = 1
	}
}

// Changed compares Redis's data before and after a change outside of edged: items that
// are missing are excused, and items that are back were there before.
func (j *Judge) Changed(before, after Held) {
	j.changed = time.Now()
	j.unsure = j.unsure || !maps.Equal(before.Waiting, after.Waiting) || !maps.Equal(before.Aside, after.Aside) ||
		!maps.Equal(before.Records, after.Records)
	for payload, it := range j.items {
		switch lost := before.copies(payload) - after.copies(payload); {
		case lost > 0:
			it.excused += lost
			it.rhythm = it.rhythm || it.pushed > 1
		case lost < 0:
			it.unordered = true
			j.troubles -= lost // each may come again
		case before.Aside[payload] != after.Aside[payload]:
			it.unordered = true
		}
	}
	for _, held := range []map[string]int{after.Waiting, after.Aside} {
		for payload, n := range held {
			j.back(payload, n)
		}
	}
	for payload, reasons := range after.Dead {
		j.back(payload, len(reasons))
	}
}

// back notes that Redis holds an item again that was judged already.
func (j *Judge) back(payload string, n int) {
	name, _ := place(payload)
	if j.lists[name] == nil {
		name = j.homes[payload]
	}
	if j.items[payload] == nil && j.lists[name] != nil {
		it := j.item(name, payload)
		it.pushed, it.confirms, it.confirmed, it.unordered, it.before = n, n, time.Now(), true, 0
	}
}

// Requeued notes that all dead letters of a list may come again, in another order.
func (j *Judge) Requeued(list string) {
	j.Touched(list)
	j.lists[list].requeues++
	for _, it := range j.lists[list].items {
		it.unordered = true
	}
}

// Session is a subscription to a list, from the time at which edged knows it.
type Session struct {
	judge  *Judge
	client string
	daemon string
	group  string
	list   *list
	mode   Mode
	wait   time.Duration // until items come again that it has not acknowledged
	began  time.Time
	ended  bool
	end    time.Time
	polite bool // it reads and confirms all that it gets

	durable *durable // nil: it is another kind of consumer

	got    map[*item]time.Time // when it got it last
	times  map[*item]int       // how often it got it
	acked  map[*item]time.Time // when it acknowledged it first
	twices int                 // items that came again since the last check
	fresh  *item               // the first that it was the first to get
	high   int64               // the place of the last of those
	owes   []*item             // received, not confirmed by a PONG yet
	again  map[*item]bool      // those for which it asked again
	judged int64               // the place up to which it was judged
}

// Subscribed begins a session. A polite client confirms all that it gets at once.
func (j *Judge) Subscribed(client, daemon, name, group string, polite bool) *Session {
	s := &Session{
		judge: j, client: client, daemon: daemon, group: group, list: j.lists[name], began: time.Now(), polite: polite,
		got: map[*item]time.Time{}, times: map[*item]int{}, acked: map[*item]time.Time{}, again: map[*item]bool{},
	}
	s.mode, s.wait = s.list.Mode, s.list.AckWait
	j.sessions[s] = true
	return s
}

// End ends a session: the items that it had not confirmed go to others.
func (s *Session) End() {
	s.ended, s.end = true, time.Now()
	s.list.left = s.end
}

// Impolite notes that the client has ceased to confirm, or to read.
func (s *Session) Impolite() { s.polite = false }

// Received judges an item that came.
func (s *Session) Received(payload []byte) {
	j := s.judge
	j.Deliveries++
	it := j.items[string(payload)]
	switch {
	case it == nil:
		j.Find("invented", "%s got %s, %d bytes, from %s, which was never pushed", s.client, label(string(payload)), len(payload), s.list.Name)
		return
	case it.list != s.list && it.place != 0:
		j.Find("strayed", "%s got %s from %s", s.client, label(it.payload), s.list.Name)
		return
	}
	s.times[it]++
	if before, twice := s.got[it]; twice && s.times[it] > it.pushed && !it.maybe {
		j.Duplicates++
		s.twice(it, before)
	} else if !twice {
		s.order(it)
	}
	s.unsettled(it)
	j.duplicated(it, s.client)
	s.got[it] = time.Now()
	it.receipts++
	switch s.mode {
	case "received":
		s.owes = append(s.owes, it)
	case "none":
		s.confirm(it)
	}
}

// unsettled judges an item that comes though edged has said that an acknowledgement of
// it counts. Other consumers may owe the item; until it is finished, Redis has it.
func (s *Session) unsettled(it *item) {
	if it.pushed != 1 || it.maybe || it.unordered {
		return
	}
	for party, word := range it.settled {
		switch {
		case max(s.judge.changed.Sub(word.at), it.list.ahead.Sub(word.at)) > -onTheWay: // the word may be older
		case party == s.party() && s.keeps(word), !s.choosesPlace() && s.began.Sub(word.at) > onTheWay && s.judge.alone(it, party):
			s.judge.Find("unsettled", "%s got %s after edged had confirmed an acknowledgement", s.client, label(it.payload))
			return
		}
	}
}

// keeps reports whether an acknowledgement counts for the rest of the session: an
// instance that loses a list knows afterwards only what the ledger has, and that is
// a cursor for plain subscriptions. Another member of a group may have the item in
// its buffers since before.
func (s *Session) keeps(word settled) bool {
	if s.durable != nil {
		return s.remembers(word)
	}
	if !s.polite || word.at.Sub(s.judge.grave) < settling || s.began.After(word.at) {
		return false
	}
	return s == word.session || s.group != "" && s.daemon == word.session.daemon && time.Since(word.at) > settling
}

// onTheWay is how long an answer of edged may take.
const onTheWay = 10 * time.Second

// alone reports whether only one party can have owed an item since it was pushed: once
// that has acknowledged it, it is finished for ever.
func (j *Judge) alone(it *item, party string) bool {
	if it.list.Uplink {
		return false
	}
	for s := range j.sessions {
		if s.list == it.list && s.party() != party && s.began.Sub(it.settled[party].at) < onTheWay {
			return false
		}
	}
	for name := range it.list.durables {
		if party != durableParty(name) {
			return false
		}
	}
	return it.at.Sub(it.list.left) >= settling
}

// twice judges a redelivery.
func (s *Session) twice(it *item, before time.Time) {
	j := s.judge
	// If it is not certain how others changed a list, all that it holds comes again.
	if s.twices++; s.polite && s.twices == max(s.list.Window, len(s.list.items))*(j.troubles+2) {
		j.Find("duplicates", "%s got %d items of %s again after %d troubles", s.client, s.twices, s.list.Name, j.troubles)
	}
	if !s.polite || !j.severe.Before(before) || time.Since(j.severe) < settling || it.unordered && it.pushed < 2 {
		return
	}
	late := s.mode == "explicit" && (s.again[it] || time.Since(before) >= s.wait)
	if delete(s.again, it); !late {
		j.Find("repeated", "%s got %s again after %s, and all was well", s.client, label(it.payload), time.Since(before))
	}
}

// order judges the place of an item that the session gets for the first time.
func (s *Session) order(it *item) {
	if it.unordered || it.place <= s.judged || s.list.late(it) {
		return
	}
	if !s.sees() && s.mayBeAgain(it) {
		return
	}
	if it.place < s.high {
		s.judge.Find("order", "%s got %s after %s:%d", s.client, label(it.payload), s.list.Name, s.high)
	}
	s.high = max(s.high, it.place)
	if s.fresh == nil {
		s.fresh = it
	}
}

// mayBeAgain reports whether an item that is new to the session may be a redelivery:
// it may have been on its way to a client that has gone or is slow, or to another
// instance.
func (s *Session) mayBeAgain(it *item) bool {
	trouble := s.judge.trouble
	switch {
	case it.at.Sub(s.list.left) < settling, // edged takes a while to see that a client has gone
		s.mode == "explicit" && (it.receipts > 0 || !trouble.Before(it.at)),
		s.group != "" && it.at.Sub(trouble) < settling:
		return true
	}
	for other := range s.judge.sessions {
		if other.list == s.list && !other.polite && !other.ended {
			return true
		}
	}
	return false
}

// Wait is how long edged waits for an acknowledgement.
func (s *Session) Wait() time.Duration { return s.wait }

// Ponged notes that the client has confirmed all that it has received.
func (s *Session) Ponged() {
	for _, it := range s.owes {
		s.confirm(it)
	}
	s.owes = s.owes[:0]
}

// Acknowledged notes that the client has acknowledged an item.
func (s *Session) Acknowledged(payload []byte) {
	if it := s.judge.items[string(payload)]; it != nil {
		s.confirm(it)
		s.release(it)
		if s.acked[it].IsZero() {
			s.acked[it] = time.Now()
		}
	}
}

// Denied notes that edged has said that an acknowledgement does not count, and judges
// it: one that is in time counts.
func (s *Session) Denied(payload []byte) {
	j, it := s.judge, s.judge.items[string(payload)]
	if it == nil || it.pushed != 1 || it.maybe || s.times[it] != 1 || s.again[it] || it.given || s.durable != nil && s.durable.acked[it] > 1 {
		return
	}
	got := s.got[it]
	if j.well(got) && s.acked[it].Sub(got) < s.wait-time.Second {
		j.Find("denied", "%s acknowledged %s %s after it had got it, and was refused", s.client, label(it.payload), s.acked[it].Sub(got))
	}
}

// Settled notes that edged has said that an acknowledgement counts.
func (s *Session) Settled(payload []byte) {
	it := s.judge.items[string(payload)]
	if it == nil {
		return
	}
	if it.settled == nil {
		it.settled = map[string]settled{}
	}
	if _, before := it.settled[s.party()]; !before {
		it.settled[s.party()] = settled{time.Now(), s}
	}
}

// party names the subscriptions that share the items.
func (s *Session) party() string {
	if s.group != "" {
		return "group " + s.group
	}
	return "client " + s.client
}

// Refused notes that the client has asked for an item again, or given it up.
func (s *Session) Refused(payload []byte, forGood bool) {
	if it := s.judge.items[string(payload)]; it != nil {
		if forGood {
			it.given = true
			s.release(it)
		}
		s.again[it] = true
	}
}

func (s *Session) confirm(it *item) {
	if it.confirms++; it.confirmed.IsZero() {
		it.confirmed = time.Now()
	}
	it.by[s.daemon] = true
}

// Unpushed takes Pushed back: Redis refused the item.
func (j *Judge) Unpushed(payload string) {
	if it := j.items[payload]; it != nil {
		it.pushed--
		if l, at := it.list, it.list.position(it); at >= 0 {
			l.order = slices.Delete(l.order, at, at+1)
		}
	}
}
