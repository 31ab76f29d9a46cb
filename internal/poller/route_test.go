package poller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"edged/internal/redisconn"
	"edged/internal/redistest"
)

// couple is a loop over two lists, one of each kind, each with a client that
// confirms the items it gets.
type couple struct {
	*life
	keys    [2]string // the one that is received, the explicit one
	clients [2]*client
}

func startCouple(t *testing.T, where redisconn.Options, keys [2]string) *couple {
	t.Helper()
	c := &couple{keys: keys}
	where.Timeout = 2 * time.Second
	c.life = start(t, "", func(o *setup) {
		o.Redis, o.PollInterval, o.Lease, o.BatchItems, o.MaxPayload = where, 500*time.Millisecond, 5*time.Second, 50, 1000
		o.Relay.Window, o.Relay.MaxAckPending = 100, 100
		o.Lists[0].Key, o.Lists[1].Key, o.Explicit[keys[1]] = keys[0], keys[1], true
	})
	for i := range c.clients {
		c.clients[i] = c.join(i, false)
	}
	return c
}

// pusher pushes numbered items to both lists, over routes of its own.
type pusher struct {
	c      *couple
	routes *redisconn.Clients
	asking redis.Cmdable // pushes in place of them, where not nil: it follows ASK
	pushed int
}

func newPusher(c *couple, where redisconn.Options) *pusher {
	where.Timeout = 2 * time.Second
	p := &pusher{c: c, routes: where.NewClients()}
	c.t.Cleanup(p.routes.Close)
	return p
}

// do does something with a key, as often as it takes.
func (p *pusher) do(what, key string, do func(*redis.Client) error) {
	p.c.t.Helper()
	redistest.Eventually(p.c.t, what, func() bool {
		err := do(p.routes.Client(key))
		if err != nil {
			p.routes.Failed(key, err)
			return false
		}
		p.routes.Reached(key)
		return true
	})
}

// push pushes n items more to both lists.
func (p *pusher) push(n int) {
	p.c.t.Helper()
	for range n {
		for _, key := range p.c.keys {
			p.do("an item is pushed", key, func(c *redis.Client) error {
				if p.asking != nil {
					return p.asking.RPush(p.c.t.Context(), key, fmt.Sprintf("item %d", p.pushed)).Err()
				}
				return c.RPush(p.c.t.Context(), key, fmt.Sprintf("item %d", p.pushed)).Err()
			})
		}
		p.pushed++
	}
}

// waitForReplica waits until a replica has what was pushed.
func (p *pusher) waitForReplica() {
	p.c.t.Helper()
	for _, key := range p.c.keys {
		p.do("the replica has everything", key, func(c *redis.Client) error {
			if n, err := c.Wait(p.c.t.Context(), 1, time.Second).Result(); n != 1 {
				return fmt.Errorf("%d replicas, %v", n, err)
			}
			return nil
		})
	}
}

// wantAll waits until the clients have had every item that was pushed and the
// lists are empty.
func (p *pusher) wantAll() {
	p.c.t.Helper()
	for i, key := range p.c.keys {
		redistest.Eventually(p.c.t, "every item arrived on list "+key, func() bool {
			seen := map[string]bool{}
			for _, item := range p.c.clients[i].got() {
				seen[item] = true
			}
			return len(seen) == p.pushed
		})
		p.do(key+" is empty", key, func(c *redis.Client) error {
			n, err := c.LLen(p.c.t.Context(), key).Result()
			if n > 0 {
				return fmt.Errorf("%d items", n)
			}
			return err
		})
	}
}

func (c *couple) reason(i int) string { return c.loop.Lists()[i].Reason }

