package jetstream

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAConsumerIsThereWhenRedisKnowsIt(t *testing.T) {
	play(t, func(s *stage) {
		s.store.fails = errAway
		if code, text := s.create(`{"durable_name":"w","ack_policy":"explicit"}`); code != 10008 || !strings.Contains(text, "refused") || len(s.log.durables) != 0 {
			t.Errorf("without Redis CREATE is answered %d %s; %v", code, text, s.log.durables)
		}

		s.store.fails = nil
		s.worker("")
		s.store.fails = errAway
		if answer := s.answer("CONSUMER.DELETE.S.w", ""); answer["error"] == nil || len(s.log.durables) != 1 {
			t.Errorf("without Redis DELETE is answered %v; %v", answer, s.log.durables)
		}

		s.store.fails = nil
		if answer := s.answer("CONSUMER.DELETE.S.w", ""); answer["success"] != true || len(s.log.durables)+len(s.store.configs) != 0 {
			t.Errorf("DELETE is answered %v; %v", answer, s.log.durables)
		}
		s.log.refuse = errAway
		if code, _ := s.create(`{"durable_name":"w","ack_policy":"explicit"}`); code != 10026 || len(s.store.configs) != 0 {
			t.Errorf("the relay refuses it, and the code is %d", code)
		}
	})
}

func TestConsumersOfAnotherProcessAreTakenUp(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		theirs := strings.ReplaceAll(s.store.configs["w"], `"w"`, `"theirs"`)
		s.store.configs["theirs"] = theirs
		time.Sleep(lookInterval)
		if answer := s.answer("CONSUMER.INFO.S.theirs", ""); answer["name"] != "theirs" || s.log.members["theirs"] == nil {
			t.Errorf("the consumer of another process is %v", answer)
		}

		delete(s.store.configs, "theirs")
		s.store.configs["late"] = strings.ReplaceAll(theirs, `"theirs"`, `"late"`)
		s.log.Set("orphan", Terms{}, Start{})
		s.api.Load("list", maps.Clone(s.store.configs), []string{"w", "orphan"}, false)
		s.log.mu.Lock()
		if s.log.members["late"] == nil {
			t.Error("a consumer that a claim has found is not there before the list begins")
		}
		s.log.mu.Unlock()

		synctest.Wait()
		if names := s.answer("CONSUMER.NAMES.S", "")["consumers"]; fmt.Sprint(names) != "[late w]" || len(s.log.durables) != 2 {
			t.Errorf("the consumers that Redis does not know are still there: %v, %v", names, s.log.durables)
		}
	})
}

// A program that writes to Redis may have made them.
func TestConsumersThatNoClientCouldMakeAreNotTakenUp(t *testing.T) {
	play(t, func(s *stage) {
		record := func(name, incarnation, more string) {
			s.store.configs[name] = fmt.Sprintf(`{"from":2,"epoch":"e","incarnation":%q,"config":{"name":%q,"durable_name":%q,`+
				`"deliver_policy":"all","ack_policy":"explicit","ack_wait":1000000000,"max_ack_pending":10,"replay_policy":"instant"%s}}`, incarnation, name, name, more)
		}
		record("good", "abc", "")
		record("pushed", "abc", `,"deliver_subject":"inbox"`)
		record("a b", "abc", "")
		record("edged-2", "abc", "")
		record("i1", "x y", "")
		record("i2", "x.y", "")
		record("i3", "x\r\n", "")
		record("subject", "abc", `,"deliver_subject":"x\r\nMSG"`)
		record("wild", "abc", `,"deliver_subject":">"`)
		record("pending", "abc", `,"max_ack_pending":65537`)
		record("wait", "abc", `,"ack_wait":1`)
		record("policy", "abc", `,"ack_policy":"x\ny"`)

		if names := s.answer("CONSUMER.NAMES.S", "")["consumers"]; fmt.Sprint(names) != "[good pushed]" {
			t.Errorf("the consumers are %v", names)
		}
	})
}

