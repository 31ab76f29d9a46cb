package main

import (
	"bufio"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"edged/internal/edgedtest"
)

// series is a figure over time.
type series struct {
	name, unit string
	scale      float64 // unit of the printed figures
	slack      float64 // allowed growth from the beginning to the end
	unjudged   bool    // it may grow
	values     []float64
}

func (s *series) add(v int) { s.values = append(s.values, float64(v)) }

// enough is the number of values that a verdict needs.
const enough = 7

// grew compares the last third of a series with the first one. A tenth, at least one value, is left
// out before as warm-up. It reports whether the mean of the last third is larger by a quarter and
// by the slack.
func (s *series) grew() (first, last float64, grew bool) {
	n := len(s.values)
	if n < enough {
		return 0, 0, false
	}
	steady := s.values[max(1, n/10):]
	third := len(steady) / 3
	first, last = mean(steady[:third]), mean(steady[len(steady)-third:])
	return first, last, !s.unjudged && last > first*1.25+s.slack
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// show prints a value in its unit.
func (s *series) show(v float64) string {
	if s.scale == 1 {
		return strconv.Itoa(int(v + 0.5))
	}
	return fmt.Sprintf("%.1f", v/s.scale)
}

// summary is a line about a series.
func (s *series) summary() string {
	if len(s.values) == 0 {
		return fmt.Sprintf("%-16s none", s.name)
	}
	a, b, grew := s.grew()
	verdict := "steady"
	switch {
	case grew:
		verdict = "GROWS"
	case s.unjudged:
		verdict = "not judged"
	case len(s.values) < enough:
		verdict = "too few values"
	}
	return fmt.Sprintf("%-16s %8s %8s %8s   %8s %8s   %s", s.name+" "+s.unit, s.show(s.values[0]), s.show(s.values[len(s.values)-1]),
		s.show(slices.Max(s.values)), s.show(a), s.show(b), verdict)
}

// hasRaceDetector reports whether a program was built with the race detector.
func hasRaceDetector(program string) bool {
	info, err := buildinfo.ReadFile(program)
	return err == nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// figures are those of one daemon, of all its successive processes. Descriptors and goroutines are
// counted without the one that each client has.
type figures struct{ rss, descriptors, goroutines series }

const mebibyte = 1 << 20

func newFigures(name string) *figures {
	return &figures{
		rss:         series{name: name + " RSS", unit: "MiB", scale: mebibyte, slack: 3 * mebibyte},
		descriptors: series{name: name + " files", scale: 1, slack: 10},
		goroutines:  series{name: name + " goroutines", scale: 1, slack: 20},
	}
}

func (f *figures) all() []*series { return []*series{&f.rss, &f.descriptors, &f.goroutines} }

// take adds the present figures of a process.
func (f *figures) take(p *process) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		return err
	}

	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	words := strings.Fields(rest)
	if len(words) == 0 {
		return fmt.Errorf("process %d has no VmRSS", p.Pid())
	}

	kilobytes, err := strconv.Atoi(words[0])
	if err != nil {
		return err
	}

	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Pid()))
	if err != nil {
		return err
	}
	goroutines, err := p.goroutines()
	if err != nil {
		return err
	}
	clients, err := p.clients()
	if err != nil {
		return err
	}
	f.rss.add(kilobytes << 10)
	f.descriptors.add(len(files) - clients)
	f.goroutines.add(goroutines - clients)
	return nil
}

// clients asks the process for its number of clients.
func (p *process) clients() (int, error) {
	answer, err := edgedtest.Control(p.control, "status json")
	if err != nil {
		return 0, err
	}
	var status struct{ TCP struct{ Clients int } }
	err = json.Unmarshal([]byte(answer), &status)
	return status.TCP.Clients, err
}

// goroutines asks the process for its profile, whose first line has the number.
func (p *process) goroutines() (int, error) {
	text, err := p.profile("goroutine?debug=1")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(text, "total ")
	line, _, _ := strings.Cut(rest, "\n")
	return strconv.Atoi(line)
}

// profile gets a profile as text.
func (p *process) profile(name string) (string, error) {
	conn, err := net.Dial("tcp", p.profiles)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "GET /debug/pprof/%s HTTP/1.0\r\nHost: localhost\r\n\r\n", name)
	text, err := io.ReadAll(bufio.NewReader(conn))
	return string(text), err
}

// latest returns the last value as text.
func (s *series) latest() string {
	if len(s.values) == 0 {
		return "-"
	}
	return s.show(s.values[len(s.values)-1])
}
