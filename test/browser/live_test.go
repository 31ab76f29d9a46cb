package browser

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	printer "edged/internal/client"
	"edged/internal/edgedtest"
	"edged/internal/redistest"
)

// box is edged with its page, and Redis.
type box struct {
	*edgedtest.Server
	redis *redistest.Server
	page  string // address
}

func newBox(t *testing.T, settings ...string) *box {
	t.Helper()
	b := &box{redis: redistest.Start(t), page: edgedtest.Address(t)}
	settings = append([]string{`instance = "box-7"`, fmt.Sprintf("http.listen = %q", b.page)}, settings...)
	b.Server = edgedtest.Run(t, b.redis.Address(), settings...)
	return b
}

// subscribe runs a client until the test ends.
func (b *box) subscribe(t *testing.T, subject string) {
	ctx, run := ending(t)
	run(func() {
		panel := printer.Subscription{
			Server: printer.Server{Address: b.Address, Name: "panel"}, Subjects: []string{subject}, Out: discard{},
		}
		_ = panel.Run(ctx)
	})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// books returns an expression for a number of the books on the page.
func books(name string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('#books div')].find(d => d.firstChild.textContent === %q).lastChild.textContent`, name)
}

func TestItemsShowAsTheyCome(t *testing.T) {
	b := newBox(t)
	p := open(t, b.page, looks[0], false)
	p.awaitState("Everything is well")
	p.await("document.getElementById('no-clients').checkVisibility()")

	b.redis.Push("events", "one", "two")
	p.awaitState("Well, but look") // no consumer asks for them
	p.await("document.querySelector('#plot-backlog .v1').textContent === '2'")
	b.subscribe(t, "events")
	p.await(books("confirmed") + " === '2'")
	p.await("document.querySelector('#clients tbody th b').textContent === 'panel'")
	p.awaitState("Everything is well")

	line := eval[string](p, "document.querySelector('#plot-rate .one').getAttribute('d')")
	b.redis.Push("events", make([]any, 1000)...)
	p.await(books("confirmed") + " === '1,002'")
	p.await(fmt.Sprintf("document.querySelector('#plot-rate .one').getAttribute('d') !== %q", line))
	p.await("past.taken.some(n => n > 100)")
	p.picture("live")
}

func TestThePageComesBackAfterARestart(t *testing.T) {
	b := newBox(t)
	b.subscribe(t, "events")
	p := open(t, b.page, looks[0], true)
	p.awaitState("Everything is well")
	b.redis.Push("events", "one")
	p.await(books("confirmed") + " === '1'")
	before := eval[int](p, "snap.pid")

	b.Kill()
	p.awaitState("Lost contact")
	p.picture("lost")
	b.Start()
	p.awaitState("Everything is well")
	if pid := eval[int](p, "snap.pid"); pid == before {
		t.Errorf("the page shows process %d, which was killed", pid)
	}
	if eval[int](p, "past.at.length") < 2 {
		t.Error("the plots lost the time before the restart")
	}
}

func TestADrainIsSeen(t *testing.T) {
	b := newBox(t, `drain.timeout = "1h"`)
	conn, err := net.Dial("tcp", b.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "CONNECT {}\r\nSUB events 1\r\n")
	b.redis.Push("events", "one")
	for lines := bufio.NewScanner(conn); lines.Scan() && !strings.HasPrefix(lines.Text(), "MSG events"); {
	}

	p := open(t, b.page, looks[0], true)
	p.await("document.querySelector('#lists tbody')")
	if err := b.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.awaitState("Draining") // the client has not confirmed its item
	p.await("document.getElementById('notes').textContent.includes('SIGTERM')")
	p.picture("draining")
	conn.Close()
	p.awaitState("Lost contact")
	p.await("document.getElementById('notes').textContent.includes('edged has ended')")
	if code := b.Wait(); code != 0 {
		t.Errorf("edged ended with %d", code)
	}
}

func TestAnOutageOfRedisIsShownWithItsReason(t *testing.T) {
	b := newBox(t)
	b.subscribe(t, "events")
	p := open(t, b.page, looks[0], false)
	p.awaitState("Everything is well")
	b.redis.Kill()
	p.awaitState("Not well")
	p.await("document.querySelector('#notes .ill p').textContent.includes('systemctl status redis-server')")
	p.await("document.querySelector('#lists td.state.failing')")
	p.await("document.querySelectorAll('#log li').length > 0")
	p.picture("outage")
	b.redis.Restart()
	p.awaitState("Everything is well")
}
