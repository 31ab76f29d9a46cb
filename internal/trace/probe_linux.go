package trace

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dial makes a TCP connection. A ttl of 0 means the box's default. The network's reports about it,
// which net.Dialer loses, are in the attempt.
func dial(ctx context.Context, to netip.AddrPort, ttl int) (a attempt) {
	began := time.Now()
	defer func() { a.took = time.Since(began) }()
	s, err := open(ctx, unix.SOCK_STREAM, to, ttl)
	if err != nil {
		return attempt{err: err}
	}
	defer s.Close()

	connecting := false
	err = s.raw.Write(func(fd uintptr) bool {
		if !connecting {
			connecting = true
			a.err = unix.Connect(int(fd), s.to)
			return a.err != unix.EINPROGRESS
		}
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = unix.Errno(errno)
		}
		if err == nil {
			_, err = unix.Getpeername(int(fd))
		}
		a.err = err
		return err != unix.ENOTCONN
	})
	if err != nil {
		a.err = errSilent // the deadline of ctx
	}
	if a.err == nil {
		a.conn, a.err = net.FileConn(s.File)
		return a
	}
	a.said = s.report()
	if from, err := source(to); err == nil && a.said != nil && a.said.from == from {
		a.said.local = true // reported by this box's own kernel: the next hop does not answer ARP
	}
	return a
}

// send sends a datagram of a size and waits until the network reports on it, or until ctx is done.
// Then the report is nil.
func send(ctx context.Context, to netip.AddrPort, ttl, size int) (*report, error) {
	s, err := openDatagram(ctx, to, ttl)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := s.write(size); err != nil {
		if r := s.report(); r != nil {
			return r, nil
		}
		return nil, err
	}
	return s.await(), nil
}

// source returns the address that this box sends from.
func source(to netip.AddrPort) (from netip.Addr, err error) {
	s, err := openDatagram(context.Background(), to, 0)
	if err != nil {
		return from, err
	}
	defer s.Close()
	err = s.control(func(fd int) error {
		sa, err := unix.Getsockname(fd)
		from = addrOf(sa)
		return err
	})
	return from, err
}

// pathMTU finds the path's MTU with datagrams that routers must not split. by is the sender of the
// smallest value; known is false if no datagram of the final size was answered.
func pathMTU(ctx context.Context, to netip.AddrPort) (mtu int, by netip.Addr, known bool, err error) {
	s, err := openDatagram(ctx, netip.AddrPortFrom(to.Addr(), mtuPort), 0)
	if err != nil {
		return 0, by, false, err
	}
	defer s.Close()
	level, discover, option, do, headers := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU, unix.IP_PMTUDISC_DO, 20+8
	if to.Addr().Is6() {
		level, discover, option, do, headers = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU, unix.IPV6_PMTUDISC_DO, 40+8
	}
	if err := s.control(func(fd int) error { return unix.SetsockoptInt(fd, level, discover, do) }); err != nil {
		return 0, by, false, err
	}

	const narrowings = 5
	silent := false
	for range narrowings {
		if err := s.control(func(fd int) error { mtu, err = unix.GetsockoptInt(fd, level, option); return err }); err != nil {
			return 0, by, false, err
		}
		const largest = 65507 // the largest datagram over IPv4
		err := s.write(min(mtu-headers, largest))
		if err != nil && err != unix.EMSGSIZE && err != unix.ECONNREFUSED {
			return mtu, by, false, err
		}
		s.within(time.Second)
		r := s.await()
		switch {
		case r == nil && silent:
			return mtu, by, false, nil
		case r == nil: // retry: reports are rare by design
			silent = true
		case r.mtu > 0:
			if by = r.from; !by.IsValid() {
				continue // this box knew it before
			}
		default:
			return mtu, by, r.reached(to.Addr()), nil
		}
	}
	return mtu, by, false, nil
}

// socket is a socket whose error queue can be read. It does not outlive ctx.
type socket struct {
	*os.File
	raw  syscallConn
	to   unix.Sockaddr
	six  bool
	ctx  context.Context
	stop func() bool
}

// syscallConn is syscall.RawConn.
type syscallConn interface {
	Control(f func(fd uintptr)) error
	Read(f func(fd uintptr) (done bool)) error
	Write(f func(fd uintptr) (done bool)) error
}

