package poller

import (
	"context"
	"slices"
)

// Lists come and go while the loop runs. A list that goes does so in three steps:
// after Finish nothing of it is taken any more; its caller lets its clients confirm
// what is on its way, and sees to it that its window doesn't change any more;
// Remove forgets it.

// add begins to serve a list. It belongs to the loop.
func (l *Loop) add(list List) {
	var s server
	var lane *lane
	if list.Log != nil {
		r := newReader(l, list)
		s, lane = r, r.lane
	} else if list.Explicit != nil {
		m := newMover(l, list)
		s, lane = m, m.lane
	} else {
		p := newSource(l, list)
		s, lane = p, p.lane
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sources, l.lanes = append(slices.Clip(l.sources), s), append(slices.Clip(l.lanes), lane)
}

// Add begins to serve a list, whose key none of the others has. It returns when
// the loop knows it, which waits for the round trips under way.
func (l *Loop) Add(ctx context.Context, list List) error {
	_, err := ask(ctx, l, func(context.Context) (struct{}, error) {
		l.add(list)
		return struct{}{}, nil
	})
	return err
}

// Finish ends the taking from a list for good: when it has returned, no new item
// of it comes to its window. What gets confirmed is still removed.
func (l *Loop) Finish(ctx context.Context, key string) error {
	_, err := ask(ctx, l, func(context.Context) (struct{}, error) {
		s := l.lane(key)
		if s == nil {
			return struct{}{}, ErrNoList
		}
		s.ending = true
		return struct{}{}, nil
	})
	return err
}

// Remove removes what was confirmed of a list from Redis, gives back what else is
// on its way, and the lease, and forgets the list. It is for one that is Finished.
// An error says that Redis did not take part: what was confirmed may come again.
func (l *Loop) Remove(ctx context.Context, key string) error {
	left, err := ask(ctx, l, func(ctx context.Context) (left int, err error) {
		i := slices.IndexFunc(l.lanes, func(s *lane) bool { return s.list.Key == key })
		if i < 0 {
			return 0, ErrNoList
		}
		lane := l.lanes[i]
		ctx, cancel := context.WithTimeout(ctx, l.opts.Redis.Timeout)
		defer cancel()
		left = l.end(ctx, l.sources[i], lane)
		l.mu.Lock()
		l.sources = slices.Delete(slices.Clone(l.sources), i, i+1)
		l.lanes = slices.Delete(slices.Clone(l.lanes), i, i+1)
		l.mu.Unlock()
		lane.Leave()
		return left, nil
	})
	if err != nil {
		return err
	}
	return leftBehind(left)
}

// SetBatch changes BatchItems and BatchBytes.
func (l *Loop) SetBatch(ctx context.Context, items, bytes int) error {
	_, err := ask(ctx, l, func(context.Context) (struct{}, error) {
		l.opts.BatchItems, l.opts.BatchBytes = items, bytes
		return struct{}{}, nil
	})
	return err
}
