package tcpserver

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync/atomic"
	"time"
)

// Service answers requests. Together the Services are endpoints of one service in the sense of
// ADR-32 (the NATS service API, as in nats.go v1.55, micro/service.go), which answers to PING, INFO
// and STATS under these subjects:
//
//	$SRV.<verb>
//	$SRV.<verb>.<name>
//	$SRV.<verb>.<name>.<id>
type Service struct {
	Name    string // of the endpoint: letters, digits, - and _
	Subject string // a literal
	// Answer returns the answer to a request. It must not block, and must not keep the payload. It
	// may be called from any goroutine.
	Answer func(payload []byte) []byte
}

const (
	serviceName        = "edged"
	serviceDescription = "relays the items of Redis lists"
	servicePrefix      = "$SRV."
	serviceType        = "io.nats.micro.v1."
)

// endpoint is a Service with its counters.
type endpoint struct {
	Service
	requests atomic.Int64
	spent    atomic.Int64 // nanoseconds
}

// services answer by subject.
type services struct {
	id      string
	found   bool // by a $SRV request
	version string
	started time.Time
	list    []*endpoint // never changed
	subject map[string]*endpoint
}

func newServices(id string, o Options) *services {
	s := &services{id: id, version: o.Version, found: o.Discovery, started: time.Now().UTC(), subject: make(map[string]*endpoint)}
	for _, one := range o.Services {
		e := &endpoint{Service: one}
		s.list = append(s.list, e)
		s.subject[one.Subject] = e
	}
	return s
}

// answer answers a request; ok is false if the subject belongs to no service.
func (s *services) answer(subject, payload []byte) (reply []byte, ok bool) {
	if e := s.subject[string(subject)]; e != nil {
		start := time.Now()
		reply = e.Answer(payload)
		e.requests.Add(1)
		e.spent.Add(int64(time.Since(start)))
		return reply, true
	}
	if len(s.list) == 0 || !s.found || !bytes.HasPrefix(subject, []byte(servicePrefix)) {
		return nil, false
	}
	verb, rest, named := strings.Cut(string(subject[len(servicePrefix):]), ".")
	if named && rest != serviceName && rest != serviceName+"."+s.id {
		return nil, false
	}
	return s.describe(verb)
}

type serviceIdentity struct {
	Type     string            `json:"type"`
	Name     string            `json:"name"`
	ID       string            `json:"id"`
	Version  string            `json:"version"`
	Metadata map[string]string `json:"metadata"`
}

type endpointInfo struct {
	Name       string            `json:"name"`
	Subject    string            `json:"subject"`
	QueueGroup string            `json:"queue_group"`
	Metadata   map[string]string `json:"metadata"`
}

type endpointStats struct {
	Name       string `json:"name"`
	Subject    string `json:"subject"`
	QueueGroup string `json:"queue_group"`
	Requests   int64  `json:"num_requests"`
	Errors     int64  `json:"num_errors"`
	LastError  string `json:"last_error"`
	Spent      int64  `json:"processing_time"` // nanoseconds
	Average    int64  `json:"average_processing_time"`
}

// queueGroup is the queue group of services by default.
const queueGroup = "q"

// describe answers PING, INFO and STATS.
func (s *services) describe(verb string) (reply []byte, ok bool) {
	about := serviceIdentity{
		Type: serviceType + strings.ToLower(verb) + "_response", Name: serviceName, ID: s.id, Version: s.version, Metadata: map[string]string{},
	}

	var answer any
	switch verb {
	case "PING":
		answer = about
	case "INFO":
		infos := []endpointInfo{}
		for _, e := range s.list {
			infos = append(infos, endpointInfo{e.Name, e.Subject, queueGroup, map[string]string{}})
		}
		answer = struct {
			serviceIdentity
			Description string         `json:"description"`
			Endpoints   []endpointInfo `json:"endpoints"`
		}{about, serviceDescription, infos}
	case "STATS":
		stats := []endpointStats{}
		for _, e := range s.list {
			n, spent := e.requests.Load(), e.spent.Load()
			stats = append(stats, endpointStats{
				Name: e.Name, Subject: e.Subject, QueueGroup: queueGroup, Requests: n, Spent: spent, Average: spent / max(n, 1),
			})
		}
		answer = struct {
			serviceIdentity
			Started   time.Time       `json:"started"`
			Endpoints []endpointStats `json:"endpoints"`
		}{about, s.started, stats}
	default:
		return nil, false
	}

	reply, err := json.Marshal(answer)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return reply, true
}
