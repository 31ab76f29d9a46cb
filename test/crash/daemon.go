package main

import (
	"fmt"

	"edged/internal/edgedtest"
)

// instance is the name of the daemon in each of its processes.
const instance = "crash"

func newDaemon(binary, folder, address, redis, mode string) *edgedtest.Daemon {
	settings := []string{`drain.timeout = "300ms"`, fmt.Sprintf("instance = %q", instance)}
	for _, list := range lists {
		settings = append(settings, "[[list]]", fmt.Sprintf("key = %q", list), fmt.Sprintf("ack = %q", mode))
		if mode == "explicit" {
			settings = append(settings, `ack_wait = "2s"`, "max_ack_pending = 1000")
		}
	}
	return &edgedtest.Daemon{Binary: binary, Folder: folder, Redis: redis, Address: address, Settings: settings}
}
