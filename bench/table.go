package main

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A run measures once, with its own servers.
type run func(context.Context, *lab) ([]figure, error)

// figure is a measured value.
type figure struct {
	unit  string
	value float64
}

// measurement has the name what/how much/who; who is last, so that related names are sorted
// together.
type measurement struct {
	name string
	run  run
}

// measurements are in the order in which a round runs them: those that are compared are neighbours.
var measurements = []measurement{
	{"one-client/python", oneClient(python, lines, 40_000, itemSize)},
	{"one-client/edged", oneClient(edged("received"), raw, 1_000_000, itemSize)},
	{"one-client/edged-nats.go", oneClient(edged("received"), natsGo, 1_000_000, itemSize)},
	{"one-client/go-redis-alone", floor(peekAndTrim, 1_000_000, itemSize)},

	{"explicit/edged", oneClient(edged("explicit"), acknowledging, 500_000, itemSize)},
	{"explicit/lmove-alone", floor(moveAndRemove, 500_000, itemSize)},

	{"pull/edged", pull(edgedBroker{}, 500_000)},
	{"pull/nats-server-memory", pull(natsBroker{jetstream.MemoryStorage, jetstream.LimitsPolicy}, 500_000)},
	{"pull/nats-server-file", pull(natsBroker{jetstream.FileStorage, jetstream.LimitsPolicy}, 500_000)},
	{"pull/nats-server-file-work-queue", pull(natsBroker{jetstream.FileStorage, jetstream.WorkQueuePolicy}, 500_000)},
	{"pull/redis-stream", pull(streamBroker{}, 100_000)},
	{"pull/redis-stream-one-xack", pull(streamBroker{one: true}, 500_000)},

	{"16KiB/edged", oneClient(edged("received"), raw, 40_000, 16<<10)},
	{"16KiB/redis-alone", floor(readAndTrim(16<<10), 40_000, 16<<10)},
	{"1MiB/edged", oneClient(edged("received"), raw, 1_000, 1<<20)},
	{"1MiB/redis-alone", floor(readAndTrim(1<<20), 1_000, 1<<20)},

	{"fan-out/1/edged", fanOut(1, 1_000_000)},
	{"fan-out/1/nats-server", pubSub(natsServer, 1, 1_000_000)},
	{"fan-out/10/edged", fanOut(10, 500_000)},
	{"fan-out/10/nats-server", pubSub(natsServer, 10, 500_000)},
	{"fan-out/100/edged", fanOut(100, 100_000)},
	{"fan-out/100/nats-server", pubSub(natsServer, 100, 100_000)},
	{"fan-out/1000/edged", fanOut(1000, 10_000)},
	{"fan-out/1000/nats-server", pubSub(natsServer, 1000, 10_000)},

	{"dedup/payload/edged", deduplicated("payload", 500_000, 0)},
	{"dedup/json/edged", deduplicated("json:id", 500_000, 0)},
	{"dedup/json-half/edged", deduplicated("json:id", 500_000, 2)},

	{"pub-sub/edged", pubSub(edged("received"), 1, 1_000_000)},
	{"pub-sub/nats-server", pubSub(natsServer, 1, 1_000_000)},

	{"latency/100/one-list/edged", latency(relayed, 100, 1)},
	{"latency/100/one-list/blpop", latency(blpop, 100, 1)},
	{"latency/100/one-list/peek-alone", latency(peeked, 100, 1)},
	{"latency/100/two-lists/edged", latency(relayed, 100, 2)},
	{"latency/100/two-lists/blpop", latency(blpop, 100, 2)},
	{"latency/100/two-lists/peek-alone", latency(peeked, 100, 2)},
	{"latency/1000/one-list/edged", latency(relayed, 1000, 1)},
	{"latency/1000/one-list/blpop", latency(blpop, 1000, 1)},
	{"latency/1000/one-list/peek-alone", latency(peeked, 1000, 1)},
	{"latency/1000/two-lists/edged", latency(relayed, 1000, 2)},
	{"latency/1000/two-lists/blpop", latency(blpop, 1000, 2)},
	{"latency/1000/two-lists/peek-alone", latency(peeked, 1000, 2)},

	{"beside/slow/200k/edged", beside("received", 20_000, 200_000, slow)},
	{"beside/slow/1M/edged", beside("received", 800_000, 1_000_000, slow)},
	{"beside/silent/200k/edged", beside("explicit", 20_000, 200_000, silent)},
	{"beside/silent/1M/edged", beside("explicit", 800_000, 1_000_000, silent)},
	{"beside/stopped/200k/edged", beside("received", 20_000, 200_000, stopped)},
	{"beside/stopped/1M/edged", beside("received", 800_000, 1_000_000, stopped)},
	{"crowd/1000/edged", crowd(1000, 60_000)},
	{"behind/saturated/edged", behind(1_000_000, 2_000_000)},
	{"behind/producer/edged", behindProducer(1_000_000, 100_000)},
	{"refused/edged", refused},
	{"sse/1/edged", sse(1, 1_000_000)},
	{"sse/100/edged", sse(100, 1_000_000)},
	{"sse/1000/edged", sse(1000, 1_000_000)},

	{"pull-latency/1000/edged", pullLatency(edgedBroker{}, 1000)},
	{"pull-latency/1000/nats-server-memory", pullLatency(natsBroker{jetstream.MemoryStorage, jetstream.LimitsPolicy}, 1000)},
	{"pull-latency/1000/nats-server-file", pullLatency(natsBroker{jetstream.FileStorage, jetstream.LimitsPolicy}, 1000)},
	{"pull-latency/1000/redis-stream", pullLatency(streamBroker{}, 1000)},

	{"uplink/loopback/edged", uplink(edgedUplink{}, loopback, 200_000)},
	{"uplink/loopback/leaf-mirror", uplink(leafNode{}, loopback, 200_000)},
	{"uplink/loopback/leaf-source", uplink(leafNode{source: true}, loopback, 200_000)},
	{"uplink/loopback/nats.go", uplink(asyncPublisher{window: 256}, loopback, 200_000)},
	{"uplink/50ms/edged", uplink(edgedUplink{}, far, 20_000)},
	{"uplink/50ms/leaf-mirror", uplink(leafNode{}, far, 200_000)},
	{"uplink/50ms/leaf-source", uplink(leafNode{source: true}, far, 200_000)},
	{"uplink/50ms/nats.go", uplink(asyncPublisher{window: 256}, far, 20_000)},

	{"uplink/64kbit/edged", uplinkShare(8_000, 0, 30*time.Second)},
	{"uplink/64kbit/edged-rate", uplinkShare(8_000, 4_000, 30*time.Second)},
	{"uplink/10Mbit/edged", uplinkShare(1_250_000, 0, 10*time.Second)},
	{"uplink/10Mbit/edged-rate", uplinkShare(1_250_000, 500_000, 10*time.Second)},
	{"uplink/down/edged", uplinkDown},
	{"uplinks/50/hub", uplinks(50, 10, 20*time.Second, 10*time.Second)},
	{"uplinks/200/hub", uplinks(200, 10, 20*time.Second, 10*time.Second)},
	{"uplinks/200/hub-50-each", uplinks(200, 50, 10*time.Second, 0)},

	{"drain/1000/edged", drain(1000)},

	{"start/edged", startTime(edged("received"))},
	{"start/nats-server", startTime(natsServer)},
	{"start/python", startTime(python)},

	{"idle/edged", idle(edged("received"), settling)},
	{"idle/edged-one-client", idle(edged("received"), settling, subscriptions()...)},
	{"idle/nats-server", idle(natsServer, settling)},
	{"idle/python", idle(python, settling)},
	{"idle/10000-lists/edged", idle(manyLists(10_000), 5*settling)},
	{"idle/10000-lists/edged-one-client", idle(manyLists(10_000), 5*settling, "SUB many.* 1")},

	{"binary/edged", binarySize("edged")},
	{"binary/nats-server", binarySize("nats-server")},
}

