package jetstream

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"edged/internal/subject"
)

// Config is a consumer's configuration, with nats-server's names and defaults.
type Config struct {
	Name              string            `json:"name,omitempty"`
	Durable           string            `json:"durable_name,omitempty"`
	Description       string            `json:"description,omitempty"`
	DeliverPolicy     string            `json:"deliver_policy"`
	StartSeq          uint64            `json:"opt_start_seq,omitempty"`
	StartTime         *time.Time        `json:"opt_start_time,omitempty"`
	AckPolicy         string            `json:"ack_policy"`
	AckWait           time.Duration     `json:"ack_wait,omitempty"`
	MaxDeliver        int               `json:"max_deliver,omitempty"`
	Backoff           []time.Duration   `json:"backoff,omitempty"`
	FilterSubject     string            `json:"filter_subject,omitempty"`
	FilterSubjects    []string          `json:"filter_subjects,omitempty"`
	ReplayPolicy      string            `json:"replay_policy"`
	MaxWaiting        int               `json:"max_waiting,omitempty"`
	MaxAckPending     int               `json:"max_ack_pending,omitempty"`
	HeadersOnly       bool              `json:"headers_only,omitempty"`
	MaxBatch          int               `json:"max_batch,omitempty"`
	MaxExpires        time.Duration     `json:"max_expires,omitempty"`
	MaxBytes          int               `json:"max_bytes,omitempty"`
	DeliverSubject    string            `json:"deliver_subject,omitempty"`
	DeliverGroup      string            `json:"deliver_group,omitempty"`
	FlowControl       bool              `json:"flow_control,omitempty"`
	Heartbeat         time.Duration     `json:"idle_heartbeat,omitempty"`
	InactiveThreshold time.Duration     `json:"inactive_threshold,omitempty"`
	Replicas          int               `json:"num_replicas"`
	MemoryStorage     bool              `json:"mem_storage,omitempty"`
	Metadata          map[string]string `json:"metadata,omitempty"`

	// Not supported.
	RateLimit      uint64     `json:"rate_limit_bps,omitempty"`
	Sampling       string     `json:"sample_freq,omitempty"`
	PauseUntil     *time.Time `json:"pause_until,omitempty"`
	PriorityPolicy string     `json:"priority_policy,omitempty"`
	PriorityGroups []string   `json:"priority_groups,omitempty"`
}

// Values of Config.AckPolicy and Config.DeliverPolicy.
const (
	ackExplicit = "explicit"
	ackAll      = "all"
	ackNone     = "none"

	deliverAll     = "all"
	deliverLast    = "last"
	deliverLastPer = "last_per_subject" // a stream has one subject
	deliverNew     = "new"
	deliverSeq     = "by_start_sequence"
	deliverTime    = "by_start_time"
)

// Bounds, and the defaults of nats-server (server/consumer.go, setConsumerConfigDefaults).
const (
	maxAckPending     = 65_536  // of a consumer
	maxAllAckPending  = 131_072 // of a stream, in addition to defaultAckPending of each consumer
	defaultAckPending = 1000
	defaultAckWait    = 30 * time.Second
	defaultMaxWaiting = 512
	mostWaiting       = 4096
	defaultInactive   = 5 * time.Second
	maxInactive       = 24 * time.Hour // a consumer that is to stay longer is a durable
	maxBackoff        = 100
	maxFilters        = 100 // each is compared with every other
	maxNameLen        = 255
	// minInterval is the shortest ack_wait, backoff and idle_heartbeat. Shorter ones would keep
	// edged busy for one client; lists have the same bound.
	minInterval = 100 * time.Millisecond
	// maxInactiveOfRules is maxInactive for users without the right to durables. nats.go's ordered
	// consumers ask for this much.
	maxInactiveOfRules = 5 * time.Minute
	// maxConfig is the maximum size in bytes of a configuration in Redis. The ledger's script has
	// the same bound.
	maxConfig = 8 << 10
)

// push reports whether items go to a subject rather than to requests.
func (c *Config) push() bool { return c.DeliverSubject != "" }

