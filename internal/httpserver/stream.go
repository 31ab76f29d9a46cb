package httpserver

import (
	"context"
	"io"
	"net/http"
	"slices"
	"time"

	"edged/internal/auth"
)

// stream is the stream of one client. The request's goroutine owns everything except woken.
type stream struct {
	events  *Events
	request request
	user    *auth.User
	out     io.Writer
	control *http.ResponseController
	woken   chan struct{} // holds one value if there may be something to show
	renewed chan struct{} // closed when the client is to reconnect
	expired bool          // guarded by Events.mu; renewed is closed

	views   []*view
	past    map[string]place // places that the views of removed lists had reached, by subject
	version uint64           // of the lists
	begun   bool             // the client knows its place
	failed  bool             // a read failed and is retried
	last    time.Time        // of the last write
	bound   time.Time        // when the write deadline was set
	unsent  bool             // something was written since the last flush
	broken  error            // the connection's error
	line    []byte           // for id lines
}

// view is a stream's view of a list.
type view struct {
	*feed
	at     place
	placed bool      // at is known
	late   bool      // the list was added later: it begins at the tail
	live   bool      // it has reached the feed's ring
	serial uint64    // of the next run there
	told   feedState // as the client was told it
}

// rouse makes the stream look for something to show.
func (s *stream) rouse() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// serve serves the stream until the client, the daemon or the client's rights end it.
func (s *stream) serve(ctx context.Context) {
	defer s.leave()
	s.takeLists() // a client that has the header sees each later change
	s.say([]byte(comment))
	s.flush()
	timer := time.NewTimer(heartbeat)
	defer timer.Stop()

	for s.broken == nil {
		more := s.show(ctx)
		s.flush()
		if more && ctx.Err() == nil && !s.ending() {
			continue
		}
		timer.Reset(s.wait())
		select {
		case <-s.events.draining:
			s.end("drain")
			return
		case <-s.renewed:
			s.end("renew")
			return
		case <-ctx.Done():
			return
		case <-s.woken:
		case <-timer.C:
			if time.Since(s.last) >= heartbeat {
				s.say([]byte(comment))
			}
		}
	}
}

// ending reports whether the stream is to end.
func (s *stream) ending() bool {
	select {
	case <-s.events.draining:
	case <-s.renewed:
	default:
		return false
	}
	return true
}

// end tells the client why the stream ends, and to reconnect.
func (s *stream) end(why string) {
	wait := s.events.retry(leastRetry, mostRetry)
	s.say(appendEvent(nil, why, struct {
		Retry int64 `json:"retry_ms"`
	}{wait.Milliseconds()}))
	s.say(appendRetry(nil, wait))
	s.flush()
}

// leave leaves all feeds.
func (s *stream) leave() {
	for _, v := range s.views {
		s.events.unfollow(v.feed, s)
	}
}

// wait returns how long the stream waits if nothing happens.
func (s *stream) wait() time.Duration {
	wait := heartbeat - time.Since(s.last)
	if s.failed {
		wait = min(wait, pollInterval)
	}
	return max(wait, time.Millisecond)
}

// show writes the items that are ready, and reports whether there are more.
func (s *stream) show(ctx context.Context) (more bool) {
	s.failed = false
	s.takeLists()
	for _, v := range s.views {
		s.tellState(v)
		if !v.live && s.place(ctx, v) {
			more = s.fill(ctx, v) || more
		}
		if v.live {
			s.showRing(v)
		}
	}
	if !s.begun {
		s.begun = s.sayPlace() // a client that gets no item resumes from here
	}
	return more
}

