package daemon

import (
	"strings"
	"testing"

	"edged/internal/tcpserver"
)

func TestStatusCountsEveryKindOfRefusal(t *testing.T) {
	text := func(st tcpserver.Stats) string {
		var out strings.Builder
		statusAnswer{TCP: st}.Text(&out)
		return out.String()
	}
	if got := text(tcpserver.Stats{Accepted: 1}); strings.Contains(got, "refused") {
		t.Errorf("nothing was refused, and status says\n%s", got)
	}

	const many = 100_000_000
	got := text(tcpserver.Stats{
		AuthFailures: many + 1, Refused: many + 2, Yielded: many + 3, ConnectTimeouts: many + 4, Crowded: many + 5,
		Abandoned: many + 6, TLSFailures: many + 7,
	})
	for _, want := range []string{
		"100000001 wrong credentials", "100000002 too many connections", "100000003 silent, made room", "100000004 too late",
		"100000005 too many waiting", "100000006 left while waiting", "100000007 TLS",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("status does not have %q:\n%s", want, got)
		}
	}
	for line := range strings.Lines(got) {
		if strings.HasPrefix(line, "refused") && len(line) > 81 {
			t.Errorf("the line %q has over 80 columns", line)
		}
	}
}
