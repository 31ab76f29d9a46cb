package journal

import (
	"errors"
	"reflect"
	"regexp"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sent collects entries; it is owned by the core's goroutine until Close.
type sent struct{ entries []entry }

func (s *sent) send(message string, p journal.Priority, fields map[string]string) error {
	s.entries = append(s.entries, entry{message, p, fields})
	return nil
}

func TestAnEntryHasMessagePriorityAndFields(t *testing.T) {
	var s sent
	c := New(zapcore.InfoLevel, s.send)
	log := zap.New(c).Named("poller").With(zap.String("list", "events"))
	log.Debug("not enabled")
	log.Error("Redis is gone", zap.String("event", "redis-lost"), zap.String("reason", "no answer"), zap.Uint64("client", 7))
	c.Close()
	want := []entry{{"Redis is gone list=events reason=\"no answer\" client=7", journal.PriErr, map[string]string{
		"EDGED_LOGGER": "poller", "EDGED_LIST": "events", "EDGED_REASON": "no answer", "EDGED_CLIENT": "7",
		"EDGED_EVENT": "redis-lost", "MESSAGE_ID": Events["redis-lost"],
	}}}
	if !reflect.DeepEqual(s.entries, want) {
		t.Errorf("got  %v\nwant %v", s.entries, want)
	}
}

func TestPrioritiesAreThoseOfSyslog(t *testing.T) {
	for level, want := range map[zapcore.Level]journal.Priority{
		zap.DebugLevel: journal.PriDebug, zap.InfoLevel: journal.PriInfo, zap.WarnLevel: journal.PriWarning, zap.ErrorLevel: journal.PriErr,
	} {
		if got := priority(level); got != want {
			t.Errorf("%v: got %v, want %v", level, got, want)
		}
	}
}

func TestTheIDsOfEventsAreDifferentAndWellFormed(t *testing.T) {
	seen := map[string]string{}
	for event, id := range Events {
		if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(id) || seen[id] != "" {
			t.Errorf("%s has the ID %s, as %q", event, id, seen[id])
		}
		seen[id] = event
	}
}

func TestAJournalThatHangsHoldsUpNobodyAndWhatIsDroppedIsCountedAndSaid(t *testing.T) {
	var s sent
	entered, release := make(chan struct{}, 1), make(chan struct{})
	c := New(zapcore.InfoLevel, func(message string, p journal.Priority, fields map[string]string) error {
		select {
		case entered <- struct{}{}:
		default:
		}
		<-release
		return s.send(message, p, fields)
	})
	log := zap.New(c)
	log.Info("first")
	<-entered
	for range queueLength + 5 { // would hang here
		log.Info("more")
	}
	if n := c.Dropped(); n != 5 {
		t.Errorf("%d were dropped, want 5", n)
	}
	close(release)
	c.Close()
	if n := len(s.entries); n != 1+queueLength+1 {
		t.Fatalf("%d entries arrived, want %d and the one about the dropped", n, 1+queueLength)
	}
	if got, want := s.entries[1].message, "5 lines of the log did not reach the journal"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	log.Info("after Close")
	if n := c.Dropped(); n != 6 {
		t.Errorf("%d were dropped, want 6", n)
	}
}

func TestAJournalThatIsAwayCostsItsLinesOnly(t *testing.T) {
	var s sent
	away := true
	c := New(zapcore.InfoLevel, func(message string, p journal.Priority, fields map[string]string) error {
		if message == "three" {
			away = false
		}
		if away {
			return errors.New("away")
		}
		return s.send(message, p, fields)
	})
	log := zap.New(c)
	for _, m := range []string{"one", "two", "three"} {
		log.Info(m)
	}
	c.Close()
	if len(s.entries) != 2 || s.entries[0].message != "three" || s.entries[1].message != "2 lines of the log did not reach the journal" {
		t.Errorf("got %v", s.entries)
	}
}