// viewer reports whether the consumer acknowledges nothing.
func (c *Config) viewer() bool { return c.AckPolicy == ackNone }

// id returns the consumer's name.
func (c *Config) id() string { return cmp.Or(c.Durable, c.Name) }

// unset clears fields whose values only mean "not set": the nats CLI sends pause_until with Go's
// zero time.
func (c *Config) unset() {
	for _, at := range []**time.Time{&c.StartTime, &c.PauseUntil} {
		if *at != nil && (*at).IsZero() {
			*at = nil
		}
	}

	if rate := strings.TrimSuffix(c.Sampling, "%"); strings.Trim(rate, "0") == "" {
		c.Sampling = ""
	}
	if len(c.Backoff) == 0 {
		c.Backoff = nil
	}
	if len(c.FilterSubjects) == 0 {
		c.FilterSubjects = nil
	}
	if len(c.Metadata) == 0 {
		c.Metadata = nil
	}
	if len(c.PriorityGroups) == 0 {
		c.PriorityGroups = nil
	}
	if c.PriorityPolicy == "none" {
		c.PriorityPolicy = ""
	}
}

// complete fills in defaults.
func (c *Config) complete() {
	c.unset()
	c.DeliverPolicy = cmp.Or(c.DeliverPolicy, deliverAll)
	c.AckPolicy = cmp.Or(c.AckPolicy, ackNone)
	c.ReplayPolicy = cmp.Or(c.ReplayPolicy, "instant")
	if c.id() == "" {
		c.Name = rand.Text()[:12]
	}

	c.Name = c.id()
	if c.MaxDeliver <= 0 {
		c.MaxDeliver = -1
	}

	c.MaxWaiting, c.MaxBatch, c.MaxBytes = max(0, c.MaxWaiting), max(0, c.MaxBatch), max(0, c.MaxBytes)
	if !c.push() {
		c.MaxWaiting = cmp.Or(c.MaxWaiting, defaultMaxWaiting)
	}
	if !c.viewer() {
		c.AckWait = cmp.Or(c.AckWait, defaultAckWait)
		c.MaxAckPending = cmp.Or(c.MaxAckPending, defaultAckPending)
	}
	if len(c.Backoff) > 0 {
		c.AckWait = c.Backoff[0]
	}
	if c.Durable == "" {
		c.InactiveThreshold = cmp.Or(c.InactiveThreshold, defaultInactive)
	}
}

// check explains why a complete configuration cannot be used.
func (c *Config) check(st *stream) *apiError {
	for _, check := range []func(*stream) *apiError{c.checkNames, c.checkPolicies, c.checkFilter, c.checkPush, c.checkPull, c.checkOffered} {
		if err := check(st); err != nil {
			return err
		}
	}
	if text, err := json.Marshal(c); err != nil || len(text) > maxConfig-256 {
		return errCreate.because("the configuration is larger than %d bytes: shorten description or metadata", maxConfig-256)
	}
	return nil
}

// reserved is the consumer name in reply subjects of plain subscriptions.
const reserved = "edged"

func (c *Config) checkNames(*stream) *apiError {
	unfit := func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(".*>/\\", r) }
	name := c.id()
	switch {
	case c.Durable != "" && c.Name != c.Durable:
		return errNames
	case strings.ContainsFunc(name, unfit):
		return errBadRequest.because("consumer name can not contain '.', '*', '>', '\\', '/' or blanks")
	case len(name) > maxNameLen:
		return errBadRequest.because("consumer name is too long, maximum allowed is %d", maxNameLen)
	case name == reserved || strings.HasPrefix(name, reserved+"-"):
		return errBadRequest.because("the name %q stands for plain subscriptions: choose another", name)
	}
	return nil
}

