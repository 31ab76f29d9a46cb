package daemon

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"go.uber.org/zap"

	"edged/internal/poller"
	"edged/internal/relay"
	"edged/internal/uds"
)

type listAnswer struct {
	Key         string  `json:"key"`
	Subject     string  `json:"subject"`
	Ack         string  `json:"ack"`
	State       string  `json:"state"`
	Reason      string  `json:"reason,omitempty"`
	Holder      string  `json:"holder,omitempty"` // the owner, if it is another instance
	Backlog     int64   `json:"backlog"`
	Kept        int64   `json:"kept"`  // finished items that stay in the list, no part of the backlog
	First       uint64  `json:"first"` // number of the head; items below are
	Floor       uint64  `json:"floor"` // finished
	Done        uint64  `json:"done"`  // confirmed by at least one consumer
	Next        uint64  `json:"next"`  // handed to at least one consumer
	LagItems    uint64  `json:"lag_items"`
	Lag         float64 `json:"lag_seconds"`
	Owed        int     `json:"owed"`
	InFlight    int     `json:"in_flight"`
	Oldest      float64 `json:"oldest_unconfirmed_seconds"`
	Consumers   int     `json:"consumers"`
	Members     int     `json:"members"`
	Taken       uint64  `json:"taken"`
	Confirmed   uint64  `json:"confirmed"`
	Returned    uint64  `json:"returned"`
	Dead        uint64  `json:"dead"`
	Gone        uint64  `json:"gone"`
	Redelivered uint64  `json:"redelivered"`
}

type listsAnswer struct {
	Lists []listAnswer `json:"lists"`
}

func (d *daemon) listsAnswer() listsAnswer {
	a := listsAnswer{Lists: []listAnswer{}}
	states := make(map[string]poller.Status)
	for _, s := range d.loop.Lists() {
		states[s.Key] = s
	}
	for _, one := range d.served.lists() {
		s, b, at := states[one.Key], one.Stats(), one.State()
		l := listAnswer{
			Key: one.Key, Subject: one.Subject, Ack: one.Ack, State: string(s.State), Reason: s.Reason, Holder: s.Holder,
			Backlog: s.Backlog, Kept: s.Kept, First: at.First, Floor: at.Floor, Done: at.Done, Next: at.Next,
			InFlight: b.InFlight, Consumers: b.Consumers, Members: b.Members, Taken: b.Taken, Confirmed: b.Confirmed,
			Returned: b.Returned, Dead: b.Dead, Gone: b.Gone, Redelivered: b.Redelivered, Oldest: secondsSince(b.Oldest),
		}
		for _, c := range at.Consumers {
			l.Owed += c.Owed
			l.LagItems, l.Lag = max(l.LagItems, c.LagItems), max(l.Lag, c.Lag.Seconds())
		}
		a.Lists = append(a.Lists, l)
	}
	return a
}

// secondsSince is how many seconds ago t was; 0 if it is zero.
func secondsSince(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return time.Since(t).Seconds()
}

func (a listsAnswer) Text(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LIST\tSTATE\tBACKLOG\tPLACE\tLAG\tOWED\tOLDEST\tCONSUMERS")
	for _, l := range a.Lists {
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%d\t%s\t%d\n", short(l.Key, 14), l.State, l.Backlog, l.Done, seconds(l.Lag),
			l.Owed, seconds(l.Oldest), l.Consumers)
	}
	t.Flush()
	for _, l := range a.Lists {
		if l.Reason != "" {
			fmt.Fprintf(w, "%s: %s\n", printable(l.Key), l.Reason)
		}
		if l.Holder != "" {
			fmt.Fprintf(w, "%s: served by %s\n", printable(l.Key), printable(l.Holder))
		}
		if l.Dead > 0 {
			fmt.Fprintf(w, "%s: %s since the start\n", printable(l.Key), counted(int(l.Dead), "dead letter"))
		}
		if l.Gone > 0 {
			fmt.Fprintf(w, "%s: other programs removed %s\n", printable(l.Key), counted(int(l.Gone), "item"))
		}
	}
}

// short is printable in at most so many bytes, so that a line of a table fits 80 columns.
func short(s string, most int) string {
	if s = printable(s); len(s) <= most {
		return s
	}
	cut := 0
	for i := range s {
		if i <= most-2 {
			cut = i
		}
	}
	return s[:cut] + ".."
}

