//go:build faults

package daemon

import (
	"net"
	"os"
	"time"

	"edged/internal/batch"
)

// This build is for the tests of the watchdog. EDGED_FAULT names the part that stands
// still as soon as the file faultFile exists: poll, tcp, control or relay.
const faultFile = "/run/edged/fault"

func faulty(where string) bool {
	_, err := os.Stat(faultFile)
	return err == nil && os.Getenv("EDGED_FAULT") == where
}

// standStill never returns if the part has the fault.
func standStill(where string) {
	if faulty(where) {
		select {}
	}
}

// jam makes the relay hold its lock for good, with the next item.
func jam(w window) {
	if faulty("relay") {
		w.Join("", "", stuck{})
	}
}

// breakable returns a listener whose Accept never returns if it has the fault.
func breakable(name string, ln net.Listener) net.Listener { return faultyListener{ln, name} }

type faultyListener struct {
	net.Listener
	name string
}

func (l faultyListener) Accept() (net.Conn, error) {
	standStill(l.name)
	return l.Listener.Accept()
}

func (l faultyListener) Unwrap() net.Listener { return l.Listener }

func (l faultyListener) SetDeadline(t time.Time) error {
	return l.Listener.(interface{ SetDeadline(time.Time) error }).SetDeadline(t)
}

type stuck struct{}

func (stuck) Deliver(*batch.Batch, int, int, batch.Receipt) int { select {} }
