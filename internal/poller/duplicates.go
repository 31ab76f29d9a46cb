package poller

import (
	"context"
	"math/bits"
	"slices"
	"sync"

	"go.uber.org/zap"

	"edged/internal/batch"
	"edged/internal/dedup"
	"edged/internal/ledger"
	"edged/internal/numbers"
	"edged/internal/redisconn"
)

// repeats finds the duplicates of a list. The verdict on an item depends on the keys of the items before
// it, so it is the same for every cursor, and after a restart. The items are read for it in their order,
// by the furthest cursor as a rule: the front window. A cursor that begins ahead has the items
// before it read back first. If one begins behind the known verdicts, after a restart, the back
// window reads for it.
//
// Keys of removed items are in Redis: the script that removes items writes theirs. So exactly the
// items that are gone are remembered there. The rest is read from the list.
type repeats struct {
	by          dedup.By
	items       int
	front, back *dedup.Window // nil until it is needed
	seeks       int           // of back
	ahead       uint64        // back reads for keys only, up to here
	judged      numbers.Set   // items with a verdict
	seen        ledger.Seen   // Redis's
	unreadable  bool          // its keys, as the log says
	keys        []byte        // of the last call
	made        []dedup.Key   // of the last batch
	found       []int         // duplicates among them, by index

	mu         sync.Mutex
	duplicates map[uint64]*page // guarded by mu; by number / pageItems
}

// page has the verdicts of pageItems items, a bit each.
type page [pageItems / 64]uint64

const pageItems = 4096

// newRepeats returns nil for a list without dedup.
func newRepeats(list List) *repeats {
	if list.Dedup.IsZero() {
		return nil
	}
	return &repeats{by: list.Dedup, items: list.DedupItems}
}

// heed takes over what the ledger says after a claim. Verdicts hold if the list is the one that was
// known, and Redis has the keys that it is known to have.
func (d *repeats) heed(seen ledger.Seen, first uint64, same bool) {
	if seen.Items != uint64(d.items) || seen.By != d.by.String() {
		seen = ledger.Seen{From: first, To: first, Items: uint64(d.items), By: d.by.String()}
	}
	if same && seen.Equal(d.seen) {
		return
	}
	d.seen = seen
	d.reset(first)
}

// reset forgets all verdicts: numbers may stand for other items now. Of the items that Redis has keys
// of, those from the head on are in the list now, and others have taken the places of the oldest.
func (d *repeats) reset(first uint64) {
	d.front, d.back, d.seeks, d.ahead = nil, nil, 0, 0
	d.judged = numbers.Set{}
	d.mu.Lock()
	d.duplicates = make(map[uint64]*page)
	d.mu.Unlock()
	if s := &d.seen; s.To > first {
		s.From = min(max(s.From, s.To-min(s.To, s.Items)), first)
		s.To = first
	}
}

// least is the first item whose key can be known.
func (d *repeats) least() uint64 {
	return max(d.seen.From, d.seen.To-min(d.seen.To, d.seen.Items))
}

// start is where a window has to begin for a verdict on item n.
func (d *repeats) start(n uint64) uint64 { return min(n, max(d.least(), n-min(n, uint64(d.items)))) }

// plansKeys lets the next read be for keys if they are needed first: for a verdict on the items that
// are to be delivered, or for those to be removed. It returns the window that takes them; the plan's
// read begins with its next item then. If that one was removed, recall comes first.
func (r *reader) plansKeys(plan *batch.Place, read *bool) *dedup.Window {
	d := r.repeats
	if d == nil || !r.claimed || r.astray {
		return nil
	}
	var w *dedup.Window
	var to uint64
	if *read && plan.From >= r.first {
		w, to = d.lacking(plan, r.end)
		if w != nil && plan.Sweep {
			r.relay.SkipSweep()
		}
	}
	if n := plan.Judge - 1; w == nil && plan.Judge > 0 && n >= r.first && n < r.end {
		w, to = d.judgesOne(n, r.end)
	}
	if low := r.low(plan.Floor); w == nil && low > r.first {
		if last, ok := r.marks.last(low); ok && last.number >= r.first && !d.cover(r.first, last.number+1) {
			w, to = d.lackingOf(r.first, last.number+1)
		}
	}
	if w == nil {
		return nil
	}
	if w.Next() < r.first {
		return w
	}
	o := &r.loop.opts
	*read = true
	plan.From, plan.Items = w.Next(), int(min(to, r.end)-min(w.Next(), r.end))
	plan.Bytes, plan.Large = o.BatchBytes, o.BatchBytes
	if plan.Items == 0 { // the list is shorter than it was
		*read = false
		return nil
	}
	return w
}

