package jetstream

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The document's numbers are those in force, which other tests check.
func TestTheDocumentHasTheBounds(t *testing.T) {
	data, err := os.ReadFile("../../docs/JETSTREAM.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := strings.Join(strings.Fields(string(data)), " ")

	for _, want := range []string{
		fmt.Sprintf("`inactive_threshold` (%d s unless it says otherwise; %d h at most, %d min for a user with rules without `durables`)",
			defaultInactive/time.Second, maxInactive/time.Hour, maxInactiveOfRules/time.Minute),
		fmt.Sprintf("It goes about %d s after the client that made it", defaultInactive/time.Second),
		fmt.Sprintf("`max_ack_pending` (%d; %s at most), `ack_wait`, `backoff`, `max_deliver`, `max_waiting` (%d)", defaultAckPending, thousands(maxAckPending), defaultMaxWaiting),
		fmt.Sprintf("| consumers of a stream that acknowledge items | %d, queue groups included; %d of them ephemeral |", maxConsumers, maxEphemeral),
		fmt.Sprintf("| viewers of a stream, such as ordered consumers | %d besides.", maxViewers),
		fmt.Sprintf("| ephemeral consumers and viewers of a stream by one client | %d |", maxOfClient),
		fmt.Sprintf("| `max_ack_pending` of all consumers of a stream | %s besides %d of each |", thousands(maxAllAckPending), defaultAckPending),
		fmt.Sprintf("| a request | %d KiB |", maxRequest>>10),
		fmt.Sprintf("| requests of one client that wait for Redis | %d, for %d s at most; beyond that the answer is the error %d or the status 503.",
			maxQueued, maxQueueTime/time.Second, errUnavailable.ErrCode),
		fmt.Sprintf("| requests of one consumer that wait for items | `max_waiting`, %d at most |", mostWaiting),
		fmt.Sprintf("| `batch`, `expires` of a request | %s, %d h |", thousands(maxBatch), maxPullExpires/time.Hour),
		fmt.Sprintf("| `ack_wait`, each step of `backoff`, `idle_heartbeat` | %d ms at least |", minInterval/time.Millisecond),
		fmt.Sprintf("| steps of `backoff`, `filter_subjects` | %d, %d |", maxBackoff, maxFilters),
		fmt.Sprintf("| a consumer's configuration | %d KiB |", maxConfig>>10),
	} {
		if !strings.Contains(doc, want) {
			t.Errorf("docs/JETSTREAM.md does not have %q", want)
		}
	}
}

// thousands returns a number with a comma before each three digits.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// ephemeral makes an ephemeral consumer and returns the error's code.
func (s *stage) ephemeral(policy, name string) int {
	s.t.Helper()
	code, _ := s.create(fmt.Sprintf(`{"name":%q,"ack_policy":%q,"inactive_threshold":3600000000000}`, name, policy))
	return code
}

func TestAStreamHasABoundOfConsumers(t *testing.T) {
	play(t, func(s *stage) {
		durable := func(i int) (code int, text string) {
			return s.create(fmt.Sprintf(`{"durable_name":"d%d","ack_policy":"all"}`, i))
		}

		for i := range maxEphemeral {
			s.client.id = uint64(1 + i/maxOfClient)
			if code := s.ephemeral([]string{"explicit", "all"}[i%2], fmt.Sprint("e", i)); code != 0 {
				t.Fatalf("consumer %d: %d", i, code)
			}
		}

		s.client.id = 9
		if code := s.ephemeral("explicit", "more"); code != 10026 {
			t.Errorf("an ephemeral one in a durable one's place: %d", code)
		}

		for i := range maxConsumers - maxEphemeral {
			if code, text := durable(i); code != 0 {
				t.Fatalf("durable %d: %s", i, text)
			}
		}
		if code, text := durable(maxConsumers); code != 10026 || !strings.Contains(text, "delete one first") {
			t.Errorf("one more: %d %s", code, text)
		}
		if code, _ := durable(0); code != 0 {
			t.Errorf("one that is there: %d", code)
		}
		if code := s.ephemeral("none", "viewer"); code != 0 {
			t.Errorf("a viewer, which takes none of their places: %d", code)
		}
		s.answer("CONSUMER.DELETE.S.e7", "")
		if code, _ := durable(maxConsumers); code != 0 {
			t.Errorf("after one is deleted: %d", code)
		}
	})
}

// viewers counts the consumers that acknowledge nothing.
func (s *stage) viewers(prefix string) (n int) {
	s.t.Helper()
	for _, name := range s.answer("CONSUMER.NAMES.S", "")["consumers"].([]any) {
		if strings.HasPrefix(name.(string), prefix) {
			n++
		}
	}
	return n
}

func TestClientsShareThePlacesForViewers(t *testing.T) {
	play(t, func(s *stage) {
		for i := range maxViewers {
			s.client.id = uint64(1 + i/maxOfClient)
			if code := s.ephemeral("none", fmt.Sprintf("of%d-%d", s.client.id, i)); code != 0 {
				t.Fatalf("viewer %d: %d", i, code)
			}
			time.Sleep(time.Second)
		}

		s.client.id = 3
		refusedAfter := 0
		for ; s.ephemeral("none", fmt.Sprint("of3-", refusedAfter)) == 0; refusedAfter++ {
		}
		if n := []int{s.viewers("of1-"), s.viewers("of2-"), s.viewers("of3-")}; fmt.Sprint(n) != "[21 22 21]" || refusedAfter != 21 {
			t.Errorf("the clients have %d viewers, and the last one was refused after %d", n, refusedAfter)
		}
		if s.viewers("of1-0") != 0 || s.viewers("of1-31") != 1 {
			t.Error("not the one that was not used for longest has gone")
		}

		s.client.id = 1
		if code := s.ephemeral("none", "of1-again"); code != 10026 {
			t.Errorf("the client that had most has one more: %d", code)
		}
	})
}

func TestUsersShareThePlacesForViewers(t *testing.T) {
	play(t, func(s *stage) {
		s.client.user = "many"
		for i := range maxViewers {
			s.client.id = uint64(1 + i) // a connection for each
			if code := s.ephemeral("none", fmt.Sprint("many-", i)); code != 0 {
				t.Fatalf("viewer %d: %d", i, code)
			}
		}

		s.client.id = 99
		if code := s.ephemeral("none", "many-more"); code != 10026 {
			t.Errorf("one more of the same user: %d", code)
		}
		s.client.user = "other"
		if code := s.ephemeral("none", "other-0"); code != 0 || s.viewers("many-") != maxViewers-1 {
			t.Errorf("one of another user: %d, and %d are left of the first", code, s.viewers("many-"))
		}
	})
}

func TestRequestsForItemsHaveBounds(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		for request, want := range map[string]string{
			`1000001`:                      "a: 409 Exceeded MaxRequestBatch of 1000000",
			`{"batch":1000001}`:            "a: 409 Exceeded MaxRequestBatch of 1000000",
			`{"expires":86400000000001}`:   "a: 409 Exceeded MaxRequestExpires of 24h0m0s",
			`{"batch":1,"expires":-1}`:     "a: 400 Bad Request - negative values",
			`{"batch":1,"max_bytes":-1}`:   "a: 400 Bad Request - negative values",
			`{"batch":1,"min_pending":10}`: "a: 400 Bad Request - edged has no priority groups",
		} {
			s.pull("a", request)
			s.want(request, want)
		}

		s.pull("a", `{"batch":1000000,"expires":86400000000000}`)
		s.want("a request within the bounds waits")
	})
}

