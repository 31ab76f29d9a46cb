package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"edged/internal/redistest"
)

// reload writes different settings and applies them.
func (d *daemon) reload(settings ...string) {
	d.t.Helper()
	if answer := d.Reload(slices.Concat(instance, settings)...); !strings.HasSuffix(answer, "\nOK\n") {
		d.t.Fatalf("reload answers %q", answer)
	}
}

// acknowledging subscribes to a list, and acknowledges the items that require it.
func acknowledging(t *testing.T, nc *nats.Conn, list string) *inbox {
	t.Helper()
	b := newInbox()
	if _, err := nc.Subscribe(list, func(m *nats.Msg) {
		if m.Reply != "" {
			if err := m.Ack(); err != nil {
				t.Error(err)
			}
		}
		b.add(string(m.Data))
	}); err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	return b
}

// pushUntilStopped pushes the same numbers to each list until stop is called, which returns how
// many.
func pushUntilStopped(t *testing.T, r *redistest.Server, lists ...string) (stop func() (n int)) {
	done, pushed := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { pushed <- n }()
		for {
			select {
			case <-done:
				return
			default:
			}
			for _, list := range lists {
				r.Push(list, numbers(n, n+50)...)
			}
			n += 50
		}
	}()

	stop = sync.OnceValue(func() int {
		close(done)
		return <-pushed
	})
	t.Cleanup(func() { stop() }) // if the test fails meanwhile
	return stop
}

// Items of two lists are pushed and delivered all the while: one list confirms received items, the
// other each item.
func TestListsComeAndGoUnderLoadAndNothingIsLostOrDoubled(t *testing.T) {
	t.Parallel()
	const steady, received, acked = "[[list]]\nkey = \"steady\"\n", "[[list]]\nkey = \"received\"\n", "[[list]]\nkey = \"acked\"\nack = \"explicit\"\n"
	r := redistest.Start(t)
	grace := "[delivery]\nrejoin_grace = \"0s\"\n" // within the grace items come again
	d := startEdged(t, r, grace, steady, received, acked)
	nc := connect(t, d)

	all := []string{"steady", "received", "acked"}
	boxes := map[string]*inbox{}
	for _, list := range all {
		boxes[list] = acknowledging(t, nc, list)
	}
	stop := pushUntilStopped(t, r, all...)
	for round := range 10 {
		d.reload(grace, steady)
		d.reload(grace, steady, acked, received)
		d.reload(fmt.Sprintf("%swindow_items = %d\n", grace, 1000+round), steady, received, acked+"max_ack_pending = 500\n")
	}
	n := stop()
	for _, list := range all {
		boxes[list].wait(t, n)
	}
	waitEmpty(t, r, "received", "acked")
	for _, list := range all {
		t.Run(list, func(t *testing.T) { wantRun(t, boxes[list].all(), 0, n) })
	}
	if n := nc.Stats().Reconnects; n > 0 || !nc.IsConnected() {
		t.Errorf("the client was disconnected; it came back %d times", n)
	}
}

// A list that is removed and added again finds its consumers where they were.
func TestAConsumerThatLagsMissesNothingOfAListThatComesBack(t *testing.T) {
	const items = 500
	r := redistest.Start(t)
	list := "[[list]]\nkey = \"events\"\nack = \"explicit\"\nmax_ack_pending = 10\n"
	d := startEdged(t, r, "[drain]", `timeout = "1s"`, list)
	workers, lazy := connect(t, d), connect(t, d)
	var mu sync.Mutex
	got := map[string]bool{}
	works := false
	if _, err := lazy.Subscribe("events", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		got[string(m.Data)] = true
		if works {
			m.Ack()
		}
	}); err != nil {
		t.Fatal(err)
	}
	flush(t, lazy)
	var acked atomic.Int64
	if _, err := workers.QueueSubscribe("events", "workers", func(m *nats.Msg) {
		m.Ack()
		acked.Add(1)
	}); err != nil {
		t.Fatal(err)
	}
	flush(t, workers)
	all := make([]any, items)
	for i := range all {
		all[i] = strconv.Itoa(i)
	}
	r.Push("events", all...)
	redistest.Eventually(t, "the workers have acknowledged all", func() bool { return acked.Load() == items })

	drain := "[drain]\ntimeout = \"1s\"\n"
	d.reload(drain, "[[list]]\nkey = \"other\"\n")
	mu.Lock()
	works = true // before the list is back: an unacknowledged item comes again only after ack_wait
	mu.Unlock()
	d.reload(drain, list, "keep = 1\n")
	redistest.Eventually(t, "the lazy one gets all", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) == items
	})
	if n := acked.Load(); n != items {
		t.Errorf("the workers got %d items more than once", n-items)
	}
}

func TestReloadTakesUpThePasswordForRedis(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "--user", "edged", "on", ">old", "~*", "&*", "+@all")
	file := filepath.Join(t.TempDir(), "password")
	write := func(password string) {
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	login := fmt.Sprintf("[redis]\nusername = \"edged\"\npassword_file = %q\n", file)
	inbound := "[[inbound]]\nsubject = \"in\"\nlist = \"written\"\n"
	d := startEdged(t, r, login, inbound)
	nc := connect(t, d)
	_, box := subscribe(t, nc, "events", "")
	r.Push("events", numbers(0, 10)...)
	box.wait(t, 10)

	write("new")
	admin := r.Client()
	admin.Do(t.Context(), "ACL", "SETUSER", "edged", ">new")
	d.reload(login, inbound)
	admin.Do(t.Context(), "ACL", "SETUSER", "edged", "<old")
	admin.Do(t.Context(), "CLIENT", "KILL", "USER", "edged")
	r.Push("events", numbers(10, 20)...)
	box.wait(t, 20)
	publish(t, nc, "in", "item")
	redistest.Eventually(t, "it is written", func() bool { return r.Len("written") == 1 })
}
