package progress

import (
	"sync"
	"testing"
)

// closed reports whether a channel is closed.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestATaskIsReportedFromItsBeginningToItsOutcome(t *testing.T) {
	var tasks Tasks
	all, changed := tasks.Snapshot()
	if len(all) != 0 || closed(changed) {
		t.Fatalf("there are %v, and a change", all)
	}

	one := tasks.Begin("requeue", "events", "")
	other := tasks.Begin("catch-up", "events", "client 7")
	if !closed(changed) {
		t.Error("the beginning of a task is no change")
	}
	one.Report(500, 2000, "500 of 2000")
	all, changed = tasks.Snapshot()
	if len(all) != 2 || all[0].State != Running || all[0].Done != 500 || all[0].Total != 2000 || all[0].Text != "500 of 2000" || !all[0].Ended.IsZero() {
		t.Errorf("the tasks are %+v", all)
	}
	if all[1].Kind != "catch-up" || all[1].List != "events" || all[1].Consumer != "client 7" || all[1].ID <= all[0].ID {
		t.Errorf("the second task is %+v", all[1])
	}

	one.Finish("2000 put back")
	other.Fail("it left")
	if !closed(changed) {
		t.Error("the end of a task is no change")
	}
	all, changed = tasks.Snapshot()
	if all[0].State != Done || all[0].Text != "2000 put back" || all[0].Ended.Before(all[0].Started) || all[1].State != Failed {
		t.Errorf("the tasks are %+v", all)
	}

	one.Report(1, 2, "late")
	one.Fail("late")
	if now, _ := tasks.Snapshot(); now[0] != all[0] || closed(changed) {
		t.Errorf("a task changed after its end: %+v", now[0])
	}
}

func TestRunningTasksAreNeverForgottenAndOfTheEndedOnesTheLastAreKept(t *testing.T) {
	var tasks Tasks
	long := tasks.Begin("drain", "", "")
	for range 3 * kept {
		tasks.Begin("requeue", "events", "").Finish("")
	}
	all, _ := tasks.Snapshot()
	if len(all) != kept+1 || all[0].Kind != "drain" || all[1].ID != 2*kept+2 {
		t.Fatalf("%d tasks are kept: %+v", len(all), all[:2])
	}

	long.Finish("")
	all, _ = tasks.Snapshot()
	if len(all) != kept || all[0].Kind != "drain" {
		t.Errorf("%d tasks are kept, and the one that ended last is not among them: %+v", len(all), all[0])
	}
}

func TestTasksMayBeReportedAndReadAtTheSameTime(t *testing.T) {
	const workers, steps = 4, 100
	var tasks Tasks
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			task := tasks.Begin("requeue", "events", "")
			for i := range uint64(steps) {
				task.Report(i, steps, "")
			}
			task.Finish("")
		})
	}

	for ended := 0; ended < workers; { // ends only if the last change is seen
		now, changed := tasks.Snapshot()
		ended = 0
		for _, s := range now {
			if s.State == Done {
				ended++
			}
		}
		if ended < workers {
			<-changed
		}
	}
	all.Wait()
}