func TestRequestsForItemsAreRefusedWhileTooManyWaitForRedis(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		resume := s.stall()
		for range maxQueued + 1 { // the first one is in progress
			s.api.Request("STREAM.INFO.S", nil, "flood", s.client)
			synctest.Wait()
		}
		s.api.Request("CONSUMER.MSG.NEXT.S.w", []byte(`{"no_wait":true}`), "next", s.client)
		s.want("a request for items", "next: 503 too many requests wait for Redis")
		s.api.Request("DIRECT.GET.S", []byte(`{"seq":3}`), "get", s.client)
		s.want("a request for an item", "get: 503 Too many requests wait for Redis")
		resume()
	})
}

func TestMoreConfigurationsAreChecked(t *testing.T) {
	play(t, func(s *stage) {
		for config, want := range map[string]int{
			`{"name":"edged-x","ack_policy":"explicit"}`:                                                 10003,
			`{"name":"edgedx","ack_policy":"explicit"}`:                                                  0,
			`{"name":"` + strings.Repeat("n", 256) + `","ack_policy":"explicit"}`:                        10003,
			`{"ack_policy":"explicit","max_waiting":4097}`:                                               10023,
			`{"ack_policy":"explicit","max_waiting":4096}`:                                               0,
			`{"ack_policy":"explicit","max_ack_pending":65537}`:                                          10121,
			`{"ack_policy":"explicit","deliver_subject":"x","idle_heartbeat":99999999}`:                  10083,
			`{"ack_policy":"explicit","deliver_subject":"x","max_waiting":1}`:                            10080,
			`{"ack_policy":"explicit","deliver_subject":"x","max_batch":1}`:                              10003,
			`{"ack_policy":"explicit","deliver_group":"g"}`:                                              10003,
			`{"ack_policy":"explicit","filter_subject":">"}`:                                             0,
			`{"ack_policy":"explicit","filter_subject":"*"}`:                                             0,
			`{"ack_policy":"explicit","filter_subjects":["*","t.>"]}`:                                    0,
			`{"ack_policy":"explicit","filter_subject":"*.*"}`:                                           10093,
			`{"ack_policy":"explicit","flow_control":true}`:                                              10089,
			`{"ack_policy":"explicit","deliver_policy":"by_start_time"}`:                                 10094,
			`{"ack_policy":"explicit","priority_groups":["a"]}`:                                          10003,
			`{"ack_policy":"explicit","inactive_threshold":-1}`:                                          10003,
			`{"ack_policy":"explicit","backoff":[` + strings.Repeat("1000000000,", 100) + `1000000000]}`: 10116,
			`{"ack_policy":"explicit","filter_subjects":["s"` + numbered(99) + `]}`:                      0,
			`{"ack_policy":"explicit","filter_subjects":["s"` + numbered(100) + `]}`:                     10003,
		} {
			if code, text := s.create(config); code != want {
				t.Errorf("%.90s: %d %s, want %d", config, code, text, want)
			}
		}
	})
}

