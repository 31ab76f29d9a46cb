package client

import (
	"net"
	"sync"
)

// gate is the connection under the library. It reads on only after received has returned, which
// handles all messages of the bytes read before. Until then it holds back the library's writes. So
// no PONG leaves before the items ahead of the PING are printed, and if the output is slow no more
// than a buffer is read ahead.
//
// The library reads in one goroutine, which hands on the messages before it reads again.
type gate struct {
	net.Conn
	received func() error

	mu      sync.Mutex
	reading bool   // guarded by mu: all bytes that were read are handled
	held    []byte // guarded by mu
}

func (g *gate) Read(p []byte) (n int, err error) {
	if err := g.received(); err != nil {
		return 0, err
	}
	if err := g.open(); err != nil {
		return 0, err
	}
	n, err = g.Conn.Read(p)
	g.mu.Lock()
	g.reading = false
	g.mu.Unlock()
	return n, err
}

// open sends the bytes that were held back.
func (g *gate) open() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reading = true
	if len(g.held) == 0 {
		return nil
	}
	_, err := g.Conn.Write(g.held)
	g.held = g.held[:0]
	return err
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reading {
		return g.Conn.Write(p)
	}
	g.held = append(g.held, p...)
	return len(p), nil
}
