package monitor

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var start = time.Now().Add(-26 * time.Hour)

// options are snapshots of a daemon with three clients and two lists.
func options() Options {
	clients := []Client{
		{ID: 1, IP: "127.0.0.1", Port: 4001, Name: "one", Start: start, Active: start.Add(time.Hour), RTT: 3 * time.Millisecond, Subscriptions: 2,
			Pending: 5, MessagesIn: 3, MessagesOut: 10, BytesIn: 30, BytesOut: 100, User: "ann"},
		{ID: 2, IP: "127.0.0.1", Port: 4002, Start: start.Add(time.Minute), Active: start.Add(3 * time.Hour), Subscriptions: 3,
			MessagesIn: 4, MessagesOut: 9, BytesIn: 20, BytesOut: 300, TLSVersion: "1.3", TLSCipher: "TLS_AES_128_GCM_SHA256"},
		{ID: 3, Start: start.Add(2 * time.Minute), Active: start.Add(2 * time.Hour), RTT: time.Millisecond, Pending: 7, MessagesIn: 5, MessagesOut: 8,
			BytesIn: 10, BytesOut: 200},
	}

	return Options{
		Server: func() Server {
			return Server{ID: "ID", Name: "box", Version: "1.2.3", Start: start, Clients: 3, Subscriptions: 5, Subscribed: 8}
		},
		Clients: func() []Client { return slices.Clone(clients) },
		Subscriptions: func(client uint64) (all []Subscription) {
			for i := range clients[client-1].Subscriptions {
				all = append(all, Subscription{ID: fmt.Sprint(i), Subject: fmt.Sprintf("s.%d.%d", client, i), Queue: "crew", Max: 9})
			}
			return all
		},
		Lists: func() []List {
			return []List{{Key: "events", Serving: true, Backlog: 1 << 40, Lag: 1500 * time.Millisecond, Dead: 2, Consumers: []Consumer{{Name: "crew", Clients: 2}, {Clients: 1}}},
				{Key: "telemetry", Consumers: []Consumer{{Viewer: true}}}}
		},
		Inbound: func() []Inbound {
			return []Inbound{{Key: "orders", Written: 5, Full: true}, {Key: "orders", Written: 6, Failing: true}}
		},
		Uplinks: func() []Uplink {
			return []Uplink{{Name: "cloud", Up: true, LagItems: 3, Lag: 2500 * time.Millisecond}, {Name: "spare", LagItems: 4, Breaks: 2}}
		},
		JetStream: func() JetStream {
			return JetStream{Requests: 4, Errors: 1, Streams: []Stream{{Name: "EVENTS", Subject: "events", Messages: 7, First: 3, Last: 9,
				Consumers: []StreamConsumer{{Name: "worker", AckPending: 2, Pending: 3, Delivered: Sequence{4, 6}, AckFloor: Sequence{2, 4}}}}}}
		},
	}
}

// get sends a request to a Monitor and returns the answer's status and body.
func get(t *testing.T, o Options, method, target string) (int, string) {
	t.Helper()
	path, _, _ := strings.Cut(target, "?")
	for _, e := range New(o).Endpoints() {
		if e.Path == path {
			w := httptest.NewRecorder()
			e.Handler.ServeHTTP(w, httptest.NewRequest(method, target, nil))
			return w.Code, w.Body.String()
		}
	}
	t.Fatalf("there is no endpoint %s", path)
	return 0, ""
}

// ask returns a decoded answer.
func ask(t *testing.T, o Options, target string) map[string]any {
	t.Helper()
	code, body := get(t, o, http.MethodGet, target)
	var a map[string]any
	if err := json.Unmarshal([]byte(body), &a); err != nil || code != http.StatusOK {
		t.Fatalf("%s answers %d, %v:\n%s", target, code, err, body)
	}
	return a
}

