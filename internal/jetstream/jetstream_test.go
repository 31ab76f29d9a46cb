package jetstream

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"edged/internal/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConfigurationsAreCheckedAndCompleted(t *testing.T) {
	play(t, func(s *stage) {
		for config, want := range map[string]string{
			`{"durable_name":"a","name":"b","ack_policy":"explicit"}`:                                          "10003",
			`{"name":"edged","ack_policy":"explicit"}`:                                                         "10003 stands for plain",
			`{"name":"a b","ack_policy":"explicit"}`:                                                           "10003 blanks",
			`{"ack_policy":"explicit","deliver_policy":"by_start_sequence"}`:                                   "10094",
			`{"ack_policy":"explicit","opt_start_seq":5}`:                                                      "10094",
			`{"ack_policy":"some"}`:                                                                            "10025",
			`{"ack_policy":"explicit","max_ack_pending":-1}`:                                                   "10121",
			`{"ack_policy":"explicit","max_ack_pending":70000}`:                                                "10121",
			`{"ack_policy":"none","max_ack_pending":1}`:                                                        "10082",
			`{"ack_policy":"none","durable_name":"x"}`:                                                         "10003 not remembered",
			`{"ack_policy":"explicit","filter_subject":"t"}`:                                                   "10093",
			`{"ack_policy":"explicit","filter_subject":"s","filter_subjects":["s"]}`:                           "10136",
			`{"ack_policy":"explicit","filter_subjects":["s","s"]}`:                                            "10138",
			`{"ack_policy":"explicit","filter_subjects":["t.>","s","t.*"]}`:                                    "10138",
			`{"ack_policy":"explicit","pause_until":"2100-01-01T00:00:00Z"}`:                                   "10003 pause_until",
			`{"ack_policy":"explicit","sample_freq":"10%"}`:                                                    "10003 sample_freq",
			`{"ack_policy":"explicit","filter_subjects":[""]}`:                                                 "10139",
			`{"ack_policy":"explicit","deliver_subject":"*"}`:                                                  "10079",
			`{"ack_policy":"explicit","deliver_subject":"s"}`:                                                  "10081",
			`{"ack_policy":"explicit","deliver_subject":"$JS.API.x"}`:                                          "10081",
			`{"ack_policy":"explicit","deliver_subject":"x","flow_control":true}`:                              "10108",
			`{"ack_policy":"explicit","idle_heartbeat":1000000000}`:                                            "10088",
			`{"ack_policy":"explicit","backoff":[100000000,200000000],"max_deliver":1}`:                        "10116",
			`{"ack_policy":"explicit","backoff":[100000000,99999999]}`:                                         "10003 backoff needs to be >= 100ms",
			`{"ack_policy":"explicit","ack_wait":99999999}`:                                                    "10003 ack wait needs to be >= 100ms",
			`{"ack_policy":"explicit","rate_limit_bps":1}`:                                                     "10003 rate_limit_bps",
			`{"ack_policy":"explicit","replay_policy":"original"}`:                                             "10003 replay_policy",
			`{"ack_policy":"explicit","priority_policy":"overflow"}`:                                           "10003 priority_policy",
			`{"ack_policy":"explicit","num_replicas":3}`:                                                       "10003 num_replicas",
			`{"ack_policy":"explicit","durable_name":"x","description":"` + strings.Repeat("x", 8000) + `"}`:   "10012",
			`{"ack_policy":"explicit","durable_name":"x","filter_subjects":["s","t"],"deliver_policy":"last"}`: "0",
		} {
			code, text := s.create(config)
			number, words, _ := strings.Cut(want, " ")
			if fmt.Sprint(code) != number || !strings.Contains(text, words) {
				t.Errorf("%.80s: %d %s, want %s", config, code, text, want)
			}
		}

		if start := s.log.starts["x"]; start != (Start{From: 4, Epoch: "e"}) {
			t.Errorf("deliver last begins at %+v", start)
		}

		want := Terms{AckWait: 30 * time.Second, MaxAckPending: 1000}
		if got := s.log.durables["x"]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the terms are %+v, want %+v", got, want)
		}

		cfg := s.answer("CONSUMER.INFO.S.x", "")["config"].(map[string]any)
		if cfg["max_waiting"] != 512.0 || cfg["max_deliver"] != -1.0 || cfg["replay_policy"] != "instant" || len(cfg["filter_subjects"].([]any)) != 2 {
			t.Errorf("the configuration is %v", cfg)
		}
	})
}

