package monitor

import (
	"errors"
	"time"
)

type jsConfig struct {
	MaxMemory  int64 `json:"max_memory"`
	MaxStorage int64 `json:"max_storage"`
}

type jsStats struct {
	Memory          uint64 `json:"memory"`
	Storage         uint64 `json:"storage"`
	ReservedMemory  uint64 `json:"reserved_memory"`
	ReservedStorage uint64 `json:"reserved_storage"`
	Accounts        int    `json:"accounts"`
	HAAssets        int    `json:"ha_assets"`
	API             jsAPI  `json:"api"`
}

type jsAPI struct {
	Level  int    `json:"level"`
	Total  uint64 `json:"total"`
	Errors uint64 `json:"errors"`
}

type jsz struct {
	jsStats
	ID        string      `json:"server_id"`
	Now       time.Time   `json:"now"`
	Disabled  bool        `json:"disabled,omitempty"`
	Config    jsConfig    `json:"config"`
	Streams   int         `json:"streams"`
	Consumers int         `json:"consumers"`
	Messages  uint64      `json:"messages"`
	Bytes     uint64      `json:"bytes"`
	Accounts  []jsAccount `json:"account_details,omitempty"`
	Total     int         `json:"total"`
}

type jsAccount struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	jsStats
	Streams []jsStream `json:"stream_detail,omitempty"`
}

type jsStream struct {
	Name      string          `json:"name"`
	Created   time.Time       `json:"created"`
	Config    *jsStreamConfig `json:"config,omitempty"`
	State     jsState         `json:"state"`
	Consumers []jsConsumer    `json:"consumer_detail,omitempty"`
}

type jsStreamConfig struct {
	Name      string   `json:"name"`
	Subjects  []string `json:"subjects"`
	Retention string   `json:"retention"`
	Storage   string   `json:"storage"`
	Replicas  int      `json:"num_replicas"`
}

type jsState struct {
	Messages    uint64    `json:"messages"`
	Bytes       uint64    `json:"bytes"`
	First       uint64    `json:"first_seq"`
	FirstTime   time.Time `json:"first_ts"`
	Last        uint64    `json:"last_seq"`
	LastTime    time.Time `json:"last_ts"`
	NumSubjects int       `json:"num_subjects,omitempty"`
	Consumers   int       `json:"consumer_count"`
}

type jsConsumer struct {
	Stream      string     `json:"stream_name"`
	Name        string     `json:"name"`
	Created     time.Time  `json:"created"`
	Delivered   jsSequence `json:"delivered"`
	AckFloor    jsSequence `json:"ack_floor"`
	AckPending  int        `json:"num_ack_pending"`
	Redelivered int        `json:"num_redelivered"`
	Waiting     int        `json:"num_waiting"`
	Pending     uint64     `json:"num_pending"`
	PushBound   bool       `json:"push_bound,omitempty"`
	Time        time.Time  `json:"ts"`
}

type jsSequence struct {
	Consumer uint64 `json:"consumer_seq"`
	Stream   uint64 `json:"stream_seq"`
}

// stats returns the statistics of the one account. The number of bytes in Redis is not known.
func (js JetStream) stats() *jsStats {
	return &jsStats{Accounts: 1, API: jsAPI{Total: js.Requests, Errors: js.Errors}}
}

// jsz answers with streams and consumers only if the request asks for them, as nats-server does.
func (m *Monitor) jsz(q query) (any, error) {
	accounts, err := q.flag("accounts")
	streams, err2 := q.flag("streams")
	consumers, err3 := q.flag("consumers")
	config, err4 := q.flag("config")
	if err := errors.Join(err, err2, err3, err4); err != nil {
		return nil, err
	}

	js, now := m.opts.JetStream(), time.Now().UTC()
	a := jsz{ID: m.opts.Server().ID, Now: now, Disabled: js.Disabled}
	if js.Disabled {
		return a, nil
	}
	a.jsStats, a.Streams = *js.stats(), len(js.Streams)
	detail := jsAccount{Name: account, ID: account, jsStats: a.jsStats}
	for _, s := range js.Streams {
		a.Messages, a.Consumers = a.Messages+s.Messages, a.Consumers+len(s.Consumers)
		if streams || consumers {
			detail.Streams = append(detail.Streams, s.describe(now, consumers, config))
		}
	}
	if name := q.Get("acc"); (accounts || streams || consumers) && (name == "" || name == account) {
		a.Accounts, a.Total = []jsAccount{detail}, 1
	}
	return a, nil
}

func (s Stream) describe(now time.Time, consumers, config bool) jsStream {
	d := jsStream{
		Name: s.Name, Created: s.Created.UTC(),
		State: jsState{Messages: s.Messages, First: s.First, Last: s.Last, Consumers: len(s.Consumers)},
	}
	if s.Messages > 0 {
		d.State.NumSubjects = 1
	}
	if config {
		d.Config = &jsStreamConfig{Name: s.Name, Subjects: []string{s.Subject}, Retention: "interest", Storage: "file", Replicas: 1}
	}
	if !consumers {
		return d
	}

	for _, c := range s.Consumers {
		d.Consumers = append(d.Consumers, jsConsumer{
			Stream: s.Name, Name: c.Name, Created: c.Created.UTC(), Delivered: jsSequence(c.Delivered), AckFloor: jsSequence(c.AckFloor),
			AckPending: c.AckPending, Redelivered: c.Redelivered, Waiting: c.Waiting, Pending: c.Pending, PushBound: c.PushBound, Time: now,
		})
	}

	return d
}
