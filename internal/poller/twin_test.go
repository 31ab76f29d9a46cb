package poller

import (
	"testing"

	"edged/internal/ledger"
	"edged/internal/redistest"
)

func TestAProcessThatIsReplacedByOneOfItsNameNamesIt(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode func(*setup)) {
		s := redistest.Start(t)
		named := func(o *setup) { o.Instance = "box" }
		first := start(t, s.Address(), mode, named)
		s.Push("a", "item 0")
		first.join(0, false).wait(t, 1)
		gone(t, s)
		second := start(t, s.Address(), mode, named)
		b := second.join(0, false)
		second.is(Serving)
		s.Push("a", "item 1")
		b.wait(t, 1)

		first.is(Standby)
		if st := first.status("a"); st.Twin != second.loop.holder || st.Holder != st.Twin {
			t.Errorf("the first process says that the list is held by %q, a process of its name: %q", st.Holder, st.Twin)
		}
		if st := second.status("a"); st.Twin != "" {
			t.Errorf("the second process replaced one that may be dead, and names %q", st.Twin)
		}

		if err := second.stop(); err != nil {
			t.Fatal(err)
		}
		first.is(Serving)
		if st := first.status("a"); st.Twin != "" {
			t.Errorf("the other process is gone, and is named: %q", st.Twin)
		}
	})
}

func TestAnInstanceOnStandbyHasNoTwin(t *testing.T) {
	t.Parallel()
	s, _, _ := held(t, 1, func(o *setup) { o.Instance = "box" })
	second := start(t, s.Address(), func(o *setup) { o.Instance = "box2" })
	second.join(0, false)
	second.is(Standby)
	if st := second.status("a"); st.Twin != "" {
		t.Errorf("its twin is %q", st.Twin)
	}
}

func TestAProcessOfTheSameNameIsAliveIfItRenewsItsLease(t *testing.T) {
	for name, looks := range map[string]struct {
		owners, until []string
		want          string
	}{
		"one look":              {[]string{"box/1"}, []string{"5"}, ""},
		"a dead one":            {[]string{"box/1", "box/1"}, []string{"5", "5"}, ""},
		"one that renews":       {[]string{"box/1", "box/1"}, []string{"5", "6"}, "box/1"},
		"and does so no more":   {[]string{"box/1", "box/1", "box/1"}, []string{"5", "6", "6"}, "box/1"},
		"another one":           {[]string{"box/1", "box/2"}, []string{"5", "6"}, ""},
		"one that is gone":      {[]string{"box/1", "box/1", ""}, []string{"5", "6", ""}, ""},
		"one that came again":   {[]string{"box/1", "", "box/1"}, []string{"5", "", "6"}, ""},
		"one after another one": {[]string{"box/1", "box/2", "box/2"}, []string{"5", "6", "7"}, "box/2"},
	} {
		var s sighting
		got := ""
		for i, owner := range looks.owners {
			got = s.alive(ledger.Standing{Own: owner, OwnUntil: looks.until[i]}, owner != "")
		}
		if got != looks.want {
			t.Errorf("%s: %q is alive, want %q", name, got, looks.want)
		}
	}
}
