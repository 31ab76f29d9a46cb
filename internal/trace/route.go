package trace

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// hop is the first hop to an address.
type hop struct {
	device  string     // empty: unknown
	gateway netip.Addr // invalid: the address is on the device's own network
}

// Flags of routes: linux/route.h.
const (
	routeUp     = 0x1
	routeReject = 0x200
)

// firstHop finds the route to an address in /proc/net/route or /proc/net/ipv6_route, because the
// unit forbids netlink. These files do not contain rules by source or mark (ip rule).
func firstHop(to netip.Addr) hop {
	if to.Is4() {
		table, _ := os.ReadFile("/proc/net/route")
		return firstHop4(string(table), to)
	}
	table, _ := os.ReadFile("/proc/net/ipv6_route")
	return firstHop6(string(table), to)
}

// firstHop4 reads the columns Iface Destination Gateway Flags RefCnt Use Metric Mask.
func firstHop4(table string, to netip.Addr) (best hop) {
	longest, least := -1, uint64(0)
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 8 || f[0] == "Iface" {
			continue
		}
		destination, gateway, mask := reversed(f[1]), reversed(f[2]), reversed(f[7])
		flags, _ := strconv.ParseUint(f[3], 16, 32)
		metric, _ := strconv.ParseUint(f[6], 10, 32)
		bits := strings.Count(fmt.Sprintf("%b", mask), "1")
		network := netip.PrefixFrom(address4(destination), bits)
		if !network.Contains(to) || flags&routeUp == 0 || bits < longest || bits == longest && metric >= least {
			continue
		}
		longest, least, best = bits, metric, hop{device: f[0]}
		if gateway != 0 {
			best.gateway = address4(gateway)
		}
	}

	return best
}

// reversed parses an address in /proc/net/route, which has a little-endian machine's byte order.
func reversed(text string) uint32 {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(b)
}

func address4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// firstHop6 reads the columns destination, its bits, source, its bits, gateway, metric, two
// counters, flags, device.
func firstHop6(table string, to netip.Addr) (best hop) {
	longest, least := -1, uint64(0)
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) != 10 {
			continue
		}
		bits, _ := strconv.ParseInt(f[1], 16, 32)
		metric, _ := strconv.ParseUint(f[5], 16, 64)
		flags, _ := strconv.ParseUint(f[8], 16, 64)
		destination, gateway := address6(f[0]), address6(f[4])
		network := netip.PrefixFrom(destination, int(bits))
		if !network.Contains(to.WithZone("")) || flags&routeUp == 0 || flags&routeReject != 0 || int(bits) < longest || int(bits) == longest && metric >= least {
			continue
		}
		longest, least, best = int(bits), metric, hop{device: f[9]}
		if !gateway.IsUnspecified() {
			best.gateway = gateway
		}
	}

	return best
}

func address6(text string) netip.Addr {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 16 {
		return netip.IPv6Unspecified()
	}
	return netip.AddrFrom16([16]byte(b))
}

// neighbour says in words whether an IPv4 address answers ARP, from /proc/net/arp: columns address,
// type, flags. There is no such file for IPv6.
func neighbour(table string, of netip.Addr) string {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 6 || f[0] != of.String() {
			continue
		}
		if flags, _ := strconv.ParseUint(f[2], 0, 32); flags&0x2 != 0 {
			return "answers ARP"
		}
		return "does not answer ARP"
	}
	return ""
}

// words describes a hop: "eth0 by 10.0.0.1".
func (h hop) words() string {
	switch {
	case h.device == "":
		return "a route that is not in the main table"
	case h.gateway.IsValid():
		return h.device + " by the gateway " + h.gateway.String()
	}
	return h.device + ", on its own network"
}

// devices describes the interfaces that could carry packets, with their states.
func devices() string {
	folders, _ := filepath.Glob("/sys/class/net/*")
	var all []string
	for _, folder := range folders {
		name := filepath.Base(folder)
		state, err := os.ReadFile(filepath.Join(folder, "operstate"))
		if name != "lo" && err == nil {
			all = append(all, name+" is "+strings.TrimSpace(string(state)))
		}
	}
	if len(all) == 0 {
		return "there is no interface but loopback"
	}
	const most = 6
	return strings.Join(all[:min(len(all), most)], ", ")
}

// route describes the route by which packets leave this box.
func route(to netip.AddrPort) finding {
	const remedy = "see ip route and ip address"
	from, err := source(to)
	switch {
	case is(err, syscall.ENETUNREACH):
		return fail(remedy, "this box has no route to %s (%s)", to.Addr(), devices())
	case is(err, syscall.EACCES):
		return fail(remedy, "this box's own route to %s says prohibit", to.Addr())
	case is(err, syscall.EHOSTUNREACH):
		return fail(remedy, "this box's own route to %s says unreachable", to.Addr())
	case is(err, syscall.EINVAL):
		return fail(remedy, "this box's own route to %s is a black hole", to.Addr())
	case is(err, syscall.EADDRNOTAVAIL):
		return fail(remedy, "no interface has an address to send from to %s", to.Addr())
	case err != nil:
		return warn("not known: %v", err)
	}

	first := firstHop(to.Addr())
	text := first.words()
	next := first.gateway
	if !next.IsValid() {
		next = to.Addr()
	}
	table, _ := os.ReadFile("/proc/net/arp")
	if state := neighbour(string(table), next); state != "" {
		text += " (" + state + ")"
	}
	return ok("%s, from %s", text, from)
}
