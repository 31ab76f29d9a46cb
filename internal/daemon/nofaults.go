//go:build !faults

package daemon

// standStill and jam are where a build with the tag "faults" breaks the daemon: see
// faults.go.
func standStill(string) {}

func jam(window) {}
