package daemon

import (
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"edged/internal/config"
	"edged/internal/poller"
)

func TestOnlyListsThatRedisDoesNotServeAreIllAndShareALineByTheReason(t *testing.T) {
	var h Health
	h.addLists([]poller.Status{
		{Key: "a", State: poller.Serving}, {Key: "b", State: poller.Waiting}, {Key: "c", State: poller.Full}, {Key: "d", State: poller.Paused},
		{Key: "e", State: poller.Standby, Holder: "box2/1"}, {Key: "f", State: poller.Draining},
	})
	if h.Reasons != nil {
		t.Errorf("the reasons are %q", h.Reasons)
	}

	since := time.Now().Add(-time.Minute)
	h.addLists([]poller.Status{
		{Key: "a", State: poller.Failing, Reason: "no answer", FaultSince: since},
		{Key: "b\x1b", State: poller.Failing, Reason: "the key holds no list", FaultSince: since},
		{Key: "c", State: poller.Failing, Reason: "no answer", FaultSince: since},
		{Key: "d", State: poller.Starting},
	})
	want := []string{"list a and 1 more: no answer (for 1m0s)", `list "b\x1b": the key holds no list (for 1m0s)`, "list d: Redis has not answered yet"}
	if !reflect.DeepEqual(h.Reasons, want) {
		t.Errorf("the reasons are %q, want %q", h.Reasons, want)
	}
}

func TestALoopThatStandsStillIsIll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, err := config.Load("")
		if err != nil {
			t.Fatal(err)
		}
		cfg.Lists = nil // no Redis answers for them
		log := newLog(cfg.Log, &logBuffer{}, nil)
		defer log.close()
		d, err := build(Options{Config: cfg, Version: "0.0.0"}, log)
		if err != nil {
			t.Fatal(err)
		}

		bound := d.stallAfter()
		time.Sleep(bound - time.Millisecond)
		if h := d.health(); !h.OK {
			t.Errorf("it is ill too early: %q", h.Reasons)
		}
		time.Sleep(time.Millisecond)
		if h := d.health(); h.OK || len(h.Reasons) != 1 || h.Reasons[0] != "the loop poll stands still" {
			t.Errorf("the loop stands still, and the health is %+v", h)
		}
		d.alive(time.Now())
		if h := d.health(); !h.OK {
			t.Errorf("it is ill after the loop has gone on: %q", h.Reasons)
		}
	})
}
