package daemon

import "testing"

func TestQuitTakesThePlaceOfADrainThatHasNotBegun(t *testing.T) {
	d := &daemon{stops: make(chan stop, 1)}
	d.order(stop{why: "the command drain"})
	d.order(stop{why: "quit", quit: true})
	d.order(stop{why: "the command drain"})
	if got := <-d.stops; !got.quit {
		t.Errorf("the order is %+v, want the quit", got)
	}
}