func waitForReplica(t *testing.T, n *redistest.Node) {
	t.Helper()
	redistest.Eventually(t, "the node is a replica", func() bool {
		return strings.Contains(n.Client().Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
}

func TestListsOnDifferentMastersOfAClusterAreServed(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, false)
	keys := [2]string{cluster.Key("a", 0), cluster.Key("b", 1)}
	c := startCouple(t, redisconn.Options{Cluster: []string{cluster.Masters[2].Address()}}, keys)
	p := newPusher(c, redisconn.Options{Cluster: cluster.Addresses()})
	p.push(300)
	p.wantAll()
	for _, m := range cluster.Masters[:2] {
		redistest.Eventually(t, "each master of a list sends hints", func() bool { return tracks(t, m.Server) })
	}
	redistest.Eventually(t, "no connection is left where no list is", func() bool {
		return strings.Count(cluster.Masters[2].Client().ClientList(t.Context()).Val(), "resp=2") <= 2 // the test's own two
	})
	for i, key := range keys {
		p.do("a large item is pushed", key, func(c *redis.Client) error {
			return c.RPush(t.Context(), key, strings.Repeat("x", 2000)).Err()
		})
		var letters []DeadLetter
		redistest.Eventually(t, "the item is a dead letter", func() bool {
			letters, _, _ = c.loop.Dead(t.Context(), key, 10)
			return len(letters) == 1
		})
		if letters[0].Size != 2000 {
			t.Errorf("list %d: %+v", i, letters[0].Epitaph)
		}
		if n, err := c.loop.Requeue(t.Context(), key, 10, unreported); n != 1 || err != nil {
			t.Errorf("list %d: %d requeued, %v", i, n, err)
		}
	}
}

func TestASlotMovesInMidStream(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, false)
	keys := [2]string{cluster.Key("a", 0), cluster.Key("b", 1)}
	c := startCouple(t, redisconn.Options{Cluster: cluster.Addresses()}, keys)
	p := newPusher(c, redisconn.Options{Cluster: cluster.Addresses()})
	p.asking = cluster.Client()
	p.push(100)
	for i, key := range keys {
		from, to := cluster.Masters[i], cluster.Masters[2]
		cluster.BeginMigration(key, from, to)
		p.push(20)
		cluster.Migrate(key, from, to, 1)
		p.push(20)
		for cluster.Migrate(key, from, to, 100) > 0 {
		}
		p.push(1)
		redistest.Eventually(t, "the status says why the list waits", func() bool {
			return strings.Contains(c.reason(i), "slot is being moved")
		})
		cluster.EndMigration(key, from, to)
		p.push(100)
		p.wantAll()
		redistest.Eventually(t, "the list is served again", func() bool { return c.reason(i) == "" })
	}
}

func TestAMasterOfAClusterDiesAndItsReplicaTakesOver(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, true)
	keys := [2]string{cluster.Key("a", 0), cluster.Key("b", 0)}
	c := startCouple(t, redisconn.Options{Cluster: []string{cluster.Masters[0].Address(), cluster.Masters[1].Address()}}, keys)
	p := newPusher(c, redisconn.Options{Cluster: cluster.Addresses()})
	p.push(200)
	p.waitForReplica()
	cluster.Masters[0].Kill()
	p.push(200) // succeeds when the replica is the master
	p.wantAll()
	cluster.Masters[0].Restart() // as a replica of the new one
	waitForReplica(t, cluster.Masters[0])
	cluster.Replicas[0].Kill()
	p.push(100)
	p.wantAll()
}

// startSentinels starts Sentinels with a loop over two lists, and a pusher.
func startSentinels(t *testing.T) (*redistest.Sentinels, *pusher) {
	sentinels := redistest.StartSentinels(t)
	where := redisconn.Options{Sentinel: redisconn.SentinelOptions{Addresses: sentinels.Addresses(), Master: "mymaster"}}
	return sentinels, newPusher(startCouple(t, where, [2]string{"a", "b"}), where)
}

func TestTheMasterOfSentinelsDiesAndComesBackAsAReplica(t *testing.T) {
	t.Parallel()
	sentinels, p := startSentinels(t)
	master, replica := sentinels.Master()
	p.push(200)
	p.waitForReplica()
	master.Kill()
	p.push(200)
	p.wantAll()
	master.Restart()
	_, port, _ := strings.Cut(replica.Address(), ":")
	master.Client().ReplicaOf(t.Context(), "127.0.0.1", port) // the Sentinels would, in a while
	waitForReplica(t, master)
	p.push(200)
	p.wantAll()
}

func TestSentinelsSwapMasterAndReplicaInMidStream(t *testing.T) {
	t.Parallel()
	sentinels, p := startSentinels(t)
	master, _ := sentinels.Master()
	p.push(300)
	p.waitForReplica()
	sentinels.Failover()
	redistest.Eventually(t, "the Sentinels have swapped them", func() bool {
		now, _ := sentinels.Master()
		return now != master
	})
	p.push(300)
	p.wantAll()
}

func TestARedisThatBecomesAReplicaAndAMasterAgainIsServedAgain(t *testing.T) {
	t.Parallel()
	old := redistest.StartNode(t)
	c := startCouple(t, redisconn.Options{Address: old.Address()}, [2]string{"a", "b"})
	p := newPusher(c, redisconn.Options{Address: old.Address()})
	c.clients[0].mu.Lock()
	c.clients[0].hold = true
	c.clients[0].mu.Unlock()
	p.push(10)
	c.clients[0].wait(t, 10)
	if err := old.Client().ReplicaOf(t.Context(), "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	c.clients[0].confirm() // to be removed now
	redistest.Eventually(t, "the status says so", func() bool { return strings.Contains(c.reason(0), "read-only replica") })
	since := c.loop.Lists()[0].FaultSince
	opened := stat(t, old.Server, "total_connections_received")
	redistest.Eventually(t, "it was tried a few times more", func() bool { return stat(t, old.Server, "total_connections_received") > opened+3 })
	if now := c.loop.Lists()[0].FaultSince; now != since {
		t.Errorf("the fault of %v is over for now, and there is another since %v", since, now)
	}
	if err := old.Client().ReplicaOf(t.Context(), "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	c.clients[0].mu.Lock()
	c.clients[0].hold = false
	c.clients[0].mu.Unlock()
	p.push(10)
	p.wantAll()
}
