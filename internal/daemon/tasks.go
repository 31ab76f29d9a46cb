package daemon

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"edged/internal/batch"
	"edged/internal/poller"
	"edged/internal/progress"
	"edged/internal/relay"
)

// The kinds of tasks.
const (
	drainTask    = "drain"
	requeueTask  = "requeue"
	takeoverTask = "takeover"
	catchUpTask  = "catch-up"
	traceTask    = "trace"
)

// taskAnswer is a task, as numbers and as a line for people.
type taskAnswer struct {
	progress.Status
	Line string `json:"line"`
}

// tasksAnswer has the tasks, the oldest first.
type tasksAnswer struct {
	Tasks []taskAnswer `json:"tasks"`
}

// taskList returns the tasks, and a channel that is closed when they have changed.
func (d *daemon) taskList() (tasksAnswer, <-chan struct{}) {
	all, changed := d.tasks.Snapshot()
	a := tasksAnswer{Tasks: make([]taskAnswer, len(all))}
	for i, s := range all {
		a.Tasks[i] = taskAnswer{s, taskLine(s)}
	}
	return a, changed
}

// taskLine is a task in words: "requeue events: 500 of 2000 dead letters put back".
func taskLine(s progress.Status) string {
	line := s.Kind
	if s.List != "" {
		line += " " + short(s.List, shortName)
	}
	if s.Consumer != "" {
		line += ", " + s.Consumer
	}
	if s.State != progress.Running {
		line += ": " + s.State
	}
	if s.Text != "" {
		line += ": " + s.Text
	}
	return line
}

func (a tasksAnswer) Text(w io.Writer) {
	const most = 56 // columns of a line, within 80
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "STARTED\tTOOK\tTASK")
	for _, task := range a.Tasks {
		took := "-"
		if !task.Ended.IsZero() {
			took = seconds(task.Ended.Sub(task.Started).Seconds())
		}
		fmt.Fprintf(t, "%s ago\t%s\t%s\n", age(task.Started), took, cut(task.Line, most))
	}
	t.Flush()
}

// cut returns at most so many runes of a line, with a mark if there are more.
func cut(line string, most int) string {
	if utf8.RuneCountInString(line) <= most {
		return line
	}
	return string([]rune(line)[:most-2]) + ".."
}

// news picks out the tasks that differ from those in seen, and the ones that run now if
// seen is nil. It returns what has been seen now.
func news(tasks []taskAnswer, seen map[uint64]progress.Status) (changed []taskAnswer, now map[uint64]progress.Status) {
	changed, now = []taskAnswer{}, make(map[uint64]progress.Status, len(tasks))
	for _, t := range tasks {
		now[t.ID] = t.Status
		if seen == nil && t.State == progress.Running || seen != nil && seen[t.ID] != t.Status {
			changed = append(changed, t)
		}
	}
	return changed, now
}

// follower finds the takeovers, the consumers that catch up and the uplinks that are in no configuration,
// by looking now and then.
// It is owned by one goroutine.
type follower struct {
	daemon *daemon
	taken  map[string]time.Time // when each list was taken over last, by key
	far    map[lagger]pursuit   // the consumers that were far behind at the last look
	strays map[stray]bool       // the uplinks that were in no configuration at the last look
}

// lagger identifies a consumer that is far behind the others.
type lagger struct {
	list   string
	name   batch.Name
	member batch.Member // of a plain subscription
}

// pursuit is a consumer's way back to the others.
type pursuit struct {
	task *progress.Task // nil at the first look
	most uint64         // items that it lagged behind, at most
}

const (
	// followEvery is the least time between two looks. With 10,000 lists one takes 13 ms, so it rests
	// followRest times as long as it has worked.
	followEvery = 5 * time.Second
	followRest  = 1000

	// farBehind is how many items a consumer has to lag to be followed. A fast list has
	// consumers that are left behind for a moment, so it has to lag at two looks in a row.
	farBehind = 10_000

	// mostFollowed bounds the consumers that are followed at the same time.
	mostFollowed = 16
)

// follow looks for takeovers, for consumers that catch up and for uplinks that are in no configuration,
// until ctx is done.
func (d *daemon) follow(ctx context.Context) {
	f := follower{daemon: d, taken: make(map[string]time.Time)}
	timer := time.NewTimer(followEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}

		began := time.Now()
		f.takeovers(d.loop.Lists())
		f.catchingUp(d.served.lists())
		f.nameStrays()
		timer.Reset(max(followEvery, followRest*time.Since(began)))
	}
}

// takeovers adds a task, which has ended, for each list that was taken over since the last look.
// Until then the list stands by, for as long as its owner serves it, and nothing progresses.
func (f *follower) takeovers(lists []poller.Status) {
	for _, s := range lists {
		at := s.StoodBy.Until
		if at.IsZero() || at == f.taken[s.Key] {
			continue
		}
		f.taken[s.Key] = at
		instance, _, _ := strings.Cut(s.StoodBy.Holder, "/")
		f.daemon.tasks.Begin(takeoverTask, s.Key, "").Finish(fmt.Sprintf("from %s, after %s in standby",
			short(instance, 14), seconds(at.Sub(s.StoodBy.Since).Seconds())))
	}
}

// nameStrays names each uplink once that is in no configuration and holds a list.
func (f *follower) nameStrays() {
	now := make(map[stray]bool)
	for _, s := range f.daemon.strayUplinks() {
		if now[s] = true; !f.strays[s] {
			f.daemon.log.Warn("the list is held for an uplink that is in no configuration; forget it, or configure it again",
				zap.String("list", s.list), zap.String("uplink", s.uplink))
		}
	}
	f.strays = now
}

// catchingUp follows the consumers that are far behind the others.
func (f *follower) catchingUp(lists []relayed) {
	before := f.far
	f.far = make(map[lagger]pursuit)
	for _, l := range lists {
		for _, c := range l.State().Consumers {
			f.catchesUp(l.Key, c, before)
		}
	}
	f.end(before)
}

// end ends the tasks of consumers that are gone. Those that have caught up have ended.
func (f *follower) end(before map[lagger]pursuit) {
	for key, p := range before {
		if _, still := f.far[key]; !still && p.task != nil {
			p.task.Fail("the consumer is gone")
		}
	}
}

// catchesUp follows a consumer if it is far behind and in use: one without a member does not
// catch up. before has the consumers of the last look.
func (f *follower) catchesUp(list string, c relay.ConsumerInfo, before map[lagger]pursuit) {
	if c.Viewer || len(c.Members) == 0 || !c.Away.IsZero() {
		return
	}
	key := lagger{list: list, name: c.Name}
	if c.Name == (batch.Name{}) {
		key.member = c.Members[0]
	}

	p, known := before[key]
	caughtUp := c.Front || c.LagItems == 0
	switch {
	case p.task != nil && caughtUp:
		p.task.Finish("with the other consumers again")
		return
	case p.task == nil && (caughtUp || c.LagItems < farBehind || len(f.far) >= mostFollowed):
		return
	case p.task == nil && known:
		p.task = f.daemon.tasks.Begin(catchUpTask, list, f.daemon.consumer(list, c).name())
	}

	p.most = max(p.most, c.LagItems)
	if p.task != nil {
		p.task.Report(p.most-c.LagItems, p.most, fmt.Sprintf("%s behind, %s", counted(int(c.LagItems), "item"), seconds(c.Lag.Seconds())))
	}
	f.far[key] = p
}
