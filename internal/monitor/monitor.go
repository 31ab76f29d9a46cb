// Package monitor reports the state of the daemon to monitoring tools: to Prometheus by /metrics,
// and to NATS tools by the endpoints of nats-server's monitoring port.
//
// It keeps no numbers of its own: each answer is made from a snapshot that the daemon takes at that
// moment. The handlers do not authenticate clients, and only read.
package monitor

import "time"

// Options are the sources of snapshots. All functions may be called from any goroutine.
type Options struct {
	Server        func() Server
	Clients       func() []Client                    // ordered by ID
	Subscriptions func(client uint64) []Subscription // none if the client is gone
	Lists         func() []List
	Inbound       func() []Inbound
	Uplinks       func() []Uplink // nil if there are none
	JetStream     func() JetStream
}

// Uplink sends items of lists to a hub.
type Uplink struct {
	Name     string
	Up       bool
	Paused   bool
	LagItems uint64        // in all its lists, not confirmed by the hub
	Lag      time.Duration // age of the oldest of these items
	InFlight int
	Sent     uint64
	Bytes    uint64
	Skipped  uint64 // items that the hub already had
	Refused  uint64
	Breaks   uint64
}

// Server is the daemon.
type Server struct {
	ID        string // no other process has it
	Name      string
	Version   string
	GoVersion string
	Commit    string
	Host      string // address for clients
	Port      int
	Start     time.Time
	Draining  bool
	Faults    int

	AuthRequired, TLSRequired, TLSVerify bool
	MaxConnections, MaxPayload           int
	MaxControlLine, MaxPending           int
	PingInterval, ConnectTimeout         time.Duration
	CPU                                  time.Duration // used by the process
	Memory                               int64         // resident bytes
	LogDropped, LogRepeated              uint64        // lines
	Clients, Subscriptions               int           // now
	Accepted, Refused, Yielded, Crowded  uint64        // connections since the start
	Abandoned, TLSFailures, AuthFailures uint64
	ConnectTimeouts, ProtocolErrors      uint64
	SlowConsumers, OverMemory            uint64
	Stuck, Lagged, Stale                 uint64
	Denied, AcksRefused                  uint64
	MessagesIn, MessagesOut              uint64
	BytesIn, BytesOut                    uint64
	Subscribed                           uint64 // subscriptions since the start
}

// Client is a connected client.
type Client struct {
	ID            uint64
	IP            string
	Port          int
	Name          string
	Lang          string
	Version       string
	User          string
	Start, Active time.Time
	RTT           time.Duration // 0: unknown
	TLSVersion    string        // empty: no TLS
	TLSCipher     string
	Subscriptions int
	Pending       int // bytes
	MessagesIn    uint64
	MessagesOut   uint64
	BytesIn       uint64
	BytesOut      uint64
}

// Subscription is a subscription of a client.
type Subscription struct {
	ID, Subject, Queue string
	Sent, Max          int // messages; Max is 0 for no end
}

// List is a list that the daemon delivers from.
type List struct {
	Key                               string
	Serving, Failing, Paused, Standby bool
	Backlog, Kept, Unclaimed          uint64 // items
	InFlight, Owed, LagItems          uint64
	Lag, Oldest                       time.Duration
	Members                           int
	Taken, Confirmed, Returned, Dead  uint64 // items since the start
	Gone, Redelivered, Duplicates     uint64
	Consumers                         []Consumer
}

// Consumer takes the items of a list.
type Consumer struct {
	Name        string // of its queue group or of JetStream; empty for a plain subscription
	Viewer      bool   // confirms nothing
	Clients     int
	Owed        uint64 // items
	LagItems    uint64
	Missed      uint64
	Lag, Oldest time.Duration
	Away        time.Duration
}

// Inbound is a list that clients write to.
type Inbound struct {
	Key                                        string
	Written, Duplicates, Uncertain             uint64 // items since the start
	RefusedBuffer, RefusedMaxLen, RefusedRedis uint64
	Waiting, WaitingBytes                      int
	Failing, Full                              bool
}

// JetStream is the JetStream API.
type JetStream struct {
	Disabled         bool
	Requests, Errors uint64 // since the start
	Streams          []Stream
}

// Stream is a list as a JetStream stream. Its sequence numbers begin at 1.
type Stream struct {
	Name, Subject string
	Created       time.Time
	Messages      uint64
	First, Last   uint64 // sequence numbers
	Consumers     []StreamConsumer
}

// StreamConsumer is a JetStream consumer.
type StreamConsumer struct {
	Name        string
	Created     time.Time
	Delivered   Sequence
	AckFloor    Sequence
	AckPending  int // items delivered and not acknowledged
	Redelivered int
	Waiting     int // requests for items
	Pending     uint64
	PushBound   bool
}

// Sequence is a place in a stream, in messages of the consumer and of the stream.
type Sequence struct{ Consumer, Stream uint64 }