func (c *Config) checkPolicies(*stream) *apiError {
	start := func(text string) *apiError { return errInvalidPolicy.because("%s", text) }
	switch c.DeliverPolicy {
	case deliverAll, deliverLast, deliverLastPer, deliverNew:
		if c.StartSeq > 0 || c.StartTime != nil {
			return start("an optional start is set, but the policy is deliver " + c.DeliverPolicy)
		}
	case deliverSeq:
		if c.StartSeq == 0 || c.StartTime != nil {
			return start("deliver by start sequence needs opt_start_seq alone")
		}
	case deliverTime:
		if c.StartTime == nil || c.StartSeq > 0 {
			return start("deliver by start time needs opt_start_time alone")
		}
	default:
		return errInvalidJSON.because("can not unmarshal %q as deliver policy", c.DeliverPolicy)
	}

	switch c.AckPolicy {
	case ackNone:
		switch {
		case c.Durable != "":
			return errNotOffered.because("a consumer that acknowledges nothing is not remembered: leave durable_name out, or use ack_policy explicit")
		case c.MaxAckPending > 0:
			return errNeedsAckPolicy
		}
	case ackExplicit, ackAll:
		if c.MaxAckPending < 1 || c.MaxAckPending > maxAckPending {
			return errAckPending
		}
	default:
		return errInvalidJSON.because("can not unmarshal %q as ack policy", c.AckPolicy)
	}

	for _, wait := range c.Backoff {
		if wait < minInterval {
			return errBadRequest.because("consumer backoff needs to be >= %v", minInterval)
		}
	}

	if len(c.Backoff) > maxBackoff || c.MaxDeliver > 0 && len(c.Backoff) > c.MaxDeliver {
		return errBackoff
	}
	if c.AckWait != 0 && c.AckWait < minInterval {
		return errBadRequest.because("consumer ack wait needs to be >= %v", minInterval)
	}
	return nil
}

// checkFilter accepts only filters that match all items of the stream, which has one subject.
func (c *Config) checkFilter(st *stream) *apiError {
	switch {
	case c.FilterSubject != "" && len(c.FilterSubjects) > 0:
		return errFilters
	case len(c.FilterSubjects) > maxFilters:
		return errNotOffered.because("more than %d filter_subjects: the stream has the subject %q alone", maxFilters, st.Subject)
	}

	for _, f := range c.FilterSubjects {
		if f == "" {
			return errEmptyFilter
		}
	}
	filters := c.FilterSubjects
	if c.FilterSubject != "" {
		filters = []string{c.FilterSubject}
	}
	if len(filters) == 0 {
		return nil
	}

	for i, f := range filters {
		for _, other := range filters[i+1:] {
			if subject.Matches(f, other) || subject.Matches(other, f) {
				return errOverlap
			}
		}
	}

	if slices.ContainsFunc(filters, func(f string) bool { return subject.Matches(f, st.Subject) }) {
		return nil
	}
	return errFilter.because("the stream has the subject %q alone", st.Subject)
}

func (c *Config) checkPush(*stream) *apiError {
	if !c.push() {
		return nil
	}

	to := []byte(c.DeliverSubject)
	valid, wild := subject.Valid(to)
	switch {
	case wild:
		return errWildDeliver
	case !valid:
		return errDeliverSubject
	case c.MaxWaiting != 0:
		return errPushMaxWaiting
	case c.Heartbeat > 0 && c.Heartbeat < minInterval:
		return errSmallHeartbeat
	case c.FlowControl && c.Heartbeat == 0:
		return errFlowHeartbeat
	case c.MaxBatch > 0 || c.MaxExpires > 0 || c.MaxBytes > 0:
		return errBadRequest.because("max_batch, max_expires and max_bytes are for pull consumers")
	}

	return nil
}

func (c *Config) checkPull(*stream) *apiError {
	switch {
	case c.push():
		return nil
	case c.Heartbeat > 0:
		return errHeartbeatPull
	case c.FlowControl:
		return errFlowPull
	case c.DeliverGroup != "":
		return errBadRequest.because("deliver_group is for push consumers")
	case c.MaxWaiting > mostWaiting:
		return errResources.because("max_waiting is %d at most", mostWaiting)
	case c.MaxExpires != 0 && c.MaxExpires < time.Millisecond:
		return errBadRequest.because("consumer max request expires needs to be >= 1ms")
	}
	return nil
}

