package edgedtest

import (
	"bufio"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Ping introduces a client of the NATS protocol with options, in JSON, sends a PING and waits for
// the PONG. It leaves conn with the deadline.
func Ping(conn net.Conn, options string, patience time.Duration) error {
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "CONNECT %s\r\nPING\r\n", options)
	answers := bufio.NewScanner(conn)
	for answers.Scan() {
		if answers.Text() == "PONG" {
			return nil
		}
	}
	return fmt.Errorf("the connection ended without an answer (%v)", answers.Err())
}

// KeepAsking lets clients send requests until stop is called, which returns the number of requests
// answered. A request without an answer fails the test.
func KeepAsking(tb testing.TB, clients int, request func() error) (stop func() (answered int64)) {
	done := make(chan struct{})
	var answered atomic.Int64
	var asking sync.WaitGroup
	for range clients {
		asking.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := request(); err != nil {
					tb.Errorf("a request: %v", err)
					return
				}
				answered.Add(1)
			}
		})
	}

	stop = sync.OnceValue(func() int64 {
		close(done)
		asking.Wait()
		return answered.Load()
	})
	tb.Cleanup(func() { stop() }) // if the test fails meanwhile
	return stop
}
