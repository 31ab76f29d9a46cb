package jetstream

import (
	"encoding/json"
	"maps"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"edged/internal/subject"
)

const ( // mostAnswered bounds the bytes of an answer that describes at most two consumers.
	mostAnswered = 3 * maxConfig
	// mostAllocated bounds the bytes that a request may allocate, in all goroutines together.
	mostAllocated = 2 << 20
)

// FuzzRequests sends a request, then its payload to each other call: first as a user with rules,
// then as one without. serves says whether this process serves the list. No call may panic, each
// answer must be one of JetStream's, and memory must stay within the bounds.
func FuzzRequests(f *testing.F) {
	for name, payload := range fuzzSeeds {
		f.Add(name, []byte(payload), "_INBOX.a", true)
	}
	for _, payload := range largePayloads() {
		f.Add("CONSUMER.CREATE.S.c", []byte(payload), "_INBOX.a", true)
	}
	f.Fuzz(func(t *testing.T, name string, payload []byte, reply string, serves bool) {
		if !subject.Literal([]byte("$JS.API."+name)) || reply != "" && !subject.Literal([]byte(reply)) {
			return // the server refuses it
		}
		play(t, func(s *stage) {
			s.worker("")
			if s.store.owner = serves; serves {
				s.api.Load("list", maps.Clone(s.store.configs), nil, false)
			}
			s.api.Add(Stream{Name: "T", Subject: "t", Key: "other", Log: s.log})
			bound := &fuzzClient{fakeClient: fakeClient{network: s.net, subscribes: func(to string) bool { return to == "s" || to == "mine" }, id: 2}}
			free := &fuzzClient{fakeClient: s.client}

			fuzzCalls(s, bound, name, payload, reply)
			s.checkRights()
			fuzzCalls(s, free, name, payload, reply)
			s.checkBounds()

			for member := range s.members() {
				s.log.offer(member, 2, "two", "three")
			}
			time.Sleep(3 * minInterval) // heartbeats
			synctest.Wait()
			fuzzStatuses(t, s.net.take())
			s.checkNothingWaits(bound.id, free.id)
		})
	})
}

// fuzzSeeds are requests of each call, by name.
var fuzzSeeds = map[string]string{
	"INFO":                  "",
	"STREAM.NAMES":          `{"offset":-1,"subject":"*"}`,
	"STREAM.LIST":           `{"offset":9223372036854775807,"subject":">"}`,
	"STREAM.INFO.S":         `{"subjects_filter":">","offset":1}`,
	"STREAM.MSG.GET.S":      `{"seq":3}`,
	"STREAM.MSG.GET.T":      `{"last_by_subj":"t","seq":18446744073709551615}`,
	"STREAM.CREATE.KV_x":    `{"name":"KV_x"}`,
	"DIRECT.GET.S":          `{"next_by_subj":"s","seq":4,"multi_last":["s"]}`,
	"DIRECT.GET.S.s":        "",
	"CONSUMER.CREATE.S":     `{"stream_name":"S","config":{"ack_policy":"none","deliver_policy":"last"}}`,
	"CONSUMER.CREATE.S.c":   `{"stream_name":"S","action":"update","config":{"name":"c","ack_policy":"all","deliver_policy":"by_start_time","opt_start_time":"9999-12-31T23:59:59.999999999-23:59"}}`,
	"CONSUMER.CREATE.S.w":   `{"stream_name":"S","config":{"durable_name":"w","ack_policy":"explicit","metadata":{"a":"\u0000"},"description":"` + "\x7f\xc2\x9b" + `"}}`,
	"CONSUMER.CREATE.S.d.s": `{"stream_name":"S","config":{"name":"d","filter_subject":"s","filter_subjects":null,"backoff":[1e8,1e9],"max_deliver":3,"ack_policy":"explicit"}}`,
	"CONSUMER.DURABLE.CREATE.S.p": `{"stream_name":"S","config":{"durable_name":"p","deliver_subject":"mine","deliver_group":"g","flow_control":true,` +
		`"idle_heartbeat":100000000,"ack_policy":"explicit","max_ack_pending":65536,"rate_limit_bps":0,"pause_until":"0001-01-01T00:00:00Z"}}`,
	"CONSUMER.NAMES.S":       `{"offset":1}`,
	"CONSUMER.LIST.S":        `{"offset":"x"}`,
	"CONSUMER.INFO.S.w":      "null",
	"CONSUMER.DELETE.S.w":    "[]",
	"CONSUMER.MSG.NEXT.S.w":  `{"batch":9,"expires":4611686018427387904,"idle_heartbeat":4611686018427387904,"no_wait":true}`,
	"CONSUMER.MSG.NEXT.S.c":  "99999999999999999999",
	"CONSUMER.MSG.NEXT.S.d":  `{"batch":1,"expires":1000000000,"idle_heartbeat":200000000,"max_bytes":70}`,
	"CONSUMER.PAUSE.S.w":     `{"pause_until":"2030-01-01T00:00:00Z"}`,
	"CONSUMER.LEADER.S.\x01": strings.Repeat(`{"config":`, 4000),
}

