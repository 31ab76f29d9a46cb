package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"edged/internal/redistest"
)

// alarms and infos are lists of two classes.
func alarms(settings string) string { return "[[list]]\nkey = \"alarms\"\n" + settings }
func infos(settings string) string  { return "[[list]]\nkey = \"infos\"\nclass = 1\n" + settings }

// slowLink connects over a link of 64 kbit/s with the kernel's buffers.
type slowLink struct{}

func (slowLink) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	return paced{c}, err
}

type paced struct{ net.Conn }

func (c paced) Read(p []byte) (int, error) {
	const rate = 8000 // bytes a second
	n, err := c.Conn.Read(p[:min(len(p), 256)])
	time.Sleep(time.Duration(n) * time.Second / rate)
	return n, err
}

// wide returns n items of 100 bytes.
func wide(n int) []any {
	items := make([]any, n)
	for i := range items {
		items[i] = fmt.Sprintf("%0100d", i)
	}
	return items
}

// both subscribes to both lists, and acknowledges the items that require it. An item in the inbox
// begins with its subject.
func both(t *testing.T, nc *nats.Conn) *inbox {
	t.Helper()
	got := newInbox()
	for _, list := range []string{"infos", "alarms"} {
		sub, err := nc.Subscribe(list, func(m *nats.Msg) {
			got.add(m.Subject + " " + string(m.Data))
			if m.Reply != "" {
				_ = m.Ack()
			}
		})
		if err == nil {
			err = sub.SetPendingLimits(-1, -1)
		}
		if err != nil {
			t.Fatal(err)
		}
	}

	return got
}

// pullBoth is both with JetStream consumers.
func pullBoth(t *testing.T, nc *nats.Conn) *inbox {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}

	got := newInbox()
	for _, list := range []string{"infos", "alarms"} {
		c, err := js.CreateOrUpdateConsumer(t.Context(), list, jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})
		if err != nil {
			t.Fatal(err)
		}
		consuming, err := c.Consume(func(m jetstream.Msg) {
			got.add(m.Subject() + " " + string(m.Data()))
			_ = m.Ack()
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(consuming.Stop)
	}

	return got
}

func count(items []string, subject string) (n int) {
	for _, item := range items {
		if strings.HasPrefix(item, subject) {
			n++
		}
	}
	return n
}

func TestAnAlarmPassesABacklogOfInfosOnASlowLink(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ack  string
		take func(*testing.T, *nats.Conn) *inbox
	}{
		"received":  {"received", both},
		"explicit":  {"explicit", both},
		"jetstream": {"received", pullBoth},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := redistest.Start(t)
			r.Push("infos", wide(100_000)...)
			how := fmt.Sprintf("ack = %q\n", c.ack)
			d := startEdged(t, r, `drain.timeout = "0s"`, alarms(how), infos(how))
			got := c.take(t, connect(t, d, nats.SetCustomDialer(slowLink{})))

			for round := range 3 {
				got.wait(t, 60*(round+1))
				before := len(got.all())
				r.Push("alarms", "alarm")
				items := got.until(t, "the alarm comes", func(items []string) bool { return count(items, "alarms") == round+1 })
				if n := len(items) - before; n > 100 {
					t.Errorf("%d infos came before alarm %d", n, round)
				} else {
					t.Logf("%d items came after alarm %d was pushed, that one included", n, round)
				}
			}
		})
	}
}

func TestInfosGoOnUnderAFloodOfAlarms(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		passed, items int // those that are skipped first, and those that are checked then
		least         int // infos
		options       []nats.Option
	}{
		"fast":      {100_000, 100_000, 50, nil}, // the client itself may be the bottleneck
		"slow link": {200, 800, 40, []nats.Option{nats.SetCustomDialer(slowLink{})}},
	} {
		for _, ack := range []string{"received", "explicit"} {
			t.Run(name+" "+ack, func(t *testing.T) {
				t.Parallel()
				r := redistest.Start(t)
				r.Push("infos", wide(100_000)...)
				r.Push("alarms", wide(300_000)...)
				how := fmt.Sprintf("ack = %q\n", ack)
				if ack == "explicit" {
					how += "max_ack_pending = 20000\n" // the clients always have room
				}

				d := startEdged(t, r, `drain.timeout = "0s"`, alarms(how), infos(how))
				got := both(t, connect(t, d, c.options...))
				items := got.wait(t, c.passed+c.items)[c.passed:][:c.items]
				n := count(items, "infos")
				t.Logf("%d of %d items are infos", n, c.items)
				if n < c.least || n > c.items/2 {
					t.Errorf("%d of %d items are infos, want %d to %d", n, c.items, c.least, c.items/2)
				}
			})
		}
	}
}

func TestReloadChangesClassesWithoutABreak(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	infos := "[[list]]\nkey = \"infos\"\n"
	d := startEdged(t, r, alarms(""), infos)
	nc := connect(t, d)
	_, got := subscribe(t, nc, "infos", "")
	r.Push("infos", "1")
	got.wait(t, 1)

	d.reload("[delivery]\nshare = 0\n", alarms(""), infos+"class = 2\n")
	r.Push("infos", "2")
	got.wait(t, 2)
	var answer struct {
		Lists []struct{ Class int }
	}
	d.ControlJSON("lists", &answer)
	if len(answer.Lists) != 2 || answer.Lists[0].Class != 0 || answer.Lists[1].Class != 2 {
		t.Errorf("lists are %+v", answer.Lists)
	}
	if text := d.Control("lists"); !strings.Contains(text, "infos: class 2, 0 reads by its share") {
		t.Errorf("lists answers %q", text)
	}
	if n := nc.Stats().Reconnects; n != 0 {
		t.Errorf("the client was disconnected %d times", n)
	}
}
