package loglimit

import (
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func messages(logs *observer.ObservedLogs) (all []string) {
	for _, e := range logs.TakeAll() {
		all = append(all, e.Message)
	}
	return all
}

func want(t *testing.T, logs *observer.ObservedLogs, want ...string) {
	t.Helper()
	if got := messages(logs); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRepeatedLinesAreHeldBackAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next, logs := observer.New(zap.DebugLevel)
		log := zap.New(New(next, Limits{2, time.Second}))
		for i := range 5 {
			log.With(zap.Int("client", i)).Warn("cut off")
			log.Named("other").Warn("cut off")
		}
		log.Error("cut off")
		log.Info("else")
		want(t, logs, "cut off", "cut off", "cut off", "cut off", "cut off", "else")
		time.Sleep(time.Second)
		synctest.Wait()
		want(t, logs, "cut off … 3 more like this", "cut off … 3 more like this")

		log.Warn("cut off") // begins anew
		want(t, logs, "cut off")
		time.Sleep(time.Second)
		synctest.Wait()
		want(t, logs)
	})
}

func TestDebugLinesAllPass(t *testing.T) {
	next, logs := observer.New(zap.DebugLevel)
	log := zap.New(New(next, Limits{1, time.Hour}))
	log.Debug("a")
	log.Debug("a")
	want(t, logs, "a", "a")
}

func TestLinesBelowTheLevelAreNotCounted(t *testing.T) {
	next, logs := observer.New(zap.WarnLevel)
	log := zap.New(New(next, Limits{1, time.Hour}))
	log.Info("a")
	log.Info("a")
	_ = log.Sync()
	want(t, logs)
}

func TestSyncSaysWhatWasHeldBackAtOnce(t *testing.T) {
	next, logs := observer.New(zap.DebugLevel)
	log := zap.New(New(next, Limits{1, time.Hour}))
	for range 3 {
		log.Info("a")
	}
	_ = log.Sync()
	_ = log.Sync()
	want(t, logs, "a", "a … 2 more like this")
}
