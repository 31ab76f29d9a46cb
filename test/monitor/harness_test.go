// Package monitor queries edged as third-party monitoring tools do: with their own code if it is a
// module, and beside a real nats-server.
package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"edged/internal/config"
	"edged/internal/daemon"
	"edged/internal/redistest"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

const patience = 30 * time.Second

var programs string // folder of the programs that tests build

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "monitor")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs = folder
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(folder)
		os.Exit(code)
	}), goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// monitored is a server with clients, and the address of its monitoring.
type monitored struct {
	clients, monitoring string
	lists               *redistest.Server // nil for nats-server
}

// startEdged runs a daemon with the list "events", whose stream is "EVENTS", until the test ends.
func startEdged(t *testing.T) monitored {
	t.Helper()
	redis := redistest.Start(t)
	folder, err := os.MkdirTemp("", "e") // its path leaves room for a socket's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	file := filepath.Join(folder, "edged.toml")
	text := fmt.Sprintf("[redis]\naddress = %q\n[tcp]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"127.0.0.1:0\"\n[control]\nsocket = %q\nstatus_socket = \"\"\n[[list]]\nkey = \"events\"\n",
		redis.Address(), filepath.Join(folder, "s"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}

	ready, ended := make(chan daemon.Addresses, 1), make(chan int, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		ended <- daemon.Run(ctx, daemon.Options{
			Config: cfg, Version: "0.0.0", Stderr: io.Discard, Ready: func(at daemon.Addresses) { ready <- at },
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	select {
	case at := <-ready:
		return monitored{"nats://" + at.TCP.String(), "http://" + at.HTTP.String(), redis}
	case code := <-ended:
		ended <- code
		t.Fatalf("edged ends with %d", code)
		return monitored{}
	}
}

// startNATS runs a nats-server until the test ends.
func startNATS(t *testing.T) monitored {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, HTTPHost: "127.0.0.1", HTTPPort: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("nats-server does not start")
	}
	return monitored{s.ClientURL(), "http://" + s.MonitorAddr().String(), nil}
}

// use makes a client subscribe, publish, and take two items with a durable consumer, of which it
// acknowledges one.
func (m monitored) use(t *testing.T) {
	t.Helper()
	nc, err := nats.Connect(m.clients, nats.Name("watcher"), nats.PingInterval(50*time.Millisecond), nats.MaxPingsOutstanding(1000))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream := "EVENTS"
	if m.lists == nil {
		if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{"events"}}); err != nil {
			t.Fatal(err)
		}
	} else if stream, err = js.StreamNameBySubject(ctx, "events"); err != nil {
		t.Fatal(err)
	}

	c, err := js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range []string{"one", "two", "three"} {
		if m.lists != nil {
			m.lists.Push("events", item)
		} else if _, err := js.Publish(ctx, "events", []byte(item)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		msg, err := c.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := msg.DoubleAck(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := nc.SubscribeSync("elsewhere.*"); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.QueueSubscribeSync("elsewhere.here", "crew"); err != nil {
		t.Fatal(err)
	}
	if err := nc.Publish("elsewhere.here", []byte("hi")); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// get returns an answer.
func (m monitored) get(t *testing.T, target string) []byte {
	t.Helper()
	r, err := http.Get(m.monitoring + target)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s answers %s, %v: %s", target, r.Status, err, body)
	}
	return body
}

// kinds returns the kinds of the values in an answer by their paths: all elements of an array share
// a path.
func kinds(t *testing.T, data []byte) map[string]string {
	t.Helper()
	var a any
	if err := json.Unmarshal(data, &a); err != nil {
		t.Fatal(err)
	}

	all := make(map[string]string)
	var walk func(path string, v any)
	walk = func(path string, v any) {
		all[path] = fmt.Sprintf("%T", v)
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				walk(path+"."+key, value)
			}
		case []any:
			for _, value := range v {
				walk(path+"[]", value)
			}
		}
	}
	walk("", a)
	return all
}

// buildPromtool builds Prometheus's promtool, once, without its discovery of targets in clouds.
var buildPromtool = sync.OnceValues(func() (string, error) {
	file := filepath.Join(programs, "promtool")
	out, err := exec.Command("go", "build", "-tags", "remove_all_sd", "-o", file, "github.com/prometheus/prometheus/cmd/promtool").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building promtool: %v\n%s", err, out)
	}
	return file, nil
})

// promtool runs promtool, which must succeed.
func promtool(t *testing.T, stdin []byte, args ...string) string {
	t.Helper()
	file, err := buildPromtool()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("promtool %v: %v\n%s", args, err, out)
	}
	return string(out)
}