func TestConnectionsAreSorted(t *testing.T) {
	for order, want := range map[string]string{
		"": "1 2 3", "cid": "1 2 3", "start": "1 2 3", "subs": "2 1 3", "pending": "3 1 2", "msgs_to": "1 2 3", "msgs_from": "3 2 1",
		"bytes_to": "2 3 1", "bytes_from": "1 2 3", "last": "2 3 1", "idle": "1 3 2", "uptime": "1 2 3", "rtt": "1 3 2",
	} {
		got := []string{}
		for _, c := range ask(t, options(), "/connz?sort="+order)["connections"].([]any) {
			got = append(got, fmt.Sprint(c.(map[string]any)["cid"]))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("sort=%s: the order is %v, want %s", order, got, want)
		}
	}
}

func TestConnectionsComeInPages(t *testing.T) {
	for target, want := range map[string]string{
		"/connz":                    "3 of 3 from 0, at most 1024: 1 2 3",
		"/connz?limit=2":            "2 of 3 from 0, at most 2: 1 2",
		"/connz?limit=2&offset=2":   "1 of 3 from 2, at most 2: 3",
		"/connz?offset=7":           "0 of 3 from 7, at most 1024:",
		"/connz?limit=-1&offset=-1": "3 of 3 from 0, at most 1024: 1 2 3",
		"/connz?cid=2":              "1 of 1 from 0, at most 1024: 2",
		"/connz?user=ann":           "1 of 1 from 0, at most 1024: 1",
		"/connz?state=closed":       "0 of 0 from 0, at most 1024:",
	} {
		a := ask(t, options(), target)
		got := fmt.Sprintf("%v of %v from %v, at most %v:", a["num_connections"], a["total"], a["offset"], a["limit"])
		for _, c := range a["connections"].([]any) {
			got += fmt.Sprint(" ", c.(map[string]any)["cid"])
		}
		if got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}

func TestAConnectionShowsOnlyTheRequestedFields(t *testing.T) {
	first := func(target string) map[string]any {
		return ask(t, options(), target)["connections"].([]any)[0].(map[string]any)
	}
	plain := first("/connz")
	for _, key := range []string{"authorized_user", "account", "subscriptions_list", "subscriptions_list_detail", "tls_version"} {
		if plain[key] != nil {
			t.Errorf("a connection has %s although it was not asked for", key)
		}
	}

	if plain["uptime"] != "1d2h0m0s" || plain["idle"] != "1d1h0m0s" || plain["rtt"] != "3ms" {
		t.Errorf("uptime %v, idle %v, rtt %v", plain["uptime"], plain["idle"], plain["rtt"])
	}

	if got := first("/connz?auth=true"); got["authorized_user"] != "ann" || got["account"] != "$G" {
		t.Errorf("the user is %v of %v", got["authorized_user"], got["account"])
	}
	if got := fmt.Sprint(first("/connz?subs=1")["subscriptions_list"]); got != "[s.1.0 s.1.1]" {
		t.Errorf("the subscriptions are %s", got)
	}
	if got := fmt.Sprint(first("/connz?subs=detail&cid=2")["subscriptions_list_detail"].([]any)[1]); got !=
		"map[account:$G cid:2 max:9 msgs:0 qgroup:crew sid:1 subject:s.2.1]" {
		t.Errorf("a subscription is %s", got)
	}
}

func TestSubscriptionsComeInPages(t *testing.T) {
	for target, want := range map[string]string{
		"/subsz": "", "/subsz?subs=1": "s.1.0 s.1.1 s.2.0 s.2.1 s.2.2", "/subsz?subs=1&limit=2&offset=1": "s.1.1 s.2.0",
		"/subsz?subs=1&offset=3": "s.2.1 s.2.2", "/subsz?subs=1&offset=9": "",
	} {
		a, got := ask(t, options(), target), []string{}
		all, _ := a["subscriptions_list"].([]any)
		for _, s := range all {
			got = append(got, s.(map[string]any)["subject"].(string))
		}

		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", target, got, want)
		}
		if a["num_subscriptions"] != 5.0 || a["num_inserts"] != 8.0 || a["num_removes"] != 3.0 {
			t.Errorf("%v subscriptions, %v inserts, %v removes", a["num_subscriptions"], a["num_inserts"], a["num_removes"])
		}
	}
}