// judgesOne returns the window that is to read for a verdict on item n, and up to which item; nil if there is a
// verdict.
func (d *repeats) judgesOne(n, end uint64) (w *dedup.Window, to uint64) {
	if d.judged.Has(n) {
		return nil, 0
	}
	if w, to = d.lacking(&batch.Place{From: n, Items: 1}, end); w != nil {
		return w, to
	}
	if w = d.back; !ready(w, n, d.start(n)) {
		w = d.front
	}
	return w, n + 1
}

// lacking bounds a read to items whose verdict is known, or can be told as they are read. Otherwise it
// returns the window that lacks keys, and up to which item.
func (d *repeats) lacking(plan *batch.Place, end uint64) (w *dedup.Window, to uint64) {
	from := plan.From
	unjudged, next := d.judged.Gap(from)
	if unjudged > from {
		plan.Items = int(min(uint64(plan.Items), unjudged-from))
		return nil, 0
	}
	reads := d.back != nil && d.back.Next() < min(d.ahead, end) // back does, for keys
	switch {
	case ready(d.front, from, d.start(from)), !reads && ready(d.back, from, d.start(from)):
		return nil, 0
	case d.front == nil || from > d.front.Next():
		return d.seek(&d.front, from), from
	case reads:
		return d.back, d.ahead
	}
	if d.back == nil || d.back.Next() > from || from-d.back.Next() > uint64(d.items) {
		d.seeks++
	}
	d.ahead = from
	if d.seeks > 1 { // cursors take turns at several places
		d.ahead = min(from+4*uint64(d.items), next)
	}
	return d.seek(&d.back, from), max(from, min(d.ahead, end))
}

// ready reports whether a window takes item n next, and has all keys from start on.
func ready(w *dedup.Window, n, start uint64) bool {
	return w != nil && w.Next() == n && w.From() <= start
}

// seek makes a window that is to have the keys before item n: it goes on, or begins anew. It
// returns nil if the window has them.
func (d *repeats) seek(at **dedup.Window, n uint64) *dedup.Window {
	if w := *at; w == nil || w.From() > d.start(n) || w.Next() > n || n-w.Next() > uint64(d.items) {
		d.begin(at, d.start(n))
	}
	if (*at).Next() == n {
		return nil
	}
	return *at
}

// begin lets a window begin with item n.
func (d *repeats) begin(at **dedup.Window, n uint64) {
	if *at == nil {
		*at = dedup.NewWindow(d.items)
	}
	(*at).Start(n, append([]uint64{d.seen.From}, d.seen.Cuts...))
}

// cover reports whether the keys are known that Redis is to have when items are removed.
func (d *repeats) cover(from, to uint64) bool {
	from = max(from, to-min(to, uint64(d.items)))
	return covers(d.front, from, to) || covers(d.back, from, to)
}

func covers(w *dedup.Window, from, to uint64) bool {
	return w != nil && w.From() <= from && to <= w.Next()
}

// lackingOf returns the window that is to take the keys of items to be removed.
func (d *repeats) lackingOf(from, to uint64) (*dedup.Window, uint64) {
	from = max(from, to-min(to, uint64(d.items)))
	for _, w := range []*dedup.Window{d.front, d.back} {
		if w != nil && w.From() <= from && from <= w.Next() {
			return w, to
		}
	}
	d.begin(&d.back, from)
	d.ahead = 0
	return d.back, to
}