// Libraries send values that mean "not set".
func TestValuesThatMeanNothingCountAsNotSet(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		for _, field := range []string{
			`"pause_until":"0001-01-01T00:00:00Z"`, `"pause_until":null`, `"opt_start_time":"0001-01-01T00:00:00Z"`, `"opt_start_seq":0`,
			`"backoff":[]`, `"backoff":null`, `"filter_subjects":[]`, `"filter_subject":""`, `"metadata":{}`,
			`"priority_policy":"none"`, `"priority_groups":[]`, `"priority_timeout":0`, `"sample_freq":"0"`, `"sample_freq":"0%"`, `"rate_limit_bps":0`,
			`"max_deliver":0`, `"max_waiting":0`, `"max_batch":0`, `"max_bytes":-1`, `"ack_wait":0`, `"max_ack_pending":0`, `"num_replicas":0`,
			`"deliver_subject":""`, `"deliver_group":""`, `"flow_control":false`, `"idle_heartbeat":0`, `"inactive_threshold":0`,
			`"replay_policy":""`, `"deliver_policy":""`, `"direct":false`,
		} {
			answer := s.answer("CONSUMER.CREATE.S.w", `{"stream_name":"S","action":"create","config":{"durable_name":"w","ack_policy":"explicit",`+field+`}}`)
			if answer["error"] != nil {
				t.Errorf("%s makes another consumer: %v", field, answer["error"])
			}
		}
	})
}

func TestConsumersBeginAtTheItemOfTheirPolicy(t *testing.T) {
	for policy, want := range map[string]uint64{
		`"deliver_policy":"all"`:                                                             0,
		`"deliver_policy":"new"`:                                                             5,
		`"deliver_policy":"last_per_subject"`:                                                4,
		`"deliver_policy":"by_start_sequence","opt_start_seq":4`:                             3,
		`"deliver_policy":"by_start_sequence","opt_start_seq":8`:                             5,
		`"deliver_policy":"by_start_time","opt_start_time":"1970-01-01T00:00:03Z"`:           3,
		`"deliver_policy":"by_start_time","opt_start_time":"1970-01-01T00:00:03Z","name":""`: 3,
	} {
		play(t, func(s *stage) {
			s.worker("," + policy)
			if from := s.log.starts["w"].From; from != want {
				t.Errorf("%s: the consumer begins at %d, want %d", policy, from, want)
			}

			if code, text := s.create(`{"ack_policy":"none",` + policy + `}`); code != 0 {
				t.Fatal(text)
			}
			if s.log.members[fmt.Sprintf("view from %d", want)] == nil {
				t.Errorf("%s: a viewer does not begin at %d", policy, want)
			}
			if _, there := s.store.configs["w"]; !there || len(s.store.configs) != 1 {
				t.Errorf("Redis knows %v", s.store.configs)
			}
		})
	}
}

func TestAConsumerCanBeMadeOnceAndChanged(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		code := func(action, more string) int {
			answer := s.answer("CONSUMER.CREATE.S.w", `{"stream_name":"S","action":"`+action+`","config":{"durable_name":"w","ack_policy":"explicit"`+more+`}}`)
			if failed, ok := answer["error"].(map[string]any); ok {
				return int(failed["err_code"].(float64))
			}
			return 0
		}
		for _, c := range []struct {
			action, more string
			want         int
		}{
			{"create", "", 0},
			{"create", `,"max_deliver":3`, 10148},
			{"", `,"max_deliver":3`, 0},
			{"update", `,"max_deliver":4,"deliver_policy":"new"`, 10012},
			{"update", `,"max_deliver":5`, 0},
			{"other", ``, 10025},
		} {
			if got := code(c.action, c.more); got != c.want {
				t.Errorf("%q with %s: %d, want %d", c.action, c.more, got, c.want)
			}
		}

		if s.log.durables["w"].MaxDeliver != 5 || !strings.Contains(s.store.configs["w"], `"max_deliver":5`) {
			t.Errorf("the last change is not in force: %v", s.store.configs)
		}

		if answer := s.answer("CONSUMER.CREATE.S.n", `{"stream_name":"S","action":"update","config":{"name":"n","ack_policy":"explicit"}}`); !strings.Contains(fmt.Sprint(answer), "10149") {
			t.Errorf("an update of none: %v", answer)
		}
	})
}

