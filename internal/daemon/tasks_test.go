package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"edged/internal/batch"
	"edged/internal/ledger"
	"edged/internal/poller"
	"edged/internal/progress"
	"edged/internal/redistest"
	"edged/internal/relay"
	"edged/internal/uds"
)

// built returns a daemon whose loop runs, and that listens nowhere.
func built(t *testing.T, redis *redistest.Server) *daemon {
	t.Helper()
	cfg := configured(t, redis)
	log := newLog(cfg.Log, &logBuffer{}, nil)
	t.Cleanup(log.close)
	d, err := build(Options{Config: cfg, Version: "0.0.0"}, log)
	if err != nil {
		t.Fatal(err)
	}

	loop := startTask(d.loop.Run)
	t.Cleanup(func() {
		loop.cancel()
		if err := <-loop.ended; err != nil {
			t.Error(err)
		}
	})
	return d
}

// taskLines returns the tasks in words.
func taskLines(d *daemon) (all []string) {
	a, _ := d.taskList()
	for _, t := range a.Tasks {
		all = append(all, t.Line)
	}
	return all
}

func TestARequeueSaysHowFarItIsAndItsOutcome(t *testing.T) {
	const letters = 1200
	redis := redistest.Start(t)
	d := built(t, redis)
	for i := range letters {
		redis.Push(ledger.KeysOf("events").Dead, fmt.Sprintf("{}\n%d", i))
	}

	var text bytes.Buffer
	err := d.putBack(t.Context(), "events", letters, 0, func(a uds.Answer) error {
		a.Text(&text)
		if got := taskLines(d); text.Len() < 50 && got[0] != "requeue events: 500 of 1200 dead letters put back" {
			t.Errorf("the tasks are %q after\n%s", got, &text)
		}
		return nil
	})
	if want := "500 of 1200 dead letters put back\n1200 dead letters put back\n"; text.String() != want || err != nil {
		t.Errorf("requeue says %q, %v", &text, err)
	}
	if got := taskLines(d); len(got) != 1 || got[0] != "requeue events: done: 1200 dead letters put back" {
		t.Errorf("the tasks are %q", got)
	}
}

func TestARequeueEndsWhenItsClientLeaves(t *testing.T) {
	const letters = 1200
	redis := redistest.Start(t)
	d := built(t, redis)
	dead := ledger.KeysOf("events").Dead
	for i := range letters {
		redis.Push(dead, fmt.Sprintf("{}\n%d", i))
	}

	gone := errors.New("broken pipe")
	if err := d.putBack(t.Context(), "events", letters, 0, func(uds.Answer) error { return gone }); err != gone {
		t.Errorf("the error is %v", err)
	}
	if got := taskLines(d); len(got) != 1 || got[0] != "requeue events: failed: its client left, 500 put back" {
		t.Errorf("the tasks are %q", got)
	}
	if n := redis.Len(dead); n != letters-500 {
		t.Errorf("%d dead letters are left", n)
	}

	if err := d.requeue(t.Context(), []string{"nothing", "all"}, nil); err == nil || len(taskLines(d)) != 1 {
		t.Errorf("a requeue of no list is a task, or no error: %v", err)
	}
}

func TestATakeoverIsATaskOnce(t *testing.T) {
	d := built(t, redistest.Start(t))
	f := follower{daemon: d, taken: make(map[string]time.Time)}
	since := time.Now().Add(-time.Hour)
	standing := []poller.Status{{Key: "events", State: poller.Standby, StoodBy: poller.StoodBy{Holder: "box2/0123456789ab", Since: since}}, {Key: "readings"}}
	f.takeovers(standing)
	if got := taskLines(d); got != nil {
		t.Errorf("a list that stands by is a task: %q", got)
	}

	standing[0].StoodBy.Until = since.Add(62 * time.Second)
	f.takeovers(standing)
	f.takeovers(standing)
	if got := taskLines(d); len(got) != 1 || got[0] != "takeover events: done: from box2, after 1m2s in standby" {
		t.Errorf("the tasks are %q", got)
	}
}

