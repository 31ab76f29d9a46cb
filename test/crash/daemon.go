package main

import (
	"fmt"
	"time"

	"edged/internal/edgedtest"
)

// instance is the instance name of the daemon in each of its processes.
const instance = "crash"

// newDaemon makes a daemon that removes no item before the clients are back after a start, each of them within
// grace.
func newDaemon(binary string, p *place, m mode, grace time.Duration) *edgedtest.Daemon {
	settings := []string{
		`drain.timeout = "300ms"`, fmt.Sprintf("instance = %q", instance),
		fmt.Sprintf("delivery.rejoin_grace = %q", grace),
	}
	for i, list := range lists {
		ack := m.acks[i]
		if ack == "durable" { // whatever plain subscriptions do
			ack = "received"
		}
		settings = append(settings, "[[list]]", fmt.Sprintf("key = %q", list), fmt.Sprintf("ack = %q", ack))
		if ack == "explicit" {
			settings = append(settings, `ack_wait = "2s"`, "max_ack_pending = 1000")
		}
	}
	return &edgedtest.Daemon{Binary: binary, Folder: p.folder, Redis: p.redis.address(), Address: p.address, Settings: settings}
}
