package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// A line is a cost as a function of an item's bytes: at + by×size, in µs.
type line struct{ at, by float64 }

func (l line) of(size float64) float64 { return l.at + l.by*size }

func through(x1, y1, x2, y2 float64) line {
	by := (y2 - y1) / (x2 - x1)
	return line{y1 - by*x1, by}
}

// part is the cost of an item in one process, and of its delivery to each client.
type part struct{ item, delivery line }

func (p part) of(size, clients float64) float64 {
	return p.item.of(size) + clients*p.delivery.of(size)
}

// The corners of the square to which the model is fitted: item size and clients.
const (
	smallItem, largeItem = 64, 1 << 10
	fewClients, many     = 1, 10
)

// fit solves for a part from the four corners.
func (r *report) fit(unit string) part {
	at := func(name string) float64 {
		if row := r.find(name, unit); row != nil {
			return row.Median
		}
		return math.NaN()
	}
	s1, s10, l1, l10 := at("64B/1"), at("64B/10"), at("1KiB/1"), at("1KiB/10")
	each := many - fewClients
	small, large := (s10-s1)/float64(each), (l10-l1)/float64(each)
	return part{
		item:     through(smallItem, s1-small, largeItem, l1-large),
		delivery: through(smallItem, small, largeItem, large),
	}
}

// An a53 describes a box with a Cortex-A53 at 1.2 GHz, with its best and worst assumed values.
// docs/PERFORMANCE.md names the sources.
type a53 struct {
	perCycle float64 // instructions
	copies   float64 // bytes a µs that a core copies
	call     float64 // µs of a system call
	wake     float64 // µs of a switch to another thread
	slower   float64 // factor relative to this machine, if nothing else is known
}

const (
	a53Clock   = 1200   // cycles a µs
	a53Cores   = 4      // all of them for Redis and edged
	a53Network = 0.0126 // µs a byte for TCP to send, in and after the system call
	piUnpiped  = 28_000 // SET a second by redis-benchmark on a Raspberry Pi 3
	piPiped    = 80_000 // the same in groups of 8
)

var sizes = []struct {
	name  string
	bytes float64
}{{"64 B", 64}, {"256 B", 256}, {"1 KiB", 1 << 10}, {"16 KiB", 16 << 10}}

// model prints, as Markdown, the model of the results of -costs, how it compares with the results,
// and the prediction for a Cortex-A53.
func (r *report) model(out io.Writer) error {
	edged, redis, clients := r.fit("edged-µs"), r.fit("redis-µs"), r.fit("clients-µs")
	redis.item = through(smallItem, redis.of(smallItem, 1), largeItem, redis.of(largeItem, 1))
	redis.delivery = line{} // it does not depend on clients
	t := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	r.ledger(t)
	for _, m := range costs {
		if !slices.ContainsFunc(r.Rows, func(row *row) bool { return row.Name == m.name }) {
			fmt.Fprintf(t, "No model: that takes all measurements, and %s is missing.\n", m.name)
			return t.Flush()
		}
	}
	fmt.Fprintf(t, "| µs\t| an item\t| each byte\t| a delivery\t| each byte\t|\n|---\t|---\t|---\t|---\t|---\t|\n")
	for _, p := range []struct {
		name string
		part
	}{{"edged", edged}, {"Redis", redis}, {"a client of the benchmark", clients}} {
		fmt.Fprintf(t, "| %s\t| %.3f\t| %.5f\t| %.3f\t| %.5f\t|\n", p.name, p.item.at, p.item.by, p.delivery.at, p.delivery.by)
	}

	fmt.Fprintf(t, "\n| load\t| edged µs\t| Redis µs\t| items/s\t| measured\t| error\t| cores idle\t|\n|---\t|---\t|---\t|---\t|---\t|---\t|---\t|\n")
	cores := float64(r.Machine.Cores)
	for _, check := range []struct {
		name          string
		size, clients float64
	}{{"64B/1", 64, 1}, {"1KiB/10", 1024, 10}, {"256B/1", 256, 1}, {"16KiB/1", 16 << 10, 1}, {"256B/10", 256, 10}, {"256B/100", 256, 100}} {
		is := r.find(check.name, "items/s")
		if is == nil {
			continue
		}
		e, d, c := edged.of(check.size, check.clients), redis.of(check.size, check.clients), clients.of(check.size, check.clients)
		rate := 1e6 * min((cores-r.find(check.name, "cores-others").Median)/(e+d+c), 1/d)
		ec, dc := r.find(check.name, "edged-µs").Median, r.find(check.name, "redis-µs").Median
		fmt.Fprintf(t, "| `%s`\t| %.2f, measured %.2f\t| %.2f, measured %.2f\t| %s\t| %s\t| %+.0f %%\t| %.2f\t|\n",
			check.name, e, ec, d, dc, number(rounded(rate)), number(rounded(is.Median)), 100*(rate/is.Median-1), r.find(check.name, "cores-idle").Median)
	}
	if err := r.derive(t, edged, redis); err != nil {
		return err
	}
	return t.Flush()
}

