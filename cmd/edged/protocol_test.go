package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"edged/internal/redistest"
)

const protocolFile = "../../docs/PROTOCOL.md"

// protocolDocument returns docs/PROTOCOL.md line by line.
func protocolDocument(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(protocolFile)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}

// sessionShown is a session in the document, with its configuration.
type sessionShown struct {
	heading string
	line    int    // number of its first line in the document
	config  string // the last configuration before it
	lines   []string
}

func sessionsShown(t *testing.T) (all []sessionShown) {
	t.Helper()
	heading, config, fence := "", "", ""
	var block []string
	for i, line := range protocolDocument(t) {
		switch {
		case fence == "" && strings.HasPrefix(line, "#"):
			heading = strings.TrimLeft(line, "# ")
		case fence == "" && strings.HasPrefix(line, "```"):
			fence, block = line, nil
		case fence != "" && line == "```":
			switch fence {
			case "```toml":
				config = strings.Join(block, "\n")
			case "```session":
				all = append(all, sessionShown{heading, i + 1 - len(block), config, block})
			}
			fence = ""
		case fence != "":
			block = append(block, line)
		}
	}

	return all
}

// TestTheProtocolDocumentIsTrue runs every session of docs/PROTOCOL.md against a daemon of its
// own. The document says how to read them.
func TestTheProtocolDocumentIsTrue(t *testing.T) {
	all := sessionsShown(t)
	if len(all) == 0 {
		t.Fatal("the document shows no session")
	}
	for _, tr := range all {
		t.Run(fmt.Sprintf("%s line %d", tr.heading, tr.line), func(t *testing.T) {
			s := startSession(t, tr.config)
			for i, line := range tr.lines {
				s.at = fmt.Sprintf("%s:%d", protocolFile, tr.line+i)
				s.step(line)
			}
			s.at = fmt.Sprintf("%s:%d, after the last line", protocolFile, tr.line+len(tr.lines)-1)
			s.end()
		})
	}
}

// session is a daemon, its Redis and its clients.
type session struct {
	t       *testing.T
	at      string // position in the document
	redis   *redistest.Server
	tcp     string
	control string
	clients map[string]*sessionClient // by the digits after C and S
	values  map[string]string         // of placeholders
}

type sessionClient struct {
	net.Conn
	r     *bufio.Reader
	since time.Time
	info  string // INFO, until something else is expected
}

func startSession(t *testing.T, config string) *session {
	t.Helper()
	folder := shortFolder(t)
	s := &session{
		t: t, redis: redistest.Start(t), control: filepath.Join(folder, "control.sock"),
		clients: make(map[string]*sessionClient), values: make(map[string]string),
	}

	file, logFile := filepath.Join(folder, "edged.toml"), filepath.Join(folder, "log")
	config = fmt.Sprintf("redis.address = %q\ntcp.listen = \"127.0.0.1:0\"\ncontrol.socket = %q\n%s\n", s.redis.Address(), s.control, config)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}

	log, err := os.Create(logFile)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("edged", "-config", file)
	cmd.Stderr = log
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}

	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		for _, c := range s.clients {
			c.Close()
		}
		cmd.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil {
			t.Errorf("edged ended: %v", err)
		}
		if said, err := os.ReadFile(logFile); err == nil && t.Failed() {
			t.Logf("its log:\n%s", said)
		}
	})

	redistest.Eventually(t, "edged serves", func() bool {
		said, err := os.ReadFile(logFile)
		if err != nil {
			t.Fatal(err)
		}
		if m := servingAt.FindSubmatch(said); m != nil {
			s.tcp = string(m[1])
		}
		if len(ended) > 0 {
			t.Fatalf("edged does not start with\n%s\n%s", config, said)
		}
		return s.tcp != ""
	})

	return s
}

func (s *session) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s: %s", s.at, fmt.Sprintf(format, args...))
}

var (
	sessionLine = regexp.MustCompile(`^([CSDR])(\d*)(:| closes$| leaves$)(?: (.*))?$`)
	placeholder = regexp.MustCompile(`<[a-z][a-z ]*>`)
	repetition  = regexp.MustCompile(`<(\d+) times ([^>]+)>`)
)

