// Package progress keeps the state of long tasks: their progress, and their outcome once they have
// ended.
//
// The code that carries out a task reports to it; the control socket and the page read snapshots.
// All methods may be called from any goroutine, and none of them blocks.
package progress

import (
	"slices"
	"sync"
	"time"
)

// States of a task.
const (
	Running = "running"
	Done    = "done"
	Failed  = "failed" // includes cancelled tasks
)

// Status is a snapshot of a task.
type Status struct {
	ID       uint64    `json:"id"`                 // counts from 1 on
	Kind     string    `json:"kind"`               // such as "requeue"
	List     string    `json:"list,omitempty"`     // key of the task's list
	Consumer string    `json:"consumer,omitempty"` // the task's consumer, in words
	State    string    `json:"state"`
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended,omitzero"`
	Text     string    `json:"text"`  // progress or outcome, in words
	Done     uint64    `json:"done"`  // steps, of Total
	Total    uint64    `json:"total"` // 0: unknown
}

// kept is the number of ended tasks that are remembered.
const kept = 20

// Tasks are the running tasks and the last ones that ended. The zero value is empty.
type Tasks struct {
	mu      sync.Mutex
	last    uint64        // ID of the newest task; guarded by mu
	all     []*Task       // in the order of their IDs; guarded by mu
	changed chan struct{} // closed at the next change; nil if no goroutine waits for it; guarded by mu
}

// Task is a task of its Tasks.
type Task struct {
	tasks  *Tasks
	status Status // guarded by tasks.mu
}

// Begin adds a running task. The caller ends it with Finish or Fail, and bounds the number of
// running tasks.
func (t *Tasks) Begin(kind, list, consumer string) *Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	task := &Task{t, Status{ID: t.last, Kind: kind, List: list, Consumer: consumer, State: Running, Started: time.Now()}}
	t.all = append(t.all, task)
	t.notify()
	return task
}

// Snapshot returns the tasks, the oldest first, and a channel that is closed at the next change of
// a task or when another task begins.
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

// notify announces a change. mu is held.
func (t *Tasks) notify() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// Report sets the progress of a running task. A total of 0 means that the number of steps is
// unknown.
func (t *Task) Report(done, total uint64, text string) {
	t.update(func(s *Status) { s.Done, s.Total, s.Text = done, total, text })
}

// Finish ends a running task with success.
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

// trim forgets the tasks that ended first, if there are more than kept. mu is held.
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
