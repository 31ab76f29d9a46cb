package tcpserver

import (
	"sync"
	"testing"
)

// written is a call of a Sink's Write.
type written struct {
	payload string
	answer  func([]byte)
}

// withSinks serves two sinks: "in.a" and everything below "in".
func withSinks(t *testing.T) (addr string, literal, wild chan written) {
	literal, wild = make(chan written, 10), make(chan written, 10)
	write := func(to chan written) func(string, []byte, func([]byte)) {
		return func(_ string, payload []byte, answer func([]byte)) { to <- written{string(payload), answer} }
	}
	opts := testOptions()
	opts.Sinks = []Sink{{Subject: "in.>", Write: write(wild)}, {Subject: "in.a", Write: write(literal)}}
	_, addr = serve(t, opts)
	return addr, literal, wild
}

func TestASinkTakesMessagesInsteadOfSubscribers(t *testing.T) {
	t.Parallel()
	addr, literal, wild := withSinks(t)
	c := dial(t, addr)
	c.send("SUB > 1\r\nSUB in.a 2\r\n")
	c.send("PUB in.a 3\r\none\r\nPUB in.b.c 3\r\ntwo\r\nHPUB in.a 12 17\r\nNATS/1.0\r\n\r\nthree\r\nPUB in 4\r\nfour\r\n")
	c.expect("MSG in 1 4", "four")
	c.sync()
	if got := <-literal; got.payload != "one" || got.answer != nil {
		t.Errorf("got %q, want one, and no answer to be wanted", got.payload)
	}

	if got := <-literal; got.payload != "three" {
		t.Errorf("got %q, want three without its headers", got.payload)
	}
	if got := <-wild; got.payload != "two" {
		t.Errorf("got %q, want two", got.payload)
	}
}

func TestSinkAnswersFromAnyGoroutine(t *testing.T) {
	t.Parallel()
	addr, literal, _ := withSinks(t)
	c, other := dialWith(t, addr, `{"headers":true,"no_responders":true,"echo":false}`), dial(t, addr)
	c.send("SUB inbox.* 1\r\nPUB in.a inbox.1 3\r\none\r\nPUB in.a inbox.2 3\r\ntwo\r\n")
	c.sync() // no status says that there are no responders
	first, second := <-literal, <-literal
	var wg sync.WaitGroup
	wg.Go(func() { second.answer([]byte("done 2")) })
	c.expect("MSG inbox.2 1 6", "done 2")
	wg.Go(func() { first.answer([]byte("done 1")) })
	c.expect("MSG inbox.1 1 6", "done 1")

	other.send("PUB in.a inbox.3 5\r\nthree\r\n")
	other.sync()
	c.Close()
	(<-literal).answer([]byte("nobody listens"))
	wg.Wait()
}

func TestSinkIsObeyedVerbosely(t *testing.T) {
	t.Parallel()
	addr, literal, _ := withSinks(t)
	c := dialWith(t, addr, `{"verbose":true}`)
	c.send("PUB in.a 3\r\none\r\n")
	c.expect("+OK")
	<-literal
}
