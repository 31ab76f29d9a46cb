package main

import (
	"fmt"

	"edged/internal/edgedtest"
)

// instance is the instance name of the daemon in each of its processes.
const instance = "crash"

func newDaemon(binary, folder, address, redis string, m mode) *edgedtest.Daemon {
	settings := []string{
		`drain.timeout = "300ms"`, fmt.Sprintf("instance = %q", instance),
		`delivery.rejoin_grace = "1s"`, // no item is removed earlier, and clients are back within milliseconds
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
	return &edgedtest.Daemon{Binary: binary, Folder: folder, Redis: redis, Address: address, Settings: settings}
}