// ledger prints the results, a line for each load.
func (r *report) ledger(out io.Writer) {
	units := []string{"items/read", "edged-µs", "edged-in-kernel-%", "redis-µs", "system-calls", "switches", "redis-commands", "aof-B", "written-B", "peak-MiB"}
	fmt.Fprintf(out, "| load\t| %s\t|\n|---\t%s|\n", strings.Join(units, "\t| "), strings.Repeat("|---\t", len(units)))
	for _, m := range costs {
		if r.find(m.name, "edged-µs") == nil {
			continue
		}
		fmt.Fprintf(out, "| `%s`\t|", m.name)
		for _, unit := range units {
			text := "–"
			if row := r.find(m.name, unit); row != nil {
				text = number(row.Median)
			}
			fmt.Fprintf(out, " %s\t|", text)
		}
		fmt.Fprintln(out)
	}

	fmt.Fprintln(out)
	for _, name := range []string{"rest", "instructions"} {
		for _, row := range r.Rows {
			if row.Name == name {
				fmt.Fprintf(out, "%s: %s %s\n", name, number(row.Median), row.Unit)
			}
		}
	}

	fmt.Fprintln(out)
}

// derive prints the expected figures of a Cortex-A53, with clients on the network.
func (r *report) derive(out io.Writer, edged, redis part) error {
	value := func(name, unit string) float64 {
		if row := r.find(name, unit); row != nil {
			return row.Median
		}
		return math.NaN()
	}
	most := func(unit string) float64 { // of all rounds: other activity can only have slowed it down
		if row := r.find("redis-benchmark", unit); row != nil {
			return slices.Max(row.Values)
		}
		return math.NaN()
	}
	unpiped, piped := most("pipeline-1-SET/s")/piUnpiped, most("pipeline-8-SET/s")/piPiped
	best := a53{perCycle: 1, copies: 1900, call: 0.8, wake: 2.8, slower: min(unpiped, piped)}
	worst := a53{perCycle: 0.5, copies: 700, call: 2, wake: 10.8, slower: max(unpiped, piped)}
	fmt.Fprintf(out, "\nThis machine is ×%.1f (one by one) and ×%.1f (in groups of 8) of a Raspberry Pi 3 in redis-benchmark.\n\n", unpiped, piped)

	fmt.Fprintf(out, "| item\t| clients\t| Redis µs\t| edged µs, scaled\t| edged µs, built up\t| items/s by the processor\t| by 1 Gbit/s\t| by 100 Mbit/s\t| binds at 1 Gbit/s\t|\n|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|\n")
	for _, size := range sizes {
		for _, clients := range []float64{1, 100} {
			load := "256B/1"
			if clients > 1 {
				load = "256B/100"
			}
			// estimate returns µs of Redis and of edged, and items a second.
			estimate := func(b a53) (d, scaled, built, rate float64) {
				d = max(b.slower*redis.of(size.bytes, 1), 2*size.bytes/b.copies)
				scaled = b.slower * edged.of(size.bytes, clients)
				userSpace := (value("instructions", "read/item") + value("instructions", "encode/item")) / b.perCycle / a53Clock
				calls := value(load, "system-calls")*b.call + value(load, "switches")*b.wake
				item := userSpace + size.bytes/b.copies
				delivery := (size.bytes + frame) * a53Network
				built = item + calls + clients*delivery
				// Bounds: one thread of Redis; the loop of edged; all cores.
				rate = 1e6 / max(d, item, (d+max(scaled, built))/a53Cores)
				return d, scaled, built, rate
			}
			d1, s1, b1, high := estimate(best)
			d2, s2, b2, low := estimate(worst)
			wire := func(bits float64) float64 { return bits / 8 * payloadShare / (size.bytes + frame) / clients }
			binds := "the processor"
			if wire(1e9) < low {
				binds = "the network"
			} else if wire(1e9) < high {
				binds = "either"
			}
			fmt.Fprintf(out, "| %s\t| %.0f\t| %s–%s\t| %s–%s\t| %s–%s\t| %s–%s\t| %s\t| %s\t| %s\t|\n", size.name, clients,
				number(d1), number(d2), number(s1), number(s2), number(b1), number(b2),
				number(rounded(low)), number(rounded(high)), number(rounded(wire(1e9))), number(rounded(wire(1e8))), binds)
		}
	}
	return nil
}

const (
	frame        = 20   // bytes around an item: MSG events 1 256, two line ends
	payloadShare = 0.94 // share of TCP's payload in the bytes on Ethernet: 1448 of 1538 bytes
)

// rounded keeps two digits: an estimate has no more.
func rounded(v float64) float64 {
	if v <= 0 || math.IsNaN(v) {
		return v
	}
	unit := math.Pow(10, math.Floor(math.Log10(v))-1)
	return math.Round(v/unit) * unit
}
