package main

import "context"

// A run measures once, with servers of its own.
type run func(context.Context, *lab) ([]figure, error)

// figure is what was measured.
type figure struct {
	unit  string
	value float64
}

// measurement has the name what/how much/who; who is last, so that names which
// belong together stand together.
type measurement struct {
	name string
	run  run
}

// measurements are all there are, in the order in which a round runs them: what is
// compared stands side by side.
var measurements = []measurement{
	{"one-client/python", oneClient(python, lines, 40_000, itemSize)},
	{"one-client/edged", oneClient(edged("received"), raw, 1_000_000, itemSize)},
	{"one-client/edged-nats.go", oneClient(edged("received"), natsGo, 1_000_000, itemSize)},
	{"one-client/go-redis-alone", floor(peekAndTrim, 1_000_000, itemSize)},

	{"explicit/edged", oneClient(edged("explicit"), acknowledging, 500_000, itemSize)},
	{"explicit/lmove-alone", floor(moveAndRemove, 500_000, itemSize)},

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

	{"drain/1000/edged", drain(1000)},

	{"start/edged", startTime(edged("received"))},
	{"start/nats-server", startTime(natsServer)},
	{"start/python", startTime(python)},

	{"idle/edged", idle(edged("received"), false)},
	{"idle/edged-one-client", idle(edged("received"), true)},
	{"idle/nats-server", idle(natsServer, false)},
	{"idle/python", idle(python, false)},

	{"binary/edged", binarySize("edged")},
	{"binary/nats-server", binarySize("nats-server")},
}

// target is what a figure of edged should be: a number, or a multiple of what
// another measurement has in the same unit.
type target struct {
	name, unit string
	against    string  // the other measurement; empty where the bound is a number
	atLeast    float64 // 0 where there is no such bound
	atMost     float64 // the same
	enough     float64 // a number that will do whatever the other one has
}

var targets = []target{
	{name: "one-client/edged", unit: "msgs/s", against: "one-client/python", atLeast: 100},
	{name: "one-client/edged", unit: "msgs/s", against: "fan-out/1/nats-server", atLeast: 1.8},
	{name: "one-client/edged", unit: "msgs/s", against: "one-client/go-redis-alone", atLeast: 0.7},
	{name: "explicit/edged", unit: "msgs/s", against: "explicit/lmove-alone", atLeast: 0.7, enough: 300_000},
	{name: "16KiB/edged", unit: "msgs/s", against: "16KiB/redis-alone", atLeast: 0.8},
	{name: "1MiB/edged", unit: "msgs/s", against: "1MiB/redis-alone", atLeast: 0.8},
	{name: "fan-out/10/edged", unit: "msgs/s", against: "fan-out/10/nats-server", atLeast: 4},
	{name: "fan-out/100/edged", unit: "msgs/s", against: "fan-out/100/nats-server", atLeast: 4},
	{name: "fan-out/1000/edged", unit: "msgs/s", against: "fan-out/1000/nats-server", atLeast: 9},
	{name: "fan-out/1000/edged", unit: "peak-MiB", atMost: 20},
	{name: "pub-sub/edged", unit: "msgs/s", against: "pub-sub/nats-server", atLeast: 0.8},
	{name: "pub-sub/edged", unit: "peak-MiB", against: "pub-sub/nats-server", atMost: 0.5},
	{name: "latency/1000/one-list/edged", unit: "p50-µs", against: "latency/1000/one-list/blpop", atMost: 1.25},
	{name: "latency/1000/one-list/edged", unit: "p50-µs", against: "latency/1000/one-list/peek-alone", atMost: 1.25},
	{name: "latency/1000/one-list/edged", unit: "p50-µs", against: "latency/1000/two-lists/edged", atMost: 1},
	{name: "latency/1000/two-lists/edged", unit: "p50-µs", against: "latency/1000/two-lists/blpop", atMost: 1.25},
	{name: "latency/1000/two-lists/edged", unit: "p50-µs", against: "latency/1000/two-lists/peek-alone", atMost: 1.25},
	{name: "start/edged", unit: "ms", atMost: 8},
	{name: "idle/edged", unit: "MiB", atMost: 12},
	{name: "idle/edged", unit: "cpu-s/min", atMost: 0.02},
	{name: "idle/edged", unit: "redis-commands/min", atMost: 12},
	{name: "idle/edged-one-client", unit: "cpu-s/min", atMost: 0.02},
	{name: "binary/edged", unit: "MB", atMost: 10},
}
