package jetstream

import (
	"cmp"
	"slices"
)

const (
	// maxConsumers is the maximum number of consumers of a stream that acknowledge items. The
	// ledger has room for as many.
	maxConsumers = 64
	// maxEphemeral bounds the ephemeral ones among them, to leave places for durables.
	maxEphemeral = maxConsumers * 3 / 4
	// maxViewers is the maximum number of consumers of a stream that acknowledge nothing, in
	// addition.
	maxViewers = 64
	// maxOfClient is the maximum number of ephemeral consumers and viewers of a stream that one
	// client can make.
	maxOfClient = 32
)

// place finds a place for a new consumer; another viewer may lose its place for it. The goroutine
// that uses the Store calls it, so there is one newcomer at a time.
func (a *API) place(st *stream, cfg *Config, maker Client) *apiError {
	var owing, ephemeral, made int
	var viewers []*consumer
	a.mu.Lock()
	for _, c := range st.consumers {
		if c.maker != nil && c.maker.ID() == maker.ID() {
			made++
		}
		if c.viewer() {
			viewers = append(viewers, c)
			continue
		}
		if owing++; c.settings().Durable == "" {
			ephemeral++
		}
	}
	a.mu.Unlock()

	switch {
	case cfg.Durable == "" && made >= maxOfClient:
		return errTooManyConsumers.because("a client can make %d of a stream that are not durable: delete one first", maxOfClient)
	case cfg.viewer() && len(viewers) >= maxViewers:
		return a.replaceViewer(viewers, maker)
	case cfg.viewer():
	case owing >= maxConsumers:
		return errTooManyConsumers.because("a stream has %d at most: delete one first", maxConsumers)
	case cfg.Durable == "" && ephemeral >= maxEphemeral:
		return errTooManyConsumers.because("a stream has %d that are not durable at most: delete one first", maxEphemeral)
	}
	return nil
}

// replaceViewer ends a viewer of the user that has most, or of the client that has most among those
// of the newcomer's user. Users and clients with no more than the newcomer will have keep their
// viewers.
func (a *API) replaceViewer(viewers []*consumer, newcomer Client) *apiError {
	byUser, byClient := make(map[string]int), make(map[uint64]int)
	for _, c := range viewers {
		byUser[c.maker.User()]++
		byClient[c.maker.ID()]++
	}
	share := slices.DeleteFunc(slices.Clone(viewers), func(c *consumer) bool {
		if user := c.maker.User(); user != newcomer.User() {
			return byUser[user] <= byUser[newcomer.User()]+1
		}
		return byClient[c.maker.ID()] <= byClient[newcomer.ID()]+1
	})
	if len(share) == 0 {
		return errTooManyConsumers.because("a stream has %d that acknowledge nothing at most: delete one first", maxViewers)
	}

	a.remove(slices.MaxFunc(share, func(c, d *consumer) int {
		return cmp.Or(cmp.Compare(byUser[c.maker.User()], byUser[d.maker.User()]), cmp.Compare(byClient[c.maker.ID()], byClient[d.maker.ID()]),
			d.lastUsed().Compare(c.lastUsed()))
	}), statusDeleted)
	return nil
}