func TestAnEphemeralConsumerGoesWhenItIsNotUsed(t *testing.T) {
	play(t, func(s *stage) {
		if code, text := s.create(`{"name":"w","ack_policy":"explicit"}`); code != 0 || !s.log.durables["w"].Ephemeral {
			t.Fatal(text)
		}
		s.pull("a", `{"batch":1,"expires":8000000000}`)
		time.Sleep(12 * time.Second)
		s.want("the request ends", "a: 408 Request Timeout|Nats-Pending-Messages: 1|Nats-Pending-Bytes: 0")
		if s.store.count() != 1 {
			t.Error("it went while it was used")
		}
		time.Sleep(2 * time.Second)
		if synctest.Wait(); s.store.count() != 0 {
			t.Error("it is still there")
		}
	})
}

func TestAConsumerThatLagsIsDeletedOnceRedisAnswers(t *testing.T) {
	play(t, func(s *stage) {
		if code, text := s.create(`{"name":"w","ack_policy":"explicit","inactive_threshold":3600000000000}`); code != 0 {
			t.Fatal(text)
		}

		s.store.set(errAway, nil)
		s.api.CutOff("list", "w")
		synctest.Wait()
		if s.store.names() != "w" {
			t.Error("it went without Redis")
		}
		s.store.set(nil, nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if s.store.names() != "" || len(s.log.durables) != 0 {
			t.Errorf("Redis has %q, the relay %v", s.store.names(), s.log.durables)
		}
	})
}

func TestCreateWithoutANameInItsSubjectTakesNoOtherConsumer(t *testing.T) {
	play(t, func(s *stage) {
		if code, text := s.create(`{"name":"theirs","ack_policy":"explicit","deliver_subject":"d"}`); code != 0 {
			t.Fatal(text)
		}

		was := s.store.configs["theirs"]
		for config, want := range map[string]string{
			`{"name":"theirs","ack_policy":"explicit","deliver_subject":"stolen"}`: "10013",
			`{"name":"theirs","ack_policy":"explicit","deliver_subject":"d"}`:      "10013",
			`{"durable_name":"theirs","ack_policy":"explicit"}`:                    "10020",
			`{"durable_name":"new","ack_policy":"explicit"}`:                       "10020",
		} {
			answer := s.answer("CONSUMER.CREATE.S", `{"stream_name":"S","config":`+config+`}`)
			if !strings.Contains(fmt.Sprint(answer["error"]), want) || s.store.configs["theirs"] != was {
				t.Errorf("%s: %v, want %s", config, answer, want)
			}
		}

		answer := s.answer("CONSUMER.CREATE.S", `{"stream_name":"S","config":{"name":"new","ack_policy":"explicit"}}`)
		if answer["name"] != "new" {
			t.Errorf("a new name is answered %v", answer)
		}
	})
}

func TestAnEphemeralConsumerCanNotStayForEver(t *testing.T) {
	play(t, func(s *stage) {
		make := func(threshold time.Duration, more string) int {
			code, _ := s.create(fmt.Sprintf(`{"ack_policy":"explicit","inactive_threshold":%d%s}`, threshold, more))
			return code
		}
		if code := make(24*time.Hour, ""); code != 0 {
			t.Errorf("a day: %d", code)
		}

		if code := make(25*time.Hour, ""); code == 0 {
			t.Error("more than a day is accepted")
		}

		if code := make(25*time.Hour, `,"durable_name":"w"`); code != 0 {
			t.Errorf("more than a day, durable: %d", code)
		}
		s.client.keeps = false
		if code := make(5*time.Minute, ""); code != 0 {
			t.Errorf("five minutes without the grant: %d", code)
		}
		if code := make(6*time.Minute, ""); code == 0 {
			t.Error("more than five minutes are accepted without the grant")
		}
	})
}

func TestNoMessageHasANumberThatRedisCanNotCountTo(t *testing.T) {
	play(t, func(s *stage) {
		s.store.part.Items = append(s.store.part.Items, Item{Number: 1<<64 - 2})
		for _, request := range []string{`{"seq":18446744073709551615}`, `{"seq":9223372036854775808,"next_by_subj":"s"}`} {
			if answer := s.answer("STREAM.MSG.GET.S", request); !strings.Contains(fmt.Sprint(answer["error"]), "10037") {
				t.Errorf("%s is answered %v", request, answer)
			}
		}
	})
}

func TestAnUpdateKeepsTheBoundsThatCreateHas(t *testing.T) {
	play(t, func(s *stage) {
		create := func(name, more string) int {
			code, _ := s.create(`{"durable_name":"` + name + `","ack_policy":"explicit"` + more + `}`)
			return code
		}
		for _, name := range []string{"a", "b", "c"} {
			want := 0
			if name == "c" {
				want = 10023
			}
			if code := create(name, `,"max_ack_pending":10`); code != 0 {
				t.Fatalf("%s: %d", name, code)
			}
			if code := create(name, `,"max_ack_pending":65536`); code != want {
				t.Errorf("%s is to have 65,536 items pending: %d, want %d", name, code, want)
			}
		}

		if code := create("d", ""); code != 0 {
			t.Errorf("other consumers have all that may be pending, and one with the default gets %d", code)
		}
	})
}

func TestADeliverSubjectIsOfOneConsumer(t *testing.T) {
	play(t, func(s *stage) {
		create := func(name, to string) int {
			code, _ := s.create(`{"durable_name":"` + name + `","ack_policy":"explicit","deliver_subject":"` + to + `"}`)
			return code
		}

		s.net.close("to.a", "to.b")
		if a, b, b2 := create("a", "to.a"), create("b", "to.b"), create("b", "to.a"); a != 0 || b != 0 || b2 != 10112 {
			t.Errorf("the codes are %d, %d, and %d for the subject of the other one", a, b, b2)
		}
		s.store.set(nil, nil)
		s.store.configs["c"] = strings.ReplaceAll(strings.ReplaceAll(s.store.configs["a"], `"a"`, `"c"`), `"to.b"`, `"to.a"`)
		s.answer("CONSUMER.INFO.S.c", "") // of another process
		s.ask("CONSUMER.DELETE.S.c", "")
		s.net.subscribe("to.a")
		s.api.Interest("to.a")
		if info := s.answer("CONSUMER.INFO.S.a", ""); info["push_bound"] != true {
			t.Errorf("after the other one's end it is %v", info)
		}
	})
}

func TestAPushConsumerStopsWhenItsSubjectBecomesTheDaemons(t *testing.T) {
	play(t, func(s *stage) {
		if code, text := s.create(`{"durable_name":"w","ack_policy":"explicit","deliver_subject":"later"}`); code != 0 {
			t.Fatal(text)
		}
		if s.log.offer("w", 3, "x") != 1 {
			t.Fatal("it gets nothing")
		}
		s.net.take()

		s.owned["later"] = true
		s.api.Reloaded()
		if got := s.log.offer("w", 4, "y"); got != 0 {
			t.Errorf("it gets %d items on the subject of a list", got)
		}
		s.api.Interest("later")
		if got := s.log.offer("w", 4, "y"); got != 0 {
			t.Errorf("a subscription to the list gets %d items", got)
		}
		delete(s.owned, "later")
		s.api.Reloaded()
		if got := s.log.offer("w", 4, "y"); got != 1 {
			t.Errorf("the subject is free again, and it gets %d items", got)
		}
	})
}

func TestAViewerGoesWithItsClient(t *testing.T) {
	play(t, func(s *stage) {
		const viewer = `{"name":"w","ack_policy":"none","inactive_threshold":3600000000000}`
		if code, text := s.create(viewer); code != 0 {
			t.Fatal(text)
		}

		time.Sleep(time.Minute + time.Second) // not at the time of a check
		if len(s.log.members) != 1 {
			t.Error("it went while its client was there")
		}

		s.net.leave(1)
		s.client.id = 2
		s.pull("in", `{"batch":1,"expires":60000000000}`)
		time.Sleep(30 * time.Second)
		if len(s.log.members) != 1 {
			t.Error("it went while another connection used it")
		}
		s.net.close("in")
		time.Sleep(2 * defaultInactive)
		if synctest.Wait(); len(s.log.members) != 0 {
			t.Error("it stays after its client")
		}
	})
}

func TestOneClientLeavesConsumersForOtherClients(t *testing.T) {
	play(t, func(s *stage) {
		create := func(policy string) int {
			code, _ := s.create(`{"ack_policy":"` + policy + `","inactive_threshold":3600000000000}`)
			return code
		}
		for i := range maxOfClient {
			if code := create([]string{"none", "explicit"}[i%2]); code != 0 {
				t.Fatalf("consumer %d: %d", i, code)
			}
		}

		if code := create("none"); code != 10026 {
			t.Errorf("one more of the same client: %d", code)
		}
		s.worker("") // durables need the grant
		s.client.id = 2
		if code := create("none"); code != 0 {
			t.Errorf("one of another client: %d", code)
		}
	})
}

func TestAPushConsumerWaitsForInterestAndForItsClient(t *testing.T) {
	play(t, func(s *stage) {
		s.net.closed["to"] = true
		s.worker(`,"deliver_subject":"to","idle_heartbeat":1000000000,"flow_control":true`)
		if s.log.offer("w", 0, "x") != 0 {
			t.Error("an item went to no client")
		}
		s.net.closed["to"] = false
		s.api.Interest("t*")
		if s.log.offer("w", 0, "x") != 0 {
			t.Error("a subscription to something else is no interest")
		}
		s.api.Interest("*")
		s.log.offer("w", 0, "x")
		s.want("it goes on", "to: S.w 0/1 x")
		time.Sleep(time.Second + time.Millisecond)
		s.want("a heartbeat", "to: 100 Idle Heartbeat|Nats-Last-Consumer: 1|Nats-Last-Stream: 1")

		large := strings.Repeat("y", 100_000)
		if taken := s.log.offer("w", 1, slices.Repeat([]string{large}, 10)...); taken != 10 {
			t.Errorf("%d items are taken", taken)
		}
		s.log.offer("w", 11, slices.Repeat([]string{large}, 10)...)
		synctest.Wait()
		asked := ""
		for _, text := range s.net.take() {
			if rest, ok := strings.CutPrefix(text, "to: 100 FlowControl Request -> "); ok {
				asked = rest
			}
		}
		if asked != "$JS.FC.S.w.1" || s.log.offer("w", 30, large) != 0 {
			t.Errorf("the client has not answered %q, and gets more", asked)
		}
		s.api.Resume("$JS.FC.S.w.7")
		if s.log.offer("w", 30, large) != 0 {
			t.Error("an answer to another request counts")
		}
		s.api.Resume(asked)
		if s.log.offer("w", 30, large) != 1 {
			t.Error("it does not go on after the answer")
		}
	})
}

func TestAcknowledgementsReachTheirConsumer(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		if code, text := s.create(`{"durable_name":"all","ack_policy":"all"}`); code != 0 {
			t.Fatal(text)
		}

		if code, text := s.create(`{"name":"view","ack_policy":"none"}`); code != 0 {
			t.Fatal(text)
		}
		acked := batch.Ack{Kind: batch.Acked}
		_ = s.api.Acknowledge("S", "w", s.life("w"), 3, acked, nil)
		_ = s.api.Acknowledge("S", "all", s.life("all"), 4, acked, nil)
		want := []string{fmt.Sprintf("w e 3 %d", batch.Acked), fmt.Sprintf("all e 4 %d", batch.AckedAll)}
		if !slices.Equal(s.log.acks, want) {
			t.Errorf("the relay was told %q, want %q", s.log.acks, want)
		}

		if err := s.api.Acknowledge("S", "view", "e", 3, acked, nil); err != batch.ErrNotGiven {
			t.Errorf("a viewer acknowledges: %v", err)
		}

		if err := s.api.Acknowledge("T", "w", "e", 3, acked, nil); err != batch.ErrNotGiven {
			t.Errorf("a stream that is none acknowledges: %v", err)
		}
		outcome := make(chan error, 1)
		_ = s.api.Acknowledge("S", "none", "e", 3, acked, func(err error) { outcome <- err })
		if err := <-outcome; err != batch.ErrNotGiven {
			t.Errorf("a consumer that is none acknowledges: %v", err)
		}
		_ = s.api.Acknowledge("S", "none", "e", 3, acked, nil)
		synctest.Wait()
		if n := s.late.Load(); n != 2 {
			t.Errorf("%d acknowledgements count as refused, want 2", n)
		}
	})
}

