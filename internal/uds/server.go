// Package uds is the control socket, made for socat and for scripts: a command a line in, an answer
// out. It listens, frames, and holds the table of commands; other packages register the commands,
// except help.
//
// LF, CRLF or the end of the input end a line of at most 4 KiB. ";" separates commands on a line;
// blank commands are ignored. Words are separated by spaces and tabs; command names may be in upper
// or lower case. A connection's commands are executed and answered in order, each before the next
// begins. A client that does not read its answers stops its own commands, and is cut off after a
// while. Connections do not wait for each other.
//
// An answer is lines of text and then "OK", or "ERR <Code> <text>". With the last word "json" it is
// one JSON object on one line; an error is {"error":{"code":…,"message":…}}. A client that closes
// its sending side still gets its answers, then the connection closes. Some commands answer in
// parts over time, in JSON an object a line; the OK comes at their end.
//
// The kernel says which user a client is, and each listener has a ceiling: see Level. Users share
// the connections of a listener: if all are taken, a user with fewer than another gets one of
// theirs. Commands that need more than User are logged with the user and the outcome.
//
// Each listener has one goroutine and each connection has one. Serve and Shutdown return when these
// have ended.
package uds

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	maxLine = 4096 // bytes, without LF or CRLF

	writeTimeout  = 10 * time.Second // for one answer
	lingerTimeout = time.Second      // for the client to read the reason before the connection closes
	shutdownGrace = time.Second      // for commands in progress at Shutdown
	maxBackoff    = time.Second      // between attempts to accept
)

// Options are the options of a Server.
type Options struct {
	Commands       []Command     // in the order in which help lists them
	Path           string        // of a socket, for help's examples
	MaxConnections int           // at a time, of each listener, shared fairly among users; 16 if 0
	IdleTimeout    time.Duration // for a client to send a whole line; 5 minutes if 0
	FileCheck      time.Duration // between checks that a socket's file is there; 10 seconds if 0
	Log            *zap.Logger   // nil logs nothing
}

// Server answers commands. Its methods may be called from any goroutine.
type Server struct {
	table          *table
	maxConnections int
	idleTimeout    time.Duration
	fileCheck      time.Duration
	log            *zap.Logger

	ctx      context.Context // of the commands
	cancel   context.CancelFunc
	stopping chan struct{}  // closed when Shutdown begins
	serving  sync.WaitGroup // the calls of Serve; Add under mu while not stopping

	mu      sync.Mutex
	sockets map[*socket]struct{}  // guarded by mu
	conns   map[net.Conn]struct{} // guarded by mu; including those being refused
}

