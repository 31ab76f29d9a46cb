package daemon

import (
	"time"

	"edged/internal/batch"
	"edged/internal/jetstream"
	"edged/internal/ledger"
	"edged/internal/numbers"
	"edged/internal/poller"
	"edged/internal/relay"
)

// statuses returns the loop's view of each list, by key.
func (d *daemon) statuses() map[string]poller.Status {
	all := make(map[string]poller.Status)
	for _, s := range d.loop.Lists() {
		all[s.Key] = s
	}
	return all
}

// knownConsumer is a consumer of a list.
type knownConsumer struct {
	relay.ConsumerInfo
	waits uint64 // durable and away: items that it has not acknowledged
}

// consumersOf returns the consumers of a list. The durable ones of a list that this process does
// not serve are as Redis has them; if another process serves it, that one names them.
func (d *daemon) consumersOf(l relayed, s poller.Status) (all []knownConsumer) {
	at := l.State()
	end := at.First + uint64(s.Backlog+s.Kept)
	for _, c := range at.Consumers {
		k := knownConsumer{ConsumerInfo: c}
		if c.Name.Durable {
			if s.Standing != nil || s.Holder != "" {
				continue
			}
			if !c.Away.IsZero() {
				is, _ := l.Durable(c.Name.Name, end)
				k.waits = is.Pending + uint64(is.Out)
			}
		}
		all = append(all, k)
	}
	if s.Standing == nil {
		return all
	}
	for _, c := range s.Standing.Durables {
		k := absentConsumer(s.Standing, c)
		if k.Away.IsZero() {
			k.Away = d.started
		}
		if l.InUse(c.Name) {
			k.Away, k.waits = time.Time{}, 0
		}
		all = append(all, k)
	}
	return all
}

// absentConsumer describes a durable consumer of a list that no process serves. It has been away
// since the list was served last, or since it was made. Away is zero if neither is known.
func absentConsumer(st *ledger.Standing, c ledger.Absent) knownConsumer {
	began, made := jetstream.Began(c.Config)
	acked := c.Acked.Clone()
	if !c.Placed {
		acked = numbers.Set{}
		if began.Epoch == "" || began.Epoch == st.Epoch {
			acked.Raise(began.From)
		}
	}
	acked.Raise(st.First)

	k := knownConsumer{ConsumerInfo: relay.ConsumerInfo{Name: batch.Name{Durable: true, Name: c.Name}, Away: st.Served}}
	if made.After(k.Away) {
		k.Away = made
	}
	k.Next, _ = acked.Gap(st.First)
	k.waits, k.LagItems = missing(&acked, st.First+uint64(st.Length)), missing(&acked, st.Done)
	return k
}

// missing is how many numbers below one are not in a set.
func missing(set *numbers.Set, below uint64) uint64 { return below - set.Below(below) }
