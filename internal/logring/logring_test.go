package logring

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestItKeepsTheLastLinesOfLevelWarn(t *testing.T) {
	var r Ring
	log := zap.New(r.Core())
	for i := range kept + 3 {
		log.Info("not kept")
		log.Warn(fmt.Sprint("line ", i))
	}

	lines := r.Lines()
	if len(lines) != kept {
		t.Fatalf("it keeps %d lines, want %d", len(lines), kept)
	}
	if first, last := lines[0].Message, lines[kept-1].Message; first != fmt.Sprint("line ", kept+2) || last != "line 3" {
		t.Errorf("the newest is %q and the oldest %q", first, last)
	}
}

func TestALineHasItsFieldsInWords(t *testing.T) {
	var r Ring
	log := zap.New(r.Core()).Named("poller").With(zap.String("list", "events"))
	log.Error("can't serve the list; trying again", zap.Error(errors.New("refused")), zap.Duration("for", 3*time.Second),
		zap.String("event", "outage"))

	l := r.Lines()[0]
	if l.Level != "error" || l.Logger != "poller" || l.Message != "can't serve the list; trying again" {
		t.Errorf("the line is %+v", l)
	}
	if want := "list=events error=refused for=3s"; l.Fields != want {
		t.Errorf("the fields are %q, want %q", l.Fields, want)
	}
}

func TestLinesAboutLoginsAreNotKept(t *testing.T) {
	var r Ring
	log := zap.New(r.Core())
	log.Warn("login refused", zap.String("event", "login-refused"), zap.String("user", "my password"))
	log.With(zap.String("event", "login-refused")).Warn("login refused", zap.String("user", "my password"))
	if lines := r.Lines(); len(lines) > 0 {
		t.Errorf("it keeps %+v", lines)
	}
}

// zapcore.NewTee calls Write of all of its cores, whatever the level.
func TestALevelThatIsWrittenWithoutACheckIsNotKept(t *testing.T) {
	var r Ring
	r.Core().Write(zapcore.Entry{Level: zapcore.InfoLevel, Message: "no"}, nil)
	if lines := r.Lines(); len(lines) > 0 {
		t.Errorf("it keeps %+v", lines)
	}
}

func TestLongFieldsAreCut(t *testing.T) {
	var r Ring
	zap.New(r.Core()).Warn("long", zap.String("x", strings.Repeat("ä", maxFields)), zap.String("y", "never read"))
	if got := r.Lines()[0].Fields; len(got) > maxFields+len("…") || !strings.HasSuffix(got, "ä…") {
		t.Errorf("%d bytes, which end with %q", len(got), got[len(got)-5:])
	}
}