func TestAConsumerThatRedisHasLostIsRegisteredAgain(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		was := s.store.configs["w"]
		s.store.owner = true
		s.api.Load("list", maps.Clone(s.store.configs), []string{"w"}, true)
		synctest.Wait()

		s.store.forget("w")
		s.worker("")
		if s.store.configs["w"] != was {
			t.Errorf("CREATE of a consumer that Redis has lost leaves %s in Redis, want %s", s.store.configs["w"], was)
		}
		s.store.forget("w")
		time.Sleep(lookInterval)
		s.answer("CONSUMER.INFO.S.other", "")
		if s.store.names() != "w" || len(s.log.durables) != 1 {
			t.Errorf("after a look for another one Redis has %q, the relay %v", s.store.names(), s.log.durables)
		}
		s.store.forget("w")
		s.api.Load("list", nil, nil, true)
		synctest.Wait()
		if s.store.names() != "w" || len(s.log.durables) != 1 {
			t.Errorf("after a claim without the ledger Redis has %q, the relay %v", s.store.names(), s.log.durables)
		}
		s.api.Load("list", map[string]string{"old": strings.ReplaceAll(was, `"w"`, `"old"`)}, nil, true)
		synctest.Wait()
		if s.store.names() != "w" || len(s.log.durables) != 1 {
			t.Errorf("one that was deleted after the claim is back: Redis has %q, the relay %v", s.store.names(), s.log.durables)
		}
		s.store.forget("w")
		s.api.Load("list", nil, nil, false)
		synctest.Wait()
		if s.store.names() != "" || len(s.log.durables) != 0 {
			t.Errorf("another process has deleted it, and Redis has %q, the relay %v", s.store.names(), s.log.durables)
		}
	})
}

func TestAStandbyTrustsRedisAlone(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		theirs := s.store.configs["w"]
		s.store.set(nil, errStandby)
		s.api.Unload("list")

		if answer := s.answer("CONSUMER.DELETE.S.w", ""); !strings.Contains(fmt.Sprint(answer["error"]), "serves the list") || s.store.names() != "w" {
			t.Errorf("DELETE at a standby is answered %v", answer)
		}
		if code, text := s.create(`{"durable_name":"w","ack_policy":"explicit","max_deliver":3}`); code != 10008 || s.store.configs["w"] != theirs {
			t.Errorf("an update at a standby: %d %s", code, text)
		}
		s.worker("") // unchanged
		s.store.configs["late"] = strings.ReplaceAll(theirs, `"w"`, `"late"`)
		if answer := s.answer("CONSUMER.INFO.S.late", ""); answer["name"] != "late" {
			t.Errorf("a consumer that the other process has just made is %v", answer)
		}
		s.store.forget("w")
		if answer := s.answer("CONSUMER.INFO.S.w", ""); !strings.Contains(fmt.Sprint(answer["error"]), "10014") {
			t.Errorf("a consumer that the other process has deleted is %v", answer)
		}
		s.store.configs["w"] = theirs
		s.answer("CONSUMER.INFO.S.w", "")
		s.store.forget("w")
		s.pull("in", `{"batch":1,"expires":1000000000}`)
		s.want("a request at a consumer that is deleted", "in: 503")
		if code, _ := s.create(`{"durable_name":"w","ack_policy":"explicit"}`); code != 10008 || s.store.names() != "late" {
			t.Errorf("CREATE of a consumer that the other process has deleted: %d, %q", code, s.store.names())
		}
	})
}

func TestAStandbyKeepsTheEphemeralConsumersOfTheOtherProcess(t *testing.T) {
	play(t, func(s *stage) {
		if code, text := s.create(`{"name":"w","ack_policy":"explicit"}`); code != 0 {
			t.Fatal(text)
		}
		s.store.set(nil, errStandby)
		s.api.Unload("list")
		time.Sleep(time.Minute)
		if s.store.names() != "w" || len(s.log.durables) != 1 {
			t.Errorf("Redis has %q, the relay %v", s.store.names(), s.log.durables)
		}
	})
}