// largePayloads returns payloads up to and beyond the maximum size of a request.
func largePayloads() (all []string) {
	whole := func(begin, repeated, end string) {
		n := (maxRequest - len(begin) - len(end)) / len(repeated)
		all = append(all, begin+strings.Repeat(repeated, n)+end)
	}
	const create = `{"stream_name":"S","config":{"ack_policy":"explicit",`
	whole(create+`"deliver_policy":"`, "<", `"}}`)
	whole(create+`"replay_policy":"`, "<", `"}}`)
	whole(create+`"ack_wait":`, "1", `}}`)
	whole(create+`"description":"`, "<", `"}}`)
	whole(create+`"filter_subjects":["s"`, `,"s"`, `]}}`)
	whole(create+`"backoff":[1`, ",1", `]}}`)
	whole(create+`"metadata":{"a":{`, `"a":{`, "")
	whole(`{"batch":`, "9", "}")
	whole("[", "[", "")
	return append(all, strings.Repeat(" ", maxRequest+1))
}

// fuzzCalls sends a request, and its payload to each other call with the same names.
func fuzzCalls(s *stage, c *fuzzClient, name string, payload []byte, reply string) {
	s.t.Helper()
	_, rest := cutVerb(name)
	names := []string{name}
	for _, verb := range verbs {
		names = append(names, strings.TrimSuffix(verb+"."+rest, "."))
	}
	for _, name := range names {
		before := allocated()
		s.api.Request(name, payload, reply, c)
		synctest.Wait()
		if n := allocated() - before; n > mostAllocated {
			s.t.Errorf("%d bytes were allocated for %q", n, name)
		}

		answers := c.take()
		verb, _ := cutVerb(name)
		if len(answers) != 1 && verb != "CONSUMER.MSG.NEXT" || len(answers) > 1 {
			s.t.Errorf("%q got %d answers", name, len(answers))
		}
		for _, a := range answers {
			if a.to != reply {
				s.t.Errorf("%q was answered to %q", name, a.to)
			}
			a.check(s.t, name)
		}
	}
	if s.net.held != 0 {
		s.t.Errorf("%d bytes are held for requests that were answered", s.net.held)
	}
}

// fuzzClient is a client that keeps the answers as they are.
type fuzzClient struct {
	fakeClient
	mu      sync.Mutex
	answers []fuzzAnswer
}

type fuzzAnswer struct {
	to              string
	header, payload []byte
}

func (c *fuzzClient) Send(to string, header, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers = append(c.answers, fuzzAnswer{to, slices.Clone(header), slices.Clone(payload)})
}

func (c *fuzzClient) take() []fuzzAnswer {
	c.mu.Lock()
	defer c.mu.Unlock()
	answers := c.answers
	c.answers = nil
	return answers
}

