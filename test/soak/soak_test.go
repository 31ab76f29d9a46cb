package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"edged/internal/edgedtest"
	"edged/test/sim"
	"edged/test/sim/scenario"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(edgedtest.Exit)) }

// all is a plan that uses each part of the real world.
const all = `
world seed=1 instances=2 window=256 batch=16 lease=6 timeout=1 poll=1 ping=5 receipt=5 drain=1
list key=l1 ack=received take=left
list key=l2 ack=explicit take=right wait=1 inbound=true
0.0 start daemon=a
0.0 start daemon=b
0.1 client name=c1 daemon=a list=l1 reconnect=1
0.1 client name=c2 daemon=b list=l2 group=g reconnect=1 nak=20
0.2 push list=l1 n=500
0.2 push list=l2 n=500
0.3 redis-save
0.5 cut from=a to=redis dir=down after=100
0.5 redis-fault kind=MISCONF
0.6 redis-fault kind=OOM
0.7 redis-fault kind=READONLY
0.8 redis-fault kind=BUSY
1.0 redis-fault kind=""
1.0 freeze host=b
1.1 kill daemon=a
1.2 push list=l1 n=500
1.3 redis-stop
1.4 redis-start data=older
1.5 thaw host=b
1.6 start daemon=a
1.7 redis-kick
1.8 pop list=l1 n=3
1.9 push list=l2 n=20 kind=binary
2.0 check
`