// numbered returns the first n of an endless sequence of subjects, with a comma before each.
func numbered(n int) string {
	var list strings.Builder
	for i := range n {
		fmt.Fprintf(&list, `,"x.%d"`, i)
	}
	return list.String()
}

// A user's rules are for subjects: the payload must not name another consumer or stream.
func TestTheSubjectAndThePayloadNameTheSameConsumer(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		was := s.store.configs["w"]
		for name, c := range map[string]struct {
			payload string
			want    string
		}{
			"CONSUMER.CREATE.S.mine":            {`{"stream_name":"S","config":{"durable_name":"w","ack_policy":"explicit","max_deliver":9}}`, "10017"},
			"CONSUMER.DURABLE.CREATE.S.mine":    {`{"stream_name":"S","config":{"durable_name":"w","ack_policy":"explicit","max_deliver":9}}`, "10017"},
			"CONSUMER.CREATE.S.its":             {`{"stream_name":"S","config":{"name":"w","ack_policy":"explicit","max_deliver":9}}`, "10003"},
			"CONSUMER.CREATE.S.w":               {`{"stream_name":"T","config":{"durable_name":"w","ack_policy":"explicit","max_deliver":9}}`, "10056"},
			"CONSUMER.CREATE.S.w.t":             {`{"stream_name":"S","config":{"durable_name":"w","ack_policy":"explicit","filter_subject":"s"}}`, "10131"},
			"CONSUMER.CREATE.S.w.s":             {`{"stream_name":"S","config":{"durable_name":"w","ack_policy":"explicit","max_deliver":9}}`, "10131"},
			"CONSUMER.DURABLE.CREATE.S.nothing": {`{"stream_name":"S","config":{"name":"nothing","ack_policy":"explicit"}}`, "10016"},
			"CONSUMER.CREATE.S.nil":             {`{"stream_name":"S"}`, "10078"},
		} {
			if answer := s.answer(name, c.payload); !strings.Contains(fmt.Sprint(answer["error"]), c.want) || s.store.configs["w"] != was || s.store.count() != 1 {
				t.Errorf("%s with %s is answered %v, want %s; Redis has %v", name, c.payload, answer, c.want, s.store.configs)
			}
		}
	})
}

