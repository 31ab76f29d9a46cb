// Package inbound writes the items that clients publish into Redis lists.
//
// Every list has a queue in the order in which Write was called. One goroutine, Run, sends the
// items that have gathered in all queues in one round trip. Write never blocks. An item that does
// not fit into its list's share of the buffer is refused, so a list that Redis does not accept
// stops no other list.
//
// A publisher that wants an answer gets it when Redis has the item, or gets an error. It decides
// itself whether to publish again: edged never writes its item twice. For publishers without an
// answer the item is kept until Redis has it. If Redis's reply is lost, it is written again, since
// a second copy is better than none. Nothing is dropped without being counted.
//
// Answers have JetStream's form, so that the publish calls of its clients work.
package inbound

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

const (
	// roundItems and roundBytes bound the items of one list in one round trip, and so the items
	// that may be in the list twice after a lost reply. One item is always sent.
	roundItems = 500
	roundBytes = 1 << 20
	// overhead is the cost in bytes of a waiting item in addition to its payload.
	overhead = 128
	// flushTimeout bounds how long Run goes on writing after it is told to end.
	flushTimeout = 2 * time.Second
	// Retries start soon and slow down. go-redis adds up to a second of its own. When Redis is
	// back, writing must resume within two seconds.
	firstRetry = 20 * time.Millisecond
	lastRetry  = 500 * time.Millisecond
	// fullFor is how long a list counts as full after the last item that it refused. It is also the
	// time between two checks of its length after that.
	fullFor = time.Second
)

// Options configure a Writer.
type Options struct {
	Redis  Redis // Run closes it
	Lists  []List
	Buffer int                   // bytes that may wait for Redis; each list has an equal share, which one item may exceed
	Random func(n uint64) uint64 // returns a number below n; nil: rand.Uint64N
	Log    *zap.Logger           // nil means none
}

// Redis returns the connection to the server that has a key. One goroutine uses it.
type Redis interface {
	// Client returns a connection that never resends a command by itself (MaxRetries: -1), bounds
	// every round trip, and heeds the deadline of a context (ContextTimeoutEnabled).
	Client(key string) *redis.Client
	// Reached is called when a command for the key was carried out.
	Reached(key string)
	// Failed is called with the reason, as far as it is known, why a command was not carried out.
	// It returns true if Client now has another connection that is to be tried at once.
	Failed(key string, err error) (atOnce bool)
	Close()
}

// List is a Redis list that clients can write to.
type List struct {
	Subject   string // subject that clients publish to
	Key       string
	MaxLen    int64         // length of the list from which on items are refused; 0 means no bound
	IDWindow  time.Duration // how long an id is remembered; 0: not at all
	FromRight bool          // the list's head is its right end
}

// Stats describe one list.
type Stats struct {
	Subject       string `json:"subject"`
	Key           string `json:"list"`
	Written       uint64 `json:"written"`
	Duplicates    uint64 `json:"duplicates"`      // items not written because one with the same id was
	RefusedBuffer uint64 `json:"refused_buffer"`  // the list's share of the buffer was full
	RefusedMaxLen uint64 `json:"refused_max_len"` // the list had MaxLen items
	RefusedRedis  uint64 `json:"refused_redis"`   // Redis was unavailable or refused the item
	Uncertain     uint64 `json:"uncertain"`       // reply lost: written again, or left to the waiting publisher
	Waiting       int    `json:"waiting"`         // items
	WaitingBytes  int    `json:"waiting_bytes"`
	Failing       string `json:"failing,omitempty"` // reason why Redis does not accept the list's items

	Full      string    `json:"full,omitempty"` // says that the list has MaxLen items
	FullSince time.Time `json:"full_since,omitzero"`
}

// Writer writes to lists. Its methods may be called from any goroutine.
type Writer struct {
	redis  Redis
	share  int // bytes that may wait for one list
	random func(n uint64) uint64
	log    *zap.Logger
	wake   chan struct{} // capacity 1: an item waits

	mu     sync.Mutex // guards everything below
	closed bool
	lists  []*list
}

// list is a List with its waiting items. Guarded by Writer.mu.
type list struct {
	List
	waiting []item // in order; only Run removes items
	ids     ids
	pause   time.Duration
	retry   time.Time // nothing is sent before this time
	look    time.Time // if the list is full: time of the next check of its length
	stats   Stats
}

// item is the item of one Write.
type item struct {
	payload []byte
	answer  func([]byte) // nil if the publisher does not wait
	id      *published   // nil: the item has no id
}

