// Package config is the configuration file: its schema, its defaults, and the
// checks that decide whether a file makes sense.
//
// A file is TOML. Every key has a default, so an empty file is a good one. The
// reading is strict: an unknown key, a wrong type and an impossible value are
// problems, and all of a file's problems are reported together, each with its
// line, its key and what to do. What comes out of Load and Parse without an
// error has passed every check; no one else needs to look at it again.
//
// configs/edged.toml explains each key to the people who run the daemon.
package config

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Config is a whole file. Paths of keys are its toml tags, joined with dots.
type Config struct {
	// Instance names this daemon to others on the same Redis. Default leaves it
	// empty, and so does Parse; Load fills the host name in.
	Instance string `toml:"instance"`

	Redis    Redis     `toml:"redis"`
	Lists    []List    `toml:"list"`
	Inbound  []Inbound `toml:"inbound"` // none by default
	Uplinks  []Uplink  `toml:"uplink"`  // none by default
	Delivery Delivery  `toml:"delivery"`
	TCP      TCP       `toml:"tcp"`
	HTTP     HTTP      `toml:"http"`
	Control  Control   `toml:"control"`
	Drain    Drain     `toml:"drain"`
	Log      Log       `toml:"log"`

	origin origin // set by Load; the last field: see keysOf
}

// Redis is where the lists are.
type Redis struct {
	Address      string    `toml:"address"` // host:port, or unix:// and an absolute path
	Username     string    `toml:"username"`
	PasswordFile string    `toml:"password_file"` // its first line is the password; read by whoever connects
	DB           int       `toml:"db"`
	Timeout      Duration  `toml:"timeout"`       // of one round trip
	PollInterval Duration  `toml:"poll_interval"` // between looks at a list that gave no hint
	Lease        Duration  `toml:"lease"`         // more than twice Timeout and twice PollInterval
	Cluster      []string  `toml:"cluster"`       // in place of Address: host:port of some nodes
	TLS          ClientTLS `toml:"tls"`
	Sentinel     Sentinel  `toml:"sentinel"`
}

// Where says in words where Redis is.
func (r Redis) Where() string {
	switch {
	case len(r.Cluster) > 0:
		return "cluster of " + strings.Join(r.Cluster, ", ")
	case len(r.Sentinel.Addresses) > 0:
		return "master " + r.Sentinel.Master + " of the Sentinels " + strings.Join(r.Sentinel.Addresses, ", ")
	}
	return r.Address
}

// Sentinel says, in place of an address, who knows where Redis's master is.
type Sentinel struct {
	Addresses    []string `toml:"addresses"` // host:port
	Master       string   `toml:"master"`    // the name that the Sentinels watch it by
	Username     string   `toml:"username"`
	PasswordFile string   `toml:"password_file"`
}

// ClientTLS is TLS to a server that edged connects to. Files are PEM; a name without a slash is that of a
// systemd credential.
type ClientTLS struct {
	Enabled    bool   `toml:"enabled"`
	CAFile     string `toml:"ca_file"`     // empty: the system's authorities
	CertFile   string `toml:"cert_file"`   // of the client; with KeyFile or neither
	KeyFile    string `toml:"key_file"`    // not encrypted
	ServerName string `toml:"server_name"` // empty: the host of the address
}

// UnixSocket returns the path in an address of the form unix:///path, and
// whether it is one.
func (r Redis) UnixSocket() (path string, ok bool) {
	return strings.CutPrefix(r.Address, unixScheme)
}

const unixScheme = "unix://"

