//go:build box

package box

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"edged/internal/edgedtest"

	"github.com/nats-io/nats.go"
)

const token = "barley"

// The operator's step that lets clients of other machines reach the box.
const letOthersIn = `printf '[Socket]\nListenStream=\nListenStream=4222\n' | install -D -m 644 /dev/stdin /etc/systemd/system/edged.socket.d/override.conf
	echo ` + token + ` | install -m 640 -g edged /dev/stdin /etc/edged/token
	printf '[tcp.auth]\ntoken_file = "/etc/edged/token"\n' >>/etc/edged/edged.toml
	edged check
	systemctl daemon-reload
	systemctl stop edged.socket edged-control.socket edged-status.socket edged.service
	systemctl start edged.socket edged-control.socket edged-status.socket edged.service`

// The parts share the box, and each begins in the state that the previous one left.
func TestABoxDoesAsTheDocumentSays(t *testing.T) {
	b := &box{disk: filepath.Join(t.TempDir(), "disk")}
	t.Cleanup(b.cutPower)

	for _, part := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"Make", func(t *testing.T) {
			b.make(t, made(t), "../../bin/edged_0.1.0_arm64.deb", "../../bin/edged_0.2.0_arm64.deb")
		}},
		{"Boot", func(t *testing.T) { b.start(t) }},
		{"Install", func(t *testing.T) { install(t, b) }},
		{"TenThousandItems", func(t *testing.T) { tenThousandItems(t, b) }},
		{"RestartUnderLoad", func(t *testing.T) { restartUnderLoad(t, b) }},
		{"UpgradeAndGoBack", func(t *testing.T) { upgradeAndGoBack(t, b) }},
		{"PowerCut", func(t *testing.T) { powerCut(t, b) }},
	} {
		if !t.Run(part.name, part.run) {
			if b.process != nil {
				out, _ := b.run("journalctl --no-pager -n 60", time.Minute)
				t.Logf("the console:\n%s\nthe journal:\n%s", b.process.Output(), out)
			}
			return
		}
	}
}

// commands returns those in docs/DEPLOY.md that follow a line, to the end of the block.
func commands(t *testing.T, line string) string {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "DEPLOY.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(doc), line+"\n")
	block, _, closed := strings.Cut(rest, "```\n")
	if !found || !closed {
		t.Fatalf("docs/DEPLOY.md has no commands after %q", line)
	}
	return block
}

func install(t *testing.T, b *box) {
	out := b.sh(t, commands(t, "apt-get update && apt-get install -y redis-server socat"))
	if !strings.HasSuffix(out, "\nevents hello") {
		t.Errorf("the commands print:\n%s", out)
	}
	if got := b.sh(t, "systemctl is-active edged.socket edged-control.socket edged-status.socket edged; uname -m"); got != "active\nactive\nactive\nactive\naarch64" {
		t.Errorf("afterwards: %q", got)
	}
	if got := b.sh(t, "edged ctl status"); !strings.Contains(got, "serving") || strings.Contains(got, "fault") {
		t.Errorf("status is %q", got)
	}
}

func tenThousandItems(t *testing.T, b *box) {
	b.sh(t, "seq 10000 | xargs -n 1000 redis-cli RPUSH events >/dev/null; edged sub -count 10000 -timeout 300s events >items; seq -f 'events %.0f' 10000 | cmp - items")
	b.await(t, "0", "redis-cli LLEN events")
}

// keepAsking lets two clients connect, send a request and leave, until stop is called, which
// returns the number of requests answered.
func keepAsking(t *testing.T, b *box) (stop func() (answered int64)) {
	return edgedtest.KeepAsking(t, 2, func() error {
		conn, err := net.Dial("tcp", b.clients)
		if err != nil {
			return err
		}
		defer conn.Close()
		return edgedtest.Ping(conn, fmt.Sprintf(`{"auth_token":%q}`, token), patience)
	})
}

// delivery is an item as a client got it.
type delivery struct {
	item int
	at   time.Time
}

// inbox is a client outside the box and the items that it has got.
type inbox struct {
	conn *nats.Conn
	more chan struct{} // has a value when items have come

	mu  sync.Mutex
	got []delivery // guarded by mu
}

func subscribe(t *testing.T, b *box, list string) *inbox {
	t.Helper()
	in := &inbox{more: make(chan struct{}, 1)}
	var err error
	in.conn, err = nats.Connect(b.clients, nats.Token(token), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.Timeout(patience), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Logf("the client: %v", err) }))
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(in.conn.Close)
	if _, err := in.conn.Subscribe(list, func(m *nats.Msg) {
		item, err := strconv.Atoi(string(m.Data))
		if err != nil {
			t.Errorf("an item that was not pushed: %q", m.Data)
		}
		in.mu.Lock()
		in.got = append(in.got, delivery{item, time.Now()})
		in.mu.Unlock()
		select {
		case in.more <- struct{}{}:
		default:
		}
	}); err != nil {
		t.Fatal(err)
	}

	return in
}

// items are the deliveries until now.
func (in *inbox) items() []delivery {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.got[:len(in.got):len(in.got)]
}

