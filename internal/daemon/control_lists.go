package daemon

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"edged/internal/relay"
	"edged/internal/uds"
)

type listAnswer struct {
	Key         string  `json:"key"`
	Subject     string  `json:"subject"`
	Ack         string  `json:"ack"`
	Class       int     `json:"class"`
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
	Unclaimed   uint64  `json:"unclaimed"` // items that consumers passed over when they began, and that none owes
	Owed        int     `json:"owed"`
	InFlight    int     `json:"in_flight"`
	Oldest      float64 `json:"oldest_unconfirmed_seconds"`
	Consumers   int     `json:"consumers"`
	Members     int     `json:"members"`
	Shared      uint64  `json:"shared"` // reads while a lower class had items
	Duplicates  uint64  `json:"duplicates"`
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
	a, states := listsAnswer{Lists: []listAnswer{}}, d.statuses()
	for _, one := range d.served.lists() {
		s, b, at := states[one.Key], one.Stats(), one.State()
		l := listAnswer{
			Key: one.Key, Subject: one.Subject, Ack: one.Ack, Class: one.Class, Shared: s.Shared, State: string(s.State), Reason: s.Reason, Holder: s.Holder,
			Backlog: s.Backlog, Kept: s.Kept, Unclaimed: at.Unclaimed, First: at.First, Floor: at.Floor, Done: at.Done, Next: at.Next,
			InFlight: b.InFlight, Consumers: b.Consumers, Members: b.Members, Taken: b.Taken, Confirmed: b.Confirmed,
			Returned: b.Returned, Dead: b.Dead, Gone: b.Gone, Redelivered: b.Redelivered, Duplicates: b.Duplicates, Oldest: secondsSince(b.Oldest),
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
	t := newTable("~LIST", "STATE", "BACKLOG", "PLACE", "LAG", "OWED", "OLDEST", "CONSUMERS")
	for _, l := range a.Lists {
		t.add(printable(l.Key), l.State, l.Backlog, l.Done, seconds(l.Lag), l.Owed, seconds(l.Oldest), l.Consumers)
	}
	t.write(w)

	mixed := slices.ContainsFunc(a.Lists, func(l listAnswer) bool { return l.Class != a.Lists[0].Class })
	for _, l := range a.Lists {
		key := printable(l.Key) + ": "
		if mixed {
			wrap(w, key, fmt.Sprintf("class %d, %s by its share", l.Class, counted(int(l.Shared), "read")))
		}
		if l.Reason != "" {
			wrap(w, key, l.Reason)
		}
		if l.Holder != "" {
			wrap(w, key, "served by "+printable(l.Holder))
		}
		if l.Dead > 0 {
			wrap(w, key, counted(int(l.Dead), "dead letter")+" since the start")
		}
		if l.Duplicates > 0 {
			wrap(w, key, counted(int(l.Duplicates), "duplicate")+" dropped since the start")
		}
		if l.Unclaimed > 0 {
			wrap(w, key, counted(int(l.Unclaimed), "item")+" for which no consumer is there")
		}
		if l.Gone > 0 {
			wrap(w, key, "other programs removed "+counted(int(l.Gone), "item"))
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
	Kind     string   `json:"kind"` // plain, group, durable or viewer
	Group    string   `json:"group,omitempty"`
	Consumer string   `json:"consumer,omitempty"` // of JetStream: its name
	Clients  []uint64 `json:"clients"`            // none: it has not come back since the start
	Next     uint64   `json:"next"`               // the item that it gets next
	LagItems uint64   `json:"lag_items"`
	Lag      float64  `json:"lag_seconds"`
	Owed     int      `json:"owed"`
	Oldest   float64  `json:"oldest_unconfirmed_seconds"`
	Front    bool     `json:"front"`
	Away     float64  `json:"away_seconds,omitempty"` // durable: since it was used last
	Missed   uint64   `json:"missed,omitempty"`       // durable, viewer: items that were gone before it got them
}

type consumersAnswer struct {
	Consumers []consumerAnswer `json:"consumers"`
}

func (d *daemon) consumers(_ context.Context, args []string) (uds.Answer, error) {
	a := consumersAnswer{Consumers: []consumerAnswer{}}
	found := len(args) == 0
	statuses := d.statuses()
	for _, l := range d.served.lists() {
		if len(args) > 0 && l.Key != args[0] {
			continue
		}
		found = true
		for _, c := range d.consumersOf(l, statuses[l.Key]) {
			a.Consumers = append(a.Consumers, d.consumer(l.Key, c.ConsumerInfo))
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
	switch {
	case c.Viewer:
		a.Kind = "viewer"
	case c.Name.Durable:
		a.Kind, a.Group, a.Consumer = "durable", "", c.Name.Name
	case c.Name.Name != "":
		a.Kind = "group"
	}
	for _, m := range c.Members {
		if id, ok := d.tcp.ClientOf(m); ok {
			a.Clients = append(a.Clients, id)
		}
		if named, ok := m.(interface{ Name() string }); ok {
			a.Consumer = named.Name()
		}
	}
	a.Missed, a.Away = c.Missed, secondsSince(c.Away)
	slices.Sort(a.Clients)
	return a
}

// forget deletes a JetStream consumer, or a durable one that only the ledger knows.
func (d *daemon) forget(ctx context.Context, args []string) (uds.Answer, error) {
	list, name := args[0], args[1]
	lists := d.served.lists()
	i := slices.IndexFunc(lists, func(l relayed) bool { return l.Key == list })
	if i < 0 {
		return nil, uds.Errorf(uds.NotFound, "there is no list %q; the command lists shows them", list)
	}
	if uplink, ok := strings.CutPrefix(name, uplinkPrefix); ok && !d.strays(list, uplink) {
		return nil, uds.Errorf(uds.BadArgument, "the uplink %q is configured for the list %q: remove it from the configuration, reload, and forget it then", uplink, list)
	}
	found, err := d.forgetConsumer(ctx, lists[i], name)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, uds.Errorf(uds.NotFound, "the list %q has no JetStream consumer %q; the command consumers shows them", list, name)
	}
	d.log.Info("a consumer was deleted by an operator", zap.String("list", list), zap.String("consumer", name))
	return nil, nil
}

// forgetConsumer deletes a consumer, and reports whether there was one.
func (d *daemon) forgetConsumer(ctx context.Context, l relayed, name string) (found bool, err error) {
	if uplink, ok := strings.CutPrefix(name, uplinkPrefix); ok {
		return d.forgetUplink(ctx, l, uplink)
	}
	if d.js != nil {
		if found, err = d.js.Forget(ctx, l.Key, name); err != nil {
			return false, uds.Errorf("Redis", "%s", err)
		}
	}
	return found || l.RemoveDurable(name), nil
}

// shortName is the most that a line about a consumer has for a name.
const shortName = 11

// name is the consumer in words: "client 12", or "crew (3)" for a group.
func (a consumerAnswer) name() string {
	switch {
	case a.Kind == "group":
		return fmt.Sprintf("%s (%d)", short(a.Group, shortName), len(a.Clients))
	case a.Consumer != "":
		return short(a.Consumer, shortName+4)
	case len(a.Clients) == 0:
		return "not back yet"
	}
	return fmt.Sprintf("client %d", a.Clients[0])
}

func (a consumersAnswer) Text(w io.Writer) {
	t := newTable("~LIST", "~CONSUMER", "PLACE", "LAG", "ITEMS", "OWED", "OLDEST", "AT")
	for _, c := range a.Consumers {
		at := "behind"
		if c.Front {
			at = "front"
		}
		t.add(printable(c.List), c.name(), c.Next, seconds(c.Lag), c.LagItems, c.Owed, seconds(c.Oldest), at)
	}
	t.write(w)
}

// lagging names the consumers that are late, the worst first.
func (d *daemon) lagging() []string {
	type late struct {
		text string
		by   time.Duration
	}
	statuses := d.statuses()
	var all []late
	for _, l := range d.served.lists() {
		for _, c := range d.consumersOf(l, statuses[l.Key]) {
			if text, by := d.lateness(l, c); text != "" {
				all = append(all, late{fmt.Sprintf("%s, %s: %s", short(l.Key, shortName), d.consumer(l.Key, c.ConsumerInfo).name(), text), by})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b late) int { return cmp.Compare(b.by, a.by) })
	texts := make([]string, len(all))
	for i, l := range all {
		texts[i] = l.text
	}
	return texts
}

// longAway is max_away by default. It stands for it if there is no such bound.
const longAway = 24 * time.Hour

// lateness describes how late a consumer is: it lags more than a quarter of max_lag, or it is
// durable, items wait for it, and it has been away for more than a quarter of max_away. The text of
// any other consumer is empty.
func (d *daemon) lateness(l relayed, c knownConsumer) (text string, by time.Duration) {
	if l.MaxLag > 0 && c.Lag >= time.Duration(l.MaxLag)/4 {
		return fmt.Sprintf("%s of %s, %s", seconds(c.Lag.Seconds()), l.MaxLag, counted(int(c.LagItems), "item")), c.Lag
	}
	away := cmp.Or(time.Duration(d.served.config().Delivery.MaxAway), longAway)
	if c.waits == 0 || time.Since(c.Away) < away/4 {
		return "", 0
	}
	by = time.Since(c.Away)
	return fmt.Sprintf("away for %s, %s", seconds(by.Seconds()), counted(int(c.waits), "item")), by
}

// unclaimed names the lists with items that no consumer owes.
func (d *daemon) unclaimed() []string {
	texts := []string{}
	for _, l := range d.served.lists() {
		if s := l.State(); s.Unclaimed > 0 {
			texts = append(texts, fmt.Sprintf("%s: %s without a consumer, the oldest %s old", short(l.Key, shortName),
				counted(int(s.Unclaimed), "item"), seconds(secondsSince(s.OldestUnclaimed))))
		}
	}
	return texts
}

// cutOff ends the clients of a consumer that lags too much.
func (d *daemon) cutOff(list string, c relay.ConsumerInfo) {
	a := d.consumer(list, c)
	d.log.Warn("a consumer lags too much and is cut off", zap.String("list", list), zap.String("consumer", a.name()),
		zap.String("group", c.Name.Name), zap.Uint64s("clients", a.Clients), zap.Duration("lag", c.Lag), zap.Uint64("items", c.LagItems), zap.Int("owed", c.Owed))
	if c.Name.Durable {
		d.js.CutOff(list, c.Name.Name)
		return
	}
	for _, m := range c.Members {
		d.tcp.CutOff(m)
	}
}

// dropped says that a durable consumer misses items, as it is away for too long.
func (d *daemon) dropped(list string, c relay.ConsumerInfo) {
	d.log.Warn("a consumer is away for too long and misses items", zap.String("list", list), zap.String("consumer", c.Name.Name),
		zap.Time("away", c.Away), zap.Uint64("missed", c.Missed))
}