func open(ctx context.Context, kind int, to netip.AddrPort, ttl int) (*socket, error) {
	s := &socket{six: to.Addr().Is6(), ctx: ctx}
	family, level, reports, hops := unix.AF_INET, unix.IPPROTO_IP, unix.IP_RECVERR, unix.IP_TTL
	if s.six {
		family, level, reports, hops = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_UNICAST_HOPS
		s.to = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16(), ZoneId: zoneID(to.Addr().Zone())}
	} else {
		s.to = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}

	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	s.File = os.NewFile(uintptr(fd), "trace")
	err = unix.SetsockoptInt(fd, level, reports, 1)
	if err == nil && ttl > 0 {
		err = unix.SetsockoptInt(fd, level, hops, ttl)
	}
	if err == nil {
		s.raw, err = s.SyscallConn()
	}
	if err != nil {
		s.File.Close()
		return nil, err
	}
	s.stop = context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })
	return s, nil
}

func openDatagram(ctx context.Context, to netip.AddrPort, ttl int) (*socket, error) {
	s, err := open(ctx, unix.SOCK_DGRAM, to, ttl)
	if err != nil {
		return nil, err
	}
	if err := s.control(func(fd int) error { return unix.Connect(fd, s.to) }); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close closes the socket.
func (s *socket) Close() {
	s.stop()
	s.File.Close()
}

func (s *socket) control(do func(fd int) error) (err error) {
	if raw := s.raw.Control(func(fd uintptr) { err = do(int(fd)) }); raw != nil {
		return raw
	}
	return err
}

// write sends a datagram of zeros.
func (s *socket) write(size int) error {
	return s.control(func(fd int) error { return unix.Send(fd, make([]byte, max(0, size)), 0) })
}

// within sets a time limit for await. ctx ends it in any case.
func (s *socket) within(d time.Duration) {
	_ = s.SetReadDeadline(time.Now().Add(d))
	if s.ctx.Err() != nil {
		_ = s.SetReadDeadline(time.Unix(1, 0))
	}
}

// await waits for a report. It is nil if none came.
func (s *socket) await() (r *report) {
	_ = s.raw.Read(func(fd uintptr) bool {
		r = s.receive(int(fd))
		return r != nil
	})
	return r
}

// report returns the report that waits in the socket's error queue, or nil.
func (s *socket) report() (r *report) {
	_ = s.raw.Control(func(fd uintptr) { r = s.receive(int(fd)) })
	return r
}

// receive reads a report from the error queue of ip(7).
func (s *socket) receive(fd int) *report {
	control := make([]byte, 512)
	_, n, _, _, err := unix.Recvmsg(fd, nil, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err != nil {
		return nil
	}

	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return nil
	}
	const size = int(unsafe.Sizeof(unix.SockExtendedErr{}))
	for _, m := range messages {
		v4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if (v4 || v6) && len(m.Data) >= size {
			return reportOf((*unix.SockExtendedErr)(unsafe.Pointer(&m.Data[0])), m.Data[size:])
		}
	}

	return nil
}

// reportOf reads the kernel's record of an error; the address of its sender follows the record.
func reportOf(e *unix.SockExtendedErr, sender []byte) *report {
	r := &report{six: e.Origin == unix.SO_EE_ORIGIN_ICMP6, kind: int(e.Type), code: int(e.Code)}
	if unix.Errno(e.Errno) == unix.EMSGSIZE {
		r.mtu = int(e.Info)
	}
	if e.Origin != unix.SO_EE_ORIGIN_ICMP && e.Origin != unix.SO_EE_ORIGIN_ICMP6 {
		r.local = true
		return r
	}
	const v4, v6 = 4, 8 // where the address begins in sockaddr_in and sockaddr_in6
	switch {
	case r.six && len(sender) >= v6+16:
		r.from = netip.AddrFrom16([16]byte(sender[v6 : v6+16]))
	case !r.six && len(sender) >= v4+4:
		r.from = netip.AddrFrom4([4]byte(sender[v4 : v4+4]))
	}

	return r
}

func addrOf(sa unix.Sockaddr) netip.Addr {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr)
	}
	return netip.Addr{}
}

// zoneID returns the number of an interface. The unit forbids netlink, which package net would use.
func zoneID(zone string) uint32 {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	if zone == "" || strings.Contains(zone, "/") {
		return 0
	}
	text, _ := os.ReadFile("/sys/class/net/" + zone + "/ifindex")
	n, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	return uint32(n)
}

// synchronized reports whether a time service keeps the clock, if that can be known.
func synchronized() (yes, known bool) {
	if state, err := unix.Adjtimex(&unix.Timex{}); err == nil {
		return state != unix.TIME_ERROR, true
	}
	// The unit is not allowed to ask the kernel. systemd-timesyncd leaves a file when it has the time.
	if _, err := os.Stat("/run/systemd/timesync/synchronized"); err == nil {
		return true, true
	}
	return false, false
}