// New makes a server. It panics if two commands have the same name.
func New(o Options) *Server {
	s := &Server{
		table:          newTable(o.Commands, o.Path),
		maxConnections: o.MaxConnections,
		idleTimeout:    o.IdleTimeout,
		fileCheck:      o.FileCheck,
		log:            o.Log,
		stopping:       make(chan struct{}),
		sockets:        make(map[*socket]struct{}),
		conns:          make(map[net.Conn]struct{}),
	}
	if s.maxConnections == 0 {
		s.maxConnections = 16
	}
	if s.idleTimeout == 0 {
		s.idleTimeout = 5 * time.Minute
	}
	if s.fileCheck == 0 {
		s.fileCheck = 10 * time.Second
	}
	if s.log == nil {
		s.log = zap.NewNop()
	}

	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve answers the clients of ln, which it closes, until Shutdown; it returns nil then. If another
// goroutine closed ln, it returns an error, and the whole server stops. No client of ln has a level
// above the ceiling. Serve may be called for several listeners at once. Each has MaxConnections, so
// that clients of a read-only socket cannot lock out those of another.
//
// If ln comes from Listen, or has a method Unwrap that returns such a listener, its file is
// restored when it has been deleted. When Accept fails by a deadline, Serve goes on.
func (s *Server) Serve(ln net.Listener, ceiling Level) error {
	defer ln.Close()
	sock := &socket{Listener: ln, ceiling: ceiling}
	s.mu.Lock()
	if s.isStopping() {
		s.mu.Unlock()
		return nil
	}
	s.sockets[sock] = struct{}{}
	s.serving.Add(1)
	s.mu.Unlock()
	defer s.serving.Done()

	var conns sync.WaitGroup
	defer conns.Wait()
	backoff := 5 * time.Millisecond
	file := watchedFile{log: s.log}
	file.ln = fileOf(ln)
	for {
		file.wakeIn(s.fileCheck)
		c, err := ln.Accept()
		switch {
		case err == nil:
			backoff = 5 * time.Millisecond
			s.admit(c, sock, &conns)
		case s.isStopping():
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			file.check()
		case errors.Is(err, net.ErrClosed):
			s.stop()
			return err
		default:
			// Most likely the process is out of file descriptors, which passes.
			s.log.Warn("cannot accept a connection to the control socket; trying again",
				zap.Error(err), zap.Duration("in", backoff))
			select {
			case <-time.After(backoff):
			case <-s.stopping:
				return nil
			}
			backoff = min(2*backoff, maxBackoff)
		}
	}
}

// watchedFile is the socket file of a listener that has one. It is owned by Serve.
type watchedFile struct {
	ln   *listener // nil: nothing to watch
	log  *zap.Logger
	lost bool // and the log says so
}

// fileOf returns the listener of Listen that ln is or wraps, or nil.
func fileOf(ln net.Listener) *listener {
	for {
		switch l := ln.(type) {
		case *listener:
			return l
		case interface{ Unwrap() net.Listener }:
			ln = l.Unwrap()
		default:
			return nil
		}
	}
}

// wakeIn ends the next Accept in time for a check of the file.
func (f *watchedFile) wakeIn(d time.Duration) {
	if f.ln != nil {
		_ = f.ln.SetDeadline(time.Now().Add(d))
	}
}

func (f *watchedFile) check() {
	if f.ln == nil {
		return
	}
	restored, err := f.ln.restore()
	switch {
	case restored:
		f.lost = false
		f.log.Warn("the file of the control socket was gone; it is back", zap.String("path", f.ln.path))
	case err != nil && !f.lost:
		f.lost = true
		f.log.Error("the control socket cannot be reached: its file is gone and cannot be restored; trying again",
			zap.String("path", f.ln.path), zap.Error(err))
	case err == nil:
		f.lost = false
	}
}

// Shutdown ends the server: it closes the listeners, lets the command in progress on each
// connection finish its answer within 1 s, closes the connections and waits until all goroutines
// have ended. A command that was read but has not begun is answered with the error ShuttingDown. It
// may be called again; every call waits.
func (s *Server) Shutdown() {
	s.stop()
	gone := make(chan struct{})
	go func() {
		s.serving.Wait()
		close(gone)
	}()

	select {
	case <-gone:
	case <-time.After(shutdownGrace):
	}
	s.cancel()
	s.mu.Lock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	<-gone
}

// stop stops accepting and wakes the connections that wait for a command.
func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isStopping() {
		return
	}
	close(s.stopping)
	for sock := range s.sockets {
		_ = sock.Close()
	}
	for c := range s.conns {
		_ = c.SetReadDeadline(time.Now())
	}
}

func (s *Server) isStopping() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

// answer answers the commands of a connection until the client is done, is cut off or has lost its
// place, or the server stops.
func (s *Server) answer(p *place) {
	r := bufio.NewReaderSize(p, maxLine+len("\r\n"))
	for {
		// One deadline for the whole line: a client that sends a byte now and then is idle too.
		s.awaitLine(p)
		line, err := r.ReadSlice('\n')
		line = bytes.TrimSuffix(line, []byte("\n"))
		if errors.Is(err, bufio.ErrBufferFull) || len(bytes.TrimSuffix(line, []byte("\r"))) > maxLine {
			s.cutOff(p.Conn, Errorf(LineTooLong, "a line has at most %d bytes", maxLine))
			return
		}
		if err != nil && err != io.EOF {
			return // idle, gone, or woken by stop or makePlace
		}

		for _, req := range parseLine(line) {
			if s.isStopping() {
				_ = s.send(p, render(nil, Errorf(ShuttingDown, "the daemon is ending"), req.json))
				return
			}
			if s.execute(p, req) != nil || s.lost(p) != nil {
				return
			}
		}

		if err == io.EOF {
			return
		}
	}
}