// check expects one of JetStream's answers: a JSON object with a type, or a status.
func (a fuzzAnswer) check(t *testing.T, name string) {
	t.Helper()
	if len(a.header)+len(a.payload) > mostAnswered {
		t.Errorf("the answer to %q has %d bytes", name, len(a.header)+len(a.payload))
	}
	if a.header != nil {
		checkHeader(t, string(a.header))
		return
	}

	var answer struct {
		Type  string    `json:"type"`
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(a.payload, &answer); err != nil || !utf8.Valid(a.payload) {
		t.Fatalf("%q was answered %q: %v", name, a.payload, err)
	}
	if !strings.HasPrefix(answer.Type, typePrefix) || !strings.HasSuffix(answer.Type, "_response") && answer.Type != typePrefix+"error" {
		t.Errorf("the answer to %q has the type %q", name, answer.Type)
	}
	if e := answer.Error; e != nil && (e.Code < 400 || e.Code > 599 || e.ErrCode < 10000 || e.ErrCode > 10999 || e.Description == "") {
		t.Errorf("%q got the error %+v", name, e)
	}
}

// checkHeader expects a header block: a line of the protocol, and lines with a name and a value.
func checkHeader(t *testing.T, header string) {
	t.Helper()
	lines, whole := strings.CutSuffix(header, "\r\n\r\n")
	for i, line := range strings.Split(lines, "\r\n") {
		name, _, pair := strings.Cut(line, ":")
		good := pair && strings.HasPrefix(name, "Nats-")
		if i == 0 {
			good = line == "NATS/1.0" || len(line) > len("NATS/1.0 400") && line[9] >= '1' && line[9] <= '5' || line == strings.TrimSpace(statusNoResponder)
		}
		if !good || !whole || strings.ContainsFunc(line, unicode.IsControl) {
			t.Errorf("the header block is %q", header)
		}
	}
}

// fuzzStatuses checks the statuses among the messages that outlets received.
func fuzzStatuses(t *testing.T, messages []string) {
	t.Helper()
	for _, m := range messages {
		if strings.ContainsAny(m, "\r\n") || len(m) > mostAnswered {
			t.Errorf("an outlet got %q", m)
		}
	}
}

// checkRights expects that a user with rules has nothing beyond them.
func (s *stage) checkRights() {
	s.t.Helper()
	s.api.mu.Lock()
	defer s.api.mu.Unlock()
	for _, st := range s.api.streams {
		for name, c := range st.consumers {
			cfg := c.settings()
			if st.Name != "S" || cfg.Durable != "" && name != "w" || cfg.push() && cfg.DeliverSubject != "mine" ||
				cfg.Durable == "" && cfg.InactiveThreshold > maxInactiveOfRules {
				s.t.Errorf("a user with rules has made %+v", cfg)
			}
		}
	}
}

// checkBounds expects that consumers are within the bounds and that Redis has each of them.
func (s *stage) checkBounds() {
	s.t.Helper()
	s.api.mu.Lock()
	defer s.api.mu.Unlock()
	for _, st := range s.api.streams {
		if len(st.consumers) > maxConsumers {
			s.t.Errorf("stream %s has %d consumers", st.Name, len(st.consumers))
		}
		for name, c := range st.consumers {
			cfg := c.settings()
			text, err := json.Marshal(cfg)
			if err != nil || len(text) > maxConfig || len(name) > maxNameLen || !subject.Literal([]byte(name)) || cfg.MaxAckPending > maxAckPending {
				s.t.Errorf("stream %s has %q, %v", st.Name, text, err)
			}
		}
	}
}

// members returns the names of the consumers in the relay.
func (s *stage) members() map[string]bool {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	all := map[string]bool{}
	for name := range s.log.members {
		all[name] = true
	}
	return all
}

// checkNothingWaits disconnects clients and expects that nothing of them is left.
func (s *stage) checkNothingWaits(clients ...uint64) {
	s.t.Helper()
	for _, id := range clients {
		s.net.leave(id)
		s.api.Left(id)
	}
	synctest.Wait()
	s.api.mu.Lock()
	defer s.api.mu.Unlock()

	for _, c := range s.api.all() {
		c.mu.Lock()
		if len(c.waiting) > 0 || c.wanted != 0 {
			s.t.Errorf("%d requests for %d items wait at %s", len(c.waiting), c.wanted, c.name)
		}
		c.mu.Unlock()
	}

	if s.net.held != 0 || len(s.api.work.users) > 0 {
		s.t.Errorf("%d bytes are held, %d clients are known", s.net.held, len(s.api.work.users))
	}
}

// allocated returns the number of bytes allocated so far.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
