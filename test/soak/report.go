package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"edged/test/sim"
)

// report prints a line after each episode, and a summary.
type report struct {
	out    io.Writer
	world  *sim.World
	parts  *parts
	folder string
	began  time.Time

	daemons map[string]*figures
	keys    series
	memory  series
	found   int // findings that were printed

	mu        sync.Mutex
	cut       bool     // the soak was told to end; guarded by mu
	untilThen []string // the findings at that time; guarded by mu
}

var names = []string{"a", elder}

// begin prints the head of the table. The memory of daemons with the race detector is not judged,
// because the detector's own memory grows.
func (r *report) begin(race bool) {
	r.daemons = map[string]*figures{}
	for _, name := range names {
		r.daemons[name] = newFigures(name)
		r.daemons[name].rss.unjudged = race
	}
	r.keys = series{name: "Redis keys", scale: 1, slack: 10}
	r.memory = series{name: "Redis memory", unit: "MiB", scale: mebibyte, slack: 2 * mebibyte}
	fmt.Fprintf(r.out, "%7s %7s %11s %8s", "minutes", "faults", "deliveries", "twice")
	for _, name := range names {
		fmt.Fprintf(r.out, " | %s: %6s %6s %10s", name, "MiB", "files", "goroutines")
	}
	fmt.Fprintf(r.out, " | Redis: %4s %6s\n", "keys", "MiB")
}

// episode prints the figures after a check.
func (r *report) episode() {
	for _, p := range r.parts.list() {
		if f := r.daemons[p.name]; f != nil {
			if err := f.take(p); err != nil {
				r.world.Find("figures", "%s has none: %v", p.name, err)
			}
		}
	}
	r.keys.add(len(r.parts.redis.Keys()))
	r.memory.add(r.parts.redis.Memory())

	sofar := r.world.Result()
	fmt.Fprintf(r.out, "%7.1f %7d %11d %8d", time.Since(r.began).Minutes(), sofar.Faults, sofar.Deliveries, sofar.Duplicates)
	for _, name := range names {
		f := r.daemons[name]
		fmt.Fprintf(r.out, " |    %6s %6s %10s", f.rss.latest(), f.descriptors.latest(), f.goroutines.latest())
	}
	fmt.Fprintf(r.out, " |        %4s %6s\n", r.keys.latest(), r.memory.latest())
	r.tell()
}

// interrupt makes the findings so far final: the daemons may have received the same signal as this
// program.
func (r *report) interrupt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut, r.untilThen = true, r.world.Result().Findings
}

// findings returns the world's findings that count.
func (r *report) findings() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut {
		return r.untilThen
	}
	return r.world.Result().Findings
}

// tell prints new findings and writes the story that leads to them into a file.
func (r *report) tell() {
	findings := r.findings()
	if len(findings) == r.found {
		return
	}
	for _, f := range findings[r.found:] {
		fmt.Fprintf(r.out, "        FOUND %s\n", f)
	}
	sofar := r.world.Result()
	story := fmt.Sprintf("%s\n\n%s", strings.Join(findings[r.found:], "\n"), sofar.Story)
	file := filepath.Join(r.folder, fmt.Sprintf("story-%d.txt", r.found+1))
	r.found = len(findings)
	if err := os.WriteFile(file, []byte(story), 0o600); err != nil {
		fmt.Fprintln(r.out, err)
		return
	}

	lines := strings.SplitAfter(sofar.Story, "\n")
	fmt.Fprintf(r.out, "%s... the end of %s\n", strings.Join(lines[max(0, len(lines)-short):], ""), file)
}

// short is the number of lines of a story that are printed.
const short = 50

// end prints the summary and returns the number of findings. A figure that grew is a finding, if it
// belongs to processes that ran all the time.
func (r *report) end() int {
	r.tell()
	fmt.Fprintf(r.out, "\n%-16s %8s %8s %8s   %8s %8s\n", "", "first", "last", "most", "early", "late")
	for _, name := range names {
		for _, s := range r.daemons[name].all() {
			fmt.Fprintln(r.out, s.summary())
			if _, _, grew := s.grew(); grew && name == elder {
				r.found++
			}
		}
	}

	for _, s := range []*series{&r.keys, &r.memory} {
		fmt.Fprintln(r.out, s.summary())
		if _, _, grew := s.grew(); grew {
			r.found++
		}
	}

	total := r.world.Result()
	fmt.Fprintf(r.out, "%.1f minutes, %d faults, %d deliveries, %d of them twice, %d findings\n",
		time.Since(r.began).Minutes(), total.Faults, total.Deliveries, total.Duplicates, r.found)
	return r.found
}
