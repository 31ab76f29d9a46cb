//go:build !faults

package daemon

import "net"

// standStill, breakable and jam are where a build with the tag "faults" breaks the
// daemon: see faults.go.
func standStill(string) {}

func breakable(_ string, ln net.Listener) net.Listener { return ln }

func jam(window) {}
