package monitor

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"
)

// The endpoints have nats-server's names, and their fields have its names, types and meaning
// (v2.15, server/monitor.go). Tools may fail on other types: prometheus-nats-exporter panics.
// Numbers that edged does not have are 0; other such fields are left out.

// defaultLimit is the maximum number of entries in an answer, unless the request sets it.
const defaultLimit = 1024

// maxListed is the maximum number of subscriptions in an answer. A thousand clients may have a
// million.
const maxListed = 16384

// account is nats-server's name of the account that all clients use when none is configured.
const account = "$G"

// Monitor answers the requests of monitoring tools.
type Monitor struct {
	opts Options

	mu       sync.Mutex        // guards everything below
	requests map[string]uint64 // by path
	load     load
}

// Endpoint is a path with its handler, which answers GET and HEAD.
type Endpoint struct {
	Path    string
	Handler http.Handler
}

// New makes a Monitor.
func New(opts Options) *Monitor { return &Monitor{opts: opts, requests: make(map[string]uint64)} }

// Endpoints returns the paths that the Monitor answers.
func (m *Monitor) Endpoints() []Endpoint {
	return []Endpoint{
		{"/metrics", m.counted("/metrics", m.serveMetrics)},
		{"/varz", m.counted("/varz", answering(m.varz))},
		{"/connz", m.counted("/connz", answering(m.connz))},
		{"/subsz", m.counted("/subsz", answering(m.subsz))},
		{"/routez", m.counted("/routez", answering(m.routez))},
		{"/jsz", m.counted("/jsz", answering(m.jsz))},
	}
}

// counted counts the requests, and refuses those with other methods than GET and HEAD.
func (m *Monitor) counted(path string, serve http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, r.Method+" is not allowed: use GET", http.StatusMethodNotAllowed)
			return
		}
		m.mu.Lock()
		m.requests[path]++
		m.mu.Unlock()
		serve(w, r)
	})
}

// answering writes an answer as JSON, or the reason why the request is bad.
func answering(answer func(query) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a, err := answer(query{r.URL.Query()})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(a) // fails if the client has gone
	}
}

// query is the parameters of a request.
type query struct{ url.Values }

func (q query) number(name string, otherwise int) (int, error) {
	text := q.Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%s=%q is not a valid number", name, text)
	}
	return n, nil
}

func (q query) flag(name string) (bool, error) {
	text := q.Get(name)
	if text == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%s=%q is not a valid flag: use 1 or 0", name, text)
	}
	return b, nil
}

// page returns the bounds of a page of limit entries.
func (q query) page(limit int) (offset, most int, _ error) {
	offset, err := q.number("offset", 0)
	most, err2 := q.number("limit", limit)
	if most <= 0 {
		most = limit
	}
	return max(offset, 0), most, errors.Join(err, err2)
}

// part returns the entries of a page.
func part[T any](all []T, offset, limit int) []T {
	from := min(offset, len(all))
	return all[from : min(len(all)-from, limit)+from]
}

// uptime formats a duration as nats-server does: 1y2d3h4m5s, without leading units that are 0.
func uptime(d time.Duration) string {
	s := int64(max(d, 0) / time.Second)
	units := []struct {
		size int64
		name string
	}{{365 * 86400, "y"}, {86400, "d"}, {3600, "h"}, {60, "m"}}
	text := ""
	for _, u := range units {
		if s >= u.size || text != "" {
			text += fmt.Sprintf("%d%s", s/u.size, u.name)
			s %= u.size
		}
	}
	return fmt.Sprintf("%s%ds", text, s)
}

type none struct{}

