package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
)

// connect returns a running server and a client for it, both closed with the test.
func connect(t *testing.T) (*memoryRedis, *redis.Client) {
	t.Helper()
	server, err := startRedis()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	client := redis.NewClient(&redis.Options{
		Addr: server.Addr(), Protocol: 2, DisableIdentity: true, MaxRetries: -1,
	})
	t.Cleanup(func() { client.Close() })
	return server, client
}

func TestGoRedisConnectsWithoutAWordInItsLog(t *testing.T) {
	var logged redisLog
	redis.SetLogger(&logged) // also for later tests, which do not look
	_, client := connect(t)
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if n := logged.lines.Load(); n > 0 {
		t.Errorf("logged %d lines", n)
	}
}

// redisLog counts the lines that go-redis logs.
type redisLog struct{ lines atomic.Int64 }

func (l *redisLog) Printf(context.Context, string, ...any) { l.lines.Add(1) }

func TestKeysWithALimitedTimeGo(t *testing.T) {
	_, client := connect(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := client.Set(ctx, "key", "one", 20*time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	for {
		taken, err := client.SetNX(ctx, "key", "two", time.Minute).Result()
		if err != nil {
			t.Fatalf("the key has not gone: %v", err)
		}
		if taken {
			return
		}
	}
}

// inList returns the numbers of the samples in a list.
func inList(t *testing.T, r *memoryRedis, key string) (numbers []int) {
	t.Helper()
	items, err := r.server.List(key)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	for _, item := range items {
		var s sample
		if err := json.Unmarshal([]byte(item), &s); err != nil || s.Sensor == "" || s.Time.IsZero() {
			t.Errorf("item %s: %v", item, err)
		}
		numbers = append(numbers, s.N)
	}
	return numbers
}

// produce starts Produce; stop ends it and waits for it.
func produce(t *testing.T, r *memoryRedis, keys ...string) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Produce(ctx, keys, time.Second)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// pass lets a number of Produce's intervals pass, in a bubble.
func pass(intervals int) {
	time.Sleep(time.Duration(intervals) * time.Second)
	synctest.Wait()
}

func TestProducePushesToEachListAtEachInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRedis()
		defer r.Close()
		stop := produce(t, r, "a", "b")
		defer stop()
		pass(3)
		for _, key := range []string{"a", "b"} {
			if got := fmt.Sprint(inList(t, r, key)); got != "[1 2 3]" {
				t.Errorf("%s holds %s", key, got)
			}
		}
	})
}

func TestProduceLeavesFullListsAndOtherKeysAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRedis()
		defer r.Close()
		r.server.Set("text", "not a list")
		stop := produce(t, r, "text", "full")
		defer stop()
		pass(maxBacklog + 5)
		if n := len(inList(t, r, "full")); n != maxBacklog {
			t.Errorf("%d items in a full list, want %d", n, maxBacklog)
		}

		// There is room again: the numbers go on without a gap.
		if _, err := r.server.Lpop("full"); err != nil {
			t.Fatal(err)
		}
		pass(2)
		got := inList(t, r, "full")
		if len(got) != maxBacklog || got[0] != 2 || got[len(got)-1] != maxBacklog+1 {
			t.Errorf("%d items, %d to %d", len(got), got[0], got[len(got)-1])
		}

		if s, err := r.server.Get("text"); err != nil || s != "not a list" {
			t.Errorf("the other key: %q, %v", s, err)
		}
	})
}

func TestCloseEndsConnections(t *testing.T) {
	server, client := connect(t)
	sub := client.Subscribe(t.Context(), "channel")
	defer sub.Close()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if _, err := sub.Receive(t.Context()); err == nil {
		t.Error("a connection outlived the server")
	}
}
