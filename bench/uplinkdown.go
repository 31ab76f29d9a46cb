package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"edged/internal/edgedtest"
)

// backlogItem is the size of an item of the backlog: so small that ten million items fit into
// memory.
const backlogItem = 32

// uplinkDown measures the rate of a local client beside an uplink whose link is down, relative to
// its rate with another edged that has no uplink. Both are measured in turn, each with its own
// Redis. The backlog of the uplink begins with -items.
func uplinkDown(ctx context.Context, l *lab) ([]figure, error) {
	nowhere, release, err := edgedtest.Reserve()
	if err != nil {
		return nil, err
	}
	defer release()
	uplink := []string{"[[uplink]]", `name = "hub"`, fmt.Sprintf("url = [%q]", "nats://"+nowhere)}
	alone, err := l.newSide(ctx, "alone", nil)
	if err != nil {
		return nil, err
	}
	defer alone.close()
	both, err := l.newSide(ctx, "both", uplink)
	if err != nil {
		return nil, err
	}
	defer both.close()

	turn := l.few(1_000_000)
	for left := l.few(l.items); left > 0; left -= turn {
		if _, err := both.turn(min(left, turn)); err != nil {
			return nil, err
		}
	}
	if err := both.holds(l.few(l.items)); err != nil {
		return nil, err
	}
	var efforts comparison
	for range turns {
		a, err := alone.turn(turn)
		if err != nil {
			return nil, err
		}
		b, err := both.turn(turn)
		if err != nil {
			return nil, err
		}
		efforts.add(a, b)
	}
	u, err := both.usages(both.server)
	return append(efforts.figures(), figure{"MiB", u.edged.resident}, figure{"redis-MiB", u.redis.resident}), err
}

// side is an edged with one list, its Redis and its client.
type side struct {
	*lab
	server *process
	client *client
	close  func()
}

// newSide starts a side with further lines of edged's configuration.
func (l *lab) newSide(ctx context.Context, name string, settings []string) (s *side, err error) {
	own := *l
	s = &side{lab: &own}
	var undo []func()
	s.close = func() {
		for i := range undo {
			undo[len(undo)-1-i]()
		}
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()

	own.folder = l.path(name)
	undo = append(undo, func() { os.RemoveAll(own.folder) })
	if err := errors.Join(os.Mkdir(own.folder, 0o700), os.Symlink(l.path("edged"), own.path("edged"))); err != nil {
		return nil, err
	}
	if own.address, own.release, err = edgedtest.Reserve(); err != nil {
		return nil, err
	}
	undo = append(undo, own.release)
	if own.redis, err = startRedis(ctx, own.folder, "redis"); err != nil {
		return nil, err
	}
	undo = append(undo, own.redis.Kill)
	if own.conn, err = dialRedis(own.redis.address); err != nil {
		return nil, err
	}
	undo = append(undo, func() { own.conn.Close() })

	c := oneList("received")
	c.list = append(c.list, settings...)
	if s.server, err = c.start(ctx, &own); err != nil {
		return nil, err
	}
	undo = append(undo, s.server.Kill)
	if s.client, err = dial(ctx, own.address, bigBuffer, "SUB "+lists[0]+" 1"); err != nil {
		return nil, err
	}
	undo = append(undo, func() { s.client.Close() })
	return s, nil
}

// turn measures the client while it gets n items that are there already.
func (s *side) turn(n int) (e effort, err error) {
	if err := errors.Join(s.server.command("pause all"), s.fill(lists[0], n, backlogItem)); err != nil {
		return e, err
	}
	runtime.GC()
	before, err := s.usages(s.server)
	if err != nil {
		return e, err
	}

	begin := time.Now()
	if err := errors.Join(s.server.command("resume all"), s.client.receive(s.client.got+n)); err != nil {
		return e, s.server.failed(err)
	}
	took := time.Since(begin)
	after, err := s.usages(s.server)
	return effortOf(n, took, before, after), err
}
