package sim

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"edged/internal/redisconn"
	"edged/test/sim/scenario"
)

var (
	runs  = flag.Int("runs", 1, "how many new seeds TestNewSeeds plays")
	first = flag.Uint64("seed", 1, "the first of them")
	hours = flag.Float64("hours", 0.3, "simulated hours of each")
	keep  = flag.String("keep", "", "the folder for the scenarios that failed, shrunk")
	show  = flag.Bool("show", false, "print the scenarios instead of playing them")
	stop  = flag.Bool("stop", false, "stop at the first seed that finds something")
	limit = flag.Duration("limit", time.Hour, "no new seed begins after this time")
)

// TestPlay plays the scenario in $SIM_PLAY, for the process that has started this
// one: a bubble needs a process of its own. Without one it plays a scenario in this
// process, which has no bubble otherwise.
func TestPlay(t *testing.T) {
	file := os.Getenv("SIM_PLAY")
	alone := file == ""
	if alone {
		file = "scenarios/second-process-of-a-name.txt"
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := scenario.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	redisconn.SetLog(zap.NewNop())
	synctest.Test(t, func(t *testing.T) {
		if alone {
			if r := play(plan, func() {}); len(r.Findings) > 0 {
				t.Errorf("%q\n%s", r.Findings, r.Story)
			}
			return
		}
		tell(play(plan, func() { os.Stdout.WriteString(beat) }))
	})
}

// beat is written each time the simulated clock has moved for a while.
const beat = "BEAT\n"

// tell prints a result for the process that has started this one.
func tell(r result) {
	out, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	fmt.Printf("\nRESULT %s\n", out)
}

// TestScenarios plays the scenarios that found something once.
func TestScenarios(t *testing.T) { passes(t, "scenarios/*.txt") }

// passes plays the scenarios in some files, which find nothing any more.
func passes(t *testing.T, pattern string) {
	each(t, pattern, func(t *testing.T, r result) {
		if len(r.Findings) > 0 {
			t.Errorf("%q\n%s", r.Findings, r.Story)
		}
	})
}

// TestOpenScenarios plays those that still find something: known faults.
func TestOpenScenarios(t *testing.T) {
	each(t, "scenarios/open/*.txt", func(t *testing.T, r result) {
		if len(r.Findings) == 0 {
			t.Errorf("it finds nothing any more: move it to test/sim/scenarios\n%s", r.Story)
		}
	})
}

// each plays the scenarios in some files.
func each(t *testing.T, pattern string, judge func(*testing.T, result)) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := scenario.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			judge(t, playApart(t, plan))
		})
	}
}

// TestFixedSeeds plays the same years each time.
func TestFixedSeeds(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			if r := playApart(t, scenario.Generate(seed, 20*time.Minute)); len(r.Findings) > 0 {
				t.Errorf("%q\n%s", r.Findings, r.Story)
			}
		})
	}
}

// TestNewSeeds plays -runs seeds, beginning with -seed, on all processors, and says what
// they amounted to.
func TestNewSeeds(t *testing.T) {
	began := time.Now()
	var next atomic.Int64
	var mu sync.Mutex
	var total result
	played, failed := 0, 0
	var workers sync.WaitGroup
	for range runtime.NumCPU() {
		workers.Go(func() {
			for {
				n := next.Add(1) - 1
				mu.Lock()
				enough := *stop && failed > 0
				mu.Unlock()
				if enough || n >= int64(*runs) || time.Since(began) > *limit {
					return
				}
				seed := *first + uint64(n)
				plan := scenario.Generate(seed, time.Duration(*hours*float64(time.Hour)))
				if *show {
					os.Stdout.Write(plan.Format())
					continue
				}
				r := playApart(t, plan)
				mu.Lock()
				played++
				total.Faults += r.Faults
				total.Deliveries += r.Deliveries
				total.Duplicates += r.Duplicates
				total.Simulated += r.Simulated
				if len(r.Findings) > 0 {
					failed++
				}
				mu.Unlock()
				if len(r.Findings) > 0 {
					report(t, seed, plan, r)
				}
			}
		})
	}
	workers.Wait()

	took := time.Since(began)
	hour := float64(time.Hour) / float64(took)
	fmt.Printf("%d seeds in %.0f s, %d failed: %d faults, %d deliveries (%d twice), %.1f simulated days\n",
		played, took.Seconds(), failed, total.Faults, total.Deliveries, total.Duplicates, total.Simulated.Hours()/24)
	fmt.Printf("an hour of this: %.0f faults, %.1f million deliveries, %.1f simulated days\n",
		float64(total.Faults)*hour, float64(total.Deliveries)*hour/1e6, total.Simulated.Hours()/24*hour)
}

// report tells what a seed has found, how often it does, and keeps the shrunk
// scenario.
func report(t *testing.T, seed uint64, plan *scenario.Scenario, r result) {
	t.Errorf("seed %d: %q\n%s", seed, r.Findings, r.Story)
	if *keep == "" {
		return
	}
	kind := r.kinds()[0]
	small := shrink(t, plan, kind, 150)
	again := 0
	var last result
	for range 20 {
		if r := playApart(t, small); len(r.Findings) > 0 && r.kinds()[0] == kind {
			again++
			last = r
		}
	}
	file := filepath.Join(*keep, fmt.Sprintf("seed-%d-%s.txt", seed, kind))
	text := fmt.Sprintf("# Seed %d found this, %d times in 20:\n# %q\n\n%s", seed, again, last.Findings, small.Format())
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Error(err)
	}
	t.Logf("shrunk to %d events of %d, found %d times in 20: %s\n%s", len(small.Events), len(plan.Events), again, file, last.Story)
}
