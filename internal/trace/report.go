package trace

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// errSilent is the error of an attempt that nothing has answered.
var errSilent = errors.New("no answer")

// mtuPort and hopPort are ports that nothing listens at, as a rule: those of traceroute.
const (
	mtuPort = 33433
	hopPort = 33434
)

// attempt is how an attempt to connect has ended.
type attempt struct {
	conn net.Conn // nil: there is none
	err  error    // errSilent, or the kernel's
	said *report  // of the network; nil: there is none
	took time.Duration
}

// report is a report of the network about a packet: an ICMP message, or the same from this
// box's own kernel.
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

// expired reports whether a router has dropped the packet for its TTL.
func (r *report) expired() bool {
	return !r.local && (r.six && r.kind == expired || !r.six && r.kind == expired4)
}

// reached reports whether the packet came to its end, and found no socket there.
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

// words are the report's meaning.
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

// is reports whether an error is one of these of the kernel's.
func is(err error, any ...syscall.Errno) bool {
	for _, e := range any {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
