package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"edged/internal/dedup"
	"edged/internal/nearest"
	"edged/internal/password"
	"edged/internal/subject"
)

// maxSocketPath is how long the path of a Unix socket may be: sun_path in
// unix(7) has 108 bytes with the final zero.
const maxSocketPath = 107

// maxName bounds list keys and subjects, which stand in every MSG line.
const maxName = 512

// maxListLen is how many items a list can hold:
// https://redis.io/docs/latest/develop/data-types/lists/.
const maxListLen = 1<<32 - 1

// maxBackoff is how many waits a list's backoff can have.
const maxBackoff = 100

// validate checks the values of a configuration and completes its lists.
func (p *parser) validate(c *Config) {
	if c.Instance != "" {
		p.check("instance", checkInstance(c.Instance))
	}

	p.check("redis.address", checkRedisAddress(c.Redis))
	between(p, "redis.db", c.Redis.DB, 0, 1_000_000)
	between(p, "redis.timeout", c.Redis.Timeout, 100*millisecond, minute)
	between(p, "redis.poll_interval", c.Redis.PollInterval, 100*millisecond, 5*minute)
	between(p, "redis.lease", c.Redis.Lease, 200*millisecond, 10*minute)
	for _, other := range []struct {
		key   string
		value Duration
	}{
		{"redis.timeout", c.Redis.Timeout},
		{"redis.poll_interval", c.Redis.PollInterval},
	} {
		p.relate(c.Redis.Lease > 2*other.value, "redis.lease", other.key,
			"the lease (redis.lease = %q) must be more than twice %s (%q): it would end between two renewals",
			c.Redis.Lease, other.key, other.value)
	}

	p.validateRedisTLS(c.Redis)
	p.validateWhere(c.Redis)

	p.validateLists(c.Lists)
	p.validateInbound(c.Inbound, c.Lists)
	p.validateUplinks(c.Uplinks, c.Lists)

	p.validateDelivery(c)
	p.validateTCP(c)
	p.validateTLS(c.TCP.TLS)
	p.validateUsers(c.TCP.Users)

	p.validateHTTP(c.HTTP)

	p.check("control.socket", checkSocket(c.Control.Socket))
	if c.Control.StatusSocket != "" {
		p.check("control.status_socket", checkSocket(c.Control.StatusSocket))
		p.relate(c.Control.StatusSocket != c.Control.Socket, "control.status_socket", "control.socket",
			"control.socket and control.status_socket are the same: give one of them another path")
	}
	between(p, "drain.timeout", c.Drain.Timeout, 0, hour)
	p.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	p.oneOf("log.format", c.Log.Format, "auto", "json", "console")
}

// validateDelivery checks what is on its way.
func (p *parser) validateDelivery(c *Config) {
	between(p, "delivery.batch_items", c.Delivery.BatchItems, 1, 100_000)
	between(p, "delivery.batch_bytes", c.Delivery.BatchBytes, kib, 64*mib)
	between(p, "delivery.window_items", c.Delivery.WindowItems, 1, 10_000_000)
	p.relate(c.Delivery.WindowItems >= c.Delivery.BatchItems, "delivery.window_items", "delivery.batch_items",
		"the window (delivery.window_items = %d) must hold a batch (delivery.batch_items = %d): raise the first or lower the second",
		c.Delivery.WindowItems, c.Delivery.BatchItems)
	between(p, "delivery.memory", c.Delivery.Memory, 64*kib, gib)
	p.validateDedup(c)
	between(p, "delivery.receipt_timeout", c.Delivery.ReceiptTimeout, second, hour)
	between(p, "delivery.rejoin_grace", c.Delivery.RejoinGrace, 0, hour)
	between(p, "delivery.max_away", c.Delivery.MaxAway, 0, 52*week)
	between(p, "delivery.max_away_items", c.Delivery.MaxAwayItems, 0, 1_000_000_000)
	if c.Delivery.Share != 0 && (c.Delivery.Share < 2 || c.Delivery.Share > 1000) {
		p.problem("delivery.share", "this must be between 2 and 1000, or 0 for no turn as long as a lower class has items")
	}
	between(p, "delivery.inbound_buffer", c.Delivery.InboundBuffer, 64*kib, gib)
}