func TestTheSubscriptionsInAnAnswerAreBounded(t *testing.T) {
	o := options()
	o.Subscriptions = func(uint64) []Subscription { return make([]Subscription, maxListed-1) }
	listed := []int{}
	for _, c := range ask(t, o, "/connz?subs=1")["connections"].([]any) {
		all, _ := c.(map[string]any)["subscriptions_list"].([]any)
		listed = append(listed, len(all))
	}
	if want := []int{maxListed - 1, 1, 0}; !slices.Equal(listed, want) {
		t.Errorf("the clients have %v subscriptions in the answer, want %v", listed, want)
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	for _, target := range []string{
		"/connz?sort=size", "/connz?sort=stop", "/connz?sort=reason", "/connz?limit=x", "/connz?offset=x", "/connz?auth=x", "/connz?subs=x", "/connz?cid=x",
		"/connz?state=x", "/subsz?subs=x", "/subsz?limit=x", "/jsz?streams=x",
	} {
		if code, body := get(t, options(), http.MethodGet, target); code != http.StatusBadRequest || body == "" {
			t.Errorf("%s answers %d %q", target, code, body)
		}
	}
	for _, e := range New(options()).Endpoints() {
		if code, _ := get(t, options(), http.MethodPost, e.Path); code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s answers %d", e.Path, code)
		}
	}
}

func TestStreamsAndConsumersAreToldWhenAskedFor(t *testing.T) {
	plain := ask(t, options(), "/jsz")
	if plain["streams"] != 1.0 || plain["consumers"] != 1.0 || plain["messages"] != 7.0 || plain["account_details"] != nil {
		t.Errorf("/jsz answers %v", plain)
	}
	stream := func(target string) map[string]any {
		return ask(t, options(), target)["account_details"].([]any)[0].(map[string]any)["stream_detail"].([]any)[0].(map[string]any)
	}
	if s := stream("/jsz?streams=1"); s["name"] != "EVENTS" || s["config"] != nil || s["consumer_detail"] != nil {
		t.Errorf("the stream is %v", s)
	}
	c := stream("/jsz?consumers=1&config=1")["consumer_detail"].([]any)[0].(map[string]any)
	if c["name"] != "worker" || c["num_ack_pending"] != 2.0 || fmt.Sprint(c["ack_floor"]) != "map[consumer_seq:2 stream_seq:4]" {
		t.Errorf("the consumer is %v", c)
	}

	o := options()
	o.JetStream = func() JetStream { return JetStream{Disabled: true} }
	if a := ask(t, o, "/jsz?consumers=1"); a["disabled"] != true || a["account_details"] != nil {
		t.Errorf("/jsz answers %v without JetStream", a)
	}
}

func TestTheUseOfProcessorsIsThatSinceTheLastLook(t *testing.T) {
	var l load
	now := time.Now()
	for _, look := range []struct {
		after, used time.Duration
		want        float64
	}{{10 * time.Second, 5 * time.Second, 50}, {10100 * time.Millisecond, 9 * time.Second, 50}, {12 * time.Second, 6 * time.Second, 50}, {14 * time.Second, 9 * time.Second, 150}} {
		if got := l.percent(now.Add(look.after), Server{Start: now, CPU: look.used}); got != look.want {
			t.Errorf("after %v: %v %%, want %v", look.after, got, look.want)
		}
	}
}