func TestAClientLearnsNothingOfAListThatItMayNotSubscribeTo(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		s.client.subscribes = func(subject string) bool { return subject != "s" && subject != "secret" }
		for _, name := range []string{"STREAM.INFO.S", "STREAM.MSG.GET.S", "CONSUMER.NAMES.S", "CONSUMER.LIST.S", "CONSUMER.INFO.S.w", "CONSUMER.DELETE.S.w", "CONSUMER.CREATE.S.x"} {
			if answer := s.answer(name, `{"seq":3}`); !strings.Contains(fmt.Sprint(answer["error"]), "10059") {
				t.Errorf("%s is answered %v", name, answer)
			}
		}

		for _, name := range []string{"STREAM.NAMES", "STREAM.LIST", "INFO"} {
			if text := fmt.Sprint(s.answer(name, "")); strings.Contains(text, "S]") || strings.Contains(text, "streams:1") {
				t.Errorf("%s is answered %s", name, text)
			}
		}

		if got := s.ask("DIRECT.GET.S", `{"seq":3}`); fmt.Sprint(got) != "[re: 404 Message Not Found]" {
			t.Errorf("DIRECT.GET is answered %q", got)
		}
		s.client.subscribes, s.client.keeps = func(subject string) bool { return subject != "secret" }, false
		if code, text := s.create(`{"durable_name":"x","ack_policy":"explicit"}`); code == 0 || !strings.Contains(text, "durables = true") {
			t.Errorf("a durable consumer without the grant: %d %s", code, text)
		}
		if code, text := s.create(`{"ack_policy":"explicit","deliver_subject":"secret"}`); code != 10112 {
			t.Errorf("a deliver subject that the user may not subscribe to: %d %s", code, text)
		}
	})
}