func (it item) cost() int { return len(it.payload) + overhead }

// New makes a writer. It writes while Run runs.
func New(opts Options) *Writer {
	w := &Writer{
		redis:  opts.Redis,
		share:  opts.Buffer / max(1, len(opts.Lists)),
		random: opts.Random,
		log:    opts.Log,
		wake:   make(chan struct{}, 1),
	}
	if w.random == nil {
		w.random = rand.Uint64N
	}
	if w.log == nil {
		w.log = zap.NewNop()
	}

	for _, l := range opts.Lists {
		w.lists = append(w.lists, &list{List: l, stats: Stats{Subject: l.Subject, Key: l.Key}})
	}
	return w
}

// Write appends payload, which it copies, to the list with index i in Options.Lists. An item whose
// id is that of an earlier one is a duplicate and is not written; an empty id is none. answer is
// called once with a JSON object, possibly before Write returns, without a lock held. It is nil if
// the publisher does not wait for the outcome.
func (w *Writer) Write(i int, id string, payload []byte, answer func(reply []byte)) {
	it := item{payload: bytes.Clone(payload), answer: answer}
	w.mu.Lock()
	l := w.lists[i]
	first := l.ids.first(id, l.IDWindow, time.Now())
	var refused []byte
	switch {
	case first != nil && first.seq == 0 && len(first.also) >= maxAlso:
		l.stats.RefusedBuffer++
		refused = l.failure(noResources, "too many wait for the outcome of this id")
	case first != nil && first.seq == 0: // the earlier item waits for Redis
		l.stats.Duplicates++
		if answer != nil {
			first.also = append(first.also, answer)
		}
		w.mu.Unlock()
		return
	case first != nil:
		l.stats.Duplicates++
		refused = l.duplicate(first.seq)
	case w.closed:
		l.stats.RefusedRedis++
		refused = l.failure(unavailable, "edged is ending")
	case len(l.waiting) > 0 && l.stats.WaitingBytes+it.cost() > w.share:
		l.stats.RefusedBuffer++
		refused = l.failure(noResources, "too much waits for Redis to take it")
	case answer != nil && l.away():
		l.stats.RefusedRedis++
		refused = l.failure(unavailable, l.stats.Failing)
	default:
		it.id = l.ids.add(id, l.IDWindow, time.Now())
		l.waiting = append(l.waiting, it)
		l.stats.WaitingBytes += it.cost()
	}
	w.mu.Unlock()

	switch {
	case refused == nil:
		select {
		case w.wake <- struct{}{}:
		default:
		}
	case answer != nil:
		answer(refused)
	}
}

// away reports whether an item would have to wait until Redis is back. It is false if the item
// would itself be the next attempt.
func (l *list) away() bool {
	return l.stats.Failing != "" && (len(l.waiting) > 0 || time.Now().Before(l.retry))
}

// Stats describes the lists, in the order of Options.Lists.
func (w *Writer) Stats() []Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]Stats, len(w.lists))
	for i, l := range w.lists {
		all[i] = l.stats
		all[i].Waiting = len(l.waiting)
	}
	return all
}

// Run writes until ctx is done. Then it writes the waiting items for at most two seconds, refuses
// the rest, closes the client and returns nil.
func (w *Writer) Run(ctx context.Context) error {
	defer w.redis.Close()
	lasting := context.WithoutCancel(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		w.round(lasting)
		if next := w.next(); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-timer.C: // firing too soon does no harm
		case <-w.wake:
		case <-ctx.Done():
		}
	}

	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	flush, cancel := context.WithTimeout(lasting, flushTimeout)
	defer cancel()
	for flush.Err() == nil {
		next := w.next()
		if next.IsZero() {
			break
		}
		timer.Reset(time.Until(next))
		select {
		case <-timer.C:
			w.round(flush)
		case <-flush.Done():
		}
	}
	w.giveUp()
	return nil
}