type varz struct {
	ID               string            `json:"server_id"`
	Name             string            `json:"server_name"`
	Version          string            `json:"version"`
	Proto            int               `json:"proto"`
	Commit           string            `json:"git_commit,omitempty"`
	Go               string            `json:"go"`
	Host             string            `json:"host"`
	Port             int               `json:"port"`
	AuthRequired     bool              `json:"auth_required,omitempty"`
	TLSRequired      bool              `json:"tls_required,omitempty"`
	TLSVerify        bool              `json:"tls_verify,omitempty"`
	MaxConnections   int               `json:"max_connections"`
	PingInterval     time.Duration     `json:"ping_interval"`
	PingMax          int               `json:"ping_max"`
	HTTPHost         string            `json:"http_host"`
	HTTPPort         int               `json:"http_port"`
	HTTPBasePath     string            `json:"http_base_path"`
	HTTPSPort        int               `json:"https_port"`
	AuthTimeout      float64           `json:"auth_timeout"`
	MaxControlLine   int               `json:"max_control_line"`
	MaxPayload       int               `json:"max_payload"`
	MaxPending       int               `json:"max_pending"`
	Cluster          none              `json:"cluster"`
	Gateway          none              `json:"gateway"`
	Leaf             none              `json:"leaf"`
	MQTT             none              `json:"mqtt"`
	Websocket        none              `json:"websocket"`
	JetStream        jetStreamVarz     `json:"jetstream"`
	TLSTimeout       float64           `json:"tls_timeout"`
	WriteDeadline    time.Duration     `json:"write_deadline"`
	Start            time.Time         `json:"start"`
	Now              time.Time         `json:"now"`
	Uptime           string            `json:"uptime"`
	Memory           int64             `json:"mem"`
	Cores            int               `json:"cores"`
	MaxProcs         int               `json:"gomaxprocs"`
	CPU              float64           `json:"cpu"`
	Connections      int               `json:"connections"`
	TotalConnections uint64            `json:"total_connections"`
	Routes           int               `json:"routes"`
	Remotes          int               `json:"remotes"`
	Leafs            int               `json:"leafnodes"`
	InMsgs           uint64            `json:"in_msgs"`
	InBytes          uint64            `json:"in_bytes"`
	InClientMsgs     uint64            `json:"in_client_msgs"`
	InClientBytes    uint64            `json:"in_client_bytes"`
	OutMsgs          uint64            `json:"out_msgs"`
	OutBytes         uint64            `json:"out_bytes"`
	OutClientMsgs    uint64            `json:"out_client_msgs"`
	OutClientBytes   uint64            `json:"out_client_bytes"`
	SlowConsumers    uint64            `json:"slow_consumers"`
	Stale            uint64            `json:"stale_connections"`
	Stalled          uint64            `json:"stalled_clients"`
	Subscriptions    int               `json:"subscriptions"`
	Requests         map[string]uint64 `json:"http_req_stats"`
	ConfigLoaded     time.Time         `json:"config_load_time"`
	ConfigDigest     string            `json:"config_digest"`
	SlowOnes         byKind            `json:"slow_consumer_stats"`
	StaleOnes        byKind            `json:"stale_connection_stats"`
	Edged            *ownVarz          `json:"edged,omitempty"` // nats-server has no such field
}

// ownVarz are edged's own numbers.
type ownVarz struct {
	Uplinks        int    `json:"uplinks"`
	UplinksUp      int    `json:"uplinks_up"`
	UplinkLagItems uint64 `json:"uplink_lag_items"`
}

// own returns edged's own numbers; nil if there are none.
func (m *Monitor) own() *ownVarz {
	uplinks := m.uplinks()
	if len(uplinks) == 0 {
		return nil
	}
	o := &ownVarz{Uplinks: len(uplinks)}
	for _, u := range uplinks {
		o.UplinkLagItems += u.LagItems
		if u.Up {
			o.UplinksUp++
		}
	}
	return o
}

// byKind counts connections by kind; edged has only one kind.
type byKind struct {
	Clients  uint64 `json:"clients"`
	Routes   uint64 `json:"routes"`
	Gateways uint64 `json:"gateways"`
	Leafs    uint64 `json:"leafs"`
}

type jetStreamVarz struct {
	Config *jsConfig `json:"config,omitempty"`
	Stats  *jsStats  `json:"stats,omitempty"`
}

