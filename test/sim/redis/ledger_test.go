package redis

import (
	"context"
	"net"
	"testing"
	"time"

	"edged/internal/ledger"
	"edged/internal/redisconn"
)

// In the simulator's Lua, "a, b = false, a" makes b false.
func TestALedgerOfThisInstanceIsReadHereAsInRedis(t *testing.T) {
	r := start(t)
	servers := redisconn.NewServers(redisconn.Options{
		Address: "redis:6379", Timeout: 10 * time.Second,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			here, there := pipe()
			r.Serve(there)
			return here, nil
		},
	}, redisconn.Callbacks{Scripts: ledger.Scripts})
	defer servers.Close()
	server := servers.Route().Server
	if err := server.LoadScripts(t.Context()); err != nil {
		t.Fatal(err)
	}

	keys := ledger.KeysOf("a")
	want(t, r, int64(3), "HSET", keys.Ledger, "owner", "box/1", "serial", "7", "deadline", "9999999999999")
	reply, err := server.Do(t.Context(), ledger.Stand(keys, "", "box/")...)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ledger.ParseStanding(reply)
	if err != nil || s.Own != "box/1" || s.OwnUntil != "9999999999999" || s.Holder != "" || s.Serial != "7" {
		t.Errorf("the list stands %+v, %v", s, err)
	}
}
