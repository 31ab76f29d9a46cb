package daemon

import "testing"

func TestQuitTakesThePlaceOfADrainThatHasNotBegun(t *testing.T) {
	l := newLifecycle()
	l.order(stop{why: "the command drain"})
	l.order(stop{why: "quit", quit: true})
	l.order(stop{why: "the command drain"})
	if got := <-l.orders; !got.quit {
		t.Errorf("the order is %+v, want the quit", got)
	}
}
