package uplink

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAQuestionWaitsWhileItsAnswerArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &natsLink{}
		l.life, l.end = context.WithCancel(t.Context())
		ctx, cancel := l.ask(t.Context(), 10*time.Second)
		defer cancel()

		for range 60 { // 480 KiB at 8 KiB/s
			time.Sleep(time.Second)
			l.received.Add(8 << 10)
		}
		if err := context.Cause(ctx); err != nil {
			t.Errorf("it ends while its answer arrives: %v", err)
		}
		<-ctx.Done()
		if why := context.Cause(ctx).Error(); !strings.Contains(why, "has not answered for 10s") {
			t.Errorf("it ends as %s", why)
		}
	})
}

func TestAQuestionEndsWithItsLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &natsLink{}
		l.life, l.end = context.WithCancel(t.Context())
		ctx, cancel := l.ask(t.Context(), 10*time.Second)
		defer cancel()

		l.fail(nil)
		<-ctx.Done()
		if err := context.Cause(ctx); err != l.why {
			t.Errorf("it ends as %v, the link as %v", err, l.why)
		}
	})
}
