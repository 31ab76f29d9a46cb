package daemon

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ServeProfiles gives Go's profiles to `go tool pprof` at a loopback address, until
// stop is called.
func ServeProfiles(address string) (stop func(), err error) {
	l, err := listenForProfiles(address)
	if err != nil {
		return nil, err
	}
	return serveProfiles(l), nil
}

// listenForProfiles listens at a loopback address and at no other: a profile tells
// what is in memory.
func listenForProfiles(address string) (net.Listener, error) {
	resolved, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	if !resolved.IP.IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address such as 127.0.0.1:6060", address)
	}
	return net.ListenTCP("tcp", resolved)
}

// serveProfiles gives the profiles, one at a time, until stop is called. It speaks as
// much HTTP as that needs: net/http/pprof would make edged a tenth larger.
func serveProfiles(l net.Listener) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // by stop; otherwise there are no more profiles, and nothing else is amiss
			}
			unwatch := context.AfterFunc(ctx, func() { conn.Close() })
			writeProfile(ctx, conn)
			unwatch()
			conn.Close()
		}
	})
	return func() {
		cancel()
		l.Close()
		running.Wait()
	}
}

// writeProfile answers one request:
//
//	GET /debug/pprof/profile?seconds=N  where the processor's time goes, for 30 or N seconds
//	GET /debug/pprof/NAME               heap, allocs, goroutine; ?debug=1 or 2 for people
func writeProfile(ctx context.Context, conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(time.Second))
	line, _ := bufio.NewReader(io.LimitReader(conn, 4096)).ReadString('\n')
	_, path, _ := strings.Cut(line, " ")
	path, _, _ = strings.Cut(path, " ")
	target, err := url.Parse(path)
	if err != nil {
		return
	}
	const ok = "HTTP/1.0 200 OK\r\n\r\n"
	name := strings.TrimPrefix(target.Path, "/debug/pprof/")
	if profile := pprof.Lookup(name); profile != nil {
		debug, _ := strconv.Atoi(target.Query().Get("debug"))
		io.WriteString(conn, ok)
		profile.WriteTo(conn, debug)
		return
	}
	if name != "profile" {
		io.WriteString(conn, "HTTP/1.0 404 Not Found\r\n\r\nthere are /debug/pprof/profile?seconds=N, heap, allocs, goroutine\n")
		return
	}
	seconds, err := strconv.Atoi(target.Query().Get("seconds"))
	if err != nil {
		seconds = 30
	}
	io.WriteString(conn, ok)
	if pprof.StartCPUProfile(conn) == nil {
		select {
		case <-time.After(time.Duration(seconds) * time.Second):
		case <-ctx.Done():
		}
		pprof.StopCPUProfile()
	}
}
