package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"edged/internal/redistest"
)

// reload writes other settings and takes them up.
func (d *daemon) reload(settings ...string) {
	d.t.Helper()
	if answer := d.Reload(slices.Concat(instance, settings)...); !strings.HasSuffix(answer, "\nOK\n") {
		d.t.Fatalf("reload answers %q", answer)
	}
}

// Items of two lists are pushed and delivered all the while: one confirms what was
// received, the other each item.
func TestListsComeAndGoUnderLoadAndNothingIsLostOrDoubled(t *testing.T) {
	t.Parallel()
	const steady, received, acked = "[[list]]\nkey = \"steady\"\n", "[[list]]\nkey = \"received\"\n", "[[list]]\nkey = \"acked\"\nack = \"explicit\"\n"
	r := redistest.Start(t)
	d := startEdged(t, r, steady, received, acked)
	nc := connect(t, d)

	var mu sync.Mutex
	got := map[string][]string{} // guarded by mu; by list, in order
	for _, list := range []string{"steady", "received", "acked"} {
		if _, err := nc.Subscribe(list, func(m *nats.Msg) {
			if m.Reply != "" {
				if err := m.Ack(); err != nil {
					t.Error(err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			got[list] = append(got[list], string(m.Data))
		}); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, nc)

	done, pushed := make(chan struct{}), make(chan int)
	stop := sync.OnceValue(func() (n int) {
		close(done)
		return <-pushed
	})
	t.Cleanup(func() { stop() }) // if the test fails meanwhile
	go func() {
		n := 0
		defer func() { pushed <- n }()
		for {
			select {
			case <-done:
				return
			default:
			}
			items := make([]any, 50)
			for i := range items {
				items[i] = strconv.Itoa(n + i)
			}
			for _, list := range []string{"steady", "received", "acked"} {
				r.Push(list, items...)
			}
			n += len(items)
		}
	}()
	for round := range 10 {
		d.reload(steady)
		d.reload(steady, acked, received)
		d.reload(fmt.Sprintf("delivery.window_items = %d\n", 1000+round), steady, received, acked+"max_ack_pending = 500\n")
	}
	n := stop()
	redistest.Eventually(t, "all has come", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got["steady"]) >= n && len(got["received"]) >= n && len(got["acked"]) >= n
	})
	redistest.Eventually(t, "all has left Redis", func() bool { return r.Len("received") == 0 && r.Len("acked") == 0 && inFlight(r) == 0 })
	mu.Lock()
	defer mu.Unlock()
	for list, items := range got {
		if len(items) != n {
			t.Errorf("%d items of %s came, %d were pushed", len(items), list, n)
		}
		for i, item := range items {
			if item != strconv.Itoa(i) {
				t.Errorf("item %d of %s is %s", i, list, item)
				break
			}
		}
	}
	if n := nc.Stats().Reconnects; n > 0 || !nc.IsConnected() {
		t.Errorf("the client was disconnected; it came back %d times", n)
	}
}
