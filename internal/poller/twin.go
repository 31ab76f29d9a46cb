package poller

import (
	"strings"

	"go.uber.org/zap"

	"edged/internal/ledger"
)

// Two processes with the name of one instance are a mistake, but the second one looks like a
// restart of the first, and takes its lists over at once. The mistake shows as soon as the first
// one is seen to run: it finds its list with a process that has its name.

// own reports whether a holder is another process that calls itself as this instance does.
func (r *reader) own(holder string) bool {
	return holder != r.loop.holder && strings.HasPrefix(holder, r.loop.opts.Instance+"/")
}

// sighting is another process of this instance as it was seen first, by a process without
// consumers. It may be dead, until its lease ends.
type sighting struct {
	holder string
	until  string // when its lease was to end
}

// alive returns the holder of a list if it is another process of this instance that has renewed its
// lease since it was seen first.
func (s *sighting) alive(st ledger.Standing, own bool) string {
	switch {
	case !own:
		*s = sighting{}
	case s.holder != st.Own:
		*s = sighting{st.Own, st.OwnUntil}
	case s.until != st.OwnUntil:
		return st.Own
	}
	return ""
}

// tell logs that another process serves the list, once for each process.
func (r *reader) tell(holder, twin string) {
	if holder == "" || holder == r.told {
		return
	}
	r.told = holder

	log := r.log.With(zap.String("holder", holder))
	switch {
	case twin != "":
		log.Warn("another process has the name of this instance and serves the list")
	case r.owner:
		log.Warn("another instance has taken the list over; standing by")
	default:
		log.Info("another instance serves the list; standing by")
	}
}
