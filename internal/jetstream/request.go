package jetstream

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"edged/internal/subject"
)

// request is a request to the API.
type request struct {
	api     *API
	client  Client
	from    *user
	reply   string
	payload []byte
}

// Request answers a request to $JS.API.<name>. It does not keep the payload.
func (a *API) Request(name string, payload []byte, reply string, from Client) {
	a.asked.Add(1)
	r := &request{api: a, client: from, from: a.work.user(from.ID()), reply: reply, payload: payload}
	verb, rest := cutVerb(name)
	if len(payload) > maxRequest {
		r.tooLarge(verb)
		return
	}

	switch verb {
	case "INFO":
		r.accountInfo()
	case "STREAM.NAMES":
		r.streamNames()
	case "STREAM.LIST":
		r.streamList()
	case "CONSUMER.MSG.NEXT":
		r.next(rest)
	case "STREAM.INFO":
		r.inStream(rest, "stream_info", r.streamInfo)
	case "STREAM.MSG.GET":
		r.inStream(rest, "stream_msg_get", r.messageGet)
	case "DIRECT.GET":
		r.directGet(rest)
	case "CONSUMER.CREATE", "CONSUMER.DURABLE.CREATE":
		r.create(verb, rest)
	case "CONSUMER.NAMES":
		r.inStream(rest, "consumer_names", r.consumerNames)
	case "CONSUMER.LIST":
		r.inStream(rest, "consumer_list", r.consumerList)
	case "CONSUMER.INFO":
		r.inConsumer(rest, "consumer_info", r.consumerInfo)
	case "CONSUMER.DELETE":
		r.inConsumer(rest, "consumer_delete", r.consumerDelete)
	default:
		r.refuse(name)
	}
}

// verbs are the supported requests, the longest first.
var verbs = []string{
	"CONSUMER.DURABLE.CREATE", "CONSUMER.MSG.NEXT", "CONSUMER.CREATE", "CONSUMER.DELETE", "CONSUMER.NAMES", "CONSUMER.LIST", "CONSUMER.INFO",
	"STREAM.MSG.GET", "STREAM.NAMES", "STREAM.LIST", "STREAM.INFO", "DIRECT.GET", "INFO",
}

// cutVerb cuts the verb off the name of a request.
func cutVerb(name string) (verb, rest string) {
	for _, v := range verbs {
		if after, ok := strings.CutPrefix(name, v); ok && (after == "" || after[0] == '.') {
			return v, strings.TrimPrefix(after, ".")
		}
	}
	return "", name
}

// advice names a remedy for each unsupported request.
var advice = []struct{ prefix, kind, text string }{
	{"STREAM.CREATE", "stream_create", "a stream is a Redis list: add a [[list]] to edged's configuration"},
	{"STREAM.UPDATE", "stream_update", "a stream is a Redis list: change its [[list]] in edged's configuration"},
	{"STREAM.DELETE", "stream_delete", "a stream is a Redis list: remove its [[list]] from edged's configuration, or DEL the key in Redis"},
	{"STREAM.PURGE", "stream_purge", "a stream is a Redis list: DEL the key in Redis"},
	{"STREAM.MSG.DELETE", "stream_msg_delete", "items leave a list when its consumers have acknowledged them"},
	{"STREAM.SNAPSHOT", "stream_snapshot", "back up Redis"},
	{"STREAM.RESTORE", "stream_restore", "restore Redis"},
	{"CONSUMER.PAUSE", "consumer_pause", "pause the list on the control socket, or stop pulling"},
	{"CONSUMER.UNPIN", "consumer_unpin", "consumers have no priority groups here"},
	{"CONSUMER.RESET", "consumer_reset", "delete the consumer and create it with a start sequence"},
	{"", "error", "edged serves the consumers of streams; streams, key-value and object stores need a NATS cluster"},
}

// refuse answers a request that is not supported.
func (r *request) refuse(name string) {
	for _, a := range advice {
		if strings.HasPrefix(name, a.prefix) {
			r.fail(a.kind, errNotOffered.because("%s", a.text))
			return
		}
	}
}

// tooLarge answers a request whose payload is too large, in the form of its verb.
func (r *request) tooLarge(verb string) {
	switch verb {
	case "CONSUMER.MSG.NEXT", "DIRECT.GET":
		r.status(fmt.Sprintf("NATS/1.0 400 Bad Request - the request is larger than %d bytes\r\n\r\n", maxRequest))
	default:
		r.fail("error", errBadRequest.because("the request is larger than %d bytes", maxRequest))
	}
}

// later queues the rest of the request for the goroutine that uses the Store.
func (r *request) later(kind string, do func(context.Context)) {
	r.enqueue(do, func() { r.fail(kind, errUnavailable.because("too many requests wait for Redis")) })
}