func TestMessagesAndStreamsAreReadFromRedis(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		info := s.answer("STREAM.INFO.S", "")
		state, config := info["state"].(map[string]any), info["config"].(map[string]any)
		if state["messages"] != 3.0 || state["first_seq"] != 3.0 || state["last_seq"] != 5.0 || state["consumer_count"] != 1.0 || config["retention"] != "interest" || config["allow_direct"] != true {
			t.Errorf("the stream is %v", info)
		}

		for request, want := range map[string]string{
			`{"seq":4}`:                      `data:dGhyZWU=`,
			`{"last_by_subj":"s"}`:           `data:Zm91cg==`,
			`{"next_by_subj":"*","seq":1}`:   `data:dHdv`,
			`{"seq":9}`:                      "10037",
			`{"last_by_subj":"t"}`:           "10037",
			`{"next_by_subj":"t","seq":1}`:   "10037",
			`{}`:                             "10003",
			`{`:                              "10025",
			`{"batch":2,"next_by_subj":"s"}`: "10003",
		} {
			if text := fmt.Sprint(s.answer("STREAM.MSG.GET.S", request)); !strings.Contains(text, want) {
				t.Errorf("%s is answered %s, want %s", request, text, want)
			}
		}

		if got := s.ask("DIRECT.GET.S.s", ""); len(got) != 1 || !strings.HasPrefix(got[0], "re: NATS/1.0|Nats-Stream: S|Nats-Subject: s|Nats-Sequence: 5|Nats-Time-Stamp: ") || !strings.HasSuffix(got[0], "four") {
			t.Errorf("DIRECT.GET is answered %q", got)
		}

		if got := s.ask("DIRECT.GET.S", "{}"); fmt.Sprint(got) != "[re: 408 Bad Request]" {
			t.Errorf("DIRECT.GET of nothing is answered %q", got)
		}
		for _, name := range []string{"STREAM.CREATE.x", "STREAM.PURGE.S", "CONSUMER.PAUSE.S.w", "META.LEADER.STEPDOWN"} {
			failed, _ := s.answer(name, "{}")["error"].(map[string]any)
			if failed == nil || !strings.HasPrefix(failed["description"].(string), "not offered by edged: ") {
				t.Errorf("%s is answered %v", name, failed)
			}
		}
	})
}

