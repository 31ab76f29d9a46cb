package daemon

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"edged/internal/inbound"
	"edged/internal/logring"
	"edged/internal/poller"
	"edged/internal/relay"
	"edged/internal/tcpserver"
)

// Bounds of a snapshot, which goes to each page once a second.
const (
	pageRows    = 100 // of lists, of consumers, of clients
	pageTexts   = 20  // of faults, of consumers that lag, of lists that are unclaimed
	pageMembers = 5   // clients that a consumer names
)

// pageSnapshot is the daemon's state as the page shows it.
type pageSnapshot struct {
	statusAnswer
	Time   time.Time `json:"time"`
	Health Health    `json:"health"`

	Rates  rates       `json:"rates"`  // of all lists
	Oldest float64     `json:"oldest"` // seconds since the oldest item in flight was read
	Sample *pageSample `json:"sample,omitempty"`

	Lists          []pageList             `json:"lists"`
	ListsTotal     int                    `json:"lists_total"`
	Consumers      []pageConsumer         `json:"consumers"` // those that are furthest behind
	ConsumersTotal int                    `json:"consumers_total"`
	Clients        []tcpserver.ClientInfo `json:"clients"` // those with the most bytes pending
	ClientsTotal   int                    `json:"clients_total"`
	Inbound        []inbound.Stats        `json:"inbound"`
	Uplinks        []pageUplink           `json:"uplinks"` // in place of their texts
	Tasks          []taskAnswer           `json:"tasks"`
	Log            []logring.Line         `json:"log"`
}

// pageUplink is an uplink with how far it is behind in all its lists.
type pageUplink struct {
	Name    string  `json:"name"`
	State   string  `json:"state"`
	Reason  string  `json:"reason,omitempty"`
	Waiting uint64  `json:"waiting"`
	Sent    uint64  `json:"sent"`
	Lag     float64 `json:"lag_seconds"`
}

func (d *daemon) pageUplinks() []pageUplink {
	all := []pageUplink{}
	for _, u := range d.uplinksAnswer().Uplinks {
		items, lag := u.behind()
		all = append(all, pageUplink{u.Name, u.State, u.Reason, items, u.Sent, lag.Seconds()})
	}
	return all
}

type pageList struct {
	listAnswer
	Rates rates `json:"rates"`
}

// pageConsumer is a consumer that names some of its clients only.
type pageConsumer struct {
	consumerAnswer
	Clients []uint64 `json:"clients"`
	Members int      `json:"members"`
}

// snapshotJSON returns the state, which the page gets each second.
func (d *daemon) snapshotJSON() []byte { return pageJSON(d.snapshot()) }

// historyJSON returns the samples of the last 15 minutes, which the page gets first.
func (d *daemon) historyJSON() []byte { return pageJSON(d.samples.columns()) }

func pageJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // these values hold strings, finite numbers and lists of them
	}
	return text
}

func (d *daemon) snapshot() pageSnapshot {
	now, before := d.tally(), d.samples.before(time.Now())
	lists := d.listsAnswer().Lists
	tasks, _ := d.taskList()
	s := pageSnapshot{
		statusAnswer: d.status(), Time: now.at, Health: d.health(), Sample: d.samples.last(),
		Rates: now.total.since(before.total, now.at.Sub(before.at)), Oldest: secondsSince(now.oldest),
		Lists: make([]pageList, len(lists)), ListsTotal: len(lists), Clients: d.tcp.Clients(),
		Inbound: d.inboundStats().Lists, Uplinks: d.pageUplinks(), Tasks: tasks.Tasks, Log: d.log.recent.Lines(),
	}
	for i, l := range lists {
		s.Lists[i] = pageList{l, now.lists[l.Key].since(before.lists[l.Key], now.at.Sub(before.at))}
	}
	d.samples.shown(now)

	s.Lists = worstLists(s.Lists)
	s.Consumers, s.ConsumersTotal = d.worstConsumers()
	s.ClientsTotal = len(s.Clients)
	slices.SortStableFunc(s.Clients, func(a, b tcpserver.ClientInfo) int { return cmp.Compare(b.Pending, a.Pending) })
	s.Clients = s.Clients[:min(len(s.Clients), pageRows)]
	s.Faults, s.Lagging, s.Free = firstTexts(s.Faults), firstTexts(s.Lagging), firstTexts(s.Free)
	s.Health.Reasons = firstTexts(s.Health.Reasons)
	return s
}

// worstLists returns all lists in their order. If there are too many, it returns those that
// fail, and then those with the largest backlog.
func worstLists(lists []pageList) []pageList {
	if len(lists) <= pageRows {
		return lists
	}
	fails := func(l pageList) int {
		if l.State == string(poller.Failing) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(lists, func(a, b pageList) int {
		return cmp.Or(cmp.Compare(fails(b), fails(a)), cmp.Compare(b.Backlog, a.Backlog))
	})
	return lists[:pageRows]
}

// worstConsumers returns the consumers that are furthest behind, and how many there are.
func (d *daemon) worstConsumers() (worst []pageConsumer, total int) {
	type found struct {
		list string
		relay.ConsumerInfo
	}
	var all []found
	statuses := d.statuses()
	for _, l := range d.served.lists() {
		for _, c := range d.consumersOf(l, statuses[l.Key]) {
			all = append(all, found{l.Key, c.ConsumerInfo})
		}
	}
	slices.SortStableFunc(all, func(a, b found) int {
		return cmp.Or(cmp.Compare(b.Lag, a.Lag), cmp.Compare(b.LagItems, a.LagItems), cmp.Compare(b.Owed, a.Owed))
	})

	worst = make([]pageConsumer, min(len(all), pageRows))
	for i := range worst {
		c := d.consumer(all[i].list, all[i].ConsumerInfo)
		worst[i] = pageConsumer{c, c.Clients[:min(len(c.Clients), pageMembers)], len(c.Clients)}
	}
	return worst, len(all)
}

// firstTexts returns the first texts, and how many more there are.
func firstTexts(texts []string) []string {
	more := len(texts) - pageTexts
	if more <= 0 {
		return texts
	}
	return append(texts[:pageTexts:pageTexts], fmt.Sprintf("and %d more", more))
}

// rates are items a second.
type rates struct {
	Taken     float64 `json:"taken"`
	Confirmed float64 `json:"confirmed"`
}

// counts are totals from the books of a list at one time.
type counts struct{ taken, confirmed uint64 }

// since returns the rates from earlier counts on: none if the interval is too short to tell.
func (c counts) since(earlier counts, interval time.Duration) rates {
	if interval < tooClose || c.taken < earlier.taken || c.confirmed < earlier.confirmed {
		return rates{}
	}
	rate := func(items uint64) float64 { return math.Round(float64(items)/interval.Seconds()*10) / 10 }
	return rates{rate(c.taken - earlier.taken), rate(c.confirmed - earlier.confirmed)}
}

// tally is the counts of all lists at one time.
type tally struct {
	at     time.Time
	total  counts
	lists  map[string]counts
	oldest time.Time // when the oldest item in flight was read
}

func (d *daemon) tally() tally {
	all, books := d.served.lists(), d.served.books()
	t := tally{at: time.Now(), total: counts{books.Taken, books.Confirmed}, lists: make(map[string]counts, len(all)), oldest: books.Oldest}
	for _, l := range all {
		b := l.Stats()
		t.lists[l.Key] = counts{b.Taken, b.Confirmed}
	}
	return t
}