func TestUptimesAreWrittenAsNATSWritesThem(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", time.Minute: "1m0s", time.Hour + time.Second: "1h0m1s", 49 * time.Hour: "2d1h0m0s",
		366 * 24 * time.Hour: "1y1d0h0m0s",
	} {
		if got := uptime(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}

// samples returns edged's own lines of /metrics, by name and labels.
func samples(t *testing.T, o Options) map[string]string {
	t.Helper()
	_, body := get(t, o, http.MethodGet, "/metrics")
	all := make(map[string]string)
	for line := range strings.Lines(body) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "edged_") {
			if _, twice := all[name]; twice {
				t.Errorf("%s is there twice", name)
			}
			all[name] = value
		}
	}
	return all
}

func TestMetricsTellTheSnapshot(t *testing.T) {
	got := samples(t, options())
	for name, want := range map[string]string{
		"edged_clients": "3", `edged_list_serving{list="events"}`: "1", `edged_list_serving{list="telemetry"}`: "0",
		`edged_list_backlog_items{list="events"}`: "1099511627776", `edged_list_lag_seconds{list="events"}`: "1.5",
		`edged_list_dead_items_total{list="events"}`: "2", `edged_consumer_clients{list="events",consumer="crew"}`: "2",
		`edged_inbound_written_items_total{list="orders"}`: "11", `edged_inbound_failing{list="orders"}`: "1", `edged_inbound_full{list="orders"}`: "1",
		`edged_consumer_clients{list="telemetry",consumer="(viewers)"}`: "0",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %s", name, got[name], want)
		}
	}
}

func TestConsumersHaveABoundedNumberOfLabels(t *testing.T) {
	o := options()
	o.Lists = func() []List {
		l := List{Key: "events"}
		for i := range 1000 {
			l.Consumers = append(l.Consumers, Consumer{Owed: 1, Lag: time.Duration(i) * time.Second}, Consumer{Viewer: true, Missed: 1},
				Consumer{Name: fmt.Sprintf("group-%03d", i), Owed: 2})
		}
		l.Consumers = append(l.Consumers, Consumer{Name: "group-000", Owed: 2}) // a durable consumer of the same name
		return []List{l}
	}

	owed := 0
	got := samples(t, o)
	for name := range got {
		if strings.HasPrefix(name, "edged_consumer_owed_items") {
			owed++
		}
	}

	if want := MaxConsumers + 3; owed != want {
		t.Errorf("the list has %d consumers in the metrics, want %d", owed, want)
	}

	for name, want := range map[string]string{
		`edged_consumer_owed_items{list="events",consumer="(unnamed)"}`: "1000", `edged_consumer_lag_seconds{list="events",consumer="(unnamed)"}`: "999",
		`edged_consumer_missed_items{list="events",consumer="(viewers)"}`: "1000", `edged_consumer_owed_items{list="events",consumer="group-000"}`: "4",
		`edged_consumer_owed_items{list="events",consumer="group-063"}`: "2", `edged_consumer_owed_items{list="events",consumer="(further)"}`: "1872",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %s", name, got[name], want)
		}
	}
}

func TestLabelsAreEscaped(t *testing.T) {
	for s, want := range map[string]string{`a"b`: `a\"b`, `a\b`: `a\\b`, "a\nb": `a\nb`, "ä": "ä", "a\xff": `a\\xff`} {
		if got := escape(s); got != want {
			t.Errorf("%q becomes %s, want %s", s, got, want)
		}
	}
}

// described returns the metrics with their type, labels and help, in the form of the document's
// rows.
func described() (rows []string) {
	add := func(name, kind, labels, help string) {
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |", name, kind, labels, help))
	}
	for _, f := range serverFamilies {
		add(f.name, f.kind, "", f.help)
	}

	for _, f := range listFamilies {
		add(f.name, f.kind, "`list`", f.help)
	}

	for _, f := range consumerFamilies {
		add(f.name, f.kind, "`list`, `consumer`", f.help)
	}
	for _, f := range inboundFamilies {
		add(f.name, f.kind, "`list`", f.help)
	}
	for _, f := range uplinkFamilies {
		add(f.name, f.kind, "`uplink`", f.help)
	}
	return rows
}

