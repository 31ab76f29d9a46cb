package logsample

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

const notice = "dropping log lines that repeat; status counts them"

// want compares the messages that were logged since the last call.
func want(t *testing.T, logs *observer.ObservedLogs, want ...string) {
	t.Helper()
	var got []string
	for _, e := range logs.TakeAll() {
		got = append(got, e.Message)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRepeatedLinesAreDroppedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next, logs := observer.New(zap.DebugLevel)
		c := New(next, 2, time.Second)
		log := zap.New(c)
		for i := range 5 {
			log.With(zap.Int("client", i)).Warn("cut off")
		}
		log.Error("cut off")
		log.Info("else")
		want(t, logs, "cut off", "cut off", notice, "cut off", "else")
		if n := c.Dropped(); n != 3 {
			t.Errorf("%d dropped, want 3", n)
		}

		time.Sleep(time.Second)
		log.Warn("cut off")
		want(t, logs, "cut off")
	})
}

func TestDroppingIsSaidOncePerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next, logs := observer.New(zap.DebugLevel)
		log := zap.New(New(next, 1, time.Second))
		for range 3 {
			log.Info("a")
			log.Info("b")
		}
		e := logs.All()[2]
		if fields := e.ContextMap(); e.Message != notice || fields["line"] != "a" || fields["dropped"] != uint64(1) {
			t.Errorf("%s with %v", e.Message, fields)
		}
		want(t, logs, "a", "b", notice)

		time.Sleep(time.Second)
		for range 3 {
			log.Info("b")
		}
		want(t, logs, "b", notice)
	})
}

func TestDebugLinesAllPass(t *testing.T) {
	next, logs := observer.New(zap.DebugLevel)
	c := New(next, 1, time.Hour)
	log := zap.New(c)
	for range 3 {
		log.With(zap.Int("n", 1)).Debug("a")
	}
	want(t, logs, "a", "a", "a")
	if n := c.Dropped(); n != 0 {
		t.Errorf("%d dropped, want none", n)
	}
}

func TestLinesBelowTheLevelAreNotCounted(t *testing.T) {
	next, logs := observer.New(zap.WarnLevel)
	c := New(next, 1, time.Hour)
	log := zap.New(c)
	for range 3 {
		log.Info("a")
		log.Debug("a")
	}
	want(t, logs)
	if n := c.Dropped(); n != 0 {
		t.Errorf("%d dropped, want none", n)
	}
}
