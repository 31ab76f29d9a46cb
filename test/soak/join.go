package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// join carries bytes between two connections until one of them ends or ctx is done, and closes
// both. If one connection was reset, so is the other if it belongs to the kernel. If idle is not 0,
// it bounds how long a may be silent.
func join(ctx context.Context, a, b net.Conn, idle time.Duration) {
	var once sync.Once
	ends := func(err error) {
		once.Do(func() {
			if errors.Is(err, syscall.ECONNRESET) {
				for _, c := range []net.Conn{a, b} {
					if tcp, ok := c.(*net.TCPConn); ok {
						tcp.SetLinger(0)
					}
				}
			}
			a.Close()
			b.Close()
		})
	}
	defer context.AfterFunc(ctx, func() { ends(nil) })()

	var running sync.WaitGroup
	running.Go(func() { ends(carry(b, a, idle)) })
	running.Go(func() { ends(carry(a, b, 0)) })
	running.Wait()
}

// carry copies bytes until an error.
func carry(to, from net.Conn, idle time.Duration) error {
	buffer := make([]byte, 16<<10)
	for {
		if idle > 0 {
			from.SetReadDeadline(time.Now().Add(idle))
		}
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// accept joins each connection of a listener to a new one, until the listener is closed; running
// counts the goroutines.
func accept(ctx context.Context, running *sync.WaitGroup, l net.Listener, dial func() (net.Conn, error)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}

		running.Go(func() {
			other, err := dial()
			if err != nil {
				if tcp, ok := conn.(*net.TCPConn); ok {
					tcp.SetLinger(0)
				}
				conn.Close()
				return
			}
			join(ctx, conn, other, 0)
		})
	}
}