func TestAStreamDoesNotTellHowManyBytesItHas(t *testing.T) {
	play(t, func(s *stage) {
		info := s.answer("STREAM.INFO.S", "")
		state, config := info["state"].(map[string]any), info["config"].(map[string]any)
		if state["bytes"] != 0.0 || state["messages"] != 3.0 || fmt.Sprint(config["subjects"]) != "[s]" {
			t.Errorf("the stream is %v", info)
		}
	})
}

func TestInfoTellsHowManyItemsAConsumerHasMissed(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		if info := s.answer("CONSUMER.INFO.S.w", ""); info["edged_missed"] != nil {
			t.Errorf("of a consumer that has missed nothing it is %v", info)
		}
		s.log.missed = 9
		if info := s.answer("CONSUMER.INFO.S.w", ""); info["edged_missed"] != 9.0 {
			t.Errorf("of one that has missed nine items it is %v", info)
		}
	})
}

func TestEachRefusalNamesARemedy(t *testing.T) {
	play(t, func(s *stage) {
		for name, want := range map[string]string{
			"STREAM.CREATE.KV_things":  "io.nats.jetstream.api.v1.stream_create_response add a [[list]] to edged's configuration",
			"STREAM.CREATE.OBJ_things": "io.nats.jetstream.api.v1.stream_create_response add a [[list]] to edged's configuration",
			"STREAM.UPDATE.S":          "io.nats.jetstream.api.v1.stream_update_response change its [[list]]",
			"STREAM.DELETE.S":          "io.nats.jetstream.api.v1.stream_delete_response remove its [[list]]",
			"STREAM.PURGE.S":           "io.nats.jetstream.api.v1.stream_purge_response DEL the key in Redis",
			"STREAM.MSG.DELETE.S":      "io.nats.jetstream.api.v1.stream_msg_delete_response when its consumers have acknowledged them",
			"STREAM.SNAPSHOT.S":        "io.nats.jetstream.api.v1.stream_snapshot_response back up Redis",
			"STREAM.RESTORE.S":         "io.nats.jetstream.api.v1.stream_restore_response restore Redis",
			"CONSUMER.PAUSE.S.w":       "io.nats.jetstream.api.v1.consumer_pause_response pause the list on the control socket",
			"CONSUMER.UNPIN.S.w":       "io.nats.jetstream.api.v1.consumer_unpin_response no priority groups",
			"CONSUMER.RESET.S.w":       "io.nats.jetstream.api.v1.consumer_reset_response create it with a start sequence",
			"STREAM.LEADER.STEPDOWN.S": "io.nats.jetstream.api.v1.error_response need a NATS cluster",
			"STREAM.INFOS.S":           "io.nats.jetstream.api.v1.error_response need a NATS cluster",
			"ACCOUNT.PURGE.x":          "io.nats.jetstream.api.v1.error_response need a NATS cluster",
		} {
			answer := s.answer(name, "{}")
			failed, _ := answer["error"].(map[string]any)
			kind, remedy, _ := strings.Cut(want, " ")
			if failed["code"] != 400.0 || failed["err_code"] != 10003.0 || answer["type"] != kind || !strings.Contains(fmt.Sprint(failed["description"]), remedy) {
				t.Errorf("%s is answered %v, want %s", name, answer, want)
			}
		}
	})
}

func TestListsOfConsumersComeInParts(t *testing.T) {
	play(t, func(s *stage) {
		var want []string
		for i := range 5 {
			want = append(want, fmt.Sprintf("c%d", i))
			if code, text := s.create(fmt.Sprintf(`{"durable_name":"c%d","ack_policy":"explicit"}`, i)); code != 0 {
				t.Fatal(text)
			}
		}

		answer := s.answer("CONSUMER.NAMES.S", `{"offset":3}`)
		if fmt.Sprint(answer["consumers"]) != fmt.Sprint(want[3:]) || answer["total"] != 5.0 || answer["offset"] != 3.0 {
			t.Errorf("the names from the fourth on are %v", answer)
		}

		answer = s.answer("CONSUMER.LIST.S", `{"offset":4}`)
		if all := answer["consumers"].([]any); len(all) != 1 || all[0].(map[string]any)["name"] != "c4" {
			t.Errorf("the consumers from the fifth on are %v", answer)
		}
		answer = s.answer("CONSUMER.LIST.S", `{"offset":99}`)
		if !slices.Equal(answer["consumers"].([]any), []any{}) || answer["total"] != 5.0 {
			t.Errorf("beyond the last one are %v", answer)
		}
	})
}
