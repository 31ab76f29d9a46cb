package daemon

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"edged/internal/config"
	"edged/internal/redistest"
)

// monitored runs a daemon with HTTP, and returns a function that asks it.
func monitored(t *testing.T, cfg *config.Config) (*process, getter) {
	t.Helper()
	cfg.HTTP.Listen = "127.0.0.1:0"
	p := run(t.Context(), t, Options{Config: cfg})
	t.Cleanup(func() { <-p.ended }) // at the end of t.Context
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return p, func(target string) string {
		t.Helper()
		answer, err := client.Get("http://" + p.http.String() + target)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
}

// getter returns the answer to a GET request for a target.
type getter func(target string) string

// values reads an answer in JSON, of which nested values have paths with dots.
func values(t *testing.T, get getter, target string) map[string]any {
	t.Helper()
	var a any
	if err := json.Unmarshal([]byte(get(target)), &a); err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	all := make(map[string]any)
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				walk(strings.TrimPrefix(path+"."+key, "."), value)
			}
		case []any:
			for i, value := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), value)
			}
		default:
			all[path] = v
		}
	}
	walk("", a)
	return all
}

// subscribe is a client that says something and answers every PING, until the test ends.
func subscribe(t *testing.T, address net.Addr, says string) {
	t.Helper()
	conn, err := net.Dial(address.Network(), address.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(says)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			if lines.Text() == "PING" {
				conn.Write([]byte("PONG\r\n"))
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
}

func TestMonitoringToolsAreToldHowTheDaemonIs(t *testing.T) {
	redis := redistest.Start(t)
	cfg := configured(t, redis)
	list := cfg.Lists[0]
	p, get := monitored(t, cfg)

	subscribe(t, p.address, fmt.Sprintf("CONNECT {\"name\":\"watcher\",\"lang\":\"go\",\"version\":\"1.2.3\"}\r\nSUB %s crew 1\r\nPUB elsewhere 2\r\nhi\r\n", list.Subject))
	redis.Push(list.Key, "one", "two")
	redistest.Eventually(t, "the items are confirmed", func() bool {
		return strings.Contains(get("/metrics"), fmt.Sprintf("edged_list_confirmed_items_total{list=%q} 2\n", list.Key))
	})

	for target, want := range map[string]map[string]any{
		"/varz":          {"server_name": cfg.Instance, "version": "0.0.0", "connections": 1.0, "subscriptions": 1.0, "in_msgs": 1.0, "out_msgs": 2.0, "host": "127.0.0.1"},
		"/connz":         {"num_connections": 1.0, "connections[0].name": "watcher", "connections[0].version": "1.2.3", "connections[0].out_msgs": 2.0, "connections[0].ip": "127.0.0.1"},
		"/subsz":         {"num_subscriptions": 1.0, "num_inserts": 1.0, "num_removes": 0.0, "num_matches": 1.0},
		"/routez":        {"num_routes": 0.0},
		"/jsz":           {"streams": float64(len(cfg.Lists)), "consumers": 0.0, "disabled": nil},
		"/subsz?subs=1":  {"subscriptions_list[0].subject": list.Subject, "subscriptions_list[0].qgroup": "crew", "subscriptions_list[0].msgs": 2.0},
		"/connz?subs=1":  {"connections[0].subscriptions_list[0]": list.Subject},
		"/jsz?streams=1": {"account_details[0].stream_detail[0].name": list.Stream},
	} {
		got := values(t, get, target)
		for field, value := range want {
			if got[field] != value {
				t.Errorf("%s: %s is %v, want %v", target, field, got[field], value)
			}
		}
		if got["now"] == nil || got["server_id"] == "" {
			t.Errorf("%s has the time %v and the ID %v", target, got["now"], got["server_id"])
		}
	}

	got := get("/metrics")
	for _, want := range []string{
		"edged_clients 1", fmt.Sprintf("edged_list_serving{list=%q} 1", list.Key), fmt.Sprintf("edged_consumer_clients{list=%q,consumer=\"crew\"} 1", list.Key),
		"process_resident_memory_bytes [0-9]+", "edged_start_time_seconds [0-9.e+]+",
	} {
		if !regexp.MustCompile("(?m)^" + strings.NewReplacer("{", `\{`, "}", `\}`).Replace(want) + "$").MatchString(got) {
			t.Errorf("the metrics have no line %s:\n%s", want, got)
		}
	}
}

func TestADaemonWithoutRedisIsMonitored(t *testing.T) {
	redis := redistest.Start(t)
	cfg := configured(t, redis)
	redis.Kill()
	_, get := monitored(t, cfg)
	redistest.Eventually(t, "the list fails", func() bool {
		return strings.Contains(get("/metrics"), fmt.Sprintf("edged_list_failing{list=%q} 1\n", cfg.Lists[0].Key))
	})
	if got := get("/metrics"); !strings.Contains(got, fmt.Sprintf("edged_list_serving{list=%q} 0\n", cfg.Lists[0].Key)) {
		t.Errorf("a list without Redis is served:\n%s", got)
	}
	if got := values(t, get, "/jsz?consumers=1"); got["streams"] != float64(len(cfg.Lists)) {
		t.Errorf("/jsz answers %v", got)
	}
}
