package daemon

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
)

func profile(t *testing.T, l net.Listener, path string) (head string, body []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	first, rest, _ := bytes.Cut(answer, []byte("\r\n\r\n"))
	return string(first), rest
}

func TestProfilesAreServedAsGoToolPprofReadsThem(t *testing.T) {
	l, err := listenForProfiles("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := serveProfiles(l)
	defer stop()
	for _, path := range []string{"/debug/pprof/heap", "/debug/pprof/goroutine", "/debug/pprof/profile?seconds=0"} {
		if head, body := profile(t, l, path); head != "HTTP/1.0 200 OK" || !bytes.HasPrefix(body, []byte("\x1f\x8b")) {
			t.Errorf("%s: %q, and what follows is no gzip: %.10q", path, head, body)
		}
	}
	if _, body := profile(t, l, "/debug/pprof/goroutine?debug=1"); !bytes.HasPrefix(body, []byte("goroutine profile: total ")) {
		t.Errorf("with debug=1 the profile is not text: %.30q", body)
	}
	for _, path := range []string{"/debug/pprof/none", "/", ""} {
		if head, _ := profile(t, l, path); head != "HTTP/1.0 404 Not Found" {
			t.Errorf("%q: %q", path, head)
		}
	}
}

func TestStoppingDoesNotWaitForAProfileToBeDone(t *testing.T) {
	l, err := listenForProfiles("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := serveProfiles(l)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /debug/pprof/profile?seconds=3600 HTTP/1.1\r\n")
	if _, err := io.ReadFull(conn, make([]byte, 10)); err != nil { // it has begun
		t.Fatal(err)
	}
	stop()
}

func TestProfilesAreForLoopbackOnly(t *testing.T) {
	for _, address := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:6060", "6060", ""} {
		if l, err := listenForProfiles(address); err == nil {
			l.Close()
			t.Errorf("it listens at %q", address)
		}
	}
}