// next returns when there is something to send; zero means that nothing waits.
func (w *Writer) next() (next time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()

	for _, l := range w.lists {
		at := l.retry
		switch {
		case len(l.waiting) > 0 && at.IsZero():
			at = time.Now()
		case len(l.waiting) > 0:
		case l.stats.Full != "" && !w.closed:
			at = l.look
		default:
			continue
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}

	return next
}

// push appends items to a bounded list, as many as there is room for, and returns their number.
// ARGV: 1 the bound, 2 LPUSH or RPUSH, 3… the items.
const push = `
local n = math.min(tonumber(ARGV[1]) - redis.call('LLEN', KEYS[1]), #ARGV - 2)
if n <= 0 then return 0 end
redis.call(ARGV[2], KEYS[1], unpack(ARGV, 3, n + 2))
return n
`

// looked handles the measured length of a full list.
func (w *Writer) looked(l *list, length int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l.look = time.Now().Add(fullFor)
	if length < l.MaxLen {
		w.hasRoom(l)
	}
}

// hasRoom ends the time in which a list counts as full. Writer.mu is held.
func (w *Writer) hasRoom(l *list) {
	w.log.Info("the list is full no more; clients can write to it again", zap.String("list", l.Key),
		zap.Duration("full", time.Since(l.stats.FullSince).Round(time.Millisecond)))
	l.stats.Full, l.stats.FullSince = "", time.Time{}
}

// refused notes that a list has refused an item because it is full. Writer.mu is held.
func (w *Writer) refused(l *list) {
	now := time.Now()
	l.look = now.Add(fullFor)
	if l.stats.Full == "" {
		l.stats.Full = fmt.Sprintf("the list is full: it has max_len = %d items, and more are refused", l.MaxLen)
		l.stats.FullSince = now
		w.log.Warn("the list is full and refuses messages; see that a program takes its items, or raise max_len",
			zap.String("list", l.Key), zap.Int64("max_len", l.MaxLen))
	}
}

// sending is one list's part of a round.
type sending struct {
	list   *list
	items  []item
	cmd    *redis.Cmd
	client *redis.Client
}

// round sends the first waiting items in one round trip to each server. Lists that wait for a retry
// are left out.
func (w *Writer) round(ctx context.Context) {
	pipes := map[*redis.Client][]redis.Cmder{}
	var sent []sending
	now := time.Now()
	w.mu.Lock()
	for _, l := range w.lists {
		var args []any
		var items []item
		switch {
		case len(l.waiting) > 0 && !now.Before(l.retry):
			items = l.first()
			args = l.command(items)
		case len(l.waiting) == 0 && l.stats.Full != "" && !now.Before(l.look):
			args = []any{"LLEN", l.Key}
		default:
			continue
		}
		client := w.redis.Client(l.Key)
		cmd := redis.NewCmd(ctx, args...)
		pipes[client] = append(pipes[client], cmd)
		sent = append(sent, sending{l, items, cmd, client})
	}
	w.mu.Unlock()

	errs := make(map[*redis.Client]error, len(pipes))
	for client, cmds := range pipes {
		// Not Pipeliner.Do: a call through the interface keeps every client's Do in the binary,
		// including the cluster client's with all that it needs.
		pipe := client.Pipeline()
		pipe.BatchProcess(ctx, cmds...)
		_, errs[client] = pipe.Exec(ctx)
	}

	for _, s := range sent {
		// Only its own result says that a command was carried out: if the connection failed,
		// go-redis may leave a command with neither result nor error.
		if n, ok := s.cmd.Val().(int64); ok {
			w.redis.Reached(s.list.Key)
			if len(s.items) == 0 {
				w.looked(s.list, n)
			} else {
				w.wrote(s, n)
			}
			continue
		}
		err := cmp.Or(s.cmd.Err(), errs[s.client])
		atOnce := w.redis.Failed(s.list.Key, err)
		if atOnce && surelyNot(err) {
			w.retryNow(s.list) // on the other connection; the publishers need not know
			continue
		}
		if len(s.items) == 0 {
			w.looked(s.list, s.list.MaxLen) // its length as far as it is known
			continue
		}
		w.failed(s, err)
	}
}

func (w *Writer) retryNow(l *list) {
	w.mu.Lock()
	l.retry = time.Time{}
	w.mu.Unlock()
}

// first returns the items to send next. Writer.mu is held.
func (l *list) first() []item {
	n, size := 0, 0
	for n < len(l.waiting) && n < roundItems && (n == 0 || size+len(l.waiting[n].payload) <= roundBytes) {
		size += len(l.waiting[n].payload)
		n++
	}
	return l.waiting[:n:n]
}

// command returns the command that appends items to the list. Writer.mu is held.
func (l *list) command(items []item) []any {
	verb := "RPUSH"
	if l.FromRight {
		verb = "LPUSH"
	}
	args := []any{verb, l.Key}
	if l.MaxLen > 0 {
		// The script's text is sent every time: it is short, and Redis may forget it.
		args = []any{"EVAL", push, 1, l.Key, l.MaxLen, verb}
	}
	for _, it := range items {
		args = append(args, it.payload)
	}
	return args
}

// reply is an answer to be given once no lock is held.
type reply struct {
	to   func([]byte)
	text []byte
}

func (w *Writer) unlockAndTell(replies []reply) {
	w.mu.Unlock()
	for _, r := range replies {
		r.to(r.text)
	}
}

// wrote handles a command that Redis has carried out. n is its reply: the number of items added to
// a bounded list, otherwise the list's length.
func (w *Writer) wrote(s sending, n int64) {
	w.mu.Lock()
	l := s.list
	if l.stats.Failing != "" {
		w.log.Info("messages are written to the list again", zap.String("list", l.Key))
	}

	l.stats.Failing, l.pause, l.retry = "", 0, time.Time{}
	var replies []reply
	for i, it := range s.items {
		var text []byte
		if l.MaxLen == 0 || int64(i) < n {
			l.stats.Written++
			text = l.success()
		} else {
			l.stats.RefusedMaxLen++
			text = l.failure(storeFailed, fmt.Sprintf("it is full: max_len is %d", l.MaxLen))
		}
		l.stats.WaitingBytes -= it.cost()
		if it.answer != nil {
			replies = append(replies, reply{it.answer, text})
		}
		if it.id == nil {
			continue
		}
		if l.MaxLen == 0 || int64(i) < n {
			it.id.seq = l.stats.Written
			text = l.duplicate(it.id.seq)
		} else {
			l.ids.drop(it.id)
		}
		replies = it.id.tell(replies, text)
	}

	switch {
	case l.MaxLen > 0 && n < int64(len(s.items)):
		w.refused(l)
	case l.stats.Full != "" && !time.Now().Before(l.look):
		w.hasRoom(l)
	}

	clear(s.items)
	l.waiting = l.waiting[len(s.items):]
	w.unlockAndTell(replies)
}

// failed handles items that Redis has refused or has not confirmed. A publisher that waits for an
// answer gets it now; the rest waits for the next attempt.
func (w *Writer) failed(s sending, err error) {
	w.mu.Lock()
	l := s.list
	if l.stats.Failing == "" {
		w.log.Warn("messages cannot be written to the list, trying again; see that Redis runs and that the key holds a list",
			zap.String("list", l.Key), zap.Error(err))
	}
	l.stats.Failing = "Redis does not take it: " + err.Error()
	l.pause = min(max(firstRetry, 2*l.pause), lastRetry)
	l.retry = time.Now().Add(l.pause*3/4 + time.Duration(w.random(uint64(l.pause/2)))) // spreads retries

	unknown := !surelyNot(err)
	if unknown {
		l.stats.Uncertain += uint64(len(s.items))
	}
	var replies []reply
	kept := make([]item, 0, len(l.waiting))
	for i, it := range l.waiting {
		if it.answer == nil {
			kept = append(kept, it)
			continue
		}
		text := l.failure(unavailable, l.stats.Failing)
		if unknown && i < len(s.items) {
			text = l.failure(unavailable, "Redis's reply was lost, the item may be in the list or not: "+err.Error())
		} else {
			l.stats.RefusedRedis++
		}
		l.stats.WaitingBytes -= it.cost()
		replies = append(replies, reply{it.answer, text})
		if it.id != nil { // if it is published again, it is not a duplicate
			l.ids.drop(it.id)
			replies = it.id.tell(replies, text)
		}
	}
	l.waiting = kept
	w.unlockAndTell(replies)
}

// surelyNot reports whether an error means that nothing was written: Redis said so, or there was no
// connection.
func surelyNot(err error) bool {
	var answered redis.Error
	var op *net.OpError
	return errors.As(err, &answered) || errors.As(err, &op) && op.Op == "dial"
}

// giveUp refuses all waiting items.
func (w *Writer) giveUp() {
	w.mu.Lock()
	var replies []reply
	for _, l := range w.lists {
		if len(l.waiting) > 0 {
			w.log.Error("messages to the list are dropped: Redis did not take them in time",
				zap.String("list", l.Key), zap.Int("items", len(l.waiting)), zap.String("reason", l.stats.Failing))
		}
		for _, it := range l.waiting {
			l.stats.RefusedRedis++
			if it.answer != nil {
				replies = append(replies, reply{it.answer, l.failure(unavailable, "edged is ending")})
			}
		}
		l.waiting, l.stats.WaitingBytes = nil, 0
	}

	w.unlockAndTell(replies)
}
