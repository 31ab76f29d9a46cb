package trace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// way is the way to one of a server's addresses.
type way struct {
	to    netip.AddrPort
	rules finding
	route finding
	found finding // the outcome of connecting, and then that of hops
	attempt
}

// connect finds the server and connects to it. It returns nil if that is not possible.
func (t *tracer) connect(ctx context.Context) net.Conn {
	if path, local := strings.CutPrefix(t.Address, "unix://"); local {
		return t.connectUnix(ctx, path)
	}
	host, port, err := net.SplitHostPort(t.Address)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil {
		t.because(fail("write HOST:PORT", "%q is no address", t.Address))
		return nil
	}
	t.host = host

	var ways []*way
	f := t.step(ctx, "name", "", func(ctx context.Context) finding {
		addresses, f := resolve(ctx, host)
		for _, a := range addresses {
			ways = append(ways, &way{to: netip.AddrPortFrom(a, uint16(number))})
		}
		return f
	})
	if t.because(f); t.cause != "" {
		return nil
	}
	return t.connectFirst(ctx, ways)
}

// connectFirst tries all ways at the same time, and returns the first connection to the server.
func (t *tracer) connectFirst(ctx context.Context, ways []*way) (conn net.Conn) {
	for _, w := range ways {
		at := w.to.Addr().String()
		if w.to.Addr().IsLoopback() {
			continue
		}
		w.rules = t.step(ctx, "rules", at, func(ctx context.Context) finding { return rules(ctx, w.to) })
		w.route = t.step(ctx, "route", at, func(context.Context) finding { return route(w.to) })
	}

	tried := make([]chan struct{}, len(ways))
	for i, w := range ways {
		tried[i] = make(chan struct{})
		go func() {
			defer close(tried[i])
			w.try(ctx)
		}()
	}
	for i, w := range ways {
		w.found = t.step(ctx, "connect", w.to.String(), func(context.Context) finding {
			<-tried[i]
			return connected(w.to, w.attempt)
		})
	}

	for _, w := range ways {
		if w.conn != nil && conn == nil {
			conn = w.conn
			t.measure(ctx, w.to)
		} else if w.conn != nil {
			w.conn.Close()
		}
	}
	if conn == nil {
		t.explain(ctx, ways)
		return nil
	}
	for _, w := range ways {
		if w.conn == nil {
			t.notes = append(t.notes, printable(fmt.Sprintf("%s does not: %s", w.to, w.found.text)))
		}
	}
	return conn
}

// try connects, with less patience if this box's own rules are the likely obstacle.
func (w *way) try(ctx context.Context) {
	timeout := connectTimeout
	if w.rules.result == Fail {
		timeout = deniedTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	w.attempt = dial(ctx, w.to, 0)
}

// explain finds the reason why no way leads to the server: this box's own rules, its routes, or an
// obstacle on the way.
func (t *tracer) explain(ctx context.Context, ways []*way) {
	for _, six := range []bool{false, true} {
		i := slices.IndexFunc(ways, func(w *way) bool {
			return w.to.Addr().Is6() == six && w.rules.result != Fail && w.route.result != Fail && w.lost()
		})
		if i >= 0 {
			w := ways[i]
			w.found = t.step(ctx, "hops", w.to.Addr().String(), func(ctx context.Context) finding { return hops(ctx, w.to, w.said) })
		}
	}
	for _, w := range ways {
		t.because(w.rules)
		t.because(w.route)
		t.because(w.found)
	}
}

// lost reports whether the packets were lost on the way: neither the host nor this box has
// answered.
func (w *way) lost() bool {
	if w.said != nil {
		return !w.said.local && w.said.from != w.to.Addr()
	}
	return w.err == errSilent && !w.to.Addr().IsLoopback()
}

// resolve looks a name up, as edged does, and returns at most two addresses of each family.
func resolve(ctx context.Context, host string) (addresses []netip.Addr, _ finding) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, ok("%s is an address", host)
	}
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	// The resolver asks for both families at once, in goroutines that can outlive the lookup.
	var asked atomic.Value
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		asked.Store(address)
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	began := time.Now()
	all, err := resolver.LookupNetIP(ctx, "ip", host)
	server, _ := asked.Load().(string)
	if err != nil {
		return nil, unresolved(host, server, err)
	}

	names := []string{}
	for _, six := range []bool{false, true} {
		n := 0
		for _, a := range all {
			if a = a.Unmap(); a.Is6() == six && n < 2 {
				n++
				addresses, names = append(addresses, a), append(names, a.String())
			}
		}
	}
	by := "/etc/hosts"
	if server != "" {
		by = fmt.Sprintf("%s after %s", server, time.Since(began).Round(time.Millisecond))
	}
	more := ""
	if left := len(all) - len(addresses); left > 0 {
		more = fmt.Sprintf(" and %d more", left)
	}
	return addresses, ok("%s is %s%s, says %s", host, strings.Join(names, " and "), more, by)
}

