package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"edged/internal/edgedtest"
)

// window is the number of items of a list that may be in flight: the default of
// delivery.window_items.
const window = 4000

// patience is how long a row waits for an event that must happen.
const patience = edgedtest.Patience

// lists are the two lists of a row.
var lists = []string{"events", "readings"}

// mode says when items of each of lists count as confirmed, and which consumers each list has.
type mode struct {
	name string
	acks [2]string // by the consumer of each list; durable is a JetStream consumer
	lags string    // by a second consumer of each, which reads slowly; empty: there is none
}

var modes = []mode{
	{"received", [2]string{"received", "received"}, ""},
	{"explicit", [2]string{"explicit", "explicit"}, ""},
	{"none", [2]string{"none", "none"}, ""},
	{"durable", [2]string{"durable", "durable"}, ""},
	{"explicit beside received", [2]string{"explicit", "received"}, ""},
	{"received, one lags", [2]string{"received", "received"}, "received"},
	{"explicit, one lags", [2]string{"explicit", "explicit"}, "explicit"},
	{"durable, one lags", [2]string{"durable", "durable"}, "durable"},
	{"received, a durable lags", [2]string{"received", "received"}, "durable"},
	{"durable, a received lags", [2]string{"durable", "durable"}, "received"},
}

// mayLose reports whether items in sockets are lost when a fault happens.
func (m mode) mayLose() bool { return m.acks[0] == "none" }

// scenario is a kind of fault.
type scenario struct {
	name   string
	stalls bool           // the clients stop reading first
	signal syscall.Signal // ends the daemon; 0 if the clients die instead
}

var scenarios = []scenario{
	{"SIGKILL", false, syscall.SIGKILL},
	{"client stalls, SIGKILL", true, syscall.SIGKILL},
	{"client stalls, dies, back", true, 0},
	{"SIGTERM", false, syscall.SIGTERM},
	{"client stalls, SIGTERM", true, syscall.SIGTERM},
}

// row is one scenario in one mode.
type row struct {
	scenario
	mode   mode
	faults int
	items  int
	random *rand.Rand
	redis  *redis
	daemon *edgedtest.Daemon
	ended  chan result // takes the one result

	clients []*client // one for each of lists
	lagging []*client // empty, or one for each of lists
	before  [2]string // serials of the ledgers when the last daemon had ended; empty: there was none
	pushed  []int     // into each of lists; owned by the producer while there is one
}

func (r *row) name() string { return r.scenario.name + " | " + r.mode.name }

// result is a row of the table.
type result struct {
	pushed, lost, twice, disorder, corrupted int
	err                                      error // the row did not come to its end
}

// wrong returns the broken promises.
func (r result) wrong(m mode, faults int) string {
	switch most := faults * len(lists) * window; {
	case r.lost > 0 && !m.mayLose():
		return fmt.Sprintf("%d items are lost", r.lost)
	case r.corrupted > 0:
		return fmt.Sprintf("%d items are corrupted", r.corrupted)
	case r.disorder > 0:
		return fmt.Sprintf("%d items came out of order", r.disorder)
	case r.twice > most && m.lags == "": // after a start, all that the slowest had not confirmed come again
		return fmt.Sprintf("%d items came twice, at most %d may", r.twice, most)
	}
	return ""
}

// run pushes the items in as many parts as there are faults, and causes one fault during each. It
// returns when Redis holds nothing more, the clients have everything, and the daemon has ended.
func (r *row) run(ctx context.Context) (got result, err error) {
	if _, err := r.redis.do("FLUSHALL"); err != nil {
		return got, err
	}
	if err := r.daemon.Start(); err != nil {
		return got, err
	}
	defer r.daemon.Stop(syscall.SIGKILL)

	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	each := r.items / len(lists) // the last item is pushed when all faults are over
	for i, list := range lists {
		r.clients = append(r.clients, newClient(r.daemon.Address, list, each, r.mode.acks[i]))
		if r.mode.lags != "" {
			r.lagging = append(r.lagging, newLagging(r.daemon.Address, list, each, r.mode.lags))
		}
	}
	for _, c := range slices.Concat(r.clients, r.lagging) {
		running.Go(func() { c.run(ctx) })
		if err := wait(ctx, c.ready, "edged has the consumers of "+c.list); err != nil {
			return got, err
		}
	}
	r.pushed = make([]int, len(lists))
	if err := r.settled(ctx); err != nil {
		return got, err
	}
	for i := range r.faults {
		if err := r.round(ctx, each*(i+1)/r.faults-1); err != nil {
			return got, fmt.Errorf("fault %d: %v", i+1, err)
		}
	}

	// With the last item a client has all earlier ones that still come: items that Redis no longer
	// holds may still be in a socket.
	for i := range lists {
		if err := r.push(i, 1); err != nil {
			return got, err
		}
	}
	for _, c := range r.clients {
		if err := wait(ctx, c.last, "the last of "+c.list+" comes"); err != nil {
			return got, err
		}
	}
	if err := r.settled(ctx); err != nil {
		return got, err
	}
	if err := r.daemon.Stop(syscall.SIGTERM); err != nil {
		return got, err
	}
	cancel()
	running.Wait()
	return r.count()
}

