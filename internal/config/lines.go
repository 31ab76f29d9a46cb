package config

import (
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"
)

// lines says on which line of a file each key and each table stands, by path:
// "redis", "redis.lease", "list[1]", "list[1].key". The TOML package knows the
// lines of syntax errors only.
type lines map[string]int

// at returns the line of path or, where the file has no such key, the line of
// the table it would stand in; 0 where it has neither.
func (l lines) at(path string) int {
	for path != "" {
		if line, ok := l[path]; ok {
			return line
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 0
}

// join appends a key to the path of its table, quoted where TOML asks for it.
func join(path, key string) string {
	key = toml.Key{key}.String()
	if path == "" {
		return key
	}
	return path + "." + key
}

// Index returns the path of element i of an array. Paths count elements from 1, as people do: a
// message is about list[2], and i is 1.
func Index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i+1) }

// locate scans text, which must be valid TOML. For anything else the answer
// means nothing, but there is one.
func locate(text string) lines {
	s := scanner{
		text:  strings.TrimPrefix(text, "\ufeff"),
		line:  1,
		lines: lines{},
		count: map[string]int{},
	}
	table := ""
	for s.skip(); !s.done(); s.skip() {
		if s.peek() == '[' {
			table = s.header()
		} else {
			s.pair(table)
		}
	}
	return s.lines
}

// scanner walks over a file once. Every method stops at the end of the text,
// and value and header always move on, so no loop here is endless.
type scanner struct {
	text  string // what is left of the file
	line  int    // of the first byte of text
	lines lines
	count map[string]int // elements so far of each array of tables
}

func (s *scanner) done() bool { return s.text == "" }

// peek returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.done() {
		return 0
	}
	return s.text[0]
}

// next skips n bytes.
func (s *scanner) next(n int) {
	n = min(n, len(s.text))
	s.line += strings.Count(s.text[:n], "\n")
	s.text = s.text[n:]
}

// until skips the bytes before the first one in stop, which is ASCII.
func (s *scanner) until(stop string) (skipped string) {
	n := strings.IndexAny(s.text, stop)
	if n < 0 {
		n = len(s.text)
	}
	skipped = s.text[:n]
	s.next(n)
	return skipped
}

func (s *scanner) blanks() {
	s.next(len(s.text) - len(strings.TrimLeft(s.text, " \t")))
}

// skip skips blanks, line ends and comments.
func (s *scanner) skip() {
	for {
		s.next(len(s.text) - len(strings.TrimLeft(s.text, " \t\r\n")))
		if s.peek() != '#' {
			return
		}
		s.until("\n")
	}
}

// mark notes the line of path; the first mention is the one that counts.
func (s *scanner) mark(path string) {
	if _, ok := s.lines[path]; !ok {
		s.lines[path] = s.line
	}
}

// header scans [table] or [[array of tables]] and returns the table's path.
func (s *scanner) header() (path string) {
	s.next(1)
	array := s.peek() == '['
	if array {
		s.next(1)
	}
	keys := s.key()
	for i, key := range keys {
		path = join(path, key)
		s.mark(path)
		if array && i == len(keys)-1 {
			s.count[path]++
		}
		// What follows the name of an array of tables is in its last element.
		if n := s.count[path]; n > 0 {
			path = Index(path, n-1)
			s.mark(path)
		}
	}
	s.until("]\n")
	for s.peek() == ']' {
		s.next(1)
	}
	return path
}

// pair scans key = value in the given table.
func (s *scanner) pair(table string) {
	path := table
	for _, key := range s.key() {
		path = join(path, key)
		s.mark(path)
	}
	s.until("=\n")
	s.next(1)
	s.value(path)
}

// key scans a key, dotted or not.
func (s *scanner) key() (keys []string) {
	for {
		s.blanks()
		if c := s.peek(); c == '"' || c == '\'' {
			keys = append(keys, unquote(s.quoted()))
		} else {
			keys = append(keys, s.until(" \t.=]\r\n"))
		}
		s.blanks()
		if s.peek() != '.' {
			return keys
		}
		s.next(1)
	}
}

// value scans a value and marks what stands in it under path.
func (s *scanner) value(path string) {
	s.blanks()
	switch s.peek() {
	case '"', '\'':
		s.quoted()
	case '[':
		i := 0
		s.elements(']', func() { s.mark(Index(path, i)); s.value(Index(path, i)); i++ })
	case '{':
		s.elements('}', func() { s.pair(path) })
	default:
		s.next(1)
		s.until(",]}#\r\n")
	}
}

// elements scans what stands between brackets, separated by commas.
func (s *scanner) elements(end byte, element func()) {
	s.next(1)
	for s.skip(); !s.done() && s.peek() != end; s.skip() {
		element()
		s.skip()
		if s.peek() == ',' {
			s.next(1)
		}
	}
	s.next(1)
}

// quoted scans a string of any of the four kinds and returns it as it stands.
func (s *scanner) quoted() string {
	start, quote := s.text, s.text[:1]
	end := quote
	if strings.HasPrefix(s.text, strings.Repeat(quote, 3)) {
		end = s.text[:3]
	}
	s.next(len(end))
	for !s.done() && !strings.HasPrefix(s.text, end) {
		if s.peek() == '\\' && quote == `"` {
			s.next(1)
		}
		s.next(1)
	}
	s.next(len(end))
	// A multi-line string may end in quotes of its own: """say "no"""".
	for len(end) == 3 && strings.HasPrefix(s.text, quote) {
		s.next(1)
	}
	return start[:len(start)-len(s.text)]
}

// unquote returns the text of a quoted key.
func unquote(quoted string) string {
	var doc struct{ Key string }
	if _, err := toml.Decode("key = "+quoted, &doc); err != nil {
		return quoted
	}
	return doc.Key
}
