package redistest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// Sentinels are Redis Sentinels that watch a master, "mymaster", with one replica.
type Sentinels struct {
	tb    testing.TB
	Nodes []*Node // the master and the replica, at first
	watch []*Node
}

// StartSentinels starts a master, its replica and three Sentinels, and waits until
// they know each other.
func StartSentinels(tb testing.TB, args ...string) *Sentinels {
	tb.Helper()
	args = append(args, "--repl-diskless-sync-delay", "0")
	master := StartNode(tb, args...)
	replica := StartNode(tb, append(args, "--replicaof", fmt.Sprintf("127.0.0.1 %d", master.Port))...)
	s := &Sentinels{tb: tb, Nodes: []*Node{master, replica}}
	Eventually(tb, "the replica has caught up", func() bool { return s.caughtUp(master) })
	for i := range 3 {
		// A Sentinel writes to its file.
		file := filepath.Join(tb.TempDir(), fmt.Sprintf("sentinel%d.conf", i))
		conf := fmt.Sprintf("sentinel monitor mymaster 127.0.0.1 %d 2\n"+
			"sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n", master.Port)
		if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
			tb.Fatal(err)
		}
		s.watch = append(s.watch, StartNode(tb, file, "--sentinel"))
	}

	for _, w := range s.watch {
		Eventually(tb, "the Sentinels know each other and the replica", func() bool {
			others, _ := w.client.Do(context.Background(), "SENTINEL", "SENTINELS", "mymaster").Slice()
			replicas, _ := w.client.Do(context.Background(), "SENTINEL", "REPLICAS", "mymaster").Slice()
			return len(others) == 2 && len(replicas) == 1
		})
	}

	return s
}

// Addresses returns those of the Sentinels.
func (s *Sentinels) Addresses() (all []string) {
	for _, w := range s.watch {
		all = append(all, w.Address())
	}
	return all
}

// Master returns the node that the Sentinels consider the master, and the other node.
func (s *Sentinels) Master() (master, other *Node) {
	s.tb.Helper()
	address, err := s.watch[0].client.Do(context.Background(), "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster").StringSlice()
	if err != nil {
		s.tb.Fatal(err)
	}
	if address[1] == strconv.Itoa(s.Nodes[0].Port) {
		return s.Nodes[0], s.Nodes[1]
	}
	return s.Nodes[1], s.Nodes[0]
}

// Failover makes the Sentinels swap master and replica.
func (s *Sentinels) Failover() {
	s.tb.Helper()
	Eventually(s.tb, "the Sentinels begin a failover", func() bool {
		return s.watch[0].client.Do(context.Background(), "SENTINEL", "FAILOVER", "mymaster").Err() == nil
	})
}

func (s *Sentinels) caughtUp(master *Node) bool {
	n, err := master.client.Wait(context.Background(), 1, 100).Result()
	return err == nil && n == 1
}
