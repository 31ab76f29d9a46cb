package jetstream

import (
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRequestsShareABatch(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		s.pull("a", `{"batch":3,"expires":60000000000}`)
		s.pull("b", `{"batch":1,"expires":60000000000}`)
		if taken := s.log.offer("w", 10, "a", "b", "c", "d", "e"); taken != 4 {
			t.Errorf("%d items were taken, want the 4 that were asked for", taken)
		}
		s.want("the requests get", "a: S.w 10/1 a", "a: S.w 11/2 b", "a: S.w 12/3 c", "b: S.w 13/4 d")
		if s.net.open != 0 {
			t.Errorf("%d outlets are open", s.net.open)
		}
	})
}

func TestARequestEndsWhenItsTimeIsOver(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		s.pull("a", `{"batch":3,"expires":10000000000,"idle_heartbeat":4000000000,"max_bytes":1000}`)
		s.log.offer("w", 7, "x")
		s.want("the item comes", "a: S.w 7/1 x")
		time.Sleep(9 * time.Second)
		s.want("heartbeats come", "a: 100 Idle Heartbeat|Nats-Last-Consumer: 1|Nats-Last-Stream: 8", "a: 100 Idle Heartbeat|Nats-Last-Consumer: 1|Nats-Last-Stream: 8")
		time.Sleep(time.Second)
		s.want("the rest is told", "a: 408 Request Timeout|Nats-Pending-Messages: 2|Nats-Pending-Bytes: 934")
		if s.log.offer("w", 8, "y") != 0 {
			t.Error("an item was taken without a request")
		}
	})
}

func TestRequestsThatCannotBeServedAreToldWhy(t *testing.T) {
	play(t, func(s *stage) {
		s.worker(`,"max_batch":5,"max_expires":1000000000,"max_bytes":100,"max_waiting":1`)
		for request, want := range map[string]string{
			`{"batch":6}`:                      "409 Exceeded MaxRequestBatch of 5",
			`{"batch":1,"expires":2000000000}`: "409 Exceeded MaxRequestExpires of 1s",
			`{"batch":1,"max_bytes":101}`:      "409 Exceeded MaxRequestMaxBytes of 100",
			`{"batch":1,"expires":1000000000,"idle_heartbeat":600000000}`: "400 Bad Request - heartbeat value too large",
			`{"batch":1,"expires":1000000000,"idle_heartbeat":1}`:         "400 Bad Request - heartbeat value too small: 100ms at least",
			`{"batch":1,"group":"x"}`:                                     "400 Bad Request - edged has no priority groups",
			`{"batch":1,"no_wait":true}`:                                  "404 No Messages",
			`{"batch":6,"no_wait":true,"expires":1}`:                      "409 Exceeded MaxRequestBatch of 5",
			`{`:                                                           "400 Bad Request - unexpected end of JSON input",
		} {
			s.pull("a", request)
			s.want(request, "a: "+want)
		}

		s.pull("a", `{"batch":1,"expires":1000000000,"max_bytes":70}`)
		s.pull("b", `1`)
		s.want("max_waiting is 1", "b: 409 Exceeded MaxWaiting")
		s.pull("c", `{"batch":1,"expires":1000000000,"idle_heartbeat":500000000}`)
		s.want("a client that expects heartbeats is told nothing")
		s.log.offer("w", 7, strings.Repeat("x", 70))
		s.want("the item is too large", "a: 409 Message Size Exceeds MaxBytes|Nats-Pending-Messages: 1|Nats-Pending-Bytes: 70")
		s.api.Request("CONSUMER.MSG.NEXT.S.none", nil, "a", s.client)
		s.want("a consumer that is none", "a: 503")
		s.api.Request("CONSUMER.MSG.NEXT.none.w", nil, "a", s.client)
		s.want("a stream that is none", "a: 503")
	})
}

func TestARequestThatDoesNotWaitGetsTheAvailableItems(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		s.log.pending = 2
		s.pull("a", `{"batch":5,"no_wait":true}`)
		if taken := s.log.offer("w", 3, "x", "y", "z"); taken != 2 {
			t.Errorf("%d items were taken, want the two that were there", taken)
		}
		s.want("they come, and it is told that there are no more", "a: S.w 3/1 x", "a: S.w 4/2 y", "a: 404 No Messages")

		s.pull("a", `{"batch":2,"no_wait":true,"expires":5000000000}`)
		s.log.offer("w", 5, "x", "y")
		s.want("as many are there as it asks for", "a: S.w 5/3 x", "a: S.w 6/4 y")
		s.pull("a", `{"batch":5,"no_wait":true,"expires":5000000000}`)
		s.log.offer("w", 7, "x")
		s.want("one of two comes", "a: S.w 7/5 x")
		s.log.offer("w", 8, "y")
		s.want("the other one comes", "a: S.w 8/6 y", "a: 404 No Messages")
	})
}

func TestARequestThatDoesNotWaitEndsWithDuplicates(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		s.log.pending = 4
		s.pull("a", `{"batch":5,"no_wait":true}`)
		s.pull("b", `{"batch":2,"no_wait":true}`)
		s.pull("c", `{"batch":9,"expires":60000000000}`)
		w := s.log.members["w"]
		w.Passed(1)
		s.log.offer("w", 3, "x")
		w.Passed(2)
		s.want("three of the four are duplicates", "a: S.w 3/1 x", "b: 404 No Messages", "a: 404 No Messages")
		w.Passed(3)
		s.want("and the one that waits goes on")

		if room := w.Room(); room != 9 {
			t.Errorf("there is room for %d items, want 9", room)
		}
	})
}

// The older Fetch of nats.go and that of nats.py request items in this way.
func TestARequestThatDoesNotWaitForMoreWaitsForTheFirst(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		s.pull("a", `{"batch":5,"no_wait":true,"expires":5000000000}`)
		s.pull("b", `{"batch":1,"no_wait":true,"expires":5000000000}`)
		s.want("nothing is there")
		if taken := s.log.offer("w", 3, "x", "y", "z"); taken != 3 {
			t.Errorf("%d items were taken, want those of both", taken)
		}
		s.want("they come", "a: S.w 3/1 x", "a: S.w 4/2 y", "b: S.w 5/3 z", "a: 404 No Messages")

		s.pull("c", `{"batch":5,"no_wait":true,"expires":5000000000}`)
		time.Sleep(5 * time.Second)
		s.want("none came", "c: 408 Request Timeout|Nats-Pending-Messages: 5|Nats-Pending-Bytes: 0")
		if s.net.open != 0 || s.log.members["w"].Room() != 0 {
			t.Errorf("%d outlets are open, there is room for %d items", s.net.open, s.log.members["w"].Room())
		}
	})
}

func TestRequestsOfClientsThatAreGoneGetNothing(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		s.pull("gone", `{"batch":5}`)
		s.pull("here", `{"batch":1}`)
		s.net.closed["gone"] = true
		s.log.offer("w", 3, "x")
		s.want("the other one gets it", "here: S.w 3/1 x")
		s.pull("gone", `{"batch":5}`)
		time.Sleep(31 * time.Second)
		if synctest.Wait(); s.net.open != 0 {
			t.Error("the request still waits")
		}
	})
}

func TestRequestsForVeryManyItemsLeaveRoom(t *testing.T) {
	play(t, func(s *stage) {
		s.worker(`,"max_waiting":4096`)
		for range 4096 {
			s.pull("a", `{"batch":1000000}`)
		}
		if room := s.log.members["w"].Room(); room != math.MaxInt32 {
			t.Errorf("there is room for %d items", room)
		}
	})
}