// see takes the keys of a batch, for a window if it was read for that, and says in the batch which of
// its items are duplicates.
func (d *repeats) see(only *dedup.Window, b *batch.Batch) {
	from := b.Next() // the items from here on have a key in made
	d.made = d.made[:0]
	for _, w := range d.taking(only, b.First(), b.Next()) {
		if w.Next() < from {
			d.made = d.made[:0]
			for i := int(w.Next() - b.First()); i < b.Len(); i++ {
				d.made = append(d.made, d.by.Key(b.Item(i)))
			}
			from = w.Next()
		}
		at, begin := w.Next(), w.From()
		d.found = w.Add(d.made[at-from:], d.found[:0])
		d.judge(begin, at, b.Next(), b)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	b.SetDuplicates(d.among(b.First(), b.Next()))
}

// taking returns the windows that take items from from to to, to excluded.
func (d *repeats) taking(only *dedup.Window, from, to uint64) (windows []*dedup.Window) {
	for _, w := range []*dedup.Window{d.front, d.back} {
		if w != nil && w.Next() >= from && w.Next() < to && (only == nil || only == w) {
			windows = append(windows, w)
		}
	}
	return windows
}

// judge notes the verdicts on items, as a window tells them that begins with some item: on those for which
// it has all keys that count. Those in found have the key of an earlier one, and are in the batch.
func (d *repeats) judge(begin, from, to uint64, b *batch.Batch) {
	first := max(from, d.seen.To, begin)
	if begin > d.least() {
		first = max(first, begin+uint64(d.items))
	}
	if first >= to {
		return
	}
	d.judged.Add(first, to)
	if len(d.found) == 0 {
		return
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	for _, i := range d.found {
		n := from + uint64(i)
		if n < first || !d.by.Allows(b.Item(int(n-b.First()))) {
			continue
		}
		p := d.duplicates[n/pageItems]
		if p == nil {
			p = new(page)
			d.duplicates[n/pageItems] = p
		}
		p[n%pageItems/64] |= 1 << (n % 64)
	}
}

// seeNone is see for an item without a key.
func (d *repeats) seeNone(only *dedup.Window, n uint64) {
	d.found = d.found[:0]
	for _, w := range d.taking(only, n, n+1) {
		begin := w.From()
		w.Add(make([]dedup.Key, 1), nil)
		d.judge(begin, n, n+1, nil)
	}
}

// among returns the duplicates among items, as far as there is a verdict. It is called with mu held.
func (d *repeats) among(from, to uint64) (runs []numbers.Span) {
	for n := from; n < to; n++ {
		p := d.duplicates[n/pageItems]
		if p == nil {
			n |= pageItems - 1
			continue
		}
		word := p[n%pageItems/64] >> (n % 64)
		if word == 0 {
			n |= 63
			continue
		}
		if n += uint64(bits.TrailingZeros64(word)); n >= to {
			break
		}
		if k := len(runs); k > 0 && runs[k-1].To == n {
			runs[k-1].To++
		} else {
			runs = append(runs, numbers.Span{From: n, To: n + 1})
		}
	}
	return runs
}

// write lets the script that removes items write their keys. Items that others have removed meanwhile
// have none.
func (d *repeats) write(call *ledger.Call, first, to uint64) {
	size := uint64(d.items)
	from := max(d.seen.To, to-min(to, size))
	w := d.front
	if !covers(w, max(first, from), to) {
		w = d.back
	}
	keys := slices.Grow(d.keys[:0], int(to-from)*dedup.KeySize)
	d.keys = keys
	for from < to {
		place := from % size
		n := min(to-from, size-place)
		if from < first {
			n = min(n, first-from)
			keys = append(keys, make([]byte, n*dedup.KeySize)...)
		} else {
			keys = w.AppendKeys(keys, from, from+n)
		}
		call.Seen = append(call.Seen, ledger.Part{Offset: place * dedup.KeySize, Bytes: keys[len(keys)-int(n)*dedup.KeySize:]})
		from += n
	}
	seen := d.seen
	seen.To = to
	call.Set = append(call.Set, seen.Field())
}

// removed notes that the items below a number were removed, and that Redis has their keys.
func (d *repeats) removed(below uint64) {
	gone := d.seen.To / pageItems
	d.seen.To = below
	d.judged.Raise(below)
	d.mu.Lock()
	for n := gone; n < below/pageItems && len(d.duplicates) > 0; n++ {
		delete(d.duplicates, n)
	}
	d.mu.Unlock()
	if f := d.front; f != nil && f.From() <= below && d.judged.Floor() >= f.Next() {
		d.back = nil // the front has all that it has
	}
}

// recall returns a part of the keys of removed items, if the list is still this process's and as it was.
// Whatever makes them unreadable lets items be delivered that could have been dropped. KEYS: 1 ledger, 2
// seen. ARGV: 1 holder, 2 serial, 3 and 4 the first and the last byte.
var recall = redisconn.NewScript(`
local old = redis.call('HMGET', KEYS[1], 'owner', 'serial')
if old[1] ~= ARGV[1] or old[2] ~= ARGV[2] then return {'moved'} end
local keys = redis.pcall('GETRANGE', KEYS[2], ARGV[3], ARGV[4])
if type(keys) == 'table' then return {'error', keys.err} end
return {'ok', keys}
`)

// maxRecall is how many keys are read at once.
const maxRecall = 16384

// recall reads keys of removed items, for a window.
func (r *reader) recall(ctx context.Context, w *dedup.Window) error {
	d := r.repeats
	from, size := w.Next(), uint64(d.items)
	n := uint64(0)
	if from < d.seen.To {
		n = min(d.seen.To-from, maxRecall, size-from%size)
	}
	text := ""
	if n > 0 {
		at := from % size * dedup.KeySize
		reply, err := r.Server.DoWithin(ctx, maxRecall*dedup.KeySize+1024,
			recall.Call([]string{r.keys.Ledger, r.keys.Seen}, r.loop.holder, r.serial, at, at+n*dedup.KeySize-1)...)
		if err != nil {
			return err
		}
		words, _ := reply.([]any)
		switch {
		case len(words) == 2 && words[0] == "ok":
			text, _ = words[1].(string)
		case len(words) == 2 && !d.unreadable:
			d.unreadable = true
			r.log.Error("the keys of removed items can't be read: items that repeat them are delivered",
				zap.String("key", r.keys.Seen), zap.Any("reason", words[1]))
		case len(words) == 1:
			r.claimed = false
			return nil
		}
	}
	keys := make([]dedup.Key, n)
	for i := range keys {
		if at := i * dedup.KeySize; at+dedup.KeySize <= len(text) {
			keys[i] = dedup.Key([]byte(text[at : at+dedup.KeySize]))
		}
	}
	w.Add(keys, nil)
	if next := w.Next(); next < r.first && next >= d.seen.To {
		w.Add(make([]dedup.Key, r.first-next), nil)
	}
	r.more = true
	return nil
}

// Verdict reports whether an item of a list is a duplicate, and whether that is known. It is called by the loop,
// from within a list's Log.
func (l *Loop) Verdict(key string, n uint64) (duplicate, known bool) {
	r := l.reader(key)
	if r == nil || r.repeats == nil {
		return false, true
	}
	return len(l.Duplicates(key, n, n+1)) > 0, r.repeats.judged.Has(n)
}

// Duplicates returns the items of a list, of those from from to to, to excluded, that are known to repeat an
// earlier one. It knows none if there is no such list.
func (l *Loop) Duplicates(key string, from, to uint64) []numbers.Span {
	r := l.reader(key)
	if r == nil {
		return nil
	}
	r.mu.Lock()
	d := r.repeats
	r.mu.Unlock()
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.among(from, to)
}
