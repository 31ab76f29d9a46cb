package uplink

// classes choose the list whose item is sent next: the list of the lowest class that has an item,
// except that every share-th item is from a waiting list of a higher class. Lists of one class take
// turns.
//
// The choice is made when there is room to send, so only the items in flight precede an item of a
// lower class. Guarded by Uplink.mu.
type classes struct {
	share int            // 0: higher classes have no share
	items uint64         // items chosen so far
	last  map[int]uint64 // by class: the number of the item that was last chosen
}

// SetClasses sets the classes of lists; all other lists have class 0. One of share items is from a
// class that a lower one would keep waiting; if share is 0, that class waits.
func (u *Uplink) SetClasses(share int, of map[string]int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.classes.share, u.classes.last = share, make(map[int]uint64)
	for _, f := range u.feeds {
		f.class = of[f.list]
	}
}

// choose returns the feed whose next item is to be sent; nil if none has one.
func (c *classes) choose(feeds []*Feed, pipelined bool) (best *Feed) {
	for _, f := range feeds {
		if f.waits(pipelined) && (best == nil || c.before(f, best)) {
			best = f
		}
	}
	if best != nil {
		c.items++
		best.turn = c.items
		if c.last != nil {
			c.last[best.class] = c.items
		}
	}
	return best
}

// before reports whether a feed is chosen before another.
func (c *classes) before(f, other *Feed) bool {
	switch {
	case f.class == other.class:
		return f.turn < other.turn
	case c.hasShare(f) != c.hasShare(other):
		return c.hasShare(f)
	}
	return f.class < other.class
}

// hasShare reports whether the next item belongs to the feed's class by its share.
func (c *classes) hasShare(f *Feed) bool {
	return c.share > 0 && c.items-c.last[f.class] >= uint64(c.share-1)
}
