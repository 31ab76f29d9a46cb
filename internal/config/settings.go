package config

import (
	"reflect"
	"strings"
)

// Setting is one key of a configuration, the way it is in effect.
type Setting struct {
	Key    string `json:"key"`    // "tcp.listen", "list[1].ack" (counted from 1)
	Value  any    `json:"value"`  // as in a file: durations and sizes are text; secrets are masked
	Origin string `json:"origin"` // "default", "host name", or FILE:LINE
}

// masked stands for a secret.
const masked = "***"

// origin is the file that a configuration was read from.
type origin struct {
	file      string // empty: none
	lines     lines
	hostNamed bool // the file names no instance
}

// of says where the value of a key comes from.
func (o origin) of(key string) string {
	switch line := o.lines[key]; {
	case key == "instance" && o.hostNamed:
		return "host name"
	case line > 0:
		return place(o.file, line)
	default:
		return "default"
	}
}

// File returns the path of the file that Load has read; empty if there was none.
func (c *Config) File() string { return c.origin.file }

// Place says where a key stands, as FILE:LINE. The line is that of its table if the file leaves the key
// to its default; without a file the place is empty.
func (c *Config) Place(key string) string {
	return place(c.origin.file, c.origin.lines.at(key))
}

// Settings returns every key with its value in effect and where it came from, in
// the order of the reference file. It is for a configuration that Load returned.
func (c *Config) Settings() []Setting {
	return c.settings("", reflect.ValueOf(*c))
}

func (c *Config) settings(path string, table reflect.Value) (all []Setting) {
	for i, name := range keysOf(table.Type()) {
		key, field := join(path, name), table.Field(i)
		switch {
		case field.Kind() == reflect.Struct:
			all = append(all, c.settings(key, field)...)
		case field.Kind() == reflect.Slice && field.Type().Elem().Kind() == reflect.Struct:
			for j := range field.Len() {
				all = append(all, c.settings(Index(key, j), field.Index(j))...)
			}
		default:
			s := Setting{key, field.Interface(), c.origin.of(key)}
			switch {
			case secret(name) && !field.IsZero():
				s.Value = masked
			case field.Kind() == reflect.Slice && field.IsNil():
				s.Value = []string{} // no key of a file is null
			}
			all = append(all, s)
		}
	}
	return all
}

// secret tells whether a key of that name holds a secret itself, not the path of
// a file with one.
func secret(name string) bool {
	for _, word := range []string{"password", "token", "secret"} {
		if strings.HasSuffix(name, word) {
			return true
		}
	}
	return false
}
