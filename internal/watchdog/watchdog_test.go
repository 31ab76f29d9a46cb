package watchdog

import (
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manager stands in for systemd.
type manager struct {
	interval time.Duration
	reports  int
}

func (m *manager) Watchdog() time.Duration { return m.interval }

func (m *manager) Alive(time.Time) { m.reports++ }

func TestTheReportIsSentOnlyWhileAllLoopsGoRound(t *testing.T) {
	core, logged := observer.New(zap.ErrorLevel)
	m := &manager{interval: 12 * time.Second}
	probes := 0
	w := New(Options{Notify: m, Probe: func() { probes++ }, Log: zap.New(core)})
	if got := w.every(); got != 3*time.Second {
		t.Errorf("a loop must beat every %v, want 3s", got)
	}
	first, second := w.add("first"), w.add("second")

	now := time.Now()
	for _, step := range []struct {
		name          string
		first, second time.Duration // since their last beats; -1: they have ended
		sent          bool
	}{
		{"both went round lately", 3 * time.Second, time.Second, true},
		{"one stands still", 6 * time.Second, time.Second, false},
		{"it still does", 10 * time.Second, time.Second, false},
		{"it goes round again", 0, time.Second, true},
		{"the other stands still", 0, time.Hour, false},
		{"both have ended", -1, -1, true},
	} {
		now = now.Add(4 * time.Second) // a third of the interval
		for h, since := range map[*heartbeat]time.Duration{first: step.first, second: step.second} {
			h.at.Store(now.Add(-since).UnixNano())
			if since < 0 {
				h.end()
			}
		}
		m.reports = 0
		w.Check(now)
		w.Check(now.Add(time.Second)) // too early for another check
		if sent := m.reports == 1; sent != step.sent {
			t.Errorf("%s: %d reports", step.name, m.reports)
		}
	}
	if probes != 6 {
		t.Errorf("the locks were probed %d times, want 6", probes)
	}
	if logged.Len() != 2 || logged.All()[0].ContextMap()["loop"] != "first" || logged.All()[1].ContextMap()["loop"] != "second" {
		t.Errorf("the log has %v, want each loop that stood still once", logged.All())
	}
}

func TestWithoutAWatchdogNothingIsProbed(t *testing.T) {
	m := &manager{}
	w := New(Options{Notify: m, Probe: func() { t.Error("probed") }, Log: zap.NewNop()})
	w.add("loop").at.Store(0) // long ago
	w.Check(time.Now())
	if m.reports > 0 {
		t.Errorf("%d reports", m.reports)
	}
}

func TestALoopThatStandsStillIsNamed(t *testing.T) {
	const bound = time.Minute
	m := &manager{}
	w := New(Options{Notify: m, Probe: func() {}, Log: zap.NewNop()})
	accept := w.add("accept")

	now := time.Now().Add(time.Hour)
	for _, step := range []struct {
		name             string
		interval         time.Duration // of the service manager
		checked, beating time.Duration // ago
		want             string
	}{
		{"all go round", 12 * time.Second, 0, 0, ""},
		{"the poll loop is slow", 0, bound - 1, 0, ""},
		{"the poll loop stands still", 0, bound, 0, "poll"},
		{"no beat is due", 0, 0, time.Hour, ""},
		{"another loop stands still", 12 * time.Second, 0, time.Hour, "accept"},
	} {
		m.interval = step.interval
		w.Check(now.Add(-step.checked))
		accept.at.Store(now.Add(-step.beating).UnixNano())
		if got := w.Stalled(now, bound); got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
}
