package monitor

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"edged/internal/redistest"

	"github.com/influxdata/telegraf"
	telegrafnats "github.com/influxdata/telegraf/plugins/inputs/nats"
	"github.com/nats-io/nats-server/v2/server"
)

// answers are the requests of the tools, with the type that nats-server writes and that nats-top,
// Telegraf and prometheus-nats-exporter read. absent are the fields of nats-server that edged does
// not have, with everything below them.
var answers = []struct {
	target string
	into   func() any
	absent string // $S is a stream, and $C a consumer
}{
	{"/varz", func() any { return new(server.Varz) },
		".ip .connect_urls .disk_io_wait_stats .jetstream.config .jetstream.limits .jetstream.stats.api.level .jetstream.meta .websocket .mqtt .leaf .cluster .gateway .http_req_stats .feature_flags .gomemlimit .write_timeout .system_account"},
	{"/connz?limit=20&sort=msgs_to&subs=1", func() any { return new(server.Connz) }, ""}, // nats-top's
	{"/connz?auth=true&subs=detail", func() any { return new(server.Connz) }, ".connections[].name_tag"},
	{"/connz", func() any { return new(server.Connz) }, ""},
	{"/subsz", func() any { return new(server.Subsz) }, ""},
	{"/subsz?subs=1", func() any { return new(server.Subsz) }, ".subscriptions_list[].account_tag"},
	{"/routez", func() any { return new(server.Routez) }, ""},
	{"/jsz", func() any { return new(server.JSInfo) }, ".config .limits"},
	{"/jsz?accounts=true", func() any { return new(server.JSInfo) }, ".config .limits"},
	{"/jsz?streams=true", func() any { return new(server.JSInfo) }, ".config .limits $S.cluster"},
	{"/jsz?consumers=true&config=true", func() any { return new(server.JSInfo) },
		".config .limits $S.cluster $S.config $C.config $C.cluster $C.ack_floor.last_active $C.delivered.last_active"},
}

var shorthand = strings.NewReplacer("$S", ".account_details[].stream_detail[]", "$C", ".account_details[].stream_detail[].consumer_detail[]")

func TestAnswersHaveTheFieldsOfNATSServer(t *testing.T) {
	edged, nats := startEdged(t), startNATS(t)
	edged.use(t)
	nats.use(t)
	edged.awaitRoundTrip(t)
	for _, a := range answers {
		body := edged.get(t, a.target)
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		into := a.into()
		if err := d.Decode(into); err != nil {
			t.Errorf("%s can't be read as nats-server's answer: %v\n%s", a.target, err, body)
			continue
		}

		// All fields of edged exist, with the same kind, in a real answer or in the type.
		written, err := json.Marshal(into)
		if err != nil {
			t.Fatal(err)
		}
		ours, typed, theirs := kinds(t, body), kinds(t, written), kinds(t, nats.get(t, a.target))
		for path, kind := range ours {
			if typed[path] != kind || theirs[path] != "" && theirs[path] != kind {
				t.Errorf("%s: %s is %s, in nats-server's type %s and in its answer %s", a.target, path, kind, typed[path], theirs[path])
			}
		}
		absent := strings.Fields(shorthand.Replace(a.absent))
		for path, kind := range theirs {
			below := slices.ContainsFunc(absent, func(p string) bool {
				return path == p || strings.HasPrefix(path, p+".") || strings.HasPrefix(path, p+"[")
			})
			if ours[path] == "" && !below {
				t.Errorf("%s: nats-server has %s, a %s, and edged has not", a.target, path, kind)
			}
		}
	}
}

// awaitRoundTrip waits until the first PING to the client is answered, and returns its connection.
func (m monitored) awaitRoundTrip(t *testing.T) (c map[string]any) {
	t.Helper()
	redistest.Eventually(t, "the client has answered a PING", func() bool {
		var a struct {
			Connections []map[string]any `json:"connections"`
		}
		if err := json.Unmarshal(m.get(t, "/connz"), &a); err != nil {
			t.Fatal(err)
		}
		c = a.Connections[0]
		return c["rtt"] != nil
	})
	return c
}

// nats-top and prometheus-nats-exporter are not available as modules. They read these fields;
// prometheus-nats-exporter panics on other types and forms.
func TestTimesAndDurationsHaveTheFormThatExportersRead(t *testing.T) {
	edged := startEdged(t)
	edged.use(t)
	c := edged.awaitRoundTrip(t)
	for _, field := range []string{"start", "last_activity"} {
		if _, err := time.Parse(time.RFC3339Nano, c[field].(string)); err != nil {
			t.Errorf("%s: %v", field, err)
		}
	}

	for _, field := range []string{"rtt", "uptime", "idle"} {
		if _, err := time.ParseDuration(c[field].(string)); err != nil {
			t.Errorf("%s: %v", field, err)
		}
	}

	for _, field := range []string{"kind", "type", "ip", "name", "lang", "version"} {
		if s, ok := c[field].(string); !ok || s == "" {
			t.Errorf("%s is %v", field, c[field])
		}
	}
	for _, field := range []string{"cid", "port", "pending_bytes", "in_msgs", "out_msgs", "in_bytes", "out_bytes", "subscriptions"} {
		if _, ok := c[field].(float64); !ok {
			t.Errorf("%s is %v", field, c[field])
		}
	}
}

// accumulator keeps the fields that a plugin of Telegraf gathers.
type accumulator struct {
	telegraf.Accumulator
	fields map[string]any
}

func (a *accumulator) AddFields(_ string, fields map[string]any, _ map[string]string, _ ...time.Time) {
	a.fields = fields
}

func TestTelegrafReadsEdged(t *testing.T) {
	edged := startEdged(t)
	edged.use(t)
	var a accumulator
	if err := (&telegrafnats.Nats{Server: edged.monitoring}).Gather(&a); err != nil {
		t.Fatal(err)
	}

	for field, want := range map[string]any{"connections": 1, "total_connections": uint64(1), "slow_consumers": int64(0), "routes": 0} {
		if a.fields[field] != want {
			t.Errorf("Telegraf has %s = %v (%[2]T), want %v", field, a.fields[field], want)
		}
	}

	for _, field := range []string{"in_msgs", "out_msgs", "in_bytes", "out_bytes", "uptime", "mem"} {
		if n, ok := a.fields[field].(int64); !ok || n <= 0 {
			t.Errorf("Telegraf has %s = %v", field, a.fields[field])
		}
	}
	if n, ok := a.fields["subscriptions"].(uint32); !ok || n < 3 { // including one for the answers to requests
		t.Errorf("Telegraf has %v subscriptions", a.fields["subscriptions"])
	}
}
