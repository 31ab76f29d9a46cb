package jetstream

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// maxRequest is the maximum size of a request in bytes. A consumer's configuration has at most
	// 8 KiB.
	maxRequest = 16 << 10
	// maxQueued is the maximum number of requests of one client that wait for Redis.
	maxQueued = 256
	// maxOwn is the maximum number of tasks of edged itself that wait for Redis.
	maxOwn = 1024
	// maxQueueTime is how long a request may wait for Redis. By then its client has given up.
	maxQueueTime = 10 * time.Second
	// requestSize is the approximate memory of a waiting request, without payload and reply
	// subject.
	requestSize = 512
)

// queue holds the tasks that wait for the goroutine that uses the Store. Clients take turns, and
// each has a bounded share, so that one client's requests do not delay those of all clients.
type queue struct {
	ready chan struct{} // holds one value if there are tasks

	mu    sync.Mutex       // guards everything below
	users map[uint64]*user // clients by ID
	turns []*user          // users with tasks, the next to be served first
}

// user is a client that has made requests, until it leaves, or a part of edged that uses the Store.
// Guarded by queue.mu.
type user struct {
	most  int           // tasks that may wait
	lasts time.Duration // how long a task may wait; 0: for ever
	tasks []task
	pulls map[*consumer]int // number of requests that wait for items
	gone  bool
}

// task is a waiting task.
type task struct {
	do     func(context.Context)
	refuse func() // called instead of do if the task has waited for too long
	drop   func() // called when the task no longer waits; nil for none
	since  time.Time
}

func newQueue() *queue {
	return &queue{ready: make(chan struct{}, 1), users: make(map[uint64]*user)}
}

// user returns the user for a client.
func (q *queue) user(id uint64) *user {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.users[id]
	if u == nil {
		u = &user{most: maxQueued, lasts: maxQueueTime, pulls: make(map[*consumer]int)}
		q.users[id] = u
	}
	return u
}

// add adds a task, and reports whether the user's share has space for it.
func (q *queue) add(u *user, t task) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if u.gone || len(u.tasks) >= u.most {
		return false
	}
	t.since = time.Now()
	if u.tasks = append(u.tasks, t); len(u.tasks) == 1 {
		q.turns = append(q.turns, u)
	}
	q.signal()
	return true
}

// signal wakes the goroutine that uses the Store. mu is held.
func (q *queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take returns the oldest task of the user whose turn it is. It reports whether there is one, and
// whether it has waited for too long.
func (q *queue) take() (t task, late, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.turns) == 0 {
		return t, false, false
	}
	u := q.turns[0]
	q.turns[0] = nil
	q.turns = q.turns[1:]
	t = u.tasks[0]
	u.tasks[0] = task{}
	u.tasks = u.tasks[1:]

	if len(u.tasks) > 0 {
		q.turns = append(q.turns, u)
	} else {
		u.tasks = nil
	}
	if len(q.turns) > 0 {
		q.signal()
	}
	return t, u.lasts > 0 && time.Since(t.since) > u.lasts, true
}

// run executes a task that was taken.
func (t task) run(ctx context.Context, late bool) {
	if t.drop != nil {
		defer t.drop()
	}
	if late {
		t.refuse()
		return
	}
	call, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	t.do(call)
}

// leave removes a client. It returns the client's tasks and the consumers at which it has
// requests.
func (q *queue) leave(id uint64) (u *user, tasks []task, at []*consumer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if u = q.users[id]; u == nil {
		return nil, nil, nil
	}
	delete(q.users, id)
	u.gone = true
	tasks, u.tasks = u.tasks, nil
	q.turns = slices.DeleteFunc(q.turns, func(other *user) bool { return other == u })
	for c := range u.pulls {
		at = append(at, c)
	}
	return u, tasks, at
}

// pulls notes that a client has n more requests at a consumer, or fewer if n is negative. It
// reports whether the client is still there.
func (q *queue) pulls(u *user, c *consumer, n int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if u.pulls[c] += n; u.pulls[c] == 0 || u.gone {
		delete(u.pulls, c)
	}
	return !u.gone
}