// target is the goal for a figure of edged: a number, or a multiple of another measurement's figure
// in the same unit.
type target struct {
	name, unit string
	against    string  // the other measurement; empty if the bound is a number
	atLeast    float64 // 0 if there is no lower bound
	atMost     float64 // 0 if there is no upper bound
	enough     float64 // a value that is good enough whatever the other one is
}

var targets = []target{
	{name: "one-client/edged", unit: "msgs/s", against: "one-client/python", atLeast: 100},
	{name: "one-client/edged", unit: "msgs/s", against: "fan-out/1/nats-server", atLeast: 1.8},
	{name: "one-client/edged", unit: "msgs/s", against: "one-client/go-redis-alone", atLeast: 0.7},
	{name: "explicit/edged", unit: "msgs/s", against: "explicit/lmove-alone", atLeast: 0.7, enough: 300_000},
	{name: "pull/edged", unit: "msgs/s", against: "pull/nats-server-file", atLeast: 1.5},
	{name: "16KiB/edged", unit: "msgs/s", against: "16KiB/redis-alone", atLeast: 0.8},
	{name: "1MiB/edged", unit: "msgs/s", against: "1MiB/redis-alone", atLeast: 0.8},
	{name: "fan-out/10/edged", unit: "msgs/s", against: "fan-out/10/nats-server", atLeast: 4},
	{name: "fan-out/100/edged", unit: "msgs/s", against: "fan-out/100/nats-server", atLeast: 4},
	{name: "fan-out/1000/edged", unit: "msgs/s", against: "fan-out/1000/nats-server", atLeast: 9},
	{name: "fan-out/1000/edged", unit: "peak-MiB", atMost: 20},
	{name: "dedup/payload/edged", unit: "of-alone", atLeast: 0.8},
	{name: "dedup/json/edged", unit: "of-alone", atLeast: 0.6},
	{name: "pub-sub/edged", unit: "msgs/s", against: "pub-sub/nats-server", atLeast: 0.8},
	{name: "pub-sub/edged", unit: "peak-MiB", against: "pub-sub/nats-server", atMost: 0.5},
	{name: "latency/1000/one-list/edged", unit: "p50-µs", against: "latency/1000/one-list/blpop", atMost: 1.25},
	{name: "latency/1000/one-list/edged", unit: "p50-µs", against: "latency/1000/one-list/peek-alone", atMost: 1.25},
	{name: "latency/1000/one-list/edged", unit: "p50-µs", against: "latency/1000/two-lists/edged", atMost: 1},
	{name: "latency/1000/two-lists/edged", unit: "p50-µs", against: "latency/1000/two-lists/blpop", atMost: 1.25},
	{name: "latency/1000/two-lists/edged", unit: "p50-µs", against: "latency/1000/two-lists/peek-alone", atMost: 1.25},
	{name: "beside/slow/200k/edged", unit: "of-alone", atLeast: 0.9},
	{name: "beside/slow/1M/edged", unit: "of-alone", atLeast: 0.7},
	{name: "beside/silent/200k/edged", unit: "of-alone", atLeast: 0.9},
	{name: "beside/silent/1M/edged", unit: "of-alone", atLeast: 0.7},
	{name: "beside/stopped/200k/edged", unit: "of-alone", atLeast: 0.9},
	{name: "beside/stopped/1M/edged", unit: "of-alone", atLeast: 0.7},
	{name: "crowd/1000/edged", unit: "of-alone", atLeast: 0.8},
	{name: "crowd/1000/edged", unit: "reads/item", atMost: 4},
	{name: "behind/saturated/edged", unit: "of-alone", atLeast: 0.8},
	{name: "behind/saturated/edged", unit: "front-of-alone", atLeast: 0.3},
	{name: "behind/saturated/edged", unit: "behind-of-alone", atLeast: 0.3},
	{name: "behind/producer/edged", unit: "of-alone", atLeast: 0.95},
	{name: "behind/producer/edged", unit: "p99-of-alone", atMost: 2},
	{name: "behind/producer/edged", unit: "behind-msgs/s", atLeast: 500_000},
	{name: "refused/edged", unit: "most-in-list", atMost: 20_000},
	{name: "sse/1000/edged", unit: "idle-MiB", atMost: 44},
	{name: "sse/1000/edged", unit: "MiB", atMost: 64},
	{name: "uplink/50ms/edged", unit: "msgs/s", against: "uplink/50ms/nats.go", atLeast: 0.9},
	{name: "uplink/64kbit/edged", unit: "of-link", atLeast: 0.8},
	{name: "uplink/64kbit/edged-rate", unit: "of-rate", atLeast: 0.8},
	{name: "uplink/10Mbit/edged", unit: "of-link", atLeast: 0.8},
	{name: "uplink/10Mbit/edged-rate", unit: "of-rate", atLeast: 0.8},
	{name: "uplink/down/edged", unit: "of-alone", atLeast: 0.95},
	{name: "start/edged", unit: "ms", atMost: 8},
	{name: "idle/edged", unit: "MiB", atMost: 12},
	{name: "idle/edged", unit: "cpu-s/min", atMost: 0.02},
	{name: "idle/edged", unit: "redis-commands/min", atMost: 12},
	{name: "idle/edged-one-client", unit: "cpu-s/min", atMost: 0.02},
	{name: "idle/edged-one-client", unit: "redis-commands/min", atMost: 20},
	{name: "idle/10000-lists/edged", unit: "cpu-s/min", atMost: 0.6},
	{name: "idle/10000-lists/edged-one-client", unit: "cpu-s/min", atMost: 0.6},
	{name: "binary/edged", unit: "MB", atMost: 10},
}
