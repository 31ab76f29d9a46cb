package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// maxBacklog is the length from which on a list gets no more samples: an evening without a
// subscriber must not fill the memory.
const maxBacklog = 1000

// memoryRedis is miniredis: real commands and Lua scripts over a real socket, no persistence, no
// CLIENT TRACKING and no keyspace events. Keys expire by the wall clock, as in Redis. Its methods
// may be called from any goroutine.
type memoryRedis struct {
	server *miniredis.Miniredis
}

// startRedis returns a Redis that listens on a free port of 127.0.0.1 and serves until Close.
func startRedis() (*memoryRedis, error) {
	r := newRedis()
	if err := r.server.Start(); err != nil {
		return nil, fmt.Errorf("start the in-memory Redis: %v", err)
	}
	return r, nil
}

func newRedis() *memoryRedis {
	server := miniredis.NewMiniRedis()
	server.ClockTTL(true) // by default miniredis lets no time pass
	return &memoryRedis{server}
}

// Addr returns its address as host:port.
func (r *memoryRedis) Addr() string { return r.server.Addr() }

// Close stops the server and closes its connections; all data is gone.
func (r *memoryRedis) Close() { r.server.Close() }

// sample is one sample item.
type sample struct {
	N      int       `json:"n"` // from 1 on each list, without gaps
	Sensor string    `json:"sensor"`
	Value  float64   `json:"value"`
	Time   time.Time `json:"time"`
}

// Produce pushes a sample item to the right end of the list at each key, every interval, until ctx
// is done. It leaves full lists, and keys of other types, unchanged.
func (r *memoryRedis) Produce(ctx context.Context, keys []string, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	produced := make([]int, len(keys))
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			for i, key := range keys {
				if r.push(key, newSample(produced[i]+1, now)) {
					produced[i]++
				}
			}
		}
	}
}

func newSample(n int, now time.Time) sample {
	return sample{
		N:      n,
		Sensor: fmt.Sprintf("door-%d", n%4+1),
		Value:  math.Round(200+50*math.Sin(float64(n)/10)) / 10,
		Time:   now.UTC().Truncate(time.Millisecond),
	}
}

func (r *memoryRedis) push(key string, s sample) (pushed bool) {
	// A missing key is an error here too; a key of another type fails in Push.
	if list, err := r.server.List(key); err == nil && len(list) >= maxBacklog {
		return false
	}
	item, err := json.Marshal(s)
	if err != nil {
		return false // a sample always marshals
	}
	_, err = r.server.Push(key, string(item))
	return err == nil
}