// count adds up the items that the clients have recorded.
func (r *row) count() (got result, err error) {
	for i := range lists {
		got.pushed += r.pushed[i]
		got.lost += r.lost(i)
	}
	for _, c := range slices.Concat(r.clients, r.lagging) {
		if c.refused != "" {
			return got, fmt.Errorf("edged refuses a client of %s: %s", c.list, c.refused)
		}
		got.twice += c.twice
		got.disorder += c.disorder
		got.corrupted += c.corrupted
	}
	return got, nil
}

// lost returns how many items of a list were never recorded. Each client gets all of them, unless
// it leaves by itself: then it begins with the first item that no other client has confirmed.
// Clients with a durable consumer get all of them even then.
func (r *row) lost(list int) (n int) {
	clients := []*client{r.clients[list]}
	if len(r.lagging) > 0 {
		clients = append(clients, r.lagging[list])
	}

	for item := range clients[0].times {
		misses, owed := 0, 0
		for _, c := range clients {
			if c.times[item] > 0 {
				continue
			}
			if misses++; r.signal != 0 || c.ack == "durable" {
				owed++
			}
		}
		if misses == len(clients) {
			owed = misses
		}
		n += owed
	}

	return n
}

// round pushes items until each list has had until items, causes one fault meanwhile, and returns
// when all of them have left Redis.
func (r *row) round(ctx context.Context, until int) error {
	marks := make([]*mark, len(lists))
	for i, c := range r.clients {
		marks[i] = newMark(1+r.random.IntN(until-r.pushed[i]), r.stalls)
		c.mark.Store(marks[i])
	}

	random := rand.New(rand.NewPCG(r.random.Uint64(), 0)) // the producer's own
	pushed := make(chan error, 1)
	go func() { pushed <- r.produce(until, random) }()
	err := r.fault(ctx, marks)
	if pushErr := <-pushed; pushErr != nil {
		return pushErr
	}
	if err != nil {
		return err
	}
	return r.settled(ctx)
}

// fault waits for the marks and causes the scenario's fault.
func (r *row) fault(ctx context.Context, marks []*mark) error {
	first, moment := r.random.IntN(len(marks)), time.Duration(r.random.Int64N(int64(2*time.Millisecond)))
	if err := wait(ctx, marks[first].reached, "the clients get items"); err != nil {
		return err
	}

	if r.stalls {
		if err := wait(ctx, marks[1-first].reached, "the clients get items"); err != nil {
			return err
		}
		moment *= 100
	}
	time.Sleep(moment)
	var err error
	if r.signal != 0 {
		err = r.daemon.Stop(r.signal)
		for i, list := range lists {
			r.before[i] = r.serial(list)
		}
	}

	for _, m := range marks {
		m.dies = r.signal == 0
		close(m.resume)
	}

	if r.signal != 0 && err == nil {
		err = r.daemon.Start()
	}
	for _, m := range marks { // until then items may go to the dead connection
		if m.dies && err == nil {
			err = wait(ctx, m.back, "the clients are back")
		}
	}
	return err
}

// produce pushes items, at times more than a window at once, until each list has had until items.
func (r *row) produce(until int, random *rand.Rand) error {
	for slices.Min(r.pushed) < until {
		for i := range lists {
			n := min(until-r.pushed[i], 1+random.IntN(window*5/4))
			if n == 0 {
				continue
			}
			if err := r.push(i, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// push pushes the next n items of a list.
func (r *row) push(list, n int) error {
	args := []string{"RPUSH", lists[list]}
	for range n {
		args = append(args, string(makeItem(lists[list], r.pushed[list])))
		r.pushed[list]++
	}
	_, err := r.redis.do(args...)
	return err
}

// settled waits until no item is in Redis, so that no consumer owes one, and the grace after the
// last start is over: all items delivered within it may come again.
func (r *row) settled(ctx context.Context) error {
	deadline := time.Now().Add(patience)
	for {
		left := ""
		for i, list := range lists {
			n, err := r.redis.do("LLEN", list)
			if err != nil {
				return err
			}
			aside, err := r.redis.do("HLEN", ledger(list)+":aside")
			if err != nil {
				return err
			}
			grace, err := r.redis.do("HEXISTS", ledger(list), "grace")
			if err != nil {
				return err
			}
			if serial := r.serial(list); n != ":0" || aside != ":0" || grace != ":0" || serial == "" || serial == r.before[i] {
				left += fmt.Sprintf(" %s%s, set aside%s, grace%s, serial%s", list, n, aside, grace, serial)
			}
		}

		switch {
		case left == "":
			return nil
		case ctx.Err() != nil:
			return errors.New("interrupted")
		case time.Now().After(deadline):
			return fmt.Errorf("items stay in Redis for ever:%s", left)
		}

		time.Sleep(20 * time.Millisecond)
	}
}

func ledger(list string) string { return "{" + list + "}:edged" }

// serial returns the number of the last change of a list's ledger; empty if there is none.
func (r *row) serial(list string) string {
	reply, err := r.redis.do("EVAL", "return tonumber(redis.call('HGET', KEYS[1], 'serial') or 0)", "1", ledger(list))
	if err != nil || reply == ":0" {
		return ""
	}
	return reply
}

// wait waits for an event that must happen.
func wait(ctx context.Context, happened <-chan struct{}, what string) error {
	select {
	case <-happened:
		return nil
	case <-ctx.Done():
		return errors.New("interrupted")
	case <-time.After(patience):
		return fmt.Errorf("gave up waiting: %s", what)
	}
}