// unresolved explains why a name was not found.
func unresolved(host, server string, err error) finding {
	const remedy = "check /etc/resolv.conf"
	var dns *net.DNSError
	if !errors.As(err, &dns) {
		return fail(remedy, "%s: %v", host, err)
	}
	if dns.Server != "" {
		server = dns.Server
	}

	has := func(text string) bool { return strings.Contains(dns.Err, text) }
	switch {
	case dns.IsNotFound && server == "":
		return fail("correct the name", "there is no %s", host)
	case dns.IsNotFound:
		return fail("correct the name, or the zone", "%s says that there is no %s", server, host)
	case has("operation not permitted"):
		ip, _, _ := net.SplitHostPort(server)
		return fail(allow(ip), "this box's own rules forbid asking the name server %s", server)
	case has("connection refused"):
		return fail(remedy, "no name server listens at %s", server)
	case has("unreachable"):
		return fail(remedy, "there is no route to the name server %s", server)
	case dns.IsTimeout:
		return fail(remedy, "the name server %s does not answer", server)
	}

	return fail(remedy, "the name server %s: %s", server, dns.Err)
}

// allow returns the remedy for a packet that this box has dropped itself.
func allow(address string) string {
	return "systemctl edit edged, and add [Service] IPAddressAllow=" + address + ", or see the firewall of this box"
}

// rules reports whether this box lets packets out to an address. If IPAddressDeny= of the unit
// forbids it, TCP is silent, but UDP fails at once. The datagram ends at the first router.
func rules(ctx context.Context, to netip.AddrPort) finding {
	ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	_, err := send(ctx, to, 1, 0)
	switch {
	case is(err, syscall.EPERM):
		return fail(allow(to.Addr().String()), "IPAddressDeny= of edged.service, or another rule of this box, forbids packets to %s", to.Addr())
	case err != nil:
		return warn("not known: %v", err)
	}
	return ok("this box lets packets out")
}

// connected describes how an attempt to connect has ended.
func connected(to netip.AddrPort, a attempt) finding {
	if a.conn != nil {
		return ok("connected after %s", short(a.took))
	}
	if a.said != nil && !a.said.local && !is(a.err, syscall.ECONNREFUSED) {
		return fail("ask the administrator of "+a.said.from.String(), "%s says: %s", a.said.from, a.said.words())
	}

	switch {
	case a.err == errSilent:
		return fail("a firewall may drop the packets", "no answer for %s", short(a.took))
	case is(a.err, syscall.ECONNREFUSED) && a.said != nil && !a.said.local:
		return fail("a firewall rejects it", "%s says: %s", a.said.from, a.said.words())
	case is(a.err, syscall.ECONNREFUSED):
		return fail("is the server running, and is the port right?", "refused: the host is there, and nothing listens at port %d", to.Port())
	case is(a.err, syscall.ECONNRESET):
		return fail("a firewall or proxy in between may do that", "reset by the host")
	case is(a.err, syscall.EHOSTUNREACH):
		return fail("is it switched on, and the cable in place?", "the host, or the gateway to it, does not answer on this box's own network")
	case is(a.err, syscall.ENETUNREACH, syscall.EACCES, syscall.EINVAL, syscall.EADDRNOTAVAIL):
		return fail("see ip route", "no way out of this box: %v", a.err)
	case is(a.err, syscall.EPERM):
		return fail(allow(to.Addr().String()), "this box's own rules forbid it")
	}

	return fail("", "%v", a.err)
}

// measure finds the path's MTU.
func (t *tracer) measure(ctx context.Context, to netip.AddrPort) {
	if to.Addr().IsLoopback() {
		return
	}
	f := t.step(ctx, "mtu", to.Addr().String(), func(ctx context.Context) finding {
		ctx, cancel := context.WithTimeout(ctx, mtuTimeout)
		defer cancel()
		return largest(pathMTU(ctx, to))
	})
	if f.result == Warn {
		t.notes = append(t.notes, "its MTU: "+printable(f.text))
	}
}

// largest reports whether packets of all sizes get through.
func largest(mtu int, by netip.Addr, known bool, err error) finding {
	const least = 1280 // every link of IPv6 carries it
	text := fmt.Sprintf("%d bytes", mtu)
	switch {
	case err != nil:
		return warn("not known: %v", err)
	case by.IsValid():
		text += fmt.Sprintf(" on the whole way, says %s", by)
	case known:
		text += " on the whole way"
	default:
		text += " on this box; nothing answers a datagram of that size"
	}

	if mtu < least {
		return warn("%s: it is small, and if a router drops larger packets silently, connections hang", text)
	}
	return ok("%s", text)
}

// connectUnix connects to a Unix socket of this box.
func (t *tracer) connectUnix(ctx context.Context, path string) (conn net.Conn) {
	f := t.step(ctx, "connect", "", func(ctx context.Context) finding {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		began := time.Now()
		var err error
		conn, err = new(net.Dialer).DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			return ok("connected after %s", short(time.Since(began)))
		case errors.Is(err, fs.ErrNotExist):
			return fail("is the server running, and is the path right?", "there is no file %s", path)
		case errors.Is(err, fs.ErrPermission):
			return fail("put the user of edged into the group of the socket", "this user may not use %s", path)
		case is(err, syscall.ECONNREFUSED):
			return fail("is the server running?", "nothing listens at %s", path)
		}

		return fail("", "%v", err)
	})
	t.because(f)
	return conn
}

// short formats a duration with about three digits.
func short(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}
