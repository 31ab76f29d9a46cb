package daemon

import (
	"fmt"
	"io"
	"strings"
	"time"

	"edged/internal/inbound"
	"edged/internal/poller"
	"edged/internal/uds"
)

// Health is whether edged does its work.
type Health struct {
	OK      bool     `json:"ok"`
	Reasons []string `json:"reasons"` // why it does not, in words; empty if it does
}

// health is the one list of the conditions that count as ill: edged does not do its work, and an
// operator has to act, or its clients have to go elsewhere. docs/OPERATIONS.md has it as
// a table, and why other conditions are not in it.
func (d *daemon) health() Health {
	h := Health{Reasons: []string{}}
	if loop := d.watchdog.Stalled(time.Now(), d.stallAfter()); loop != "" {
		h.add("the loop %s stands still", loop)
		return h // it may hold locks that the conditions below take
	}

	if why := d.life.draining(); why != "" {
		h.add("draining: %s", why)
	}
	lists := d.loop.Lists()
	h.addLists(lists)
	h.Reasons = append(h.Reasons, d.twins(lists)...)
	h.Reasons = append(h.Reasons, inboundFaults(d.inboundStats().Lists)...)
	h.OK = len(h.Reasons) == 0
	return h
}

func (h *Health) add(format string, args ...any) {
	h.Reasons = append(h.Reasons, fmt.Sprintf(format, args...))
}

// twins says which lists another process serves that has the name of this instance.
func (d *daemon) twins(lists []poller.Status) (texts []string) {
	for _, h := range holdings(lists, func(s poller.Status) string { return s.Twin }) {
		texts = append(texts, fmt.Sprintf("instance: another process is called %q too, and serves %s: give each process an instance of its own",
			d.served.config().Instance, h.named()))
	}
	return texts
}

// standingBy says which lists other instances serve.
func standingBy(lists []poller.Status) []string {
	texts := []string{}
	other := func(s poller.Status) string {
		if s.Twin != "" {
			return ""
		}
		return s.Holder
	}
	for _, h := range holdings(lists, other) {
		instance, _, _ := strings.Cut(h.holder, "/")
		texts = append(texts, fmt.Sprintf("%s: served by %s", h.named(), printable(instance)))
	}
	return texts
}

// holding is the lists that another process serves.
type holding struct {
	holder string
	first  string // key of one
	lists  int
}

func (h *holding) named() string {
	if h.lists == 1 {
		return "list " + printable(h.first)
	}
	return fmt.Sprintf("list %s and %d more", printable(h.first), h.lists-1)
}

// holdings groups lists by their holder, if they have one.
func holdings(lists []poller.Status, holder func(poller.Status) string) (all []*holding) {
	known := make(map[string]*holding)
	for _, s := range lists {
		name := holder(s)
		if name == "" {
			continue
		}
		if known[name] == nil {
			known[name] = &holding{holder: name, first: s.Key}
			all = append(all, known[name])
		}
		known[name].lists++
	}
	return all
}

// inboundFaults says what clients publish in vain, or to a Redis that does not take it.
func inboundFaults(all []inbound.Stats) (texts []string) {
	for _, in := range all {
		if in.Failing != "" && in.Waiting > 0 {
			texts = append(texts, fmt.Sprintf("inbound %s: %s (%s waiting)", in.Subject, in.Failing, counted(in.Waiting, "item")))
		}
		if in.Full != "" {
			texts = append(texts, fmt.Sprintf("inbound %s: %s (for %s)", in.Subject, in.Full, age(in.FullSince)))
		}
	}
	return texts
}

// addLists adds the lists that Redis does not serve. Those with the same reason share a line: a box
// may have thousands.
func (h *Health) addLists(lists []poller.Status) {
	type fault struct {
		first poller.Status
		lists int
	}
	var faults []*fault
	known := make(map[string]*fault) // by the reason
	for _, s := range lists {
		if s.State == poller.Starting {
			s.Reason = "Redis has not answered yet"
		} else if s.State != poller.Failing {
			continue
		}
		if known[s.Reason] == nil {
			known[s.Reason] = &fault{first: s}
			faults = append(faults, known[s.Reason])
		}
		known[s.Reason].lists++
	}

	for _, f := range faults {
		named, since := "list "+printable(f.first.Key), ""
		if f.lists > 1 {
			named += fmt.Sprintf(" and %d more", f.lists-1)
		}
		if !f.first.FaultSince.IsZero() {
			since = fmt.Sprintf(" (for %s)", age(f.first.FaultSince))
		}
		h.add("%s: %s%s", named, f.first.Reason, since)
	}
}

// stallAfter is how long the loop may take for a round. It sleeps for a poll interval at most,
// and reports progress at least after three waits for Redis.
func (d *daemon) stallAfter() time.Duration {
	const slack = 5 * time.Second // for a machine under load
	cfg := d.served.config().Redis
	return time.Duration(cfg.PollInterval) + 3*time.Duration(cfg.Timeout) + slack
}

func (h Health) Text(w io.Writer) {
	if h.OK {
		fmt.Fprintln(w, "well")
	}
	for _, r := range h.Reasons {
		wrap(w, "ill  ", r)
	}
}

// healthAnswer is the answer of the command health: an error if edged is ill, for scripts.
func healthAnswer(h Health) (uds.Answer, error) {
	if h.OK {
		return h, nil
	}
	return h, uds.Errorf("Ill", "%s", counted(len(h.Reasons), "reason"))
}
