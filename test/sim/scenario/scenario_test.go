package scenario

import "testing"

func TestAScenarioIsReadAsItWasWritten(t *testing.T) {
	const text = `world instances=2 lease=6
list key=jobs ack=explicit
0.000 start daemon=a
1.500 op daemon=a cmd="pause jobs" note=""
9.000 check
`
	s, err := Parse([]byte("# a comment\n\n" + text))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(s.Format()); got != text {
		t.Errorf("it reads\n%swant\n%s", got, text)
	}
	if got := s.Events[1].Args.Text("cmd", ""); got != "pause jobs" {
		t.Errorf("a quoted value is %q", got)
	}
}

func TestALineThatIsNoEventIsAnErrorThatNamesIt(t *testing.T) {
	for text, want := range map[string]string{
		"world a=1\nfoo a=1":      `line 2: "foo" is not a time, world or list`,
		"1.0":                     `line 1: "1.0" has no verb`,
		"1.0 push list":           `line 1: "list" is not key=value`,
		"1.0 push list=\"unended": `line 1: "list=\"unended" has no closing quote`,
	} {
		if _, err := Parse([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestAThirdOfTheListsHaveDedup(t *testing.T) {
	with, all := 0, 0
	for seed := range uint64(1000) {
		for _, l := range Generate(seed, 0).Lists {
			all++
			if l.Int("dedup", 0) > 0 {
				with++
			}
		}
	}
	if 100*with < 28*all || 100*with > 38*all {
		t.Errorf("%d of %d lists", with, all)
	}
}