// checkOffered refuses settings that edged does not support.
func (c *Config) checkOffered(*stream) *apiError {
	for _, not := range []struct {
		set        bool
		name, text string
	}{
		{c.ReplayPolicy != "instant", "replay_policy " + c.ReplayPolicy, "use instant"},
		{c.RateLimit > 0, "rate_limit_bps", "use a pull consumer, and ask for items at that rate"},
		{c.Sampling != "", "sample_freq", "no advisories are sent: leave it out"},
		{c.PauseUntil != nil, "pause_until", "stop pulling, or pause the list on the control socket"},
		{c.PriorityPolicy != "" || len(c.PriorityGroups) > 0, "priority_policy", "use a consumer for each group"},
		{c.Replicas > 1, "num_replicas above 1", "what is remembered is in Redis: replicate that"},
		{c.Durable == "" && c.InactiveThreshold > maxInactive, fmt.Sprintf("inactive_threshold above %v", maxInactive), "make the consumer durable"},
		{c.InactiveThreshold < 0, "inactive_threshold below 0", "leave it out"},
	} {
		if not.set {
			return errNotOffered.because("%s: %s", not.name, not.text)
		}
	}

	return nil
}

// equal reports whether two configurations are the same.
func (c *Config) equal(other *Config) bool { return reflect.DeepEqual(c, other) }

// checkUpdate explains why a consumer's configuration cannot be changed to next (nats-server's
// server/consumer.go, checkNewConsumerConfig).
func (c *Config) checkUpdate(next *Config) *apiError {
	sameTime := func(a, b *time.Time) bool { return a == nil && b == nil || a != nil && b != nil && a.Equal(*b) }
	for _, fixed := range []struct {
		same bool
		text string
	}{
		{c.DeliverPolicy == next.DeliverPolicy, "deliver policy"},
		{c.StartSeq == next.StartSeq, "start sequence"},
		{sameTime(c.StartTime, next.StartTime), "start time"},
		{c.AckPolicy == next.AckPolicy, "ack policy"},
		{c.ReplayPolicy == next.ReplayPolicy, "replay policy"},
		{c.Heartbeat == next.Heartbeat, "heart beats"},
		{c.FlowControl == next.FlowControl, "flow control"},
		{c.MaxWaiting == next.MaxWaiting, "max waiting"},
		{c.MemoryStorage == next.MemoryStorage, "storage type"},
		{c.Durable == next.Durable, "durable name"},
		{c.HeadersOnly == next.HeadersOnly, "headers only"},
		{c.DeliverGroup == next.DeliverGroup, "deliver group"},
	} {
		if !fixed.same {
			return &apiError{errCreate.Code, errCreate.ErrCode, fixed.text + " can not be updated"}
		}
	}

	switch {
	case !c.push() && next.push():
		return &apiError{errCreate.Code, errCreate.ErrCode, "can not update pull consumer to push based"}
	case c.push() && !next.push():
		return &apiError{errCreate.Code, errCreate.ErrCode, "can not update push consumer to pull based"}
	}

	return nil
}

// terms returns the terms of the relay's consumer.
func (c *Config) terms() Terms {
	return Terms{
		AckWait: c.AckWait, Backoff: c.Backoff, MaxDeliver: max(0, c.MaxDeliver), MaxAckPending: c.MaxAckPending, Ephemeral: c.Durable == "",
	}
}

// record is a consumer as stored in Redis.
type record struct {
	From    uint64    `json:"from"`
	Epoch   string    `json:"epoch"`
	Created time.Time `json:"created"`
	Config  Config    `json:"config"`

	// Incarnation distinguishes a consumer from earlier and later ones of the same name: the
	// acknowledgements of one do not count for another. A viewer has none.
	Incarnation string `json:"incarnation"`
}

// Began returns when a consumer was made and its first item: the number in this epoch, or in any
// epoch if that is empty. config is the configuration in the Store.
func Began(config string) (start Start, at time.Time) {
	var rec record
	if json.Unmarshal([]byte(config), &rec) != nil {
		return Start{}, time.Time{}
	}
	return Start{From: rec.From, Epoch: rec.Epoch}, rec.Created
}