// validateTCP checks the server's addresses and bounds.
func (p *parser) validateTCP(c *Config) {
	p.check("tcp.listen", checkListen(c.TCP.Listen))
	between(p, "tcp.max_connections", c.TCP.MaxConnections, 1, 1_000_000)
	between(p, "tcp.max_connections_per_address", c.TCP.MaxPerAddress, 0, 1_000_000)
	between(p, "tcp.max_subscriptions", c.TCP.MaxSubscriptions, 1, 1_000_000)
	between(p, "tcp.max_payload", c.TCP.MaxPayload, kib, 64*mib)
	between(p, "tcp.max_control_line", c.TCP.MaxControlLine, 512, 64*kib)
	between(p, "tcp.max_pending", c.TCP.MaxPending, kib, gib)
	p.relate(c.TCP.MaxPending >= c.TCP.MaxPayload, "tcp.max_pending", "tcp.max_payload",
		"what may wait for a client (tcp.max_pending = %q) must hold the largest message (tcp.max_payload = %q): raise the first or lower the second",
		c.TCP.MaxPending, c.TCP.MaxPayload)
	between(p, "tcp.memory", c.TCP.Memory, mib, gib)
	p.relate(c.TCP.Memory >= c.TCP.MaxPayload, "tcp.memory", "tcp.max_payload",
		"what may wait for all clients (tcp.memory = %q) must hold the largest message (tcp.max_payload = %q): raise the first or lower the second",
		c.TCP.Memory, c.TCP.MaxPayload)
	between(p, "tcp.connect_timeout", c.TCP.ConnectTimeout, 100*millisecond, minute)
	between(p, "tcp.ping_interval", c.TCP.PingInterval, second, hour)
}

// validateDedup bounds the memory of the lists' windows. It takes memory from the items on their way.
func (p *parser) validateDedup(c *Config) {
	takes, last := 0, ""
	for i, l := range c.Lists {
		if l.Dedup != "" && l.DedupItems > 0 {
			takes += dedup.Memory(l.DedupItems)
			last = Index("list", i) + ".dedup_items"
		}
	}
	if most := int(c.Delivery.Memory) / 4; takes > most {
		p.relate(false, last, "delivery.memory",
			"the windows of the lists with dedup take %q, more than a quarter of delivery.memory = %q: lower dedup_items or raise delivery.memory",
			Size((takes+int(kib)-1)/int(kib)*int(kib)), c.Delivery.Memory)
	}
}

func (p *parser) validateHTTP(h HTTP) {
	if h.Listen != "" {
		p.check("http.listen", checkListen(h.Listen))
	}
	between(p, "http.max_clients", h.MaxClients, 1, 100_000)
	for i, name := range h.Hosts {
		if name == "" || strings.ContainsAny(name, "/: ") {
			p.problem(Index("http.hosts", i), "%q is not a host name: write it without port and slashes", name)
		}
	}
	for i, origin := range h.Origins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || origin != u.Scheme+"://"+u.Host {
			p.problem(Index("http.allow_origins", i), "%q is not an origin: write scheme and host, as in https://example.com", origin)
		}
	}
}