func TestItemsAreOfTheTimeWhenTheyWereSeenFirst(t *testing.T) {
	play(t, func(s *stage) {
		now := time.Now().UTC()
		old, older := now.Add(-time.Hour), now.Add(-2*time.Hour)
		s.log.seen = map[uint64]time.Time{2: old}
		s.store.part.Items[0].Seen, s.store.part.Items[1].Seen = older, older
		for n, want := range map[int]time.Time{3: old, 4: older, 5: now} { // known to the relay, to Redis, to neither
			message := s.answer("STREAM.MSG.GET.S", fmt.Sprintf(`{"seq":%d}`, n))["message"].(map[string]any)
			if message["time"] != want.Format(time.RFC3339Nano) {
				t.Errorf("item %d is of %v, want %v", n, message["time"], want)
			}
			if got := s.ask("DIRECT.GET.S", fmt.Sprintf(`{"seq":%d}`, n)); !strings.Contains(got[0], "|Nats-Time-Stamp: "+want.Format(time.RFC3339Nano)) {
				t.Errorf("DIRECT.GET of item %d is answered %q, want %v", n, got, want)
			}
		}

		state := s.answer("STREAM.INFO.S", "")["state"].(map[string]any)
		if state["first_ts"] != old.Format(time.RFC3339Nano) || state["last_ts"] != now.Format(time.RFC3339Nano) {
			t.Errorf("the stream is %v", state)
		}

		s.store.part.Length = 0
		if state := s.answer("STREAM.INFO.S", "")["state"].(map[string]any); state["first_ts"] != "0001-01-01T00:00:00Z" {
			t.Errorf("the empty stream is %v", state)
		}
	})
}

