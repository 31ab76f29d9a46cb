package e2e

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	ranges "edged/internal/numbers"
	"edged/internal/redistest"

	"github.com/nats-io/nats.go"
)

// waysToDrain are the four signals and the command.
var waysToDrain = []struct {
	name  string
	drain func(*daemon)
}{
	{"SIGHUP", func(d *daemon) { d.Signal(syscall.SIGHUP) }},
	{"SIGINT", func(d *daemon) { d.Signal(syscall.SIGINT) }},
	{"SIGTERM", func(d *daemon) { d.Signal(syscall.SIGTERM) }},
	{"SIGQUIT", func(d *daemon) { d.Signal(syscall.SIGQUIT) }},
	{"the command drain", func(d *daemon) {
		if answer := d.Control("drain"); !strings.HasPrefix(answer, "draining: ") || !strings.HasSuffix(answer, "\nOK\n") {
			d.t.Errorf("the command drain answers %q, want OK", answer)
		}
	}},
}

// In lame duck mode these clients do as an application should: take the items in flight, and leave.
// Nothing else bounds the drain.
// startLeavers connects clients that drain and close when they are told to leave: one that gets
// events, and two that share readings.
func startLeavers(t *testing.T, d *daemon) (boxes [3]*inbox, closed [3]chan struct{}) {
	t.Helper()
	for i := range boxes {
		closed[i] = make(chan struct{})
		nc := connect(t, d,
			nats.LameDuckModeHandler(func(nc *nats.Conn) {
				if err := nc.Drain(); err != nil {
					t.Errorf("drain the connection: %v", err)
				}
			}),
			nats.ClosedHandler(func(*nats.Conn) { close(closed[i]) }))
		if i == 0 {
			_, boxes[i] = subscribe(t, nc, "events", "")
		} else {
			_, boxes[i] = subscribe(t, nc, "readings", "workers")
		}
	}
	return boxes, closed
}

func TestClientsThatAreToldToLeaveTakeTheItemsInFlight(t *testing.T) {
	t.Parallel()
	const n = 20_000
	for _, way := range waysToDrain {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			r := redistest.Start(t)
			d := startEdged(t, r, `drain.timeout = "1h"`)
			boxes, closed := startLeavers(t, d)
			r.Push("events", numbers(0, n)...)
			r.Push("readings", numbers(0, n)...)
			boxes[0].wait(t, 1)
			redistest.Eventually(t, "a member of the group gets an item", func() bool {
				return len(boxes[1].all())+len(boxes[2].all()) > 0
			})

			way.drain(d)
			for i := range closed {
				select {
				case <-closed[i]:
				case <-time.After(patience):
					t.Fatalf("gave up waiting: client %d drains and closes", i)
				}
			}

			b := d.close()
			if why := d.AwaitLog("draining")["why"]; why != way.name {
				t.Errorf("the log says it drains for %q, want %q", why, way.name)
			}

			left := [2][]string{inRedis(t, r, "events"), inRedis(t, r, "readings")}
			kept := finishedAndLeft(t, r, "events") + finishedAndLeft(t, r, "readings")
			if gone := 2*n - len(left[0]) - len(left[1]); b.confirmed != gone+kept {
				t.Errorf("%d items were confirmed, %d are gone from Redis and %d more in the ledger", b.confirmed, gone, kept)
			}

			for _, items := range left {
				wantRun(t, items, n-len(items), n)
			}
			wantAll(t, n, boxes[0].all(), left[0])
			wantAll(t, n, boxes[1].all(), boxes[2].all(), left[1])
			both := inBoth(left[0], boxes[0].all()) + inBoth(left[1], boxes[1].all(), boxes[2].all())
			if both > b.returned+kept {
				t.Errorf("%d items came and are still in Redis, and only %d were returned or wait for earlier ones", both, b.returned+kept)
			}
			t.Logf("%+v, %d came and are still in Redis", b, both)
		})
	}
}

// finishedAndLeft returns how many items of a list are finished, according to the ledger, but still
// there because a member of a group has not confirmed an earlier one.
func finishedAndLeft(t *testing.T, r *redistest.Server, list string) int {
	t.Helper()
	text, err := r.Client().HGet(t.Context(), "{"+list+"}:edged", "finished").Result()
	if err != nil {
		t.Fatal(err)
	}
	finished, err := ranges.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return int(finished.Count() - finished.Floor())
}

// inBoth returns how many of the items left in a list reached a client.
func inBoth(left []string, came ...[]string) int {
	seen := make(map[string]bool)
	for _, items := range came {
		for _, item := range items {
			seen[item] = true
		}
	}
	n := 0
	for _, item := range left {
		if seen[item] {
			n++
		}
	}
	return n
}

func TestADrainWithoutClientsEndsAtOnce(t *testing.T) {
	t.Parallel()
	for _, way := range waysToDrain {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			r := redistest.Start(t)
			r.Push("events", numbers(0, 10)...)
			d := startEdged(t, r, `drain.timeout = "1h"`)
			way.drain(d)
			if b := d.close(); b != (books{}) {
				t.Errorf("books are %+v, want nothing taken", b)
			}
			wantRun(t, inRedis(t, r, "events"), 0, 10)
		})
	}
}

