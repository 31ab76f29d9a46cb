// Package progress keeps the state of tasks that take time: how far each is,
// and its outcome once it has ended.
//
// The code that carries out a task reports to it; the control socket and the page read
// snapshots. All methods may be called from any goroutine, and none of them blocks.
package progress

import (
	"slices"
	"sync"
	"time"
)

// The states of a task.
const (
	Running = "running"
	Done    = "done"
	Failed  = "failed" // cancelled tasks, too
)

// Status is a snapshot of a task.
type Status struct {
	ID       uint64    `json:"id"`                 // counts from 1 on
	Kind     string    `json:"kind"`               // such as "requeue"
	List     string    `json:"list,omitempty"`     // the key of the list that it is about
	Consumer string    `json:"consumer,omitempty"` // the consumer that it is about, in words
	State    string    `json:"state"`
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended,omitzero"`
	Text     string    `json:"text"`  // how far it is, or its outcome, in words
	Done     uint64    `json:"done"`  // steps, of Total
	Total    uint64    `json:"total"` // 0: not known
}

// kept is how many tasks that have ended are remembered.
const kept = 20

// Tasks are the running tasks and the ones that ended last. The zero value has none.
type Tasks struct {
	mu      sync.Mutex
	last    uint64        // ID of the newest task; guarded by mu
	all     []*Task       // in the order of their IDs; guarded by mu
	changed chan struct{} // closed at the next change; nil: no goroutine waits for it; guarded by mu
}

// Task is a task of its Tasks.
type Task struct {
	tasks  *Tasks
	status Status // guarded by tasks.mu
}

// Begin adds a running task. The caller ends it with Finish or Fail, and sees to it that
// the number of running tasks is bounded.
func (t *Tasks) Begin(kind, list, consumer string) *Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	task := &Task{t, Status{ID: t.last, Kind: kind, List: list, Consumer: consumer, State: Running, Started: time.Now()}}
	t.all = append(t.all, task)
	t.notify()
	return task
}

// Snapshot returns the tasks, the oldest first, and a channel that is closed when one of
// them has changed or another one has begun.
func (t *Tasks) Snapshot() (all []Status, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all = make([]Status, len(t.all))
	for i, task := range t.all {
		all[i] = task.status
	}
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return all, t.changed
}

// notify is called with mu held.
func (t *Tasks) notify() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// Report says how far a running task is. A total of 0 means that the number of steps is
// not known.
func (t *Task) Report(done, total uint64, text string) {
	t.update(func(s *Status) { s.Done, s.Total, s.Text = done, total, text })
}

// Finish ends a running task well.
func (t *Task) Finish(outcome string) { t.end(Done, outcome) }

// Fail ends a running task that was cancelled or could not go on.
func (t *Task) Fail(outcome string) { t.end(Failed, outcome) }

func (t *Task) end(state, outcome string) {
	t.update(func(s *Status) { s.State, s.Text, s.Ended = state, outcome, time.Now() })
}

// update changes a task that has not ended yet.
func (t *Task) update(change func(*Status)) {
	t.tasks.mu.Lock()
	defer t.tasks.mu.Unlock()
	if t.status.State != Running {
		return
	}
	change(&t.status)
	t.tasks.trim()
	t.tasks.notify()
}

// trim forgets the tasks that ended first, if there are more than are kept. It is called
// with mu held.
func (t *Tasks) trim() {
	ended := 0
	for _, task := range t.all {
		if task.status.State != Running {
			ended++
		}
	}

	for ; ended > kept; ended-- {
		first := -1
		for i, task := range t.all {
			if s := task.status; s.State != Running && (first < 0 || s.Ended.Before(t.all[first].status.Ended)) {
				first = i
			}
		}
		t.all = slices.Delete(t.all, first, first+1)
	}
}