// List is one Redis list that is relayed.
type List struct {
	Key      string   `toml:"key"`
	Subject  string   `toml:"subject"` // never empty after Parse: the key, where the file gives none
	Stream   string   `toml:"stream"`  // of JetStream; never empty after Parse: made of the key, where the file gives none
	Ack      string   `toml:"ack"`     // AckReceived, AckExplicit or AckNone
	TakeFrom string   `toml:"take_from"`
	MaxLag   Duration `toml:"max_lag"` // of a consumer behind the others; 0 means no bound
	Keep     int      `toml:"keep"`    // finished items that stay in the list, to be read again
	Class    int      `toml:"class"`   // lists of class 0 are served first, those of MaxClass last

	Dedup      string `toml:"dedup"`       // as dedup.ParseBy reads it; empty: no item is a duplicate
	DedupItems int    `toml:"dedup_items"` // an item that repeats one of so many before it is a duplicate

	// These have their defaults unless Ack is AckExplicit.
	AckWait       Duration   `toml:"ack_wait"`
	MaxDeliver    int        `toml:"max_deliver"` // 0 means no bound
	Backoff       []Duration `toml:"backoff"`     // where not empty, in place of AckWait; the last one repeats
	MaxAckPending int        `toml:"max_ack_pending"`
}

// MaxClass is the class of the lists that are served last.
const MaxClass = 9

// HasClasses reports whether lists are of different classes.
func (c *Config) HasClasses() bool {
	return slices.ContainsFunc(c.Lists, func(l List) bool { return l.Class != c.Lists[0].Class })
}

// The values of List.Ack: when a client has confirmed an item.
const (
	AckReceived = "received" // the client answered a PING sent behind it
	AckExplicit = "explicit" // the client acknowledged this very item
	AckNone     = "none"     // it was written to the client's socket
)

// The values of TakeFrom: which end of a list is the head.
const (
	TakeLeft  = "left"
	TakeRight = "right"
)

// Inbound is a subject that clients publish to and the Redis list that takes
// what they publish. That list may be one of those relayed; then TakeFrom is the
// same as there.
type Inbound struct {
	Subject  string `toml:"subject"` // literal or with wildcards; stands for no list's subject
	List     string `toml:"list"`    // the key in Redis
	MaxLen   int64  `toml:"max_len"` // items in the list beyond which more are refused; 0 means no bound
	TakeFrom string `toml:"take_from"`

	MsgIDWindow Duration `toml:"msg_id_window"` // in which a second message with the same Nats-Msg-Id is a duplicate; 0: none is
}

// Uplink sends the items of lists to a NATS cluster with JetStream. Files are read at each
// connection; a name without a slash is that of a systemd credential.
type Uplink struct {
	Name         string    `toml:"name"`          // stands in the ledger: letters, digits, - and _
	URL          []string  `toml:"url"`           // of some of the cluster's servers
	Lists        []string  `toml:"lists"`         // keys; never empty after Parse: all lists, where the file gives none
	Subject      string    `toml:"subject"`       // with {instance} and {list}
	Stream       string    `toml:"stream"`        // empty: the one that has the subject
	CredsFile    string    `toml:"creds_file"`    // at most one of these ways to get in
	NkeyFile     string    `toml:"nkey_file"`     // a seed
	User         string    `toml:"user"`          // with PasswordFile
	PasswordFile string    `toml:"password_file"` // its first line
	TokenFile    string    `toml:"token_file"`    // its first line
	TLS          ClientTLS `toml:"tls"`
	WindowItems  int       `toml:"window_items"` // sent and not confirmed
	WindowBytes  Size      `toml:"window_bytes"`
	Rate         Size      `toml:"rate"` // bytes a second; 0 means no bound
}

// At returns the subject of a list at the hub.
func (u Uplink) At(instance, list string) string {
	return strings.NewReplacer("{instance}", token(instance), "{list}", token(list)).Replace(u.Subject)
}

// token makes one token of a subject, as a list's stream is made of its key.
func token(name string) string { return streamName(name) }