// step carries out, or expects, one line of the document.
func (s *session) step(line string) {
	s.t.Helper()
	m := sessionLine.FindStringSubmatch(line)
	if m == nil {
		s.fail("%q is no line of a session", line)
	}

	who, number, what, text := m[1], m[2], m[3], m[4]
	text = repetition.ReplaceAllStringFunc(text, func(all string) string {
		m := repetition.FindStringSubmatch(all)
		n, _ := strconv.Atoi(m[1])
		return strings.Repeat(m[2], n)
	})
	switch {
	case what == " leaves" && who == "C":
		s.client(number).Close()
		delete(s.clients, number)
	case what == " closes" && who == "S":
		s.expectClose(number)
	case who == "C":
		text = placeholder.ReplaceAllStringFunc(text, func(name string) string {
			value, known := s.values[name]
			if !known {
				s.fail("%s did not come before", name)
			}
			return value
		})
		if _, err := io.WriteString(s.client(number), text+"\r\n"); err != nil {
			s.fail("%v", err)
		}
	case who == "S":
		s.expect(number, text)
	case who == "D":
		s.order(text)
	case who == "R":
		s.command(text)
	}
}

// client returns a client, which connects when it is first named.
func (s *session) client(number string) *sessionClient {
	s.t.Helper()
	if c := s.clients[number]; c != nil {
		return c
	}
	conn, err := net.Dial("tcp", s.tcp)
	if err != nil {
		s.fail("%v", err)
	}
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	c := &sessionClient{Conn: conn, r: bufio.NewReader(conn), since: time.Now()}
	s.clients[number] = c
	if c.info, err = c.read(); err != nil {
		s.fail("reading INFO: %v", err)
	}
	return c
}

func (c *sessionClient) read() (string, error) {
	line, err := c.r.ReadString('\n')
	return strings.TrimSuffix(line, "\r\n"), err
}

// expect reads a line. On a slow machine, a PING by the clock may precede it.
func (s *session) expect(number, want string) {
	s.t.Helper()
	c := s.client(number)
	got, err := c.info, error(nil)
	if got == "" || !strings.HasPrefix(want, "INFO ") {
		got, err = c.read()
	}

	c.info = ""
	if got == "PING" && want != "PING" && time.Since(c.since) >= 2*time.Second {
		io.WriteString(c, "PONG\r\n")
		got, err = c.read()
	}
	if err != nil {
		s.fail("got %q, %v; want %q", got, err, want)
	}
	names := placeholder.FindAllString(want, -1)
	pattern := "^"
	for i, literal := range placeholder.Split(want, -1) {
		if i > 0 {
			pattern += "(.+)"
		}
		pattern += regexp.QuoteMeta(literal)
	}

	values := regexp.MustCompile(pattern + "$").FindStringSubmatch(got)
	if values == nil {
		s.fail("got %q, want %q", got, want)
	}

	for i, name := range names {
		s.values[name] = values[i+1]
	}
}

func (s *session) expectClose(number string) {
	s.t.Helper()
	c := s.client(number)
	rest, err := io.ReadAll(c.r)
	if len(rest) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		s.fail("got %q, %v; want the end of the connection", rest, err)
	}
	c.Close()
	delete(s.clients, number)
}