// validateWhere wants one answer to where Redis is.
func (p *parser) validateWhere(r Redis) {
	used := ""
	for _, way := range []struct {
		key       string
		addresses []string
	}{
		{"redis.cluster", r.Cluster},
		{"redis.sentinel.addresses", r.Sentinel.Addresses},
	} {
		for i, address := range way.addresses {
			p.check(Index(way.key, i), checkServer(address, "write host:port"))
		}
		if len(way.addresses) == 0 {
			continue
		}
		if used != "" {
			p.problem(way.key, "Redis is found by %s already: remove one of the two", used)
		}
		if _, there := p.lines["redis.address"]; there {
			p.problem("redis.address", "Redis is found by %s: remove this", way.key)
		}
		used = way.key
	}
	if len(r.Cluster) > 0 && r.DB != 0 {
		p.problem("redis.db", "a cluster has database 0 only: remove this")
	}
	if r.Sentinel.Master == "" {
		p.problem("redis.sentinel.master", "write the name that the Sentinels watch the master by")
	}
}

func (p *parser) validateRedisTLS(r Redis) {
	t := r.TLS
	if (t.CertFile == "") != (t.KeyFile == "") {
		p.problem("redis.tls.cert_file", "a client's certificate needs its key: write both redis.tls.cert_file and redis.tls.key_file, or neither")
	}
	if !t.Enabled {
		p.relate(t == ClientTLS{}, "redis.tls", "redis.tls.enabled", "this does nothing while TLS is off: write enabled = true, or remove it")
	} else if _, ok := r.UnixSocket(); ok {
		p.problem("redis.tls.enabled", "a Unix socket (redis.address = %q) has no TLS: write host:port there, or remove this", r.Address)
	}
}

// validateLists also gives each list without a subject its default.
func (p *parser) validateLists(lists []List) {
	if len(lists) == 0 {
		p.problem("list", "there is no list to relay: add a [[list]] with a key, or remove this line for the default lists")
	}
	keys, subjects, streams := map[string]int{}, map[string]int{}, map[string]int{}
	for i := range lists {
		l, path := &lists[i], Index("list", i)
		if p.bad(path) {
			continue
		}
		p.check(path+".key", checkKey(l.Key))
		if first, taken := keys[l.Key]; taken {
			p.problem(path+".key", "the key %q is that of %s already: a list is relayed once", l.Key, Index("list", first))
		} else {
			keys[l.Key] = i
		}

		// Where the file gives no subject, the key is to blame for a bad one.
		subjectPath, advice := path+".subject", "choose another"
		if l.Subject == "" {
			l.Subject, subjectPath, advice = l.Key, path+".key", "give the list a subject of its own"
		}
		if err := checkSubject(l.Subject); err != nil {
			p.problem(subjectPath, "the subject %q %v: %s", l.Subject, err, advice)
		}
		if first, taken := subjects[l.Subject]; taken {
			p.problem(subjectPath, "the subject %q is that of %s already: %s", l.Subject, Index("list", first), advice)
		} else {
			subjects[l.Subject] = i
		}

		p.validateStream(path, l, i, streams)

		p.oneOf(path+".ack", l.Ack, AckReceived, AckExplicit, AckNone)
		p.oneOf(path+".take_from", l.TakeFrom, TakeLeft, TakeRight)
		between(p, path+".keep", l.Keep, 0, 100_000_000)
		between(p, path+".class", l.Class, 0, MaxClass)
		between(p, path+".dedup_items", l.DedupItems, 1, dedup.MaxItems)
		if _, err := dedup.ParseBy(l.Dedup); err != nil {
			p.problem(path+".dedup", "%v", err)
		}
		if l.MaxLag != 0 && (l.MaxLag < second || l.MaxLag > week) {
			p.problem(path+".max_lag", "this must be between %v and %v, or 0s for no bound", second, week)
		}
		switch l.Ack {
		case AckExplicit:
			p.validateExplicit(path, l)
		case AckReceived, AckNone:
			p.refuseExplicit(path, l)
		}
	}
}