// After a start the relay reads a list only when a consumer takes items.
func TestUntilTheListIsReadRedisTellsHowAConsumerStands(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		s.log.unknown = true

		standing := func() string {
			info := s.answer("CONSUMER.INFO.S.w", "")
			return fmt.Sprint(info["delivered"], info["ack_floor"], info["num_pending"])
		}
		if got := standing(); got != "map[consumer_seq:0 stream_seq:2] map[consumer_seq:0 stream_seq:2] 3" {
			t.Errorf("without a place in the list it is %s", got)
		}
		s.store.standing = map[string]State{"w": {Floor: 3, Next: 5, Pending: 1}}
		if got := standing(); got != "map[consumer_seq:0 stream_seq:5] map[consumer_seq:0 stream_seq:3] 1" {
			t.Errorf("with a place in the list it is %s", got)
		}
		s.store.fails = errAway
		if answer := s.answer("CONSUMER.INFO.S.w", ""); answer["error"] == nil {
			t.Errorf("without Redis INFO is answered %v", answer)
		}
	})
}

func TestAcknowledgementsCountForTheConsumerThatGotTheItem(t *testing.T) {
	play(t, func(s *stage) {
		say := func(life string) error { return s.api.Acknowledge("S", "w", life, 3, batch.Ack{}, nil) }
		s.worker("")
		old := s.life("w")
		s.worker(`,"max_ack_pending":7`)
		if got := s.life("w"); got != old || say(old) != nil {
			t.Errorf("after an update it is %s, not %s: its acknowledgements do not count", got, old)
		}

		s.answer("CONSUMER.DELETE.S.w", "")
		s.worker("")
		if say(old) != batch.ErrNotGiven || say("e") != batch.ErrNotGiven || say(s.life("w")) != nil {
			t.Errorf("made again it is %s, as %s before", s.life("w"), old)
		}

		old = s.life("w")
		s.store.mu.Lock()
		s.store.configs["w"] = strings.Replace(s.store.configs["w"], strings.TrimPrefix(old, "e-"), "other", 1)
		configs := maps.Clone(s.store.configs)
		s.store.mu.Unlock()
		s.api.Load("list", configs, nil, false)
		synctest.Wait()
		if say(old) != batch.ErrNotGiven || say("e-other") != nil {
			t.Error("one that another instance has deleted and made again is taken for the old one")
		}
	})
}

func TestAtTheDrainRequestsEnd(t *testing.T) {
	play(t, func(s *stage) {
		s.worker("")
		s.pull("a", "5")
		s.api.Stop()
		s.want("the request ends", "a: 409 Server Shutdown")
		s.pull("a", "5")
		s.want("so does the next", "a: 409 Server Shutdown")
		if err := s.api.Acknowledge("S", "w", s.life("w"), 3, batch.Ack{}, nil); err != nil || len(s.log.acks) != 1 {
			t.Errorf("acknowledgements do not go on: %v", err)
		}
	})
}
