package poller

import (
	"context"
	"slices"

	"edged/internal/dedup"
)

// Lists come and go while the loop runs. A list that goes does so in three steps:
// after Finish nothing of it is taken any more; its caller lets its clients confirm
// what is on its way, and sees to it that its window doesn't change any more;
// Remove forgets it.

// add begins to serve a list. It belongs to the loop.
func (l *Loop) add(list List) {
	r := newReader(l, list)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readers = append(l.readers, r) // a copy of the slice does not see it; Remove makes a new one
	l.byKey[r.keys.List], l.byKey[r.keys.Free] = r, r
	l.visits.ring(r)
	l.classes.follow(l.readers)
}

// Add begins to serve a list, whose key none of the others has. It returns when
// the loop knows it, which waits for the round trips under way.
func (l *Loop) Add(ctx context.Context, list List) error {
	return l.between(ctx, func() { l.add(list) })
}

// between has the loop do something between two turns.
func (l *Loop) between(ctx context.Context, do func()) error {
	_, err := ask(ctx, l, func(context.Context) (struct{}, error) {
		do()
		return struct{}{}, nil
	})
	return err
}

// change has the loop change the list with this key, if there is one.
func (l *Loop) change(ctx context.Context, key string, do func(*reader)) error {
	_, err := ask(ctx, l, func(context.Context) (struct{}, error) {
		r := l.reader(key)
		if r == nil {
			return struct{}{}, ErrNoList
		}
		do(r)
		l.visits.ring(r)
		return struct{}{}, nil
	})
	return err
}

// Finish ends the taking from a list for good: when it has returned, no new item
// of it comes to its window. Items that get confirmed are still removed.
func (l *Loop) Finish(ctx context.Context, key string) error {
	return l.change(ctx, key, func(r *reader) { r.ending = true })
}

// Remove removes what was confirmed of a list from Redis, gives back what else is
// on its way, and the lease, and forgets the list. It is for one that is Finished.
// An error says that Redis did not take part: what was confirmed may come again.
func (l *Loop) Remove(ctx context.Context, key string) error {
	left, err := ask(ctx, l, func(ctx context.Context) (left int, err error) {
		i := slices.IndexFunc(l.readers, func(s *reader) bool { return s.list.Key == key })
		if i < 0 {
			return 0, ErrNoList
		}
		r := l.readers[i]
		ctx, cancel := context.WithTimeout(ctx, l.opts.Redis.Timeout)
		defer cancel()
		left = l.end(ctx, r)
		l.mu.Lock()
		l.readers = slices.Delete(slices.Clone(l.readers), i, i+1)
		delete(l.byKey, r.keys.List)
		delete(l.byKey, r.keys.Free)
		l.mu.Unlock()
		l.visits.forget(r)
		l.classes.follow(l.readers)
		r.Leave()
		return left, nil
	})
	if err != nil {
		return err
	}
	return leftBehind(left)
}

// SetKeep changes the Keep of a list.
func (l *Loop) SetKeep(ctx context.Context, key string, keep int) error {
	return l.change(ctx, key, func(r *reader) { r.list.Keep = keep })
}

// SetClass changes the Class of a list.
func (l *Loop) SetClass(ctx context.Context, key string, class int) error {
	return l.change(ctx, key, func(r *reader) {
		r.list.Class = class
		l.classes.follow(l.readers)
	})
}

// SetDedup changes Dedup and DedupItems of a list. Its items are compared with those in the list, and
// with removed ones only if neither has changed since their removal.
func (l *Loop) SetDedup(ctx context.Context, key string, by dedup.By, items int) error {
	return l.change(ctx, key, func(r *reader) {
		r.list.Dedup, r.list.DedupItems = by, items
		r.mu.Lock()
		r.repeats = newRepeats(r.list)
		r.mu.Unlock()
		r.claimed, r.more = false, true
	})
}

// SetShare changes Share.
func (l *Loop) SetShare(ctx context.Context, share int) error {
	return l.between(ctx, func() { l.classes.share = share })
}

// SetBatch changes BatchItems and BatchBytes.
func (l *Loop) SetBatch(ctx context.Context, items, bytes int) error {
	return l.between(ctx, func() { l.opts.BatchItems, l.opts.BatchBytes = items, bytes })
}
