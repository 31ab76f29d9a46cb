package logqueue

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func lost(n uint64) string { return fmt.Sprint("lost ", n) }

func TestADestinationThatHangsHoldsUpNoCallerAndTheDroppedAreCounted(t *testing.T) {
	var sent []string
	entered, release := make(chan struct{}, 1), make(chan struct{})
	q := New(func(e string) error {
		select {
		case entered <- struct{}{}:
		default:
		}
		<-release
		sent = append(sent, e)
		return nil
	}, lost)

	q.Put("first")
	<-entered
	for range length + 5 { // would hang here
		q.Put("more")
	}
	if n := q.Dropped(); n != 5 {
		t.Errorf("%d were dropped, want 5", n)
	}

	close(release)
	q.Close()
	if len(sent) != 1+1+length || sent[0] != "first" || sent[1] != "lost 5" {
		t.Errorf("%d entries arrived, beginning with %q; want the first, the number of the lost and %d more", len(sent), sent[:2], length)
	}
	q.Put("after Close")
	if n := q.Dropped(); n != 6 {
		t.Errorf("%d were dropped, want 6", n)
	}
}

func TestADestinationThatFailsCostsItsEntriesOnly(t *testing.T) {
	var sent []string
	away := true

	q := New(func(e string) error {
		if away = away && e != "three"; away {
			return errors.New("away")
		}
		sent = append(sent, e)
		return nil
	}, lost)
	for _, e := range []string{"one", "two", "three"} {
		q.Put(e)
	}
	q.Close()
	if want := []string{"three", "lost 2"}; !slices.Equal(sent, want) {
		t.Errorf("sent %q, want %q", sent, want)
	}
}

func TestCloseWaitsForADestinationThatHangsForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		q := New(func(string) error { <-release; return nil }, lost)
		q.Put("one")
		begun := time.Now()
		q.Close()
		if waited := time.Since(begun); waited != closeGrace {
			t.Errorf("Close waited for %v, want %v", waited, closeGrace)
		}
		close(release)
		q.Close()
	})
}