// order sends the daemon a command over its control socket. The rest of the answer may come only
// when the daemon has ended.
func (s *session) order(line string) {
	s.t.Helper()
	conn, err := net.Dial("unix", s.control)
	if err != nil {
		s.fail("%v", err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, line)
	if answer, err := bufio.NewReader(conn).ReadString('\n'); err != nil || strings.HasPrefix(answer, "ERR ") {
		s.fail("%s: %q, %v", line, answer, err)
	}
}

// command sends Redis a command until its reply is the text after =>.
func (s *session) command(line string) {
	s.t.Helper()
	command, want, asks := strings.Cut(line, " => ")
	var args []any
	for _, arg := range regexp.MustCompile(`"[^"]*"|\S+`).FindAllString(command, -1) {
		args = append(args, strings.Trim(arg, `"`))
	}
	redistest.Eventually(s.t, s.at+": "+line, func() bool {
		reply, err := s.redis.Client().Do(context.Background(), args...).Result()
		if err != nil {
			s.fail("%v", err)
		}
		return !asks || fmt.Sprint(reply) == want
	})
}

// end checks that the document leaves nothing out: no client received anything more.
func (s *session) end() {
	s.t.Helper()
	for _, number := range slices.Sorted(maps.Keys(s.clients)) {
		s.step("C" + number + ": PING")
		s.step("S" + number + ": PONG")
	}
}

// rows returns the cells of the tables below a heading, without their first two lines.
func rows(t *testing.T, heading string) (all [][]string) {
	t.Helper()
	inside, above := false, 0
	for _, line := range protocolDocument(t) {
		if strings.HasPrefix(line, "#") {
			inside = strings.TrimLeft(line, "# ") == heading
		}
		if !inside || !strings.HasPrefix(line, "|") {
			above = 0
			continue
		}
		if above++; above <= 2 {
			continue
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		all = append(all, cells)
	}

	if len(all) == 0 {
		t.Fatalf("there is no table below %q", heading)
	}
	return all
}

// constants returns the string constants of a type of internal/tcpserver.
func constants(t *testing.T, typeName string) (all []string) {
	t.Helper()
	for _, f := range goFiles(t) {
		if f.folder != "internal/tcpserver" || f.test {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if of, ok := spec.Type.(*ast.Ident); ok && of.Name == typeName {
				for _, v := range spec.Values {
					if lit, ok := v.(*ast.BasicLit); ok && lit.Kind == token.STRING {
						text, err := strconv.Unquote(lit.Value)
						if err != nil {
							t.Fatal(err)
						}
						all = append(all, text)
					}
				}
			}
			return true
		})
	}

	if len(all) == 0 {
		t.Fatalf("internal/tcpserver has no constants of type %s", typeName)
	}
	return all
}

func TestProtocolDocumentHasEveryError(t *testing.T) {
	t.Parallel()
	closes := make(map[string]string) // by text, in the document's form
	for _, text := range constants(t, "violation") {
		closes[text] = "yes"
	}
	for _, text := range constants(t, "refusal") {
		closes[strings.Replace(strings.Replace(text, "%q", `"x"`, 1), "%q", `"q"`, 1)] = "no"
	}
	documented := make(map[string]string)
	for _, row := range rows(t, "Errors") {
		documented[strings.Trim(row[0], "`")] = row[1]
	}
	if !reflect.DeepEqual(documented, closes) {
		t.Errorf("the document has\n%q,\nthe source\n%q", documented, closes)
	}

	quoted := regexp.MustCompile(`"[^"]*"`)
	shown := make(map[string]bool)
	for _, tr := range sessionsShown(t) {
		for _, line := range tr.lines {
			if _, text, ok := strings.Cut(line, ": -ERR "); ok && line[0] == 'S' {
				shown[quoted.ReplaceAllString(strings.Trim(text, "'"), `""`)] = true
			}
		}
	}
	for text := range closes {
		if !shown[quoted.ReplaceAllString(text, `""`)] {
			t.Errorf("no session shows -ERR %q", text)
		}
	}
}

func TestProtocolDocumentHasEveryFieldOfInfoAndConnect(t *testing.T) {
	t.Parallel()
	for typeName, heading := range map[string]string{"info": "INFO", "connectOptions": "CONNECT"} {
		var want []string
		for _, f := range goFiles(t) {
			if f.folder != "internal/tcpserver" || f.test {
				continue
			}
			ast.Inspect(f.syntax, func(n ast.Node) bool {
				spec, ok := n.(*ast.TypeSpec)
				if !ok || spec.Name.Name != typeName {
					return true
				}
				for _, field := range spec.Type.(*ast.StructType).Fields.List {
					tag, _ := strconv.Unquote(field.Tag.Value)
					name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
					want = append(want, name)
				}
				return false
			})
		}

		var got []string
		for _, row := range rows(t, heading) {
			for name := range strings.SplitSeq(row[0], ", ") {
				got = append(got, strings.Trim(name, "`"))
			}
		}

		slices.SortFunc(want, cmp.Compare)
		slices.SortFunc(got, cmp.Compare)
		if !slices.Equal(got, want) {
			t.Errorf("the fields of %s are %q in the document, %q in the source", heading, got, want)
		}
	}
}
