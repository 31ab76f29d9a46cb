package uplink

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"edged/internal/edgedtest"
	"edged/internal/redistest"

	"github.com/nats-io/nats.go/jetstream"
)

func TestAnAlarmReachesTheHubBeforeABacklogOfInfos(t *testing.T) {
	t.Parallel()
	h, r := startHub(t, ""), startRedis(t)
	p := startProxy(t, h.address, 8_000, 0) // 64 kbit/s
	s := newStream(t, h.connect(), nil)
	infos := texts(0, 100_000)
	for i := range infos {
		infos[i] = fmt.Sprintf("%s %080d", infos[i], 0)
	}
	r.Push("infos", infos...)
	edgedtest.Run(t, r.Address(), `instance = "box"`, `drain.timeout = "0s"`,
		"[[list]]\nkey = \"alarms\"\n", "[[list]]\nkey = \"infos\"\nclass = 1\n",
		fmt.Sprintf("[[uplink]]\nname = \"hub\"\nurl = [%q]\n", "nats://"+p.address()))

	for round := range 2 {
		before := 0
		redistest.Eventually(t, "infos reach the hub", func() bool {
			before = messages(t, s)
			return before >= 60*(round+1)
		})
		alarm := fmt.Sprint("alarm ", round)
		r.Push("alarms", alarm)
		redistest.Eventually(t, "the alarm reaches the hub", func() bool { return newest(t, s, "edge.box.alarms") == alarm })

		first := 0
		for _, item := range stored(t, s)[before:] {
			if item == alarm {
				break
			}
			first++
		}
		if t.Logf("%d infos came before %s", first, alarm); first > 100 {
			t.Errorf("%d infos came before %s", first, alarm)
		}
	}
}

func messages(t *testing.T, s jetstream.Stream) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), edgedtest.Patience)
	defer cancel()
	info, err := s.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.State.Msgs)
}

// newest returns the newest message of a subject; empty if there is none.
func newest(t *testing.T, s jetstream.Stream, subject string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), edgedtest.Patience)
	defer cancel()
	m, err := s.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(m.Data)
}
