package uds

import (
	"context"
	"fmt"
	"net"
	"os"
	"reflect"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func levelled() []Command {
	ok := func(context.Context, []string) (Answer, error) { return nil, nil }
	return []Command{
		{Name: "look", Run: ok},
		{Name: "pause", Args: "LIST", MinArgs: 1, MaxArgs: 1, Level: Operator, Run: ok},
		{Name: "end", Level: Admin, Run: ok},
	}
}

func TestNoClientIsAboveTheCeilingOfTheSocket(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Commands: levelled()}) // we are the daemon's own user
	for ceiling, want := range map[Level]string{
		Admin:    "OK\nOK\nOK\n",
		Operator: "OK\nOK\nERR Forbidden end needs the level admin, and you have the level operator here\n",
		User: "OK\nERR Forbidden pause needs the level operator, and you have the level user here\n" +
			"ERR Forbidden end needs the level admin, and you have the level user here\n",
	} {
		if got := s.also(t, ceiling).ask(t, "look; pause a; end"); got != want {
			t.Errorf("%v: got %q, want %q", ceiling, got, want)
		}
	}
}

func TestLevelsOfUsers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		uid, own int
		want     Level
	}{
		{0, 990, Admin}, {990, 990, Admin}, {1000, 990, Operator}, {65534, 990, Operator}, {1000, 0, Operator},
	} {
		if got := levelOf(test.uid, test.own); got != test.want {
			t.Errorf("user %d has the level %v to the daemon of user %d, want %v", test.uid, got, test.own, test.want)
		}
	}
}

func TestAClientThatTheKernelDoesNotKnowIsAUser(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	if got := peerOf(ours, Admin); got != (peer{-1, -1, User}) {
		t.Errorf("got %+v", got)
	}
}

func TestCommandsAboveTheLevelUserAreLoggedWithUserAndOutcome(t *testing.T) {
	t.Parallel()
	core, logged := observer.New(zap.InfoLevel)
	failing := Command{Name: "requeue", Level: Operator, Run: func(context.Context, []string) (Answer, error) {
		return nil, Errorf(NotFound, "no such list")
	}}
	watch := counting(2, func(error) {})
	watch.Name, watch.Level = "watch", Operator
	s := start(t, Options{Commands: append(levelled(), failing, watch), Log: zap.New(core)})
	s.ask(t, "look; PAUSE a; requeue; watch")
	s.also(t, User).ask(t, "end; look")

	var got []string
	for _, e := range logged.All() {
		f := e.ContextMap()
		if f["pid"] != int64(os.Getpid()) || f["uid"] != int64(os.Geteuid()) || f["user"] != userName(os.Geteuid()) {
			t.Errorf("%s: %v, want our numbers and name", e.Message, f)
		}
		got = append(got, fmt.Sprint(e.Message, ": ", f["command"], ", ", f["outcome"], ", ", f["error"]))
	}
	want := []string{
		"a command on the control socket: pause a, done, <nil>",
		"a command on the control socket: requeue, failed, NotFound: no such list",
		"a command on the control socket begins: watch, <nil>, <nil>",
		"a command on the control socket: watch, done, <nil>",
		"a command was refused: end, <nil>, Forbidden: end needs the level admin, and you have the level user here",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("logged %q\nwant   %q", got, want)
	}
}

func TestUsersHaveTheirNameInTheLogIfThereIsOne(t *testing.T) {
	t.Parallel()
	for uid, want := range map[int]string{0: "root", -1: "-1", 4_000_000_000: "4000000000"} {
		if got := userName(uid); got != want {
			t.Errorf("user %d is named %q, want %q", uid, got, want)
		}
	}
}
