package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"edged/internal/config"
	"edged/internal/daemon"
	"edged/internal/dev"
	"edged/internal/subscriber"
)

// sampleInterval is the time between two sample items of a list.
const sampleInterval = 500 * time.Millisecond

// serveDev runs the daemon on an in-memory Redis with sample items, and prints
// them as a client of it. Everything is on loopback and in a private folder.
func serveDev(stdout, stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintf(stderr, "edged: -dev: %v\n", err)
		return exitFailed
	}
	folder, err := os.MkdirTemp("", "edged-dev-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(folder)
	redis, err := dev.Start()
	if err != nil {
		return fail(err)
	}
	defer redis.Close()

	cfg, err := config.Load("")
	if err != nil {
		return fail(err)
	}
	cfg.Redis.Address = redis.Addr()
	cfg.Control.Socket, cfg.Control.StatusSocket = filepath.Join(folder, "control.sock"), ""
	var keys []string
	for _, list := range cfg.Lists {
		keys = append(keys, list.Key)
	}

	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	out := &lines{w: stdout}
	ready := func() {
		fmt.Fprintf(out, devHelp, cfg.Control.Socket, cfg.TCP.Listen, os.Args[0])
		running.Go(func() { redis.Produce(ctx, keys, sampleInterval) })
		for _, list := range cfg.Lists {
			running.Go(func() {
				// It ends with the server, or when somebody kicks it.
				subscriber.Run(ctx, subscriber.Options{Server: cfg.TCP.Listen, Subject: list.Subject, Name: "edged -dev", Out: out})
			})
		}
	}
	return daemon.Run(daemon.Options{Config: cfg, Version: version, Stderr: stderr, Ready: ready})
}

const devHelp = `edged runs on an in-memory Redis with sample items on two lists, "events" and "readings".
Look at it from another terminal:

  control   echo status | socat - UNIX-CONNECT:%[1]s
  data      (printf 'CONNECT {}\r\nSUB events 1\r\n'; sleep 5) | socat - TCP:%[2]s
  the same  %[3]s sub events
  any NATS client at nats://%[2]s does as well

Ctrl-C drains and ends it. The items, as a first client gets them:

`

// lines lets several goroutines write whole lines to one writer.
type lines struct {
	mu sync.Mutex
	w  io.Writer // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