// Delivery bounds what is on its way between Redis and the clients.
type Delivery struct {
	BatchItems     int      `toml:"batch_items"`
	BatchBytes     Size     `toml:"batch_bytes"`
	WindowItems    int      `toml:"window_items"` // of one list; at least BatchItems
	Memory         Size     `toml:"memory"`       // of all lists together
	ReceiptTimeout Duration `toml:"receipt_timeout"`
	RejoinGrace    Duration `toml:"rejoin_grace"`   // after a start; 0 means none
	MaxAway        Duration `toml:"max_away"`       // of a durable consumer that a client has made; 0 means no bound
	MaxAwayItems   int      `toml:"max_away_items"` // that it owes after that
	Share          int      `toml:"share"`          // a class that is passed over has every turn of this number; 0: none
	InboundBuffer  Size     `toml:"inbound_buffer"` // published items that wait for Redis
}

// TCP is the server that NATS clients connect to.
type TCP struct {
	Listen           string   `toml:"listen"` // host:port; no host means all interfaces, port 0 a free one
	MaxConnections   int      `toml:"max_connections"`
	MaxPerAddress    int      `toml:"max_connections_per_address"` // 0 means no bound
	MaxSubscriptions int      `toml:"max_subscriptions"`           // of one client
	MaxPayload       Size     `toml:"max_payload"`
	MaxControlLine   Size     `toml:"max_control_line"`
	MaxPending       Size     `toml:"max_pending"` // for one client; at least MaxPayload
	Memory           Size     `toml:"memory"`      // for all clients together; at least MaxPayload
	ConnectTimeout   Duration `toml:"connect_timeout"`
	PingInterval     Duration `toml:"ping_interval"`
	JetStream        bool     `toml:"jetstream"` // each list is a stream
	Services         bool     `toml:"services"`  // edged answers to $SRV
	TLS              TLS      `toml:"tls"`
	Auth             Auth     `toml:"auth"`
	Users            []User   `toml:"user"` // none by default
}

// TLS is asked of every client where CertFile is set. The files are read by
// whoever listens; a name without a slash is a systemd credential.
type TLS struct {
	CertFile string `toml:"cert_file"`
	KeyFile  string `toml:"key_file"` // set where CertFile is
	CAFile   string `toml:"ca_file"`  // where set, clients have to show a certificate signed by one of these
	First    bool   `toml:"first"`    // the handshake comes before INFO
}

// Auth is how clients that are no user connect.
type Auth struct {
	TokenFile string `toml:"token_file"` // like Redis.PasswordFile
}

// User is somebody who connects with a name and a password. One of Password and
// PasswordFile is set.
type User struct {
	Name         string `toml:"name"`
	Password     string `toml:"password"`      // a bcrypt hash
	PasswordFile string `toml:"password_file"` // its first line is the password, or a bcrypt hash
	Publish      Rules  `toml:"publish"`
	Subscribe    Rules  `toml:"subscribe"`
	Durables     bool   `toml:"durables"` // with rules: it may make durable consumers
}

// Rules are patterns of subjects: where Allow is empty, everything is allowed.
// Deny goes first.
type Rules struct {
	Allow []string `toml:"allow"`
	Deny  []string `toml:"deny"`
}

// HTTP is the listener for browsers and monitoring. TLS and users are those of TCP.
type HTTP struct {
	Listen     string   `toml:"listen"`        // as TCP.Listen; empty means none
	MaxClients int      `toml:"max_clients"`   // streams of events at a time
	Hosts      []string `toml:"hosts"`         // names of the box besides its host name and addresses
	Origins    []string `toml:"allow_origins"` // whose pages may read answers: https://example.com
	Profiles   bool     `toml:"profiles"`      // for go tool pprof, on loopback
}

// Control is the socket that operators talk to.
type Control struct {
	Socket       string `toml:"socket"`        // an absolute path
	StatusSocket string `toml:"status_socket"` // another one, for those who only look; empty means none
}

// Drain is the end of the daemon's life.
type Drain struct {
	Timeout Duration `toml:"timeout"`
}

// Log is what the daemon writes about itself.
type Log struct {
	Level  string `toml:"level"`  // debug, info, warn or error
	Format string `toml:"format"` // auto, json or console
}