func TestTheDocumentHasEveryMetric(t *testing.T) {
	doc, err := os.ReadFile("../../docs/MONITORING.md")
	if err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile("(?m)^\\| `edged_.*$").FindAllString(string(doc), -1)
	if want := described(); !slices.Equal(got, want) {
		t.Errorf("the table of metrics is not that of the program, which is:\n%s", strings.Join(want, "\n"))
	}
}

// edgedMetric is the name of a metric in an expression.
var edgedMetric = regexp.MustCompile(`\bedged_[a-z_]+`)

func TestRulesAndDashboardUseMetricsThatThereAre(t *testing.T) {
	known := strings.Join(described(), "\n")
	for _, file := range []string{"../../deploy/prometheus/edged.rules.yml", "../../deploy/grafana/edged.json"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		used := edgedMetric.FindAllString(string(data), -1)
		if len(used) == 0 {
			t.Errorf("%s uses no metrics", file)
		}

		for _, name := range used {
			if !strings.Contains(known, "`"+name+"`") {
				t.Errorf("%s uses %s, which is no metric", file, name)
			}
		}
	}
}

// dashboard is the part of Grafana's format that every panel here has.
type dashboard struct {
	UID           string `json:"uid"`
	Title         string `json:"title"`
	SchemaVersion int    `json:"schemaVersion"`
	Panels        []struct {
		ID         int       `json:"id"`
		Type       string    `json:"type"`
		Title      string    `json:"title"`
		Datasource reference `json:"datasource"`
		GridPos    struct{ X, Y, W, H int }
		Targets    []struct {
			RefID      string    `json:"refId"`
			Expr       string    `json:"expr"`
			Datasource reference `json:"datasource"`
		} `json:"targets"`
	} `json:"panels"`
	Templating struct {
		List []struct {
			Name string `json:"name"`
			Type string `json:"type"`
		} `json:"list"`
	} `json:"templating"`
}

type reference struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

func TestTheDashboardHasTheFieldsThatGrafanaNeeds(t *testing.T) {
	data, err := os.ReadFile("../../deploy/grafana/edged.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 36 || len(d.Panels) == 0 {
		t.Errorf("the dashboard has the UID %q, the title %q, the version %d and %d panels", d.UID, d.Title, d.SchemaVersion, len(d.Panels))
	}
	for _, v := range d.Templating.List {
		data = []byte(strings.NewReplacer("${"+v.Name+"}", "", "$"+v.Name, "").Replace(string(data)))
	}
	if left := regexp.MustCompile(`\$[a-z{][^"]*`).Find(data); left != nil {
		t.Errorf("the dashboard uses the variable %s, which it does not define", left)
	}

	const columns = 24
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		at := p.GridPos
		if ids[p.ID] || p.Title == "" || p.Type != "stat" && p.Type != "timeseries" || at.W < 1 || at.H < 1 || at.X+at.W > columns {
			t.Errorf("the panel %d %q of type %s has the place %+v, or the number of another one", p.ID, p.Title, p.Type, at)
		}
		ids[p.ID] = true
		for cell := range at.W * at.H {
			place := [2]int{at.X + cell%at.W, at.Y + cell/at.W}
			if taken[place] != "" {
				t.Fatalf("the panels %q and %q overlap", taken[place], p.Title)
			}
			taken[place] = p.Title
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.Expr == "" || target.RefID == "" || refs[target.RefID] || target.Datasource != p.Datasource || p.Datasource != (reference{"prometheus", "${datasource}"}) {
				t.Errorf("the panel %q asks %+v", p.Title, target)
			}
			refs[target.RefID] = true
		}
		if len(refs) == 0 {
			t.Errorf("the panel %q asks for nothing", p.Title)
		}
	}
}
