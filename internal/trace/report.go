package trace

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// errSilent is the error of an attempt without an answer.
var errSilent = errors.New("no answer")

// mtuPort and hopPort are ports that are normally unused: those of traceroute.
const (
	mtuPort = 33433
	hopPort = 33434
)

// attempt is how an attempt to connect has ended.
type attempt struct {
	conn net.Conn // nil: there is none
	err  error    // errSilent, or the kernel's
	said *report  // of the network; nil: none
	took time.Duration
}

// report is the network's report about a packet: an ICMP message, or the same from this box's own
// kernel.
type report struct {
	from       netip.Addr // its sender; invalid if local
	local      bool
	six        bool // ICMPv6
	kind, code int
	mtu        int // if the packet was too large
}

// Types of ICMP and of ICMPv6: RFC 792, RFC 4443.
const (
	unreachable4, expired4         = 3, 11
	unreachable6, tooBig6, expired = 1, 2, 3
)

// expired reports whether a router has dropped the packet because of its TTL.
func (r *report) expired() bool {
	return !r.local && (r.six && r.kind == expired || !r.six && r.kind == expired4)
}

// reached reports whether the packet reached its destination, and found no socket there.
func (r *report) reached(to netip.Addr) bool {
	const port4, port6 = 3, 4
	noPort := r.six && r.kind == unreachable6 && r.code == port6 || !r.six && r.kind == unreachable4 && r.code == port4
	return !r.local && noPort && r.from == to.WithZone("")
}

var (
	codes4 = map[int]string{
		0: "the network is unreachable", 1: "the host is unreachable", 2: "the protocol is unreachable", 3: "it rejects the port",
		4: "the packet is too large", 5: "the source route failed", 6: "the network is unknown", 7: "the host is unknown", 9: "the network is prohibited",
		10: "the host is prohibited", 13: "prohibited by a filter",
	}
	codes6 = map[int]string{
		0: "no route there", 1: "prohibited by a filter", 2: "beyond the scope of the source address", 3: "the host is unreachable", 4: "it rejects the port",
		5: "the source address is prohibited", 6: "the route is rejected",
	}
)

// words puts the report into words.
func (r *report) words() string {
	var text string
	switch {
	case r.expired():
		return "the TTL ran out"
	case r.mtu > 0:
		return fmt.Sprintf("no more than %d bytes", r.mtu)
	case r.six && r.kind == unreachable6:
		text = codes6[r.code]
	case !r.six && r.kind == unreachable4:
		text = codes4[r.code]
	}
	if text == "" {
		return fmt.Sprintf("ICMP type %d, code %d", r.kind, r.code)
	}
	return text
}

// is reports whether an error is one of these kernel errors.
func is(err error, any ...syscall.Errno) bool {
	for _, e := range any {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