// Default returns what an empty file means: a new value each time, which the
// caller may change.
func Default() *Config {
	events, readings := newList(), newList()
	events.Key, events.Subject, events.Stream = "events", "events", "events"
	readings.Key, readings.Subject, readings.Stream = "readings", "readings", "readings"
	return &Config{
		Redis: Redis{
			Address:      "127.0.0.1:6379",
			Timeout:      3 * second,
			PollInterval: 10 * second,
			Lease:        30 * second,
			Sentinel:     Sentinel{Master: "mymaster"},
		},
		Lists: []List{events, readings},
		Delivery: Delivery{
			BatchItems:     1000,
			BatchBytes:     512 * kib,
			WindowItems:    4000,
			Memory:         8 * mib,
			ReceiptTimeout: 30 * second,
			RejoinGrace:    30 * second,
			MaxAway:        day,
			MaxAwayItems:   100_000,
			Share:          10,
			InboundBuffer:  4 * mib,
		},
		TCP: TCP{
			Listen:           "127.0.0.1:4222",
			MaxConnections:   1024,
			MaxSubscriptions: 1000,
			MaxPayload:       1 * mib,
			MaxControlLine:   4 * kib,
			MaxPending:       8 * mib,
			Memory:           32 * mib,
			ConnectTimeout:   5 * second,
			PingInterval:     2 * minute,
			JetStream:        true,
		},
		HTTP:    HTTP{MaxClients: 64},
		Control: Control{Socket: "/run/edged/control.sock", StatusSocket: "/run/edged/status.sock"},
		Drain:   Drain{Timeout: 10 * second},
		Log:     Log{Level: "info", Format: "auto"},
	}
}

// newList is a [[list]] of which the file says nothing yet.
func newList() List {
	return List{Ack: AckReceived, TakeFrom: TakeLeft, MaxLag: 10 * minute, DedupItems: 10_000, AckWait: 30 * second, MaxAckPending: 1000}
}

// newUplink is an [[uplink]] of which the file says nothing yet.
func newUplink() Uplink {
	return Uplink{Subject: "edge.{instance}.{list}", WindowItems: 256, WindowBytes: 256 * kib}
}

// newInbound is an [[inbound]] of which the file says nothing yet.
func newInbound() Inbound { return Inbound{TakeFrom: TakeLeft, MsgIDWindow: 2 * minute} }

// Load reads the file at path and fills in what depends on the machine. The
// empty path means no file: the defaults. Bad content is an *Error; an error of
// the file system is wrapped, so that errors.Is finds fs.ErrNotExist.
func Load(path string) (*Config, error) {
	c := Default()
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
		if c, err = Parse(path, data); err != nil {
			return nil, err
		}
		c.origin = origin{file: path, lines: locate(string(data))}
	}
	if c.Instance == "" {
		name, err := os.Hostname()
		if err == nil {
			err = checkInstance(name)
		}
		if err != nil {
			return nil, &Error{File: path, Problems: []Problem{{
				Key:     "instance",
				Message: fmt.Sprintf("the host name cannot stand in for it (%v): give this instance a name", err),
			}}}
		}
		c.Instance, c.origin.hostNamed = name, true
	}
	return c, nil
}

// Problem is one thing that is wrong with a file.
type Problem struct {
	Line    int    // counted from 1; 0 where no line is to blame
	Key     string // "tcp.listen", "list[1].ack" (counted from 1); empty for bad syntax
	Message string // what is wrong and what to do
}

// Error is all that is wrong with a file, in the order of its lines.
type Error struct {
	File     string
	Problems []Problem
}

// Error gives a line to each problem: "FILE:LINE: KEY: message".
func (e *Error) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		if at := place(e.File, p.Line); at != "" {
			b.WriteString(at + ": ")
		}
		if p.Key != "" {
			b.WriteString(p.Key + ": ")
		}
		b.WriteString(p.Message)
	}
	return b.String()
}

// place is FILE:LINE, or as much of it as there is.
func place(file string, line int) string {
	if file == "" || line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, line)
}