// validateStream also gives each list without a stream its default.
func (p *parser) validateStream(path string, l *List, i int, streams map[string]int) {
	streamPath, advice := path+".stream", "choose another"
	if l.Stream == "" {
		l.Stream = streamName(l.Key)
		for _, taken := streams[l.Stream]; taken && len(l.Stream) <= maxStream; _, taken = streams[l.Stream] {
			l.Stream += "_"
		}
		streamPath, advice = path+".key", "give the list a stream of its own"
	}
	if streamName(l.Stream) != l.Stream || len(l.Stream) > maxStream {
		p.problem(streamPath, "the stream %q has a blank, a control character or one of .*>/\\ in it, or more than %d bytes: %s", l.Stream, maxStream, advice)
	}
	if first, taken := streams[l.Stream]; taken {
		p.problem(streamPath, "the stream %q is that of %s already: %s", l.Stream, Index("list", first), advice)
	} else {
		streams[l.Stream] = i
	}
}

// maxStream is how many bytes a stream's name may have: it stands in reply subjects.
const maxStream = 255

// streamName is a name with each character that JetStream forbids in a stream's name replaced.
func streamName(name string) string {
	return strings.NewReplacer("/", "_", "\\", "_").Replace(subject.Token(name))
}

// validateExplicit checks the keys that only lists with ack = "explicit" use.
func (p *parser) validateExplicit(path string, l *List) {
	between(p, path+".ack_wait", l.AckWait, 100*millisecond, day)
	between(p, path+".max_deliver", l.MaxDeliver, 0, 1_000_000)
	between(p, path+".max_ack_pending", l.MaxAckPending, 1, 65_536)
	if len(l.Backoff) > maxBackoff {
		p.problem(path+".backoff", "it has %d durations, at most %d are allowed: the last one repeats", len(l.Backoff), maxBackoff)
		return
	}
	for i, wait := range l.Backoff {
		between(p, Index(path+".backoff", i), wait, millisecond, day)
	}
}

// refuseExplicit wants these keys left alone where they would do nothing. A
// default that is written out misleads nobody.
func (p *parser) refuseExplicit(path string, l *List) {
	initial := newList()
	for _, key := range []struct {
		name string
		set  bool
	}{
		{"ack_wait", l.AckWait != initial.AckWait},
		{"max_deliver", l.MaxDeliver != initial.MaxDeliver},
		{"backoff", len(l.Backoff) > 0},
		{"max_ack_pending", l.MaxAckPending != initial.MaxAckPending},
	} {
		if key.set {
			p.problem(path+"."+key.name, "this is used only where ack = %q, and this list has %q: remove it, or change ack",
				AckExplicit, l.Ack)
		}
	}
}

func (p *parser) validateTLS(t TLS) {
	switch {
	case t.CertFile == "" && t.KeyFile != "":
		p.problem("tcp.tls.key_file", "a key is no use without its certificate: set cert_file too")
	case t.CertFile != "" && t.KeyFile == "":
		p.problem("tcp.tls.cert_file", "a certificate is no use without its key: set key_file too")
	}
	if t.CertFile == "" {
		for key, set := range map[string]bool{"ca_file": t.CAFile != "", "first": t.First} {
			if set {
				p.problem("tcp.tls."+key, "this is used only with TLS: set cert_file and key_file too, or remove it")
			}
		}
	}
}

// maxRules is how many patterns a list of a user can have: all of them are looked
// at for a message.
const maxRules = 100