// execute runs a command and sends its answer. Its error is that of sending.
func (s *Server) execute(p *place, req request) error {
	command, err := s.table.admit(req, p.who.level)
	if err != nil {
		if command != nil && command.Level > User {
			s.audit(p, command, req).Warn("a command was refused", zap.Error(err))
		}
		return s.send(p, render(nil, err, req.json))
	}
	if command.Level == User {
		err, sendErr := s.run(p, command, req)
		s.logFailure(req, err)
		return sendErr
	}

	log := s.audit(p, command, req)
	if command.Stream != nil {
		log.Info("a command on the control socket begins")
	}
	line := log.Check(zap.InfoLevel, "a command on the control socket") // the command may lower the log level
	err, sendErr := s.run(p, command, req)
	s.logFailure(req, err)
	switch {
	case err != nil:
		line.Write(zap.String("outcome", "failed"), zap.Error(err))
	case sendErr != nil:
		line.Write(zap.String("outcome", "its client left or read no answer"))
	default:
		line.Write(zap.String("outcome", "done"))
	}
	return sendErr
}

// audit returns a log whose lines name a command and its user.
func (s *Server) audit(p *place, command *Command, req request) *zap.Logger {
	return s.log.With(zap.Int("pid", p.who.pid), zap.Int("uid", p.who.uid), zap.String("user", userName(p.who.uid)),
		zap.String("command", strings.Join(append([]string{command.Name}, req.args...), " ")))
}

// logFailure logs an error that is not a client's fault.
func (s *Server) logFailure(req request, err error) {
	if _, coded := errors.AsType[*Error](err); err != nil && !coded {
		s.log.Error("a command on the control socket failed", zap.String("command", req.name), zap.Error(err))
	}
}

// run runs a command and sends its answer. It returns the command's error, which it has sent, and
// the error of sending.
func (s *Server) run(p *place, command *Command, req request) (err, sendErr error) {
	if command.Stream == nil {
		a, err := command.Run(s.ctx, req.args)
		return err, s.send(p, render(a, err, req.json))
	}

	err = command.Stream(s.ctx, req.args, func(a Answer) error {
		var part []byte
		if part, sendErr = renderPart(a, req.json); sendErr == nil {
			sendErr = s.send(p, part)
		}
		if why := s.lost(p); why != nil {
			sendErr = why
		}
		return sendErr
	})
	switch {
	case sendErr != nil:
		return nil, sendErr
	case err == nil && req.json:
		return nil, nil // every object was sent
	default:
		return err, s.send(p, render(nil, err, req.json))
	}
}

func (s *Server) send(c net.Conn, answer []byte) error {
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := c.Write(answer)
	return err
}

// cutOff tells the client why its connection ends. For a moment it reads and discards further
// input. Otherwise socat, for example, fails with a broken pipe before it has read the answer.
func (s *Server) cutOff(c net.Conn, why *Error) {
	if s.send(c, render(nil, why, false)) != nil {
		return
	}
	half, ok := c.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	s.setReadDeadline(c, lingerTimeout)
	_, _ = io.Copy(io.Discard, c)
}

// setReadDeadline sets a deadline unless stop has set its own.
func (s *Server) setReadDeadline(c net.Conn, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isStopping() {
		_ = c.SetReadDeadline(time.Now().Add(d))
	}
}

// awaitLine gives a client its time to send a line.
func (s *Server) awaitLine(p *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isStopping() && p.why == nil {
		_ = p.SetReadDeadline(time.Now().Add(s.idleTimeout))
	}
}
