package daemon

import (
	"context"
	"fmt"
	"io"
	"time"

	"edged/internal/progress"
	"edged/internal/relay"
	"edged/internal/uds"
)

// watchHeading names the columns of sample.Text.
const watchHeading = "TIME               TAKEN/S  CONFIRMED/S    BACKLOG  ON ITS WAY  CLIENTS  OLDEST"

// headingEvery is how many lines of a watch stand under one heading.
const headingEvery = 20

// sample is a line of watch. The rates are those since the line before.
type sample struct {
	Time      time.Time `json:"time"`
	State     string    `json:"state"` // serving or draining
	Why       string    `json:"why,omitempty"`
	Interval  float64   `json:"interval_seconds"` // 0 in the first line, which has no rates
	Taken     float64   `json:"taken_per_second"`
	Confirmed float64   `json:"confirmed_per_second"`
	Backlog   int64     `json:"backlog"`
	InFlight  int       `json:"in_flight"`
	Clients   int       `json:"clients"`
	Oldest    float64   `json:"oldest_unconfirmed_seconds"` // 0 where nothing is on its way

	Tasks []taskAnswer `json:"tasks"` // those that have changed since the line before; in the first line those that run

	books   relay.Stats
	seen    map[uint64]progress.Status // tasks, by ID
	heading bool
}

func (s sample) Text(w io.Writer) {
	if s.Why != "" {
		fmt.Fprintf(w, "draining (%s); the watch ends\n", s.Why)
		return
	}
	if s.heading {
		fmt.Fprintln(w, watchHeading)
	}
	taken, confirmed := "-", "-"
	if s.Interval > 0 {
		taken, confirmed = fmt.Sprintf("%.0f", s.Taken), fmt.Sprintf("%.0f", s.Confirmed)
	}
	fmt.Fprintf(w, "%-14s %11s  %11s  %9d  %10d  %7d  %6s\n", s.Time.Local().Format("15:04:05Z07:00"), taken, confirmed,
		s.Backlog, s.InFlight, s.Clients, seconds(s.Oldest))

	const most = 71 // columns, within 80
	for _, t := range s.Tasks {
		fmt.Fprintf(w, "%8s %s\n", "task", cut(t.Line, most))
	}
}

// sample takes the numbers now, and the rates since the last sample.
func (d *daemon) sample(last *sample) *sample {
	s := &sample{Time: time.Now(), State: "serving", Why: d.life.draining(), Clients: d.tcp.Stats().Clients, books: d.served.books()}
	if s.Why != "" {
		s.State = "draining"
	}
	s.InFlight = s.books.InFlight
	for _, l := range d.loop.Lists() {
		s.Backlog += l.Backlog
	}
	if !s.books.Oldest.IsZero() {
		s.Oldest = s.Time.Sub(s.books.Oldest).Seconds()
	}
	var seen map[uint64]progress.Status
	if last != nil {
		seen = last.seen
		s.Interval = s.Time.Sub(last.Time).Seconds()
		s.Taken = float64(s.books.Taken-last.books.Taken) / s.Interval
		s.Confirmed = float64(s.books.Confirmed-last.books.Confirmed) / s.Interval
	}
	tasks, _ := d.taskList()
	s.Tasks, s.seen = news(tasks.Tasks, seen)
	return s
}

// watch sends a line at once and one each interval, until the drain begins or
// the client is gone, which shows when a line cannot be sent.
func (d *daemon) watch(ctx context.Context, args []string, send func(uds.Answer) error) error {
	interval := time.Second
	if len(args) > 0 {
		var err error
		if interval, err = time.ParseDuration(args[0]); err != nil || interval < 100*time.Millisecond || interval > time.Minute {
			return uds.Errorf(uds.BadArgument, "%q is no interval; write a number and a unit, such as 2s, from 100ms to 1m", args[0])
		}
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var last *sample
	for n := 0; ; n++ {
		last = d.sample(last)
		last.heading = n%headingEvery == 0
		if err := send(last); err != nil || last.Why != "" {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.life.begun:
		case <-ticker.C:
		}
	}
}

// drainProgress is a line of drain.
type drainProgress struct {
	State    string  `json:"state"` // draining, then drained
	Clients  int     `json:"clients"`
	InFlight int     `json:"in_flight"`
	Left     float64 `json:"seconds_left"` // until edged closes what is still open

	Taken     uint64 `json:"taken"`
	Confirmed uint64 `json:"confirmed"`
	Returned  uint64 `json:"returned"`
	Dead      uint64 `json:"dead"`
	Gone      uint64 `json:"gone"`
}

func (p drainProgress) Text(w io.Writer) {
	if p.State == "drained" {
		fmt.Fprintf(w, "drained: %s\n", p.books())
		return
	}
	fmt.Fprintf(w, "draining: %s\n", p.left())
}

// left is in words how far the drain is.
func (p drainProgress) left() string {
	return fmt.Sprintf("%s, %s on their way, %s left", counted(p.Clients, "client"), counted(p.InFlight, "item"), seconds(p.Left))
}

// books is the outcome of the drain in words.
func (p drainProgress) books() string {
	return fmt.Sprintf("%d taken = %d confirmed + %d returned + %d dead + %d gone", p.Taken, p.Confirmed, p.Returned, p.Dead, p.Gone)
}

// drainProgress is how far a drain is that ends at the deadline.
func (d *daemon) drainProgress(state string, deadline time.Time) drainProgress {
	b := d.served.books()
	return drainProgress{
		State: state, Clients: d.tcp.Stats().Clients, InFlight: b.InFlight, Left: max(0, time.Until(deadline).Seconds()),
		Taken: b.Taken, Confirmed: b.Confirmed, Returned: b.Returned, Dead: b.Dead, Gone: b.Gone,
	}
}

// drain gives the order and reports each second until the books are closed. The
// drain goes on where the client leaves.
func (d *daemon) drain(ctx context.Context, args []string, send func(uds.Answer) error) error {
	timeout := time.Duration(d.served.config().Drain.Timeout)
	if len(args) > 0 {
		var err error
		if timeout, err = time.ParseDuration(args[0]); err != nil || timeout < 0 || timeout > time.Hour {
			return uds.Errorf(uds.BadArgument, "%q is no timeout; write a number and a unit, such as 30s, up to 1h", args[0])
		}
	}
	if d.life.draining() != "" {
		return uds.Errorf("Draining", "it drains already (%s); quit ends it without waiting for the clients", d.life.draining())
	}
	d.life.order(stop{why: "the command drain", timeout: timeout})
	deadline := time.Now().Add(timeout)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		if err := send(d.drainProgress("draining", deadline)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.life.drained:
			return send(d.drainProgress("drained", deadline))
		case <-ticker.C:
		}
	}
}

// seconds is a number of seconds in words.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d >= 10*time.Second {
		return span(d.Round(time.Second))
	}
	return d.Round(100 * time.Millisecond).String()
}
