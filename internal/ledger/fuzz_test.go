package ledger

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzParseOutcome reads replies of a Redis that is none, and of one whose ledger another program
// has written. Nothing may panic, and the numbers, times and names that come of it must be
// those that the rest of edged takes.
func FuzzParseOutcome(f *testing.F) {
	f.Add("ok", int64(3), "full", "7", "2", "epoch e done 5 finished 2+1 plain 4 grace 1764243000000 known 2_1:x group:g 2+1", "5 7", "9:1000", "1 0 1")
	f.Add("ok", int64(1)<<62, "", "18446744073709551615", "4611686018427387904", "epoch a.b epoch \r\n head x run y owner z", "x", "9:253402300800000", "")
	f.Add("standby", int64(-1), "other", "", "-1", "durable: 0+1,1,1 done 99999999999999999999", "", ":", "1")
	f.Add("moved", int64(0), "head", "0", "0", "finished 1+18446744073709551615", "18446744073709551615", "1:1:1", "0 0 0 0 0 0")
	f.Fuzz(func(t *testing.T, what string, length int64, word, serial, first, fields, aside, times, flags string) {
		head := []any{what, length, word, serial, first}
		var numbered []any
		for _, flag := range strings.Fields(flags) {
			numbered = append(numbered, int64(len(flag)-1))
		}
		for len(numbered) < 6 {
			numbered = append(numbered, serial)
		}
		numbered[3], numbered[4] = serial, first
		state := append(head, numbered[:6], words(fields), words(word), words(aside), words(times), words(fields))
		for _, reply := range [][]any{head, append(head, serial), state, numbered} {
			o, err := ParseOutcome(reply)
			if err != nil {
				continue
			}
			if o.Length < 0 || o.Length > maxPlace || o.First > maxPlace || o.Ends.Milliseconds() > maxEnds {
				t.Errorf("%+v", o)
			}
			if o.State != nil {
				checkState(t, o.State)
			}
		}
	})
}

// words are what Redis would return for a hash or list of these words.
func words(text string) []any {
	all := []any{}
	for _, word := range strings.Fields(text) {
		all = append(all, strings.ReplaceAll(word, "_", " "))
	}
	return all
}

func checkState(t *testing.T, s *State) {
	t.Helper()
	if s.Epoch != "" && !isEpoch(s.Epoch) {
		t.Errorf("the epoch is %q", s.Epoch)
	}
	if _, err := json.Marshal(s.Times); err != nil {
		t.Errorf("the times are %v: %v", s.Times, err)
	}
	if s.Done < s.First || s.Finished.Floor() < s.First {
		t.Errorf("done %d, finished %v, though the first item is %d", s.Done, s.Finished, s.First)
	}
}
