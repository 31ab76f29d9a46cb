package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// report is the outcome of some rounds, and the content of -json.
type report struct {
	Time    time.Time `json:"time"`
	Machine machine   `json:"machine"`
	Rows    []*row    `json:"rows"`
}

// machine describes the conditions on which the figures depend.
type machine struct {
	System string `json:"system"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Go     string `json:"go"`
	Redis  string `json:"redis"`
	Load   string `json:"load"` // load averages at the start of the first round
}

// row is one figure of one measurement.
type row struct {
	Name    string    `json:"name"`
	Unit    string    `json:"unit"`
	Values  []float64 `json:"values"` // one a round
	Median  float64   `json:"median"`
	Targets []verdict `json:"targets,omitempty"`
}

// verdict compares a row with a target.
type verdict struct {
	Text string `json:"text"` // "×1.31 of nats-server (at least ×0.8)"
	Met  bool   `json:"met"`
}

func thisMachine() machine {
	m := machine{System: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version()}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, model, _ := strings.Cut(string(text), "model name")
		model, _, _ = strings.Cut(model, "\n")
		m.CPU = strings.Trim(model, "\t :")
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.Join(strings.Fields(string(text))[:3], " ")
	}
	if text, err := exec.Command("redis-server", "--version").Output(); err == nil {
		_, version, _ := strings.Cut(string(text), "v=")
		m.Redis, _, _ = strings.Cut(version, " ")
	}
	return m
}

// add records the figures of one measurement in one round.
func (r *report) add(name string, figures []figure) {
	for _, f := range figures {
		found := r.find(name, f.unit)
		if found == nil {
			found = &row{Name: name, Unit: f.unit}
			r.Rows = append(r.Rows, found)
		}
		found.Values = append(found.Values, f.value)
		found.Median = median(found.Values)
	}
}

func (r *report) find(name, unit string) *row {
	for _, row := range r.Rows {
		if row.Name == name && row.Unit == unit {
			return row
		}
	}
	return nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// judge compares the rows with targets, if both sides were measured.
func (r *report) judge(targets []target) {
	for _, t := range targets {
		row := r.find(t.name, t.unit)
		if row == nil {
			continue
		}
		is, times, of := row.Median, "", ""
		if t.against != "" {
			other := r.find(t.against, t.unit)
			if other == nil || other.Median == 0 {
				continue
			}
			is, times, of = is/other.Median, "×", " "+t.against
		}

		v := verdict{Met: is >= t.atLeast && (t.atMost == 0 || is <= t.atMost)}
		bound := "at least " + times + number(t.atLeast)
		if t.atMost != 0 {
			bound = "at most " + times + number(t.atMost)
		}
		if t.enough != 0 {
			v.Met = v.Met || row.Median >= t.enough
			bound += " or " + number(t.enough)
		}

		if v.Text = bound; times != "" {
			v.Text = times + number(is) + of + " (" + bound + ")"
		}
		row.Targets = append(row.Targets, v)
	}
}

// table prints the report for people.
func (r *report) table(out io.Writer) error {
	m := r.Machine
	fmt.Fprintf(out, "%s, %d cores, %s, %s, Redis %s; load before: %s\n\n", m.CPU, m.Cores, m.System, m.Go, m.Redis, m.Load)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MEASUREMENT\tMEDIAN\tUNIT\tLEAST\tMOST\tTARGET")
	name := ""
	for _, row := range r.Rows {
		shown := row.Name
		if shown == name {
			shown = ""
		}
		name = row.Name
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s", shown, number(row.Median), row.Unit, number(slices.Min(row.Values)), number(slices.Max(row.Values)))
		for i, v := range row.Targets {
			if i > 0 {
				fmt.Fprint(t, "\n\t\t\t\t")
			}
			met := "met:"
			if !v.Met {
				met = "MISSED:"
			}
			fmt.Fprintf(t, "\t%s %s", met, v.Text)
		}
		fmt.Fprintln(t)
	}

	return t.Flush()
}

// number prints three digits or the whole number, with commas.
func number(v float64) string {
	if v < 100 {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	digits := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func (r *report) write(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

func readReport(file string) (*report, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s is nothing that -json has written: %v", file, err)
	}
	return r, nil
}

// benchfmt prints the report in the format of Go's benchmarks, for benchstat: a
// line for each value.
// https://go.googlesource.com/proposal/+/master/design/14313-benchmark-format.md
func (r *report) benchfmt(out io.Writer) error {
	fmt.Fprintf(out, "cpu: %s\n", r.Machine.CPU)
	for _, row := range r.Rows {
		name := []rune(row.Name)
		name[0] = unicode.ToUpper(name[0])
		for _, value := range row.Values {
			fmt.Fprintf(out, "Benchmark%s 1 %g %s\n", string(name), value, row.Unit)
		}
	}
	return nil
}
