package inbound

import (
	"crypto/sha256"
	"time"
)

const (
	// maxIDs is the number of ids that are remembered for a list; the oldest are dropped first.
	maxIDs = 10_000
	// maxAlso is the number of publishers that may wait for the outcome of another publisher's
	// item.
	maxAlso = 100
)

// ids are those of the latest published items. Guarded by Writer.mu.
type ids struct {
	known map[key]*published
	order []*published // the oldest first; some may have been dropped
}

// key is the hash of an id, which may be long.
type key [16]byte

// published is an item with an id.
type published struct {
	key  key
	at   time.Time
	seq  uint64         // 0: it waits for Redis
	also []func([]byte) // publishers of the same id that wait for the outcome
}

func keyOf(id string) key {
	sum := sha256.Sum256([]byte(id))
	return key(sum[:16])
}

// first returns the item that was published with an id within the window; nil if there is none.
func (s *ids) first(id string, window time.Duration, now time.Time) *published {
	if id == "" || window == 0 {
		return nil
	}
	s.expire(window, now, maxIDs)
	return s.known[keyOf(id)]
}

// add notes an item. If it returns nil, the id is not remembered.
func (s *ids) add(id string, window time.Duration, now time.Time) *published {
	if id == "" || window == 0 {
		return nil
	}
	if s.known == nil {
		s.known = make(map[key]*published)
	}
	s.expire(window, now, maxIDs-1)
	p := &published{key: keyOf(id), at: now}
	s.known[p.key] = p
	s.order = append(s.order, p)
	return p
}

// expire forgets ids that are older than the window, and more if there are too many.
func (s *ids) expire(window time.Duration, now time.Time, most int) {
	for len(s.order) > 0 && (len(s.order) > most || now.Sub(s.order[0].at) > window) {
		s.drop(s.order[0])
		s.order[0] = nil
		s.order = s.order[1:]
	}
}

// drop forgets an item: its id may be published again.
func (s *ids) drop(p *published) {
	if s.known[p.key] == p {
		delete(s.known, p.key)
	}
}

// tell adds answers for the publishers that wait for the outcome.
func (p *published) tell(replies []reply, text []byte) []reply {
	for _, to := range p.also {
		replies = append(replies, reply{to, text})
	}
	p.also = nil
	return replies
}
