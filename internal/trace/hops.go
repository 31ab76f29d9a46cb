package trace

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	mostHops   = 24
	hopsAtOnce = 8
	mostSilent = 4 // silent hops in a row, after which no more are probed
	// hopTimeout allows two attempts: some routers send ICMP only once a second.
	hopTimeout = 2300 * time.Millisecond
)

// answer is the outcome of a packet with a certain TTL.
type answer struct {
	from    netip.Addr // the router or host that answered; invalid: silence
	reached bool       // the packet reached the server
	blocked string     // the router's reason for not passing the packet on
}

// prober sends packets with a TTL, and returns their outcome.
type prober func(ctx context.Context, to netip.AddrPort, ttl int) answer

// hops finds how far packets get. said is a router's report about an earlier packet, or nil.
func hops(ctx context.Context, to netip.AddrPort, said *report) finding {
	tcp := follow(ctx, to, byTCP)
	last := final(tcp)
	switch {
	case last.reached || last.blocked != "":
		return judgeHops(to, tcp, nil)
	case said != nil: // routers send few reports, and this one may send no more
		return fail(fmt.Sprintf("ask the administrator of %s", said.from), "%s does not pass packets on, it says: %s", said.from, said.words())
	}
	return judgeHops(to, tcp, follow(ctx, to, byUDP))
}

// follow sends packets with growing TTLs until one ends at the server or at a router that does not
// pass it on, or until no more answers come.
func follow(ctx context.Context, to netip.AddrPort, probe prober) (all []answer) {
	for len(all) < mostHops && ctx.Err() == nil {
		some := make([]answer, hopsAtOnce)
		var probing sync.WaitGroup
		for i := range some {
			ttl := len(all) + i + 1
			probing.Go(func() { some[i] = probe(ctx, to, ttl) })
		}
		probing.Wait()

		silent := 0
		for _, a := range some {
			all = append(all, a)
			if a.reached || a.blocked != "" {
				return all
			}
			if silent++; a.from.IsValid() {
				silent = 0
			}
		}
		if silent >= mostSilent {
			break
		}
	}
	return all
}

// byTCP sends SYNs: they pass if connections do.
func byTCP(ctx context.Context, to netip.AddrPort, ttl int) answer {
	ctx, cancel := context.WithTimeout(ctx, hopTimeout)
	defer cancel()
	a := dial(ctx, to, ttl)
	switch {
	case a.conn != nil:
		a.conn.Close()
		return answer{from: to.Addr(), reached: true}
	case a.said != nil && a.said.expired():
		return answer{from: a.said.from}
	case a.said != nil && !a.said.local:
		return answer{from: a.said.from, blocked: a.said.words()}
	case is(a.err, syscall.ECONNREFUSED, syscall.ECONNRESET) && a.said == nil:
		return answer{from: to.Addr(), reached: true}
	}
	return answer{}
}

// byUDP sends datagrams to unused ports, as traceroute does.
func byUDP(ctx context.Context, to netip.AddrPort, ttl int) answer {
	to = netip.AddrPortFrom(to.Addr(), uint16(hopPort+ttl))
	for range 2 {
		ctx, cancel := context.WithTimeout(ctx, hopTimeout/2)
		r, _ := send(ctx, to, ttl, 0)
		cancel()
		switch {
		case r == nil || r.local:
		case r.reached(to.Addr()):
			return answer{from: r.from, reached: true}
		case r.expired():
			return answer{from: r.from}
		default:
			return answer{from: r.from, blocked: r.words()}
		}
	}

	return answer{}
}

// final returns the last answer that is not silence.
func final(all []answer) (last answer) {
	for _, a := range all {
		if a.from.IsValid() {
			last = a
		}
	}
	return last
}

// trail puts the answers into words: "1 10.0.0.1, 2 silent, 3 10.0.7.1". number is that of the last
// hop that answered.
func trail(all []answer) (text string, number int) {
	var words []string
	for i, a := range all {
		name := "silent"
		if a.from.IsValid() {
			name, number = a.from.String(), i+1
		}
		words = append(words, fmt.Sprintf("%d %s", i+1, name))
	}
	return strings.Join(words[:number], ", "), number
}

// judgeHops explains where packets end. udp is the outcome of datagrams, if TCP is silent.
func judgeHops(to netip.AddrPort, tcp, udp []answer) finding {
	path, number := trail(tcp)
	further, beyond := trail(udp)
	last := final(tcp)
	switch {
	case last.reached:
		return finding{Warn, "the host answers now", "try again"}
	case last.blocked != "":
		// A router sends such reports only once a second, so its own hop may be among the silent
		// ones.
		where := "the first that answers"
		if _, before := trail(tcp[:len(tcp)-1]); before > 0 {
			where = fmt.Sprintf("after hop %d", before)
		}
		return fail(fmt.Sprintf("ask the administrator of %s", last.from), "%s (%s) does not pass packets on, it says: %s", last.from, where, last.blocked)
	case final(udp).reached:
		return fail("see the firewall of the host, or the one before it", "silence for TCP port %d, but the host answers UDP (%s)", to.Port(), further)
	case beyond > number:
		return fail(fmt.Sprintf("see the firewall at %s or after it", final(udp).from), "silence for TCP after hop %d, and for UDP after %s (%s)", number, final(udp).from, further)
	case number == 0:
		return fail("see the gateway and the firewall of this box's network", "silence from the first hop on")
	}

	text := fmt.Sprintf("silence after %s (hop %d)", last.from, number)
	if number > 1 {
		text += ", the way is " + path
	}
	return fail("a router or firewall after it, or the host, drops the packets", "%s", text)
}
