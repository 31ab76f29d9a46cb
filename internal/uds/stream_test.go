package uds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// counting streams n numbers as fast as the client takes them; if n is 0, it goes on until sending
// fails.
func counting(n int, ended func(error)) Command {
	return Command{Name: "count", Stream: func(_ context.Context, _ []string, send func(Answer) error) error {
		for i := 1; n == 0 || i <= n; i++ {
			if err := send(lines{[]string{fmt.Sprint(i)}}); err != nil {
				ended(err)
				return err
			}
		}
		return nil
	}}
}

func TestAStreamIsPartsAndThenOKAndInJSONALineAPart(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Commands: append(commands(), counting(3, nil))})
	if got, want := s.ask(t, "count; echo a"), "1\n2\n3\nOK\na\nOK\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := s.ask(t, "count json"), `{"lines":["1"]}`+"\n"+`{"lines":["2"]}`+"\n"+`{"lines":["3"]}`+"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAStreamEndsWhenItsClientGoes(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	s := start(t, Options{Commands: append(commands(), counting(0, func(err error) { ended <- err }))})
	c := s.dial(t)
	c.send("count\n")
	c.expect("1\n2\n")
	_ = c.Close()
	<-ended
}

func TestAStreamEndsWhenItsClientReadsNothing(t *testing.T) {
	t.Parallel()
	var failed error
	ended := func(err error) { failed = err }
	bubble(t, Options{Commands: []Command{counting(0, ended)}}, func(t *testing.T, _ *Server, ln *pipeListener) {
		c := ln.dial()
		if _, err := io.WriteString(c, "count\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(writeTimeout)
		synctest.Wait()
		if !errors.Is(failed, os.ErrDeadlineExceeded) {
			t.Errorf("it ended with %v", failed)
		}
	})
}