func (p *parser) validateUsers(users []User) {
	names := map[string]int{}
	for i, u := range users {
		path := Index("tcp.user", i)
		if p.bad(path) {
			continue
		}
		p.check(path+".name", checkUserName(u.Name))
		if first, taken := names[u.Name]; taken {
			p.problem(path+".name", "the name %q is that of %s already: choose another", u.Name, Index("tcp.user", first))
		} else {
			names[u.Name] = i
		}
		switch {
		case u.Password == "" && u.PasswordFile == "":
			p.problem(path+".password", "a user needs a password: write its bcrypt hash, which `edged passwd` makes, or set password_file")
		case u.Password != "" && u.PasswordFile != "":
			p.problem(path+".password_file", "there is a password already: remove one of the two")
		case u.Password != "" && !password.Allowed(u.Password):
			// Not repeated here: it may be the password itself.
			p.problem(path+".password", "this is no bcrypt hash of a cost from %d to %d: `edged passwd` makes one of a password; one in the clear belongs in a file of its own, see password_file",
				password.MinCost, password.MaxCost)
		}
		for key, patterns := range map[string][]string{
			"publish.allow": u.Publish.Allow, "publish.deny": u.Publish.Deny,
			"subscribe.allow": u.Subscribe.Allow, "subscribe.deny": u.Subscribe.Deny,
		} {
			p.validateRules(path+"."+key, patterns)
		}
	}
}

func (p *parser) validateRules(path string, patterns []string) {
	if len(patterns) > maxRules {
		p.problem(path, "it has %d subjects, at most %d are allowed: use wildcards", len(patterns), maxRules)
		return
	}
	for i, pattern := range patterns {
		if err := checkSyntax(pattern); err != nil {
			p.problem(Index(path, i), "the subject %q %v", pattern, err)
		}
	}
}

func checkUserName(name string) error {
	unfit := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }
	switch {
	case name == "":
		return errors.New("a user needs a name")
	case len(name) > 64:
		return fmt.Errorf("%q is longer than 64 bytes", name)
	case strings.ContainsFunc(name, unfit):
		return fmt.Errorf("%q has a space or a control character in it", name)
	}
	return nil
}

// validateInbound also holds the inbound subjects against the lists.
func (p *parser) validateInbound(inbound []Inbound, lists []List) {
	subjects := map[string]int{}
	for i, in := range inbound {
		path := Index("inbound", i)
		if p.bad(path) {
			continue
		}
		p.validateInboundSubject(path+".subject", in.Subject, lists)
		if first, taken := subjects[in.Subject]; taken {
			p.problem(path+".subject", "the subject %q is that of %s already: choose another", in.Subject, Index("inbound", first))
		} else {
			subjects[in.Subject] = i
		}
		p.check(path+".list", checkKey(in.List))
		between(p, path+".max_len", in.MaxLen, 0, maxListLen)
		between(p, path+".msg_id_window", in.MsgIDWindow, 0, day)
		p.oneOf(path+".take_from", in.TakeFrom, TakeLeft, TakeRight)
		for j, l := range lists {
			if l.Key == in.List && l.TakeFrom != in.TakeFrom && !p.bad(Index("list", j)+".take_from") {
				p.problem(path+".take_from", "items would be pushed to the head of %s: write take_from = %q here, or change it there",
					Index("list", j), l.TakeFrom)
			}
		}
	}
}

func (p *parser) validateInboundSubject(path, pattern string, lists []List) {
	if pattern == "" {
		p.problem(path, "write the subject that clients publish to")
		return
	}
	if err := checkPattern(pattern); err != nil {
		p.problem(path, "the subject %q %v: choose another", pattern, err)
		return
	}
	for i, l := range lists {
		if subject.Matches(pattern, l.Subject) {
			p.problem(path, "the subject %q stands for %q too, which is that of %s and which nobody may publish to: choose another",
				pattern, l.Subject, Index("list", i))
		}
	}
}

func (p *parser) check(key string, err error) {
	if err != nil {
		p.problem(key, "%v", err)
	}
}

func (p *parser) oneOf(key, value string, known ...string) {
	if slices.Contains(known, value) {
		return
	}
	guess := ""
	if meant := nearest.Name(strings.ToLower(value), known); meant != "" {
		guess = fmt.Sprintf(": did you mean %s?", meant)
	}
	p.problem(key, "%q is none of %s%s", value, strings.Join(known, ", "), guess)
}

func between[T cmp.Ordered](p *parser, key string, value, low, high T) {
	if value < low || value > high {
		p.problem(key, "this must be between %v and %v", low, high)
	}
}