// pingMax is the number of unanswered PINGs after which a client is cut off.
const pingMax = 2

func (m *Monitor) varz(query) (any, error) {
	s, js, now := m.opts.Server(), m.opts.JetStream(), time.Now()
	v := varz{
		ID: s.ID, Name: s.Name, Version: s.Version, Proto: 1, Commit: s.Commit, Go: s.GoVersion, Host: s.Host, Port: s.Port,
		AuthRequired: s.AuthRequired, TLSRequired: s.TLSRequired, TLSVerify: s.TLSVerify, MaxConnections: s.MaxConnections,
		PingInterval: s.PingInterval, PingMax: pingMax, AuthTimeout: s.ConnectTimeout.Seconds(), TLSTimeout: s.ConnectTimeout.Seconds(),
		MaxControlLine: s.MaxControlLine, MaxPayload: s.MaxPayload, MaxPending: s.MaxPending,
		Start: s.Start.UTC(), Now: now.UTC(), Uptime: uptime(now.Sub(s.Start)), ConfigLoaded: s.Start.UTC(),
		Memory: s.Memory, Cores: runtime.NumCPU(), MaxProcs: runtime.GOMAXPROCS(0), Connections: s.Clients, TotalConnections: s.Accepted,
		InMsgs: s.MessagesIn, InBytes: s.BytesIn, InClientMsgs: s.MessagesIn, InClientBytes: s.BytesIn,
		OutMsgs: s.MessagesOut, OutBytes: s.BytesOut, OutClientMsgs: s.MessagesOut, OutClientBytes: s.BytesOut,
		SlowConsumers: s.SlowConsumers, SlowOnes: byKind{Clients: s.SlowConsumers}, Stale: s.Stale, StaleOnes: byKind{Clients: s.Stale}, Subscriptions: s.Subscriptions,
		Requests: make(map[string]uint64), Edged: m.own(),
	}
	if !js.Disabled {
		v.JetStream = jetStreamVarz{&jsConfig{}, js.stats()}
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	for path, n := range m.requests {
		v.Requests[path] = n
	}
	v.CPU = m.load.percent(now, s)
	return v, nil
}

// load measures the use of processors between two requests.
type load struct {
	at       time.Time
	used     time.Duration
	lately   float64
	measured bool
}

// percent returns the share of one processor that was used since the last call, in percent. Calls
// in quick succession get the same result.
func (l *load) percent(now time.Time, s Server) float64 {
	if l.at.IsZero() {
		l.at = s.Start
	}
	if past := now.Sub(l.at); past >= time.Second || !l.measured {
		l.lately = 100 * (s.CPU - l.used).Seconds() / max(past.Seconds(), 0.001)
		l.at, l.used, l.measured = now, s.CPU, true
	}
	return float64(int(l.lately*100)) / 100
}

type connz struct {
	ID     string     `json:"server_id"`
	Now    time.Time  `json:"now"`
	Number int        `json:"num_connections"`
	Total  int        `json:"total"`
	Offset int        `json:"offset"`
	Limit  int        `json:"limit"`
	Conns  []connInfo `json:"connections"`
}

type connInfo struct {
	ID            uint64      `json:"cid"`
	Kind          string      `json:"kind"`
	Type          string      `json:"type"`
	IP            string      `json:"ip"`
	Port          int         `json:"port"`
	Start         time.Time   `json:"start"`
	Active        time.Time   `json:"last_activity"`
	RTT           string      `json:"rtt,omitempty"`
	Uptime        string      `json:"uptime"`
	Idle          string      `json:"idle"`
	Pending       int         `json:"pending_bytes"`
	InMsgs        uint64      `json:"in_msgs"`
	OutMsgs       uint64      `json:"out_msgs"`
	InBytes       uint64      `json:"in_bytes"`
	OutBytes      uint64      `json:"out_bytes"`
	Subscriptions int         `json:"subscriptions"`
	Name          string      `json:"name,omitempty"`
	Lang          string      `json:"lang,omitempty"`
	Version       string      `json:"version,omitempty"`
	TLSVersion    string      `json:"tls_version,omitempty"`
	TLSCipher     string      `json:"tls_cipher_suite,omitempty"`
	User          string      `json:"authorized_user,omitempty"`
	Account       string      `json:"account,omitempty"`
	Subjects      []string    `json:"subscriptions_list,omitempty"`
	Details       []subDetail `json:"subscriptions_list_detail,omitempty"`
}

type subDetail struct {
	Account string `json:"account,omitempty"`
	Subject string `json:"subject"`
	Queue   string `json:"qgroup,omitempty"`
	ID      string `json:"sid"`
	Sent    int    `json:"msgs"`
	Max     int    `json:"max,omitempty"`
	Client  uint64 `json:"cid"`
}

// orders are the values of sort. Except for cid and start, the largest comes first.
var orders = map[string]func(a, b Client) int{
	"cid":        func(a, b Client) int { return cmp.Compare(a.ID, b.ID) },
	"start":      func(a, b Client) int { return cmp.Compare(a.ID, b.ID) },
	"subs":       func(a, b Client) int { return cmp.Compare(b.Subscriptions, a.Subscriptions) },
	"pending":    func(a, b Client) int { return cmp.Compare(b.Pending, a.Pending) },
	"msgs_to":    func(a, b Client) int { return cmp.Compare(b.MessagesOut, a.MessagesOut) },
	"msgs_from":  func(a, b Client) int { return cmp.Compare(b.MessagesIn, a.MessagesIn) },
	"bytes_to":   func(a, b Client) int { return cmp.Compare(b.BytesOut, a.BytesOut) },
	"bytes_from": func(a, b Client) int { return cmp.Compare(b.BytesIn, a.BytesIn) },
	"last":       func(a, b Client) int { return b.Active.Compare(a.Active) },
	"idle":       func(a, b Client) int { return a.Active.Compare(b.Active) },
	"uptime":     func(a, b Client) int { return a.Start.Compare(b.Start) },
	"rtt":        func(a, b Client) int { return cmp.Compare(b.RTT, a.RTT) },
}

func (m *Monitor) connz(q query) (any, error) {
	offset, limit, err := q.page(defaultLimit)
	auth, err2 := q.flag("auth")
	detail := q.Get("subs") == "detail"
	subs := false
	var err3 error
	if !detail {
		subs, err3 = q.flag("subs")
	}
	clients, err4 := m.selected(q)
	if err := errors.Join(err, err2, err3, err4); err != nil {
		return nil, err
	}

	now := time.Now()
	a := connz{ID: m.opts.Server().ID, Now: now.UTC(), Total: len(clients), Offset: offset, Limit: limit, Conns: []connInfo{}}
	listed := 0
	for _, c := range part(clients, offset, limit) {
		i := describe(c, now)
		if auth {
			i.User, i.Account = c.User, account
		}
		if subs || detail {
			listed += m.list(&i, detail, maxListed-listed)
		}
		a.Conns = append(a.Conns, i)
	}
	a.Number = len(a.Conns)
	return a, nil
}

// selected returns the clients that a request selects, in its order. Closed clients are not
// remembered.
func (m *Monitor) selected(q query) ([]Client, error) {
	order := orders[cmp.Or(q.Get("sort"), "cid")]
	if order == nil {
		return nil, fmt.Errorf("sort=%q is not a valid order for open connections", q.Get("sort"))
	}
	switch state := q.Get("state"); state {
	case "", "open", "any", "all":
	case "closed":
		return nil, nil
	default:
		return nil, fmt.Errorf("state=%q is not a valid state: use open, closed or any", state)
	}
	id, err := q.number("cid", 0)
	if err != nil {
		return nil, err
	}

	all := m.opts.Clients()
	if user := q.Get("user"); user != "" {
		all = slices.DeleteFunc(all, func(c Client) bool { return c.User != user })
	}
	if id != 0 {
		all = slices.DeleteFunc(all, func(c Client) bool { return c.ID != uint64(id) })
	}
	slices.SortStableFunc(all, order)
	return all, nil
}

func describe(c Client, now time.Time) connInfo {
	i := connInfo{
		ID: c.ID, Kind: "Client", Type: "nats", IP: c.IP, Port: c.Port, Start: c.Start.UTC(), Active: c.Active.UTC(),
		Uptime: uptime(now.Sub(c.Start)), Idle: uptime(now.Sub(c.Active)), Pending: c.Pending,
		InMsgs: c.MessagesIn, OutMsgs: c.MessagesOut, InBytes: c.BytesIn, OutBytes: c.BytesOut, Subscriptions: c.Subscriptions,
		Name: c.Name, Lang: c.Lang, Version: c.Version, TLSVersion: c.TLSVersion, TLSCipher: c.TLSCipher,
	}
	if c.RTT > 0 {
		i.RTT = c.RTT.String()
	}
	return i
}

// list adds at most most subscriptions of a client, and returns their number.
func (m *Monitor) list(i *connInfo, detail bool, most int) int {
	all := m.opts.Subscriptions(i.ID)
	all = all[:min(len(all), most)]
	for _, s := range all {
		if detail {
			i.Details = append(i.Details, detailed(i.ID, s))
		} else {
			i.Subjects = append(i.Subjects, s.Subject)
		}
	}
	return len(all)
}

func detailed(client uint64, s Subscription) subDetail {
	return subDetail{Account: account, Subject: s.Subject, Queue: s.Queue, ID: s.ID, Sent: s.Sent, Max: s.Max, Client: client}
}

type subsz struct {
	ID           string      `json:"server_id"`
	Now          time.Time   `json:"now"`
	Number       int         `json:"num_subscriptions"`
	Cache        int         `json:"num_cache"`
	Inserts      uint64      `json:"num_inserts"`
	Removes      uint64      `json:"num_removes"`
	Matches      uint64      `json:"num_matches"`
	CacheHitRate float64     `json:"cache_hit_rate"`
	MaxFanout    int         `json:"max_fanout"`
	AvgFanout    float64     `json:"avg_fanout"`
	Total        int         `json:"total"`
	Offset       int         `json:"offset"`
	Limit        int         `json:"limit"`
	Subs         []subDetail `json:"subscriptions_list,omitempty"`
}

// subsz counts a match for each message of a client; items reach their consumers without one. edged
// does not cache matches.
func (m *Monitor) subsz(q query) (any, error) {
	offset, limit, err := q.page(defaultLimit)
	subs, err2 := q.flag("subs")
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}

	s := m.opts.Server()
	a := subsz{
		ID: s.ID, Now: time.Now().UTC(), Number: s.Subscriptions, Inserts: s.Subscribed, Matches: s.MessagesIn,
		Removes: s.Subscribed - min(s.Subscribed, uint64(s.Subscriptions)), Offset: offset, Limit: limit,
	}
	if subs {
		limit = min(limit, maxListed)
		for _, c := range m.opts.Clients() {
			if c.Subscriptions <= offset && len(a.Subs) == 0 { // before the page
				offset -= c.Subscriptions
				continue
			}
			for _, one := range part(m.opts.Subscriptions(c.ID), offset, limit-len(a.Subs)) {
				a.Subs = append(a.Subs, detailed(c.ID, one))
			}
			if offset = 0; len(a.Subs) >= limit {
				break
			}
		}
	}
	a.Total = len(a.Subs)
	return a, nil
}

type routez struct {
	ID     string    `json:"server_id"`
	Name   string    `json:"server_name"`
	Now    time.Time `json:"now"`
	Number int       `json:"num_routes"`
	Routes []none    `json:"routes"`
}

// routez has no routes: edged is no member of a cluster.
func (m *Monitor) routez(query) (any, error) {
	s := m.opts.Server()
	return routez{ID: s.ID, Name: s.Name, Now: time.Now().UTC(), Routes: []none{}}, nil
}
