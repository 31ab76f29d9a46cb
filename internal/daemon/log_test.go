package daemon

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"

	"edged/internal/config"
	"edged/internal/redistest"
)

// blocked is standard error whose reader has stopped, until it is released.
type blocked struct {
	logBuffer
	entered, release chan struct{}
}

func newBlocked() *blocked {
	return &blocked{entered: make(chan struct{}, 1), release: make(chan struct{})}
}

func (b *blocked) Write(line []byte) (int, error) {
	select {
	case b.entered <- struct{}{}:
	default:
	}
	<-b.release
	return b.logBuffer.Write(line)
}

func TestLinesThatNoReaderTakesAreLostAndCounted(t *testing.T) {
	for _, format := range []string{"json", "console"} {
		w := newBlocked()
		log := newLog(config.Log{Level: "debug", Format: format}, w, nil)
		log.Debug("first")
		<-w.entered
		for i := range 2000 { // would hang here
			log.Debug("more", zap.Int("n", i))
		}
		lost := log.lost()
		if lost == 0 || lost >= 2000 {
			t.Errorf("%s: %d lines are lost of 2000 that no reader took", format, lost)
		}

		close(w.release)
		log.close()
		lines := strings.Split(w.String(), "\n")
		if want := fmt.Sprint(lost); !strings.Contains(lines[1], "lines of the log were lost") || !strings.Contains(lines[1], want) {
			t.Errorf("%s: the second line is %q, want that %s lines were lost", format, lines[1], want)
		}
	}
}

func TestADaemonWhoseLogBlocksStartsServesAndEnds(t *testing.T) {
	w, ready, signals, ended := newBlocked(), make(chan net.Addr, 1), make(chan os.Signal), make(chan int, 1)
	cfg := configured(t, redistest.Start(t))
	go func() {
		ended <- Run(t.Context(), Options{Config: cfg, Stderr: w, Signals: signals, Ready: func(at Addresses) { ready <- at.TCP }})
	}()
	client(t, <-ready)
	signals <- syscall.SIGTERM
	signals <- syscall.SIGTERM
	if code := <-ended; code != 0 {
		t.Errorf("the exit code is %d", code)
	}
	close(w.release)
}

func TestNoLineControlsATerminal(t *testing.T) {
	const hostile = "\u009b31mRED\u202e\u2066\x1b[31m\x7f\x00\U000e0001\tü"
	for _, format := range []string{"json", "console"} {
		var w logBuffer
		log := newLog(config.Log{Level: "info", Format: format}, &w, nil)
		log.Info("message "+hostile, zap.String("name", hostile))
		log.close()

		text := w.String()
		for _, r := range "\u009b\u202e\u2066\x1b\x7f\x00\U000e0001" {
			if strings.ContainsRune(text, r) {
				t.Errorf("%s: %q is in the line %q", format, r, text)
			}
		}
		if !strings.Contains(text, `\u009b31mRED\u202e\u2066\u001b[31m\u007f\u0000\udb40\udc01`) {
			t.Errorf("%s: the line is %q", format, text)
		}
		if format != "json" {
			continue
		}
		var line struct{ Name string }
		if err := json.Unmarshal([]byte(text), &line); err != nil || line.Name != hostile {
			t.Errorf("the line %q has the name %q (%v), want %q", text, line.Name, err, hostile)
		}
	}
}
