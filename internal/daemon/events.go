package daemon

import (
	"context"

	"edged/internal/config"
	"edged/internal/httpserver"
	"edged/internal/poller"
)

// The adapters here tie the events of the HTTP server to the loop and its Redis.

// buildEvents makes the events, for buildHTTP.
func (d *daemon) buildEvents(cfg *config.Config) *httpserver.Events {
	d.viewed = &viewedLists{store: d.loop.NewStore(), turn: make(chan struct{}, 1), daemon: d}
	return httpserver.NewEvents(httpserver.EventsOptions{
		Source:     d.viewed,
		Lists:      eventLists(cfg.Lists),
		MaxStreams: cfg.HTTP.MaxClients,
		Random:     d.options.Random,
	})
}

func eventLists(lists []config.List) []httpserver.List {
	all := make([]httpserver.List, len(lists))
	for i, l := range lists {
		all[i] = httpserver.List{Key: l.Key, Subject: l.Subject}
	}
	return all
}

// eventRoutes are the paths of the events.
func (d *daemon) eventRoutes() []httpserver.Route {
	return []httpserver.Route{{Pattern: "/events", Handler: d.events}, {Pattern: "/events/{subject...}", Handler: d.events}}
}

// viewedLists reads lists for viewers, one read at a time: for any number of them, Redis has
// time for the loop.
type viewedLists struct {
	turn   chan struct{} // holds one while store is in use
	store  *poller.Store
	daemon *daemon
}

// Read implements httpserver.Source.
func (v *viewedLists) Read(ctx context.Context, key string, from httpserver.From, n, bytes int) (p httpserver.Part, err error) {
	begin := poller.From{Number: from.Number, Since: from.Since}
	if from.AtEnd {
		begin.Number = poller.AtEnd
	}

	select {
	case v.turn <- struct{}{}:
		defer func() { <-v.turn }()
	case <-ctx.Done():
		return p, context.Cause(ctx)
	}
	f, err := v.store.Follow(ctx, key, v.daemon.served.fromRight(key), begin, n, bytes)
	if err != nil {
		return p, err
	}
	p = httpserver.Part{Epoch: f.Epoch, First: f.First, End: f.End, Owner: f.Owner}
	for _, item := range f.Items {
		p.Items = append(p.Items, httpserver.Item{Number: item.Number, Seen: item.Seen, Data: item.Head})
	}
	if len(p.Items) > 0 && f.Owner == "" {
		first := p.Items[0].Number
		for _, s := range v.daemon.loop.Duplicates(key, first, first+uint64(len(p.Items))) {
			for n := s.From; n < s.To; n++ {
				p.Items[n-first].Duplicate = true
			}
		}
	}
	return p, nil
}

// close closes the connections to Redis; no stream is left.
func (v *viewedLists) close() { v.store.Close() }
