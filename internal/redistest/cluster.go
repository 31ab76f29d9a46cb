package redistest

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Node is a server that also listens on a port of 127.0.0.1, as clusters, Sentinels and replicas
// require.
type Node struct {
	*Server
	Port int
}

// StartNode starts a server on a free port.
func StartNode(tb testing.TB, args ...string) *Node {
	tb.Helper()
	port := FreePort(tb)
	return &Node{Start(tb, append(args, "--port", strconv.Itoa(port), "--bind", "127.0.0.1")...), port}
}

// Address returns host:port.
func (n *Node) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(n.Port)) }

// do carries out a command that must not fail.
func (n *Node) do(args ...any) any {
	n.tb.Helper()
	reply, err := n.client.Do(context.Background(), args...).Result()
	if err != nil {
		n.tb.Fatalf("%v: %v", args, err)
	}
	return reply
}

// Cluster is a Redis Cluster whose masters have equal shares of the slots.
type Cluster struct {
	tb       testing.TB
	Masters  []*Node
	Replicas []*Node // the i-th belongs to the i-th master; may be empty
}

const slots = 16384

// StartCluster starts a cluster and waits until all of its nodes serve. A replica can replace its
// master only if there are at least three masters.
func StartCluster(tb testing.TB, masters int, replicas bool) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb}

	start := func() *Node {
		tb.Helper()
		busPort := strconv.Itoa(FreePort(tb)) // the usual one, 10000 above, may be out of range
		return StartNode(tb, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", busPort,
			"--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0")
	}
	for i := range masters {
		c.Masters = append(c.Masters, start())
		c.Masters[i].do("CLUSTER", "ADDSLOTSRANGE", i*slots/masters, (i+1)*slots/masters-1)
		c.Masters[i].do("CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if replicas {
			c.Replicas = append(c.Replicas, start())
		}
	}

	all := c.all()
	for _, n := range all[1:] {
		bus := strings.Fields(n.do("CLUSTER", "NODES").(string))[1]
		bus = bus[strings.LastIndexByte(bus, '@')+1:]
		bus, _, _ = strings.Cut(bus, ",")
		all[0].do("CLUSTER", "MEET", "127.0.0.1", n.Port, bus)
	}

	for _, n := range all {
		Eventually(tb, "the nodes know each other", func() bool {
			return strings.Count(n.do("CLUSTER", "NODES").(string), "\n") == len(all)
		})
	}

	for i, n := range c.Replicas {
		master := c.Masters[i].ID()
		Eventually(tb, "a replica has its master", func() bool {
			return n.client.Do(context.Background(), "CLUSTER", "REPLICATE", master).Err() == nil
		})
	}

	for _, n := range c.Replicas {
		Eventually(tb, "a replica has caught up", func() bool {
			return strings.Contains(n.do("INFO", "replication").(string), "master_link_status:up")
		})
	}
	for _, n := range all {
		Eventually(tb, "the cluster is up", func() bool {
			info := n.do("CLUSTER", "NODES").(string)
			return strings.Contains(n.do("CLUSTER", "INFO").(string), "cluster_state:ok") && strings.Count(info, "slave ") == len(c.Replicas)
		})
	}
	return c
}

func (c *Cluster) all() []*Node { return slices.Concat(c.Masters, c.Replicas) }

// ID returns the node's name in the cluster.
func (n *Node) ID() string { return n.do("CLUSTER", "MYID").(string) }

// Addresses returns those of all nodes, masters first.
func (c *Cluster) Addresses() (all []string) {
	for _, n := range c.all() {
		all = append(all, n.Address())
	}
	return all
}

// Slot returns the hash slot of a key.
func (c *Cluster) Slot(key string) int64 {
	c.tb.Helper()
	return c.all()[0].do("CLUSTER", "KEYSLOT", key).(int64)
}

// Key returns a key that begins with prefix and is on the i-th master.
func (c *Cluster) Key(prefix string, i int) string {
	c.tb.Helper()
	for n := 0; ; n++ {
		key := prefix + strconv.Itoa(n)
		slot := int(c.Slot(key))
		if low, high := i*slots/len(c.Masters), (i+1)*slots/len(c.Masters); slot >= low && slot < high {
			return key
		}
	}
}

// Client returns a connection to the whole cluster, for the test's own commands.
func (c *Cluster) Client() *redis.ClusterClient {
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addresses(), DisableIdentity: true, Protocol: 2})
	c.tb.Cleanup(func() { client.Close() })
	return client
}

// BeginMigration says that the slot of a key is moving from one master to another; its keys are
// still at the first.
func (c *Cluster) BeginMigration(key string, from, to *Node) {
	c.tb.Helper()
	to.do("CLUSTER", "SETSLOT", c.Slot(key), "IMPORTING", from.ID())
	from.do("CLUSTER", "SETSLOT", c.Slot(key), "MIGRATING", to.ID())
}

// Migrate moves up to n keys of the slot of a key, and returns their number.
func (c *Cluster) Migrate(key string, from, to *Node, n int) int {
	c.tb.Helper()
	keys := from.do("CLUSTER", "GETKEYSINSLOT", c.Slot(key), n).([]any)
	if len(keys) > 0 {
		from.do(append([]any{"MIGRATE", "127.0.0.1", to.Port, "", 0, 10000, "KEYS"}, keys...)...)
	}
	return len(keys)
}

// EndMigration gives the slot to the second master.
func (c *Cluster) EndMigration(key string, from, to *Node) {
	c.tb.Helper()
	id := to.ID()
	to.do("CLUSTER", "SETSLOT", c.Slot(key), "NODE", id)
	from.do("CLUSTER", "SETSLOT", c.Slot(key), "NODE", id)
}
