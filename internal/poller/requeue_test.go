package poller

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"edged/internal/redistest"
)

func TestHistoryShowsItemsAndChangesNothing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := start(t, s.Address(), func(o *setup) { o.Lists[1].FromRight = true })
	s.Client().RPush(t.Context(), "a", "one", "two\n\xff", "three")
	s.Client().LPush(t.Context(), "b", "one", "two", "three")
	for key, want := range map[string][]Peeked{
		"a": {{Number: 0, Head: []byte("on"), Size: 3}, {Number: 1, Head: []byte("tw"), Size: 5}},
		"b": {{Number: 0, Head: []byte("on"), Size: 3}, {Number: 1, Head: []byte("tw"), Size: 3}},
	} {
		got, err := l.loop.History(t.Context(), key, From{Waiting: true}, 2, 2)
		if err != nil || got.Length != 3 || !reflect.DeepEqual(got.Items, want) {
			t.Errorf("%s: got %+v, %v, want %v", key, got, err, want)
		}
		if got, err := l.loop.History(t.Context(), key, From{}, 9, 2); err != nil || len(got.Items) != 3 {
			t.Errorf("%s: got %+v, %v, want all three", key, got, err)
		}
		if n := s.Client().LLen(t.Context(), key).Val(); n != 3 {
			t.Errorf("%s has %d items left", key, n)
		}
	}
	if _, err := l.loop.History(t.Context(), "none", From{}, 1, 1); !errors.Is(err, ErrNoList) {
		t.Errorf("got %v, want ErrNoList", err)
	}
	do(t, s, "SET", "a", "no list")
	if _, err := l.loop.History(t.Context(), "a", From{}, 1, 1); err == nil || !strings.Contains(err.Error(), "the key holds no list") {
		t.Errorf("got %v for a key that holds no list", err)
	}
}

// unreported is for a requeue whose steps do not matter.
func unreported(int, int) error { return nil }

func TestARequeueReportsItsStepsAndEndsWhereItIsTold(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := start(t, s.Address())
	const letters = 2*requeueBatch + 10
	for _, item := range numbered(letters) {
		s.Push(keys.Dead, fmt.Sprintf("{}\n%s", item))
	}

	enough := errors.New("enough")
	n, err := l.loop.Requeue(t.Context(), "a", letters, func(done, total int) error {
		if done != requeueBatch || total != letters {
			t.Errorf("%d of %d are reported", done, total)
		}
		return enough
	})
	if n != requeueBatch || err != enough || s.Len("a") != requeueBatch || s.Len(keys.Dead) != letters-requeueBatch {
		t.Errorf("%d were put back, with the error %v; the lists have %d and %d", n, err, s.Len("a"), s.Len(keys.Dead))
	}

	steps := 0
	n, err = l.loop.Requeue(t.Context(), "a", math.MaxInt32, func(done, total int) error {
		if steps++; done > total || total != letters-requeueBatch {
			t.Errorf("step %d reports %d of %d", steps, done, total)
		}
		return nil
	})
	if n != letters-requeueBatch || err != nil || steps != 2 || s.Len(keys.Dead) != 0 {
		t.Errorf("%d were put back in %d steps, with the error %v", n, steps, err)
	}
}

func TestRequeueLosesNoDeadLetterWhereTheListHasTheWrongType(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := start(t, s.Address())
	s.Push(keys.Dead, "{}\nitem 0")
	do(t, s, "SET", "a", "no list")
	if _, err := l.loop.Requeue(t.Context(), "a", 1, unreported); err == nil {
		t.Error("no error")
	}
	if s.Len(keys.Dead) != 1 {
		t.Fatal("the dead letter is gone")
	}
}