// takeLists follows changes of the lists.
func (s *stream) takeLists() {
	if s.views != nil && s.version == s.events.version.Load() {
		return
	}

	var lists []List
	first := s.views == nil
	lists, s.version = s.lists()
	s.views = slices.DeleteFunc(s.views, func(v *view) bool {
		if slices.Contains(lists, v.list) {
			return false
		}
		s.events.unfollow(v.feed, s)
		if s.past == nil {
			s.past = make(map[string]place)
		}
		if v.placed {
			s.past[v.list.Subject] = v.at
		}
		s.sayList(v.list, "removed")
		return true
	})

	for _, l := range lists {
		if slices.ContainsFunc(s.views, func(v *view) bool { return v.list == l }) {
			continue
		}
		if len(s.views) == maxLists {
			s.sayList(l, "left out")
			continue
		}
		v := &view{feed: s.events.follow(l, s), told: feedState{name: stateServed}}
		if !first {
			v.at, v.placed = s.past[l.Subject]
			if v.late = !v.placed; v.placed {
				s.sayList(l, "added")
			}
		}
		s.views = append(s.views, v)
	}

	if s.views == nil {
		s.views = []*view{}
	}
}

func (s *stream) sayList(l List, state string) {
	s.say(appendEvent(nil, "list", struct {
		List  string `json:"list"`
		State string `json:"state"`
	}{l.Subject, state}))
}

// tellState tells the client once why items have to wait.
func (s *stream) tellState(v *view) {
	if _, _, state := v.standing(); state != v.told {
		v.told = state
		s.say(appendEvent(nil, "status", struct {
			List   string `json:"list"`
			State  string `json:"state"`
			Holder string `json:"holder,omitempty"`
		}{v.list.Subject, state.name, state.holder}))
	}
}

// place finds the beginning of a view, and reports whether it has.
func (s *stream) place(ctx context.Context, v *view) bool {
	if v.placed {
		return true
	}

	ask := s.request
	tail, known, _ := v.standing()
	if !known {
		return false // the feed wakes the stream
	}

	switch {
	case v.late:
		v.at, v.placed = tail, true
		s.sayList(v.list, "added") // the client sees items that are pushed from now on
		return true
	case ask.id == "" && !ask.all && ask.since.IsZero():
		v.at, v.placed = tail, true
		return true
	case ask.id != "":
		s.resume(v, tail)
		return true
	}

	p, err := s.events.read(ctx, v.list.Key, From{Since: ask.since})
	if err != nil {
		s.failed = true
		return false
	}
	v.at, v.placed = place{p.Epoch, p.First}, true
	if !ask.all && len(p.Items) > 0 {
		v.at.next = p.Items[0].Number
	} else if !ask.all {
		v.at.next = p.End
	}
	return true
}

// resume makes a view begin after the client's last event.
func (s *stream) resume(v *view, tail place) {
	v.placed = true
	known, ok := parsePlaces(s.request.id)
	at, found := known.of(tail.epoch)
	switch {
	case ok && found:
		v.at = at
	case ok && len(known) == 1 && len(s.views) == 1:
		v.at = known[0] // of another epoch: the first read tells what is lost
	default:
		v.at = tail
		s.sayGap(v, "", tail)
	}
}

// fill shows some of the items between a view's place and the ring, and reports whether there are
// more.
func (s *stream) fill(ctx context.Context, v *view) (more bool) {
	if serial, ok := v.locate(v.at); ok {
		v.serial, v.live = serial, true
		return false
	}

	p, err := s.events.read(ctx, v.list.Key, From{Number: v.at.next})
	next, lost := p.begin(v.at)
	if err != nil || p.Owner != "" || next == v.at && len(p.Items) == 0 { // the feed finds the reason and reports it
		s.failed = true
		return false
	}

	if kept, ok := v.oldest(); ok && lost && kept.epoch == v.at.epoch && kept.next > v.at.next && kept.next < next.next {
		next, p.Items = kept, nil // the ring has more than Redis
	}
	if lost {
		s.sayGap(v, v.at.String(), next)
	}
	v.at = next
	r := &run{place: next}
	for _, it := range p.Items {
		if it.Number >= next.next {
			r.items = append(r.items, item{it.Number, it.Seen, it.Data, it.Duplicate})
		}
	}

	if len(r.items) > 0 {
		s.showRun(v, r)
	}
	return true
}