func parse(t *testing.T, text string) *scenario.Scenario {
	t.Helper()
	plan, err := scenario.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func TestRealProcessesKeepTheirPromises(t *testing.T) {
	opts := options{length: time.Nanosecond, binary: edgedtest.Binary(t)}
	if found, err := play(t.Context(), t.Output(), opts, folder(t), parse(t, all)); err != nil || found > 0 {
		t.Errorf("%d findings, %v", found, err)
	}
}

func TestTheLossOfAnItemIsFound(t *testing.T) {
	processes, end := context.WithCancel(t.Context())
	parts := &parts{ctx: processes, interrupted: processes, binary: edgedtest.Binary(t), folder: folder(t)}
	defer parts.running.Wait()
	defer end()

	var err error
	if parts.redis, err = startServer(processes, &parts.running, parts.folder, t.Logf); err != nil {
		t.Fatal(err)
	}
	plan := parse(t, "world instances=1\nlist key=l1 ack=received\n0 start daemon=a\n1 push list=l1 n=5\n2 check\n")
	world := sim.New(plan, parts)
	defer world.End()
	for _, e := range plan.Events {
		world.Do(e)
		if e.Verb == "push" { // there is no client yet, and the judge is not told
			parts.redis.Execute("LPOP", "l1")
		}
	}

	if findings := world.Result().Findings; len(findings) != 1 || !strings.HasPrefix(findings[0], "lost l1:1") {
		t.Errorf("found %q, want the loss of l1:1", findings)
	}
}

// The operator's command ends the daemon as a signal to all processes of a session would. The first
// check waits until the daemon has delivered an item: earlier it might refuse a command.
const ends = "world instances=1\nlist key=l1 ack=received\n0 start daemon=a\n0.1 client name=c1 daemon=a list=l1\n" +
	"0.1 push list=l1 n=1\n0.2 check\n0.2 op daemon=a cmd=drain\n0.2 check\n"

func TestADaemonThatEndsByItselfIsFound(t *testing.T) {
	var out bytes.Buffer
	opts := options{length: time.Hour, binary: edgedtest.Binary(t)}
	if _, err := play(t.Context(), &out, opts, folder(t), parse(t, ends)); err != nil || !strings.Contains(out.String(), "FOUND died a") {
		t.Errorf("%v\n%s", err, &out)
	}
}

func TestADaemonThatEndsWithTheSoakIsNotFound(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()

	folder := folder(t)
	go func() {
		defer interrupt()
		var pid string
		for ctx.Err() == nil {
			log, _ := os.ReadFile(filepath.Join(folder, "a.log"))
			if _, rest, ok := strings.Cut(string(log), `"pid":`); ok {
				pid, _, _ = strings.Cut(rest, ",")
			}
			if _, err := os.Stat("/proc/" + pid); pid != "" && err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()

	opts := options{length: time.Hour, binary: edgedtest.Binary(t)}
	if found, err := play(ctx, t.Output(), opts, folder, parse(t, ends)); err != nil || found > 0 {
		t.Errorf("%d findings, %v", found, err)
	}
}

func TestTheMemoryOfARaceDetectorMayGrow(t *testing.T) {
	if !hasRaceDetector(edgedtest.Binary(t)) {
		t.Error("the race detector of the daemon is not seen")
	}
	s := series{unjudged: true}
	for v := range 10 {
		s.add(v)
	}
	if _, _, grew := s.grew(); grew {
		t.Error("growth is found")
	}
}

func TestAFigureGrowsIfItsLastThirdIsLarger(t *testing.T) {
	for _, c := range []struct {
		about  string
		values []int
		grew   bool
	}{
		{"steady", []int{100, 101, 99, 100, 100, 102, 100, 99, 100, 101}, false},
		{"warm-up", []int{10, 100, 101, 99, 100, 100, 102, 100, 99, 100, 101}, false},
		{"one peak at the end", []int{100, 100, 100, 100, 100, 100, 100, 100, 100, 160}, false},
		{"growth", []int{100, 110, 120, 130, 140, 150, 160, 170, 180, 190}, true},
		{"growth within the slack", []int{1, 1, 2, 2, 3, 3, 4, 4, 5, 5}, false},
		{"too few values", []int{1, 100, 1000}, false},
		{"none", nil, false},
	} {
		s := series{slack: 10}
		for _, v := range c.values {
			s.add(v)
		}
		if _, _, grew := s.grew(); grew != c.grew {
			t.Errorf("%s: grew is %v", c.about, grew)
		}
	}
}

func TestAPlanHasTwoDaemonsAndNeverEndsTheElder(t *testing.T) {
	seed, s := plan(1, 20*time.Hour)
	if again, other := plan(seed, 20*time.Hour); again != seed || !bytes.Equal(s.Format(), other.Format()) {
		t.Error("the seed that a plan is made of makes another plan")
	}
	if s.World.Int("instances", 0) != 2 {
		t.Errorf("world %s", s.World)
	}

	ends := func(e scenario.Event) bool {
		return (e.Verb == "kill" || e.Verb == "stop") && e.Args.Text("daemon", "") == elder
	}
	if slices.ContainsFunc(s.Events, ends) {
		t.Errorf("%s is ended", elder)
	}

	for _, e := range s.Events {
		if n, size := e.Args.Int("n", 0), e.Args.Int("size", 0); e.Verb == "push" && n*size > most {
			t.Errorf("%s pushes more than %d bytes", e, most)
		}
	}
}

func TestQuietHoursAreCompressed(t *testing.T) {
	var p pace
	for _, c := range []struct {
		at   time.Duration
		verb string
		want time.Duration
	}{
		{0, "start", 0}, {20 * time.Millisecond, "push", 20 * time.Millisecond}, {time.Minute, "check", time.Second},
		{3 * time.Hour, "push", 100 * time.Second}, {5 * time.Hour, "push", time.Second}, {6 * time.Hour, "check", time.Second},
		{9 * time.Hour, "push", 100 * time.Second},
	} {
		if got := p.pause(scenario.Event{At: c.at, Verb: c.verb}); got != c.want {
			t.Errorf("before %s at %v: %v, want %v", c.verb, c.at, got, c.want)
		}
	}
}

// folder returns a folder with a short path, for Unix sockets.
func folder(t *testing.T) string {
	t.Helper()
	name, err := os.MkdirTemp("", "e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(name) })
	return name
}

func TestWritersGetWholeLines(t *testing.T) {
	var got []string
	l := lines{to: []io.Writer{writer(func(b []byte) { got = append(got, string(b)) })}}
	for _, text := range []string{"one", "\ntwo\nthr", "ee\n", "rest"} {
		fmt.Fprint(&l, text)
	}
	if want := []string{"one\n", "two\n", "three\n"}; !slices.Equal(got, want) {
		t.Errorf("lines %q, want %q", got, want)
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}