// await waits until enough says so of the deliveries, and returns them.
func (in *inbox) await(t *testing.T, enough func([]delivery) bool) []delivery {
	t.Helper()
	deadline := time.After(patience)
	for {
		if got := in.items(); enough(got) {
			return got
		}
		select {
		case <-in.more:
		case <-deadline:
			t.Fatalf("only %d items came", len(in.items()))
		}
	}
}

// distinct is the number of different items.
func distinct(got []delivery) int {
	seen := make(map[int]bool, len(got))
	for _, d := range got {
		seen[d.item] = true
	}
	return len(seen)
}

func restartUnderLoad(t *testing.T, b *box) {
	const items = 10_000
	b.sh(t, letOthersIn)
	in := subscribe(t, b, "events")
	stop := keepAsking(t, b)
	var pushing sync.WaitGroup
	defer pushing.Wait()
	pushing.Go(func() {
		if out, err := b.try(fmt.Sprintf("seq %d | xargs -n 100 redis-cli RPUSH events", items)); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})

	for range 2 {
		b.sh(t, "systemctl restart edged.service")
	}
	got := in.await(t, func(got []delivery) bool { return distinct(got) == items })
	answered := stop()
	if answered < 4 {
		t.Errorf("only %d requests were answered", answered)
	}
	t.Logf("%d requests answered during 2 restarts, none refused; %d items, %d of them twice", answered, items, len(got)-items)
}

func upgradeAndGoBack(t *testing.T, b *box) {
	stop := keepAsking(t, b)
	if out := b.sh(t, commands(t, "## Upgrading\n\n```sh")); !strings.Contains(out, "edged 0.2.0") || !strings.Contains(out, "serving") {
		t.Errorf("after the upgrade:\n%s", out)
	}
	if out := b.sh(t, commands(t, "installing it again:\n\n```sh")); !strings.Contains(out, "edged 0.1.0") || !strings.Contains(out, "serving") {
		t.Errorf("after going back:\n%s", out)
	}
	if got := b.sh(t, "grep token_file /etc/edged/edged.toml"); !strings.Contains(got, "/etc/edged/token") {
		t.Errorf("the operator's configuration is gone: %q", got)
	}
	t.Logf("%d requests answered during upgrade and rollback, none refused", stop())
}

// unsynced is how much of its append-only file Redis may lose in a power cut: a second,
// and two more when the disk is slow.
const unsynced = 3 * time.Second

// window is delivery.window_items, which bounds the items on their way.
const window = 4000

// A client gets items while they are pushed, and the power is cut. Afterwards it may
// get again the items on their way, and those whose removal Redis has lost. Items
// whose push Redis had lost are the only ones that are missing.
func powerCut(t *testing.T, b *box) {
	const stored, batch, end = 20_000, 50, 1_000_000_000
	b.sh(t, fmt.Sprintf("redis-cli DEL events; seq %d | xargs -n 1000 redis-cli RPUSH readings >/dev/null; sync", stored))
	pushed := keepPushing(t, b, stored+1, batch)
	in := subscribe(t, b, "readings")
	in.await(t, func(got []delivery) bool { return len(got) > 2*stored })
	b.cutPower()
	cut := time.Now()
	in.conn.Close()
	answered := pushed()

	b.start(t)
	t.Logf("the box is back %.0f s after the cut", time.Since(cut).Seconds())
	after := subscribe(t, b, "readings")
	b.sh(t, fmt.Sprintf("redis-cli RPUSH readings %d", end))
	second := after.await(t, func(got []delivery) bool { return len(got) > 0 && got[len(got)-1].item == end })
	second = second[:len(second)-1]

	first := in.items()
	had := make(map[int]bool, len(first))
	recent := 0
	for _, d := range first {
		had[d.item] = true
		if cut.Sub(d.at) < unsynced {
			recent++
		}
	}
	twice := 0
	for _, d := range second {
		if had[d.item] {
			twice++
		}
		had[d.item] = true
	}
	if twice > window+recent {
		t.Errorf("%d items came again, more than the %d in flight and the %d of the last %v", twice, window, recent, unsynced)
	}

	durable := stored
	for _, p := range answered {
		if cut.Sub(p.at) > unsynced {
			durable = p.item
		}
	}
	missing := 0
	for item := 1; item <= durable; item++ {
		if !had[item] {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%d of the %d items that Redis had stored are lost", missing, durable)
	}
	t.Logf("before the cut %d items came, %d of them in its last %v; afterwards %d, of which %d came again; none of %d is lost",
		len(first), recent, unsynced, len(second), twice, durable)
}

// keepPushing pushes numbers from first on to readings, until the power is cut. Then
// pushed returns the last number of each push that Redis has answered.
func keepPushing(t *testing.T, b *box, first, batch int) (pushed func() []delivery) {
	t.Helper()
	conn, err := b.dial(fmt.Sprintf(`n=%d
		while :; do
			redis-cli RPUSH readings $(seq $n $((n + %d - 1))) >/dev/null
			n=$((n + %[2]d))
			echo $((n - 1))
		done`, first, batch))
	if err != nil {
		t.Fatal(err)
	}

	var answered []delivery
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			item, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Errorf("the producer says %q", lines.Text())
				return
			}
			answered = append(answered, delivery{item, time.Now()})
		}
	}()

	pushed = func() []delivery {
		conn.Close()
		<-done
		return answered
	}
	t.Cleanup(func() { pushed() })
	return pushed
}