// showRing shows the items that the ring has for a view.
func (s *stream) showRing(v *view) {
	runs, next := v.from(v.serial)
	v.serial = next
	for _, r := range runs {
		s.showRun(v, r)
	}
}

// showRun shows the new items of a run.
func (s *stream) showRun(v *view, r *run) {
	from, end := r.place, r.end()
	switch {
	case r.back:
		s.sayGap(v, v.at.String(), from)
	case v.at.epoch == r.epoch || v.at.epoch == "":
		if end.next < v.at.next || end.next == v.at.next && len(r.items) > 0 {
			return
		}
		if from.next = max(from.next, v.at.next); from.next > v.at.next {
			s.sayGap(v, v.at.String(), from)
		}
	default:
		s.sayGap(v, v.at.String(), from)
	}

	v.at = from
	if i := int(from.next - r.next); i < len(r.items) {
		s.write(v, r, i)
	}

	v.at = end
}

// write writes the items of a run from one index on.
func (s *stream) write(v *view, r *run, from int) {
	fr := r.in(s.request.form, v.list.Subject)
	if len(s.views) == 1 || r.epoch == "" {
		s.say(fr.data[fr.starts[from]:])
		return
	}
	for i := from; i < len(r.items) && s.broken == nil; i++ {
		if r.items[i].duplicate {
			continue
		}
		v.at = place{r.epoch, r.next + uint64(i) + 1}
		s.say(s.idLine(v))
		s.say(fr.data[fr.bodies[i]:fr.starts[i+1]])
	}
}

// idLine returns the line with the places of all lists, this view's first. It is valid until the
// next call. Until all places are known there is no line, and the client keeps its id.
func (s *stream) idLine(v *view) []byte {
	if slices.ContainsFunc(s.views, func(v *view) bool { return !v.placed }) {
		return nil
	}
	s.line = append(s.line[:0], "id: "...)
	s.appendPlace(v)
	for _, other := range s.views {
		if other != v {
			s.appendPlace(other)
		}
	}
	if len(s.line) == len("id: ") {
		return nil
	}
	return append(s.line, '\n')
}

func (s *stream) appendPlace(v *view) {
	id := v.at.String()
	if id == "" {
		return
	}
	if len(s.line) > len("id: ") {
		s.line = append(s.line, ',')
	}
	s.line = append(s.line, id...)
}

// sayPlace tells the client its place without an event, by an id line alone. It reports whether the
// place is known.
func (s *stream) sayPlace() bool {
	if len(s.views) == 0 {
		return true
	}
	line := s.idLine(s.views[0])
	if line == nil {
		return false
	}
	s.say(line)
	s.say([]byte("\n"))
	return true
}

// sayGap tells the client that it may miss items between after, the id of an item, and a place.
func (s *stream) sayGap(v *view, after string, next place) {
	v.at = next
	s.say(s.idLine(v))
	s.say(appendEvent(nil, "gap", struct {
		List  string `json:"list"`
		After string `json:"after,omitempty"`
		Next  string `json:"next,omitempty"`
	}{v.list.Subject, after, placed(next.epoch, next.next+1)}))
}

// say writes to the client. A client that is too slow loses its stream.
func (s *stream) say(data []byte) {
	if s.broken != nil || len(data) == 0 {
		return
	}
	s.unsent = true
	s.setDeadline()
	_, s.broken = s.out.Write(data)
}

// flush sends the bytes that were written.
func (s *stream) flush() {
	if s.broken != nil || !s.unsent {
		return
	}
	s.unsent = false
	s.setDeadline()
	s.broken = s.control.Flush()
}

// setDeadline bounds the next write; a second more or less does not matter.
func (s *stream) setDeadline() {
	if s.last = time.Now(); s.last.Sub(s.bound) > time.Second {
		s.bound = s.last
		s.control.SetWriteDeadline(s.last.Add(writeTimeout))
	}
}
