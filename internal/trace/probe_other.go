//go:build !linux

package trace

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"
)

// The network's reports can be read on Linux only.
func dial(ctx context.Context, to netip.AddrPort, ttl int) (a attempt) {
	if ttl > 0 {
		return attempt{err: errors.ErrUnsupported}
	}
	began := time.Now()
	a.conn, a.err = new(net.Dialer).DialContext(ctx, "tcp", to.String())
	if a.took = time.Since(began); errors.Is(a.err, os.ErrDeadlineExceeded) || errors.Is(a.err, context.DeadlineExceeded) {
		a.err = errSilent
	}
	return a
}

func send(context.Context, netip.AddrPort, int, int) (*report, error) {
	return nil, errors.ErrUnsupported
}

func source(netip.AddrPort) (netip.Addr, error) { return netip.Addr{}, errors.ErrUnsupported }

func pathMTU(context.Context, netip.AddrPort) (int, netip.Addr, bool, error) {
	return 0, netip.Addr{}, false, errors.ErrUnsupported
}

func synchronized() (yes, known bool) { return false, false }