// relate is for a rule over two keys, of which at least one is in the file. It
// says nothing where one of them is bad in itself.
func (p *parser) relate(ok bool, key, other, format string, args ...any) {
	if ok || p.bad(key) || p.bad(other) {
		return
	}
	if _, there := p.lines[key]; !there {
		key = other
	}
	p.problem(key, format, args...)
}

func checkInstance(name string) error {
	unfit := func(r rune) bool { return r == '/' || unicode.IsSpace(r) || unicode.IsControl(r) }
	switch {
	case name == "":
		return errors.New("it is empty")
	case len(name) > 64:
		return fmt.Errorf("%q is longer than 64 bytes", name)
	case strings.ContainsFunc(name, unfit):
		return fmt.Errorf("%q has a space, a slash or a control character in it", name)
	}
	return nil
}

func checkRedisAddress(r Redis) error {
	if path, ok := r.UnixSocket(); ok {
		if strings.HasPrefix(path, "/") {
			return checkSocket(path)
		}
	}
	if err := checkURL(r.Address); err != nil {
		return err
	}
	return checkServer(r.Address, "write host:port, or unix:///path/to.sock")
}

func checkServer(address, advice string) error {
	host, err := checkHostPort(address, 1)
	if err == nil && host == "" {
		err = errors.New("no host")
	}
	if err != nil {
		return fmt.Errorf("%q is no address (%v): %s", address, err, advice)
	}
	return nil
}

func checkListen(address string) error {
	if _, err := checkHostPort(address, 0); err != nil {
		return fmt.Errorf("%q is no address to listen on (%v): write host:port, or :port for all interfaces", address, err)
	}
	return nil
}

// checkHostPort wants a numeric port of at least low.
func checkHostPort(address string, low uint64) (host string, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		var where *net.AddrError
		if errors.As(err, &where) {
			err = errors.New(where.Err)
		}
		return "", err
	}
	if strings.Contains(host, "/") {
		return "", errors.New("a slash in the host")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n < low {
		return "", fmt.Errorf("the port must be a number from %d to 65535", low)
	}
	return host, nil
}

func checkSocket(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return fmt.Errorf("%q is no absolute path: begin it with a slash", path)
	case len(path) > maxSocketPath:
		return fmt.Errorf("the path has %d bytes, a Unix socket's at most %d: choose a shorter one", len(path), maxSocketPath)
	case strings.ContainsRune(path, 0):
		return errors.New("a path cannot have a zero byte in it")
	}
	return nil
}

func checkKey(key string) error {
	switch {
	case key == "":
		return errors.New("a list needs the key it has in Redis")
	case len(key) > maxName:
		return fmt.Errorf("the key is longer than %d bytes", maxName)
	}
	return nil
}

// checkSubject holds a list's subject to the rules of checkPattern, and allows
// no wildcards.
func checkSubject(subject string) error {
	if strings.ContainsAny(subject, "*>") {
		return errors.New("has a wildcard in it")
	}
	return checkPattern(subject)
}

// checkPattern holds a subject to the rules of checkSyntax, and keeps those free
// that clients and edged itself use.
func checkPattern(subject string) error {
	if err := checkSyntax(subject); err != nil {
		return err
	}
	if strings.HasPrefix(subject, "*") || strings.HasPrefix(subject, ">") {
		return errors.New("begins with a wildcard, which would take what is reserved")
	}
	for _, reserved := range []string{"$", "_INBOX.", "edged."} {
		if strings.HasPrefix(subject, reserved) {
			return fmt.Errorf("begins with %s, which is reserved", reserved)
		}
	}
	return nil
}

// checkSyntax bounds the length of a subject and holds it to the rules of
// subject.Check.
func checkSyntax(s string) error {
	if len(s) > maxName {
		return fmt.Errorf("is longer than %d bytes", maxName)
	}
	return subject.Check(s)
}