// enqueue queues work for the goroutine that uses the Store; refuse is called if that goroutine
// will not do it. While the request waits, its memory counts for its client.
func (r *request) enqueue(do func(context.Context), refuse func()) {
	r.payload = bytes.Clone(r.payload)
	held := requestSize + len(r.payload) + len(r.reply)
	r.client.Hold(held)
	release := func() { r.client.Hold(-held) }
	if !r.api.work.add(r.from, task{do: do, refuse: refuse, drop: release}) {
		release()
		refuse()
	}
}

// find returns a stream if the client may subscribe to its subject, and so may know of it.
func (r *request) find(name string) *stream {
	st := r.api.stream(name)
	if st == nil || !r.client.MaySubscribe(st.Subject) {
		return nil
	}
	return st
}

// inStream calls do with a stream.
func (r *request) inStream(name, kind string, do func(context.Context, *stream)) {
	st := r.find(name)
	if st == nil {
		r.fail(kind, errNoStream)
		return
	}
	r.later(kind, func(ctx context.Context) { do(ctx, st) })
}

// inConsumer calls do with a consumer.
func (r *request) inConsumer(names, kind string, do func(context.Context, *consumer)) {
	name, consumer, _ := strings.Cut(names, ".")
	r.inStream(name, kind, func(ctx context.Context, st *stream) {
		c, err := r.api.known(ctx, st, consumer)
		switch {
		case err != nil:
			r.fail(kind, err)
		case c == nil:
			r.fail(kind, errNoConsumer)
		default:
			do(ctx, c)
		}
	})
}

type accountInfo struct {
	response
	Memory          uint64        `json:"memory"`
	Storage         uint64        `json:"storage"`
	ReservedMemory  uint64        `json:"reserved_memory"`
	ReservedStorage uint64        `json:"reserved_storage"`
	Streams         int           `json:"streams"`
	Consumers       int           `json:"consumers"`
	Limits          accountLimits `json:"limits"`
	API             struct {
		Level  int    `json:"level"`
		Total  uint64 `json:"total"`
		Errors uint64 `json:"errors"`
	} `json:"api"`
}

type accountLimits struct {
	MaxMemory            int64 `json:"max_memory"`
	MaxStorage           int64 `json:"max_storage"`
	MaxStreams           int   `json:"max_streams"`
	MaxConsumers         int   `json:"max_consumers"`
	MaxAckPending        int   `json:"max_ack_pending"`
	MemoryMaxStreamBytes int64 `json:"memory_max_stream_bytes"`
	StoreMaxStreamBytes  int64 `json:"storage_max_stream_bytes"`
	MaxBytesRequired     bool  `json:"max_bytes_required"`
}

func (r *request) accountInfo() {
	a := accountInfo{response: of("account_info"), Limits: accountLimits{
		MaxMemory: -1, MaxStorage: -1, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: maxAckPending, MemoryMaxStreamBytes: -1, StoreMaxStreamBytes: -1,
	}}
	for _, st := range r.streams("") {
		a.Streams++
		a.Consumers += r.api.count(st)
	}
	a.API.Total, a.API.Errors = r.api.asked.Load(), r.api.refused.Load()
	r.answer(a)
}

// count returns the number of consumers of a stream.
func (a *API) count(st *stream) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(st.consumers)
}