// startMute starts a client that takes items and confirms none. Its box has their payloads. The
// channel is closed when it has been disconnected; told says whether that was announced in lame
// duck mode.
func startMute(t *testing.T, d *daemon, subject string) (box *inbox, told *bool, gone <-chan struct{}) {
	t.Helper()
	conn, err := net.Dial("tcp", d.Address)
	if err != nil {
		t.Fatal(err)
	}

	box, told = newInbox(), new(bool)
	done := make(chan struct{})
	fmt.Fprintf(conn, "CONNECT {\"verbose\":false}\r\nPING\r\nSUB %s 1\r\n", subject)
	go func() {
		defer close(done)
		in := bufio.NewScanner(conn)
		for item := false; in.Scan(); {
			switch {
			case item:
				box.add(in.Text())
				item = false
			case strings.HasPrefix(in.Text(), "MSG "):
				item = true
			case strings.HasPrefix(in.Text(), "INFO ") && strings.Contains(in.Text(), `"ldm":true`):
				*told = true
			}
		}
	}()

	t.Cleanup(func() { conn.Close(); <-done })
	return box, told, done
}

func TestAClientThatNeverLeavesIsClosedAtTheEndOfTheDrain(t *testing.T) {
	t.Parallel()
	const n = 100
	r := redistest.Start(t)
	r.Push("events", numbers(0, n)...)
	d := startEdged(t, r, `drain.timeout = "1s"`)
	box, told, gone := startMute(t, d, "events")
	box.wait(t, n)
	d.Signal(syscall.SIGTERM)
	if b := d.close(); b != (books{taken: n, returned: n}) {
		t.Errorf("books are %+v, want all %d returned", b, n)
	}

	<-gone
	if !*told {
		t.Error("the client was not told that the daemon is going")
	}
	wantRun(t, inRedis(t, r, "events"), 0, n)
}

func TestASecondSignalDoesNotWaitForClients(t *testing.T) {
	t.Parallel()
	const n = 100
	ways := map[string]func(*daemon){
		"signal": func(d *daemon) { d.Signal(syscall.SIGINT) },
		"quit":   func(d *daemon) { d.Control("quit") },
	}
	for name, hurry := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := redistest.Start(t)
			r.Push("events", numbers(0, n)...)
			// After the second start the items stay until the grace of the first client ends.
			d := startEdged(t, r, `drain.timeout = "1h"`, shortGrace)
			box, _, gone := startMute(t, d, "events")
			box.wait(t, n)
			d.Signal(syscall.SIGTERM)
			d.AwaitLog("draining")
			hurry(d)
			if b := d.close(); b != (books{taken: n, returned: n}) {
				t.Errorf("books are %+v, want all %d returned", b, n)
			}
			<-gone
			wantRun(t, inRedis(t, r, "events"), 0, n)

			d.Start()
			nc := connect(t, d)
			_, again := subscribe(t, nc, "events", "")
			wantRun(t, again.wait(t, n), 0, n)
			waitEmpty(t, r, "events")
		})
	}
}

// The control socket reports the state until the end.
func TestTheControlSocketAnswersDuringTheDrain(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	d := startEdged(t, r, `drain.timeout = "1h"`)
	told := make(chan struct{})
	nc := connect(t, d, nats.LameDuckModeHandler(func(*nats.Conn) { close(told) }))
	d.Signal(syscall.SIGHUP)
	<-told
	if s := d.status(); s.State != "draining" || s.Why != "SIGHUP" {
		t.Errorf("status is %q for %q, want draining for SIGHUP", s.State, s.Why)
	}
	if answer := d.Control("drain"); !strings.HasPrefix(answer, "ERR Draining ") {
		t.Errorf("a second drain is answered with %q, want ERR Draining", answer)
	}
	nc.Close()
	d.close()
}

// When the last client leaves, the loop ends, often in the middle of a round. That is not an error,
// and the log has none.
func TestClientsThatLeaveInTheMiddleOfARoundAreNoFault(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	r.Push("events", numbers(0, 100_000)...)
	r.Push("readings", numbers(0, 100_000)...)

	d := startEdged(t, r, `drain.timeout = "1h"`)
	for i := range 20 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			nc := connect(t, d)
			_, events := subscribe(t, nc, "events", "")
			_, readings := subscribe(t, nc, "readings", "")
			events.wait(t, 1)
			readings.wait(t, 1)
			d.Signal(syscall.SIGTERM)
			nc.Close()
			d.close()
			d.Start()
		})
	}
}

// The built-in subscriber leaves when everything that it received is confirmed.
func TestEdgedSubLeavesADrainingDaemonWithAllThatItPrintedConfirmed(t *testing.T) {
	t.Parallel()
	const n = 50_000
	r := redistest.Start(t)
	d := startEdged(t, r, `drain.timeout = "1h"`)
	client := startSub(t, d, "events")
	r.Push("events", numbers(0, n)...)
	client.inbox.wait(t, window)
	d.Signal(syscall.SIGTERM)
	if code := client.exit(t); code != 0 {
		t.Errorf("edged sub ended with code %d, want 0", code)
	}

	b := d.close()
	left := inRedis(t, r, "events")
	wantRun(t, client.all(), 0, n-len(left))
	wantRun(t, left, n-len(left), n)
	if b.confirmed != len(client.all()) {
		t.Errorf("books are %+v, %d items were printed", b, len(client.all()))
	}
}
