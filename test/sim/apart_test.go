package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"edged/test/sim/scenario"
)

// longest is how long a scenario may take in real time.
const longest = 5 * time.Minute

// playApart plays a scenario in a process of its own, on one processor and without
// preemption, so that the same scenario tells the same story again.
func playApart(t *testing.T, plan *scenario.Scenario) result {
	t.Helper()
	file := filepath.Join(t.TempDir(), "scenario")
	if err := os.WriteFile(file, plan.Format(), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), longest)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestPlay$", "-test.timeout=0")
	cmd.Env = append(os.Environ(), "SIM_PLAY="+file, "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1", "GOGC=off", "GOMEMLIMIT=600MiB", "GOTRACEBACK=all")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) }
	cmd.WaitDelay = 5 * time.Second
	var still atomic.Bool
	output := &heartbeat{timer: time.AfterFunc(patience, func() {
		still.Store(true)
		cancel()
	})}
	cmd.Stdout, cmd.Stderr = output, output
	err := cmd.Run()
	output.timer.Stop()
	out := bytes.ReplaceAll(output.all.Bytes(), []byte(beat), nil)
	if _, rest, ok := bytes.Cut(out, []byte("\nRESULT ")); ok {
		text, _, _ := bytes.Cut(rest, []byte("\n"))
		var r result
		if json.Unmarshal(text, &r) == nil && err == nil {
			return r
		}
	}
	kind := "panic"
	switch {
	case still.Load():
		kind = "busy the simulated clock stands still, something runs in circles:"
	case ctx.Err() != nil:
		kind = "hang"
	}
	return result{Findings: []string{fmt.Sprintf("%s the process ended: %v", kind, err)}, Story: string(out[:min(len(out), 60_000)])}
}

// patience is how long the simulated clock may stand still in real time.
const patience = 30 * time.Second

// heartbeat is the output of a process that writes as long as its simulated clock moves.
// Its own goroutines could not watch it: nothing preempts one that runs in circles.
type heartbeat struct {
	timer *time.Timer // fires when nothing has come for a while
	all   bytes.Buffer
}

func (h *heartbeat) Write(b []byte) (int, error) {
	h.timer.Reset(patience)
	return h.all.Write(b)
}

// kinds are the kinds of the findings, sorted.
func (r result) kinds() []string {
	var kinds []string
	for _, f := range r.Findings {
		kind, _, _ := strings.Cut(f, " ")
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// shrink removes events from a scenario for as long as playing it still finds
// something of a kind.
func shrink(t *testing.T, plan *scenario.Scenario, kind string, budget int) *scenario.Scenario {
	best := *plan
	fails := func(events []scenario.Event) bool {
		budget--
		try := best
		try.Events = events
		return slices.Contains(playApart(t, &try).kinds(), kind)
	}
	for size := len(best.Events) / 2; size > 0 && budget > 0; {
		removed := false
		for at := 0; at < len(best.Events) && budget > 0; {
			fewer := slices.Delete(slices.Clone(best.Events), at, min(at+size, len(best.Events)))
			if fails(fewer) {
				best.Events, removed = fewer, true
			} else {
				at += size
			}
		}
		if size == 1 && !removed {
			break
		}
		if size > 1 {
			size /= 2
		}
	}
	return &best
}