func TestAConsumerThatIsFarBehindIsFollowedUntilItHasCaughtUp(t *testing.T) {
	d := built(t, redistest.Start(t))
	f := follower{daemon: d}
	look := func(all ...relay.ConsumerInfo) []string {
		before := f.far
		f.far = make(map[lagger]pursuit)
		for _, c := range all {
			f.catchesUp("events", c, before)
		}
		f.end(before)
		return taskLines(d)
	}
	crew := relay.ConsumerInfo{Name: batch.Name{Name: "crew"}, Members: []batch.Member{&reader{}}, LagItems: 50_000, Lag: time.Minute}
	far := func(n uint64) relay.ConsumerInfo {
		c := crew
		c.LagItems = n
		return c
	}
	away, viewer, member := far(90_000), far(90_000), far(90_000)
	away.Name, away.Away = batch.Name{Name: "laptop", Durable: true}, time.Now()
	viewer.Viewer = true
	member.Front = true

	for _, step := range []struct {
		name      string
		consumers []relay.ConsumerInfo
		want      string
	}{
		{"it is seen for the first time", []relay.ConsumerInfo{crew}, "[]"},
		{"it is far behind for a while", []relay.ConsumerInfo{crew}, "[catch-up events, crew (0): 50000 items behind, 1m0s]"},
		{"it falls back", []relay.ConsumerInfo{far(60_000)}, "[catch-up events, crew (0): 60000 items behind, 1m0s]"},
		{"it is near", []relay.ConsumerInfo{far(1)}, "[catch-up events, crew (0): 1 item behind, 1m0s]"},
		{"it is there", []relay.ConsumerInfo{far(0)}, "[catch-up events, crew (0): done: with the other consumers again]"},
	} {
		if got := fmt.Sprint(look(step.consumers...)); got != step.want {
			t.Errorf("%s: %s", step.name, got)
		}
	}
	if all, _ := d.tasks.Snapshot(); all[0].Done != 59_999 || all[0].Total != 60_000 {
		t.Errorf("it is %d of %d", all[0].Done, all[0].Total)
	}

	for range 3 {
		if got := look(away, viewer, member, far(9_999)); len(got) != 1 {
			t.Errorf("consumers that are away, near, viewers or in front are followed: %q", got)
		}
	}
	look(crew)
	look(crew)
	if got := look(); len(got) != 2 || got[1] != "catch-up events, crew (0): failed: the consumer is gone" {
		t.Errorf("after it has left the tasks are %q", got)
	}
}

func TestNoMoreConsumersAreFollowedThanTheBound(t *testing.T) {
	d := built(t, redistest.Start(t))
	f := follower{daemon: d}
	for range 3 {
		before := f.far
		f.far = make(map[lagger]pursuit)
		for i := range 10 * mostFollowed {
			f.catchesUp("events", relay.ConsumerInfo{Name: batch.Name{Name: fmt.Sprint(i)}, Members: []batch.Member{&reader{}}, LagItems: farBehind}, before)
		}
	}
	if n := len(taskLines(d)); n != mostFollowed {
		t.Errorf("%d consumers are followed, want %d", n, mostFollowed)
	}
}

func TestWatchShowsTasksThatRunAndThenThoseThatChange(t *testing.T) {
	d := built(t, redistest.Start(t))
	d.tasks.Begin(requeueTask, "old", "").Finish("")
	task := d.tasks.Begin(requeueTask, "events", "")

	last := d.sample(nil)
	shown := []string{shownTasks(last)}
	for _, step := range []func(){
		func() {},
		func() { task.Report(500, 1200, "500 of 1200") },
		func() {
			task.Finish(strings.Repeat("long ", 30))
			d.tasks.Begin(drainTask, "", "")
		},
	} {
		step()
		last = d.sample(last)
		shown = append(shown, shownTasks(last))
	}
	want := []string{"    task requeue events\n", "", "    task requeue events: 500 of 1200\n",
		"    task requeue events: done: long long long long long long long long long lo..\n    task drain\n"}
	if fmt.Sprintf("%q", shown) != fmt.Sprintf("%q", want) {
		t.Errorf("watch shows\n%q, want\n%q", shown, want)
	}
}

// shownTasks are the lines of a sample below the numbers.
func shownTasks(s *sample) string {
	var text strings.Builder
	s.Text(&text)
	_, tasks, _ := strings.Cut(text.String(), "\n")
	return tasks
}

func TestTheTableOfTasksFitsAScreen(t *testing.T) {
	long := strings.Repeat("sensors:ü", 10)
	started := time.Now().Add(-100 * time.Hour)
	a := tasksAnswer{Tasks: []taskAnswer{{Status: progress.Status{
		Kind: takeoverTask, List: long, Consumer: "client 123456", State: progress.Failed, Started: started, Ended: started.Add(99 * time.Hour), Text: long,
	}}}}
	a.Tasks[0].Line = taskLine(a.Tasks[0].Status)
	var text strings.Builder
	a.Text(&text)
	for line := range strings.Lines(text.String()) {
		if n := len([]rune(strings.TrimSpace(line))); n > 80 {
			t.Errorf("the line has %d columns: %s", n, line)
		}
	}
}

func TestFollowingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	built(t, redistest.Start(t)).follow(ctx)
}
