package jetstream

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAPushConsumerIsNoPullConsumer(t *testing.T) {
	play(t, func(s *stage) {
		s.worker(`,"deliver_subject":"to"`)
		for _, request := range []string{"1", `{"batch":1,"no_wait":true,"expires":1000000000}`} {
			s.pull("a", request)
			s.want(request, "a: 409 Consumer is push based")
		}

		for more, want := range map[string]string{
			``:                           "can not be updated",
			`,"deliver_subject":"other"`: "consumer name already in use", // a client is subscribed
			`,"deliver_subject":"to","deliver_group":"g"`:                             "deliver group can not be updated",
			`,"deliver_subject":"to","idle_heartbeat":1000000000`:                     "heart beats can not be updated",
			`,"deliver_subject":"to","idle_heartbeat":1000000000,"flow_control":true`: "can not be updated",
		} {
			if code, text := s.create(`{"durable_name":"w","ack_policy":"explicit"` + more + `}`); code == 0 || !strings.Contains(text, want) {
				t.Errorf("an update with %q: %d %s, want %s", more, code, text, want)
			}
		}

		s.net.close("to")
		s.api.Interest("to")
		s.worker(`,"deliver_subject":"other"`)
		s.log.offer("w", 3, "x")
		s.want("items go to the other subject", "other: S.w 3/1 x")
	})
}

func TestHeartbeatsOfAPushConsumerThatWaitsForItsClientSaySo(t *testing.T) {
	play(t, func(s *stage) {
		s.worker(`,"deliver_subject":"to","idle_heartbeat":1000000000,"flow_control":true`)
		large := strings.Repeat("y", flowWindow)
		s.log.offer("w", 1, large)
		s.log.offer("w", 2, large)
		synctest.Wait()
		if s.log.offer("w", 3, "x") != 0 {
			t.Fatal("it does not wait for its client")
		}

		s.net.take()
		time.Sleep(time.Second + time.Millisecond)
		s.want("the heartbeat", "to: 100 Idle Heartbeat|Nats-Last-Consumer: 2|Nats-Last-Stream: 3|Nats-Consumer-Stalled: $JS.FC.S.w.1")
		s.api.Resume("$JS.FC.S.w.1")
		time.Sleep(time.Second)
		s.want("the next one", "to: 100 Idle Heartbeat|Nats-Last-Consumer: 2|Nats-Last-Stream: 3")
	})
}