type consumerAnswer struct {
	List     string   `json:"list"`
	Kind     string   `json:"kind"` // plain or group
	Group    string   `json:"group,omitempty"`
	Clients  []uint64 `json:"clients"` // none: it has not come back since the start
	Next     uint64   `json:"next"`    // the item that it gets next
	LagItems uint64   `json:"lag_items"`
	Lag      float64  `json:"lag_seconds"`
	Owed     int      `json:"owed"`
	Oldest   float64  `json:"oldest_unconfirmed_seconds"`
	Front    bool     `json:"front"`
}

type consumersAnswer struct {
	Consumers []consumerAnswer `json:"consumers"`
}

func (d *daemon) consumers(_ context.Context, args []string) (uds.Answer, error) {
	a := consumersAnswer{Consumers: []consumerAnswer{}}
	found := len(args) == 0
	for _, l := range d.served.lists() {
		if len(args) > 0 && l.Key != args[0] {
			continue
		}
		found = true
		for _, c := range l.State().Consumers {
			a.Consumers = append(a.Consumers, d.consumer(l.Key, c))
		}
	}
	if !found {
		return nil, uds.Errorf(uds.NotFound, "there is no list %q; the command lists shows them", args[0])
	}
	return a, nil
}

func (d *daemon) consumer(list string, c relay.ConsumerInfo) consumerAnswer {
	a := consumerAnswer{
		List: list, Kind: "plain", Group: c.Name.Name, Clients: []uint64{}, Next: c.Next, LagItems: c.LagItems,
		Lag: c.Lag.Seconds(), Owed: c.Owed, Oldest: secondsSince(c.Oldest), Front: c.Front,
	}
	if c.Name.Name != "" {
		a.Kind = "group"
	}
	for _, m := range c.Members {
		a.Clients = append(a.Clients, d.tcp.ClientOf(m))
	}
	slices.Sort(a.Clients)
	return a
}

// shortName is the most that a line about a consumer has for a name.
const shortName = 11

// name is the consumer in words: "client 12", or "crew (3)" for a group.
func (a consumerAnswer) name() string {
	switch {
	case a.Kind == "group":
		return fmt.Sprintf("%s (%d)", short(a.Group, shortName), len(a.Clients))
	case len(a.Clients) == 0:
		return "not back yet"
	}
	return fmt.Sprintf("client %d", a.Clients[0])
}

func (a consumersAnswer) Text(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LIST\tCONSUMER\tPLACE\tLAG\tITEMS\tOWED\tOLDEST\tAT")
	for _, c := range a.Consumers {
		at := "behind"
		if c.Front {
			at = "front"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%d\t%d\t%s\t%s\n", short(c.List, shortName), c.name(), c.Next, seconds(c.Lag), c.LagItems, c.Owed,
			seconds(c.Oldest), at)
	}
	t.Flush()
}

// lagging names the consumers that lag more than a quarter of max_lag, the worst first.
func (d *daemon) lagging() []string {
	type late struct {
		text string
		lag  time.Duration
	}
	var all []late
	for _, l := range d.served.lists() {
		if l.MaxLag == 0 {
			continue
		}
		most := time.Duration(l.MaxLag)
		for _, c := range l.State().Consumers {
			if c.Lag < most/4 {
				continue
			}
			text := fmt.Sprintf("%s, %s: %s of %s, %s", short(l.Key, shortName), d.consumer(l.Key, c).name(),
				seconds(c.Lag.Seconds()), l.MaxLag, counted(int(c.LagItems), "item"))
			all = append(all, late{text, c.Lag})
		}
	}
	slices.SortStableFunc(all, func(a, b late) int { return int(b.lag - a.lag) })
	texts := make([]string, len(all))
	for i, l := range all {
		texts[i] = l.text
	}
	return texts
}

// cutOff ends the clients of a consumer that lags too much.
func (d *daemon) cutOff(list string, c relay.ConsumerInfo) {
	a := d.consumer(list, c)
	d.log.Warn("a consumer lags too much and is cut off", zap.String("list", list), zap.String("consumer", a.name()),
		zap.String("group", c.Name.Name), zap.Uint64s("clients", a.Clients), zap.Duration("lag", c.Lag), zap.Uint64("items", c.LagItems), zap.Int("owed", c.Owed))
	for _, m := range c.Members {
		d.tcp.CutOff(m)
	}
}