// streams returns, by name, the streams that the client may know of and whose subject matches
// filter, if filter is not empty.
func (r *request) streams(filter string) (all []*stream) {
	r.api.mu.Lock()
	defer r.api.mu.Unlock()
	for _, st := range r.api.streams {
		if r.client.MaySubscribe(st.Subject) && (filter == "" || subject.Overlap(filter, st.Subject)) {
			all = append(all, st)
		}
	}
	slices.SortFunc(all, func(a, b *stream) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// page says which part of a list an answer has.
type page struct {
	Total  int `json:"total"`
	Offset int `json:"offset"`
	Limit  int `json:"limit"`
}

// paged is a request for part of a list.
type paged struct {
	Offset  int    `json:"offset"`
	Subject string `json:"subject"`
}

// paged reads the request, which may be empty.
func (r *request) paged() (p paged) {
	if len(bytes.TrimSpace(r.payload)) > 0 {
		_ = json.Unmarshal(r.payload, &p)
	}
	p.Offset = max(0, p.Offset)
	return p
}

// part returns the elements from an offset on, at most limit.
func part[T any](all []T, offset, limit int) ([]T, page) {
	p := page{Total: len(all), Offset: min(offset, len(all)), Limit: limit}
	all = all[p.Offset:]
	return all[:min(len(all), limit)], p
}

const (
	namesLimit = 1024
	infosLimit = 256
)

func (r *request) streamNames() {
	p := r.paged()
	names := []string{}
	for _, st := range r.streams(p.Subject) {
		names = append(names, st.Name)
	}
	answer := struct {
		response
		page
		Streams []string `json:"streams"`
	}{response: of("stream_names")}
	answer.Streams, answer.page = part(names, p.Offset, namesLimit)
	r.answer(answer)
}

func (r *request) streamList() {
	p := r.paged()
	all := r.streams(p.Subject)
	r.later("stream_list", func(ctx context.Context) {
		answer := struct {
			response
			page
			Streams []streamInfo `json:"streams"`
		}{response: of("stream_list"), Streams: []streamInfo{}}
		var shown []*stream
		shown, answer.page = part(all, p.Offset, infosLimit)
		for _, st := range shown {
			info, err := r.api.streamInfo(ctx, st)
			if err != nil {
				r.fail("stream_list", err)
				return
			}
			answer.Streams = append(answer.Streams, info)
		}

		r.answer(answer)
	})
}

// streamInfo describes a stream. Fields without a meaning here have the values that stand for "no
// bound".
type streamInfo struct {
	Config  streamConfig `json:"config"`
	Created time.Time    `json:"created"`
	State   streamState  `json:"state"`
	Time    time.Time    `json:"ts"`
}

type streamConfig struct {
	Name              string            `json:"name"`
	Subjects          []string          `json:"subjects"`
	Retention         string            `json:"retention"`
	MaxConsumers      int               `json:"max_consumers"`
	MaxMsgs           int64             `json:"max_msgs"`
	MaxBytes          int64             `json:"max_bytes"`
	MaxAge            int64             `json:"max_age"`
	MaxMsgsPerSubject int64             `json:"max_msgs_per_subject"`
	MaxMsgSize        int32             `json:"max_msg_size"`
	Discard           string            `json:"discard"`
	Storage           string            `json:"storage"`
	Replicas          int               `json:"num_replicas"`
	DuplicateWindow   int64             `json:"duplicate_window"`
	Compression       string            `json:"compression"`
	AllowDirect       bool              `json:"allow_direct"`
	MirrorDirect      bool              `json:"mirror_direct"`
	Sealed            bool              `json:"sealed"`
	DenyDelete        bool              `json:"deny_delete"`
	DenyPurge         bool              `json:"deny_purge"`
	AllowRollup       bool              `json:"allow_rollup_hdrs"`
	ConsumerLimits    struct{}          `json:"consumer_limits"`
	Metadata          map[string]string `json:"metadata"`
}

type streamState struct {
	Messages    uint64            `json:"messages"`
	Bytes       uint64            `json:"bytes"`
	FirstSeq    uint64            `json:"first_seq"`
	FirstTime   time.Time         `json:"first_ts"`
	LastSeq     uint64            `json:"last_seq"`
	LastTime    time.Time         `json:"last_ts"`
	NumSubjects int               `json:"num_subjects"`
	Subjects    map[string]uint64 `json:"subjects,omitempty"`
	Consumers   int               `json:"consumer_count"`
}

// streamInfo reads the state of a stream from Redis.
func (a *API) streamInfo(ctx context.Context, st *stream) (streamInfo, *apiError) {
	p, err := a.opts.Store.Part(ctx, st.Key, 0, 0)
	if err != nil {
		return streamInfo{}, errUnavailable.because("%s", err)
	}
	info := streamInfo{Created: st.created, Time: time.Now().UTC()}
	info.Config = streamConfig{
		Name: st.Name, Subjects: []string{st.Subject}, Retention: "interest", MaxConsumers: maxConsumers, MaxMsgs: -1, MaxBytes: -1,
		MaxMsgsPerSubject: -1, MaxMsgSize: -1, Discard: "old", Storage: "file", Replicas: 1, Compression: "none", AllowDirect: true,
		DenyDelete: true, DenyPurge: true, Metadata: map[string]string{"edged.list": st.Key},
	}

	info.State = streamState{
		Messages: uint64(p.Length), FirstSeq: p.First + 1, LastSeq: p.End(), Consumers: a.count(st),
	}

	if p.Length > 0 {
		info.State.FirstTime, info.State.LastTime = st.seen(p.First, time.Time{}), st.seen(p.End()-1, time.Time{})
		info.State.NumSubjects = 1
	}
	return info, nil
}

func (r *request) streamInfo(ctx context.Context, st *stream) {
	var asked struct {
		Subjects string `json:"subjects_filter"`
	}
	if len(bytes.TrimSpace(r.payload)) > 0 {
		_ = json.Unmarshal(r.payload, &asked)
	}

	if err := r.api.ensure(ctx, st); err != nil {
		r.fail("stream_info", err)
		return
	}
	info, err := r.api.streamInfo(ctx, st)
	if err != nil {
		r.fail("stream_info", err)
		return
	}
	if asked.Subjects != "" && subject.Matches(asked.Subjects, st.Subject) && info.State.Messages > 0 {
		info.State.Subjects = map[string]uint64{st.Subject: info.State.Messages}
	}

	r.answer(struct {
		response
		streamInfo
	}{of("stream_info"), info})
}

// getRequest asks for a message.
type getRequest struct {
	Seq     uint64 `json:"seq"`
	Last    string `json:"last_by_subj"`
	Next    string `json:"next_by_subj"`
	Batch   int    `json:"batch"`
	Multi   []string
	MaxByte int `json:"max_bytes"`
}

// maxNumber is the last number that an item can have: Redis's scripts count in floating point.
const maxNumber = 1 << 53

// message finds the requested message; nil if there is none.
func (a *API) message(ctx context.Context, st *stream, g getRequest) (*Item, *apiError) {
	number := uint64(0)
	switch {
	case g.Batch > 0 || len(g.Multi) > 0 || g.MaxByte > 0:
		return nil, errNotOffered.because("ask for one message at a time")
	case g.Last != "":
		if !subject.Matches(g.Last, st.Subject) {
			return nil, nil
		}
		p, err := a.opts.Store.Part(ctx, st.Key, 0, 0)
		if err != nil {
			return nil, errUnavailable.because("%s", err)
		}
		if p.Length == 0 {
			return nil, nil
		}
		number = p.End() - 1
	case g.Next != "" && !subject.Matches(g.Next, st.Subject):
		return nil, nil
	case g.Seq > 0:
		number = g.Seq - 1
	case g.Next == "":
		return nil, errBadRequest
	}

	if number > maxNumber {
		return nil, nil
	}

	p, err := a.opts.Store.Part(ctx, st.Key, number, 1)
	switch {
	case err != nil:
		return nil, errUnavailable.because("%s", err)
	case len(p.Items) == 0 || p.Items[0].Number != number && g.Next == "":
		return nil, nil
	}

	return &p.Items[0], nil
}

func (r *request) messageGet(ctx context.Context, st *stream) {
	const kind = "stream_msg_get"
	var g getRequest
	if json.Unmarshal(r.payload, &g) != nil {
		r.fail(kind, errInvalidJSON)
		return
	}
	item, err := r.api.message(ctx, st, g)
	switch {
	case err != nil:
		r.fail(kind, err)
		return
	case item == nil:
		r.fail(kind, errNoMessage)
		return
	}

	type message struct {
		Subject string    `json:"subject"`
		Seq     uint64    `json:"seq"`
		Data    []byte    `json:"data,omitempty"`
		Time    time.Time `json:"time"`
	}

	r.answer(struct {
		response
		Message message `json:"message"`
	}{of(kind), message{st.Subject, item.Number + 1, item.Data, st.seen(item.Number, item.Seen)}})
}

// seen returns when an item was first seen. inRedis is the time stored in Redis, or zero. An item
// that was not read yet is seen now.
func (st *stream) seen(n uint64, inRedis time.Time) time.Time {
	at := st.Log.Seen(n)
	if at.IsZero() {
		at = inRedis
	}
	if at.IsZero() {
		at = time.Now()
	}
	return at.UTC()
}

// directGet answers with the message as such.
func (r *request) directGet(names string) {
	name, last, _ := strings.Cut(names, ".")
	status := func(text string) { r.client.Send(r.reply, []byte("NATS/1.0 "+text+"\r\n\r\n"), nil) }
	st := r.find(name)
	if st == nil {
		status("404 Message Not Found")
		return
	}

	g := getRequest{Last: last}
	if last == "" && json.Unmarshal(r.payload, &g) != nil {
		status("408 Empty Request")
		return
	}

	work := func(ctx context.Context) {
		item, err := r.api.message(ctx, st, g)
		switch {
		case err == errBadRequest:
			status("408 Bad Request")
		case err != nil:
			status(strconv.Itoa(err.Code) + " " + err.Description)
		case item == nil:
			status("404 Message Not Found")
		default:
			header := "NATS/1.0\r\nNats-Stream: " + st.Name + "\r\nNats-Subject: " + st.Subject +
				"\r\nNats-Sequence: " + strconv.FormatUint(item.Number+1, 10) +
				"\r\nNats-Time-Stamp: " + st.seen(item.Number, item.Seen).Format(time.RFC3339Nano) + "\r\n\r\n"
			r.client.Send(r.reply, []byte(header), item.Data)
		}
	}
	r.enqueue(work, func() { status("503 Too many requests wait for Redis") })
}
