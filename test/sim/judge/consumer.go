package judge

import (
	"maps"
	"slices"
	"time"
)

// viewer is the mode of a session that owes nothing and confirms nothing.
const viewer Mode = "viewer"

// durable is a durable consumer of a list. It owes items whether a client uses it or not.
type durable struct {
	name  string
	since time.Time     // it owes all items pushed after this; zero: Redis may have lost it
	acked map[*item]int // how often its clients acknowledged an item or gave it up
}

// Consuming begins a session of a client that uses a durable consumer. Items come again
// after wait.
func (j *Judge) Consuming(client, daemon, name, of string, wait time.Duration, polite bool) *Session {
	s := j.Subscribed(client, daemon, name, "durable "+of, polite) // its clients share the items as a group does
	s.mode, s.wait, s.durable = "explicit", wait, s.list.durable(of)
	return s
}

// Viewing begins a session of a client that looks at the list and takes nothing.
func (j *Judge) Viewing(client, daemon, name string, polite bool) *Session {
	s := j.Subscribed(client, daemon, name, "", polite)
	s.mode = viewer
	return s
}

func (l *list) durable(name string) *durable {
	d := l.durables[name]
	if d == nil {
		d = &durable{name: name, acked: map[*item]int{}}
		l.durables[name] = d
	}
	return d
}

// Asked notes that a client asks for a durable consumer. There may be one even if no answer comes.
func (j *Judge) Asked(name, of string) { j.lists[name].durable(of) }

// Created notes that edged has said that there is a durable consumer, as a client had asked
// for at a time.
func (j *Judge) Created(name, of string, asked time.Time) {
	if d := j.lists[name].durable(of); d.since.IsZero() && asked.After(j.forgotten) {
		d.since = time.Now()
	}
}

// Forgotten notes that Redis may have lost the durable consumers.
func (j *Judge) Forgotten() {
	j.forgotten, j.unsure = time.Now(), true
	for _, l := range j.lists {
		for _, d := range l.durables {
			d.since = time.Time{}
		}
	}
}

// Durables returns the names of the durable consumers that a list may have.
func (j *Judge) Durables(name string) []string {
	return slices.Sorted(maps.Keys(j.lists[name].durables))
}

// durableParty is the party of the clients of a durable consumer.
func durableParty(name string) string { return "group durable " + name }

// choosesPlace reports whether the consumer may begin with items that are finished.
func (s *Session) choosesPlace() bool { return s.durable != nil || s.mode == viewer }

// release notes that a durable consumer does not owe an item any more.
func (s *Session) release(it *item) {
	if s.durable != nil {
		s.durable.acked[it]++
	}
}

// missed judges whether copies are gone that a durable consumer owes.
func (j *Judge) missed(it *item, held Held) {
	for _, name := range j.Durables(it.list.Name) {
		d := it.list.durables[name]
		if d.since.IsZero() || !it.at.After(d.since) || it.rhythm || it.payload == "" { // empty items may be of several lists
			continue
		}
		if missing := it.pushed - it.excused - held.copies(it.payload) - d.acked[it]; missing > 0 {
			j.Find("lost", "%s: %d pushed, %d gone without edged, %d acknowledged by the durable consumer %s, and Redis has %d",
				label(it.payload), it.pushed, it.excused, d.acked[it], name, held.copies(it.payload))
		}
	}
}

// remembers reports whether edged's word counts for a session of a durable consumer: Redis
// has the acknowledgement, so it counts for each process. An instance that has lost the
// list may not know that yet, and items may be on their way since before.
func (s *Session) remembers(word settled) bool {
	if s.daemon != word.session.daemon && word.at.Sub(s.judge.grave) < settling {
		return false
	}
	return s.began.After(word.at) || s.polite && time.Since(word.at) > settling
}

// sees reports whether a session that looks at the list gets it in order: nothing that it
// has been sent is sent again.
func (s *Session) sees() bool {
	return s.mode == viewer && s.began.After(s.judge.changed) && s.began.After(s.judge.grave)
}
