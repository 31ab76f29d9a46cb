package jetstream

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// stall keeps Redis from answering until the function that it returns is called.
func (s *stage) stall() (resume func()) {
	synctest.Wait()
	s.store.stalled = make(chan struct{})
	return func() {
		close(s.store.stalled)
		synctest.Wait()
	}
}

// other is another client.
func (s *stage) other(id uint64) fakeClient {
	c := s.client
	c.id = id
	return c
}

func TestALargeRequestIsRefused(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		large := strings.Repeat(" ", maxRequest+1)
		for _, name := range []string{"STREAM.INFO.S", "STREAM.NAMES", "CONSUMER.CREATE.S.x", "CONSUMER.INFO.S.w"} {
			failed, _ := s.answer(name, large)["error"].(map[string]any)
			if failed["err_code"] != 10003.0 || failed["description"] != "bad request: the request is larger than 16384 bytes" {
				t.Errorf("%s is answered %v", name, failed)
			}
		}

		for _, name := range []string{"CONSUMER.MSG.NEXT.S.w", "DIRECT.GET.S"} {
			s.api.Request(name, []byte(large), "re", s.client)
			s.want(name, "re: 400 Bad Request - the request is larger than 16384 bytes")
		}
		if answer := s.answer("STREAM.INFO.S", large[1:]); answer["error"] != nil {
			t.Errorf("a request that is not too large is answered %v", answer)
		}
	})
}

func TestARequestThatWaitsForRedisHoldsMemoryOfItsClient(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		for _, name := range []string{"STREAM.INFO.S", "DIRECT.GET.S", "CONSUMER.MSG.NEXT.S.w"} {
			resume := s.stall()
			s.api.Request(name, []byte(`{"seq":1,"no_wait":true}`), "re", s.client)
			synctest.Wait()
			if least := requestSize + len(`{"seq":1,"no_wait":true}`); s.net.held < least {
				t.Errorf("%s holds %d bytes, want %d at least", name, s.net.held, least)
			}
			resume()
			if s.net.held != 0 {
				t.Errorf("%d bytes are held after the answer to %s", s.net.held, name)
			}
		}
	})
}

func TestClientsTakeTurns(t *testing.T) {
	play(t, func(s *stage) {
		resume := s.stall()
		for range maxQueued + 10 {
			s.api.Request("STREAM.INFO.S", nil, "flood", s.client)
		}
		synctest.Wait()
		refused := s.net.take()
		if n := len(refused); n < 9 || n > 10 || !strings.Contains(refused[0], "too many requests wait for Redis") {
			t.Errorf("%d requests are refused: %q", n, refused)
		}
		s.api.Request("STREAM.INFO.S", nil, "calm", s.other(2))
		resume()

		got := s.net.take()
		for i, text := range got {
			if strings.HasPrefix(text, "calm") {
				if i > 2 || strings.Contains(text, "error") {
					t.Errorf("the other client's answer comes after %d: %s", i, text)
				}
				return
			}
		}
		t.Errorf("the other client got none of %d answers", len(got))
	})
}

func TestRequestsGoWithTheirClient(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		s.pull("gone", `{"batch":5}`)
		s.api.Request("CONSUMER.MSG.NEXT.S.w", []byte(`{"batch":1}`), "here", s.other(2))
		resume := s.stall()
		for _, name := range []string{"CONSUMER.MSG.NEXT.S.w", "STREAM.INFO.S"} { // the first one is in progress
			s.api.Request(name, []byte(`{"batch":5,"no_wait":true,"expires":1000000000}`), "gone", s.client)
			synctest.Wait()
		}

		s.api.Left(s.client.id)
		synctest.Wait()
		if s.net.open != 1 {
			t.Errorf("%d requests wait for items, want that of the other client", s.net.open)
		}

		parts := s.store.parts
		resume()
		if s.net.open != 1 || s.net.held != 0 || s.store.parts != parts+1 {
			t.Errorf("%d requests wait for items, %d bytes are held, Redis was asked %d times", s.net.open, s.net.held, s.store.parts-parts)
		}
		s.net.take()
		s.log.offer("w", 3, "x", "y")
		s.want("the other client gets its item", "here: S.w 3/1 x")
	})
}

func TestARequestThatHasWaitedForLongIsRefused(t *testing.T) {
	play(t, func(s *stage) {
		resume := s.stall()
		s.api.Request("STREAM.INFO.S", nil, "first", s.client) // in progress
		synctest.Wait()
		s.api.Request("STREAM.INFO.S", nil, "late", s.client)
		time.Sleep(maxQueueTime + time.Second)
		resume()
		got := s.net.take()
		if len(got) != 2 || !strings.Contains(got[1], "too many requests wait for Redis") || s.net.held != 0 {
			t.Errorf("the answers are %q, %d bytes are held", got, s.net.held)
		}
	})
}

func TestAnEndThatWaitsForRedisIsQueuedOnce(t *testing.T) {
	play(t, func(s *stage) {
		if code, text := s.create(`{"name":"e","ack_policy":"explicit","inactive_threshold":1000000000}`); code != 0 {
			t.Fatal(text)
		}

		resume := s.stall()
		s.api.Request("STREAM.INFO.S", nil, "re", s.client)
		time.Sleep(5 * time.Second)
		s.api.work.mu.Lock()
		if n := len(s.api.own.tasks); n != 1 {
			t.Errorf("%d tasks wait", n)
		}
		s.api.work.mu.Unlock()
		resume()
		if s.store.count() != 0 {
			t.Error("the consumer is still registered")
		}
	})
}
