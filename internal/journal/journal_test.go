package journal

import (
	"reflect"
	"regexp"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// collected are the entries of a core.
type collected struct{ entries []Entry }

func (c *collected) put(e Entry) { c.entries = append(c.entries, e) }

func TestAnEntryHasMessagePriorityAndFields(t *testing.T) {
	var s collected
	log := zap.New(New(zapcore.InfoLevel, s.put)).Named("poller").With(zap.String("list", "events"))
	log.Debug("not enabled")
	log.Error("Redis is gone", zap.String("event", "redis-lost"), zap.String("reason", "no answer"), zap.Uint64("client", 7))
	want := []Entry{{"Redis is gone list=events reason=\"no answer\" client=7", journal.PriErr, map[string]string{
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

func TestAMessageControlsNoTerminal(t *testing.T) {
	var s collected
	zap.New(New(zapcore.InfoLevel, s.put)).Info("Redis says \x1b[31m", zap.String("name", "\u009b31m\u202e\x7f"))
	if got, want := s.entries[0].Message, `Redis says \x1b[31m name="\u009b31m\u202e\x7f"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
