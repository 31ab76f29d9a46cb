package config

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Parse reads a file's content; name stands for it in the errors, which are
// all of type *Error.
func Parse(name string, data []byte) (*Config, error) {
	if line := tooDeep(string(data)); line > 0 {
		return nil, &Error{File: name, Problems: []Problem{{Line: line, Message: fmt.Sprintf(
			"more than %d tables or arrays stand in each other here: remove them, no key of edged needs that", maxDepth)}}}
	}
	var content map[string]any
	if err := toml.Unmarshal(data, &content); err != nil {
		return nil, &Error{File: name, Problems: []Problem{syntaxProblem(err)}}
	}
	p := parser{lines: locate(string(data)), found: make(map[string]bool)}
	c := Default()
	p.table("", content, reflect.ValueOf(c).Elem())
	p.validate(c)
	if len(p.problems) == 0 {
		return c, nil
	}
	slices.SortStableFunc(p.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key))
	})
	return nil, &Error{File: name, Problems: p.problems}
}

func syntaxProblem(err error) Problem {
	var syntax toml.ParseError
	if !errors.As(err, &syntax) {
		return Problem{Line: 1, Message: "this is no TOML: " + err.Error()}
	}
	return Problem{
		Line:    max(1, syntax.Position.Line),
		Message: "this is no TOML: " + strings.TrimSuffix(syntax.Message, "."),
	}
}

// parser collects the problems of one file.
type parser struct {
	lines    lines
	problems []Problem
	found    map[string]bool // the keys of problems
}

// problem notes what is wrong with a key. A key has one problem at most: what
// comes later follows from the first more often than not.
func (p *parser) problem(key, format string, args ...any) {
	if !p.bad(key) {
		p.found[key] = true
		p.problems = append(p.problems, Problem{p.lines.at(key), key, fmt.Sprintf(format, args...)})
	}
}

func (p *parser) bad(key string) bool { return p.found[key] }

// table copies the values of one TOML table to the fields of a struct.
func (p *parser) table(path string, content map[string]any, out reflect.Value) {
	for name, value := range content {
		key := join(path, name)
		if field, ok := fieldOf(out, name); ok {
			p.value(key, value, field)
		} else {
			p.problem(key, "there is no such key%s", hint(key, name, out.Type()))
		}
	}
}

// value copies one TOML value to a field.
func (p *parser) value(key string, value any, field reflect.Value) {
	switch out := field.Addr().Interface().(type) {
	case *string:
		if s, ok := value.(string); ok {
			*out = s
			return
		}
		p.wrongType(key, "a string in quotes", value)
	case *bool:
		if b, ok := value.(bool); ok {
			*out = b
			return
		}
		p.wrongType(key, "true or false", value)
	case *int:
		if n, ok := value.(int64); ok {
			// An int has 32 bits on some boxes; validate refuses the bound too.
			*out = int(min(max(n, math.MinInt32), math.MaxInt32))
			return
		}
		p.wrongType(key, "a whole number", value)
	case *int64:
		if n, ok := value.(int64); ok {
			*out = n
			return
		}
		p.wrongType(key, "a whole number", value)
	case *[]string:
		array(p, key, `an array of strings such as ["a", "b"]`, value, out, "")
	case *[]User:
		array(p, key, "a [[tcp.user]] for each user", value, out, User{})
	case *Duration:
		p.text(key, `a duration such as "10s"`, value, out)
	case *Size:
		if n, ok := value.(int64); ok {
			*out = Size(n)
			return
		}
		p.text(key, `a size such as "1MiB"`, value, out)
	case *[]Duration:
		array(p, key, `an array of durations such as ["1s", "10s"]`, value, out, 0)
	case *[]List:
		array(p, key, "a [[list]] for each list", value, out, newList())
	case *[]Uplink:
		array(p, key, "an [[uplink]] for each hub", value, out, newUplink())
	case *[]Inbound:
		array(p, key, "an [[inbound]] for each subject", value, out, newInbound())
	default:
		if t, ok := value.(map[string]any); ok {
			p.table(key, t, field)
			return
		}
		p.wrongType(key, "a table", value)
	}
}

func (p *parser) text(key, want string, value any, out encoding.TextUnmarshaler) {
	s, ok := value.(string)
	if !ok {
		p.wrongType(key, want, value)
		return
	}
	if err := out.UnmarshalText([]byte(s)); err != nil {
		p.problem(key, "%v", err)
	}
}

// array replaces the default elements with those of the file. An element of
// which the file says nothing is equal to initial.
func array[T any](p *parser, key, want string, value any, out *[]T, initial T) {
	*out = nil
	var elements []any
	switch v := value.(type) {
	case []map[string]any:
		for _, e := range v {
			elements = append(elements, e)
		}
	case []any:
		elements = v
	default:
		p.wrongType(key, want, value)
		return
	}
	for i, e := range elements {
		*out = append(*out, initial)
		p.value(Index(key, i), e, reflect.ValueOf(&(*out)[i]).Elem())
	}
}

func (p *parser) wrongType(key, want string, value any) {
	p.problem(key, "this must be %s, not %s", want, typeName(value))
}

func typeName(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case int64:
		return "a whole number"
	case float64:
		return "a number with a fraction"
	case bool:
		return "true or false"
	case time.Time:
		return "a date or time"
	case map[string]any:
		return "a table"
	default:
		return "an array"
	}
}

// fieldOf returns the field of a struct for a TOML key.
func fieldOf(s reflect.Value, key string) (field reflect.Value, ok bool) {
	i := slices.Index(keysOf(s.Type()), key)
	if i < 0 {
		return reflect.Value{}, false
	}
	return s.Field(i), true
}

// keysOf returns the TOML keys of a struct's fields, in their order. Fields that
// are no keys stand behind all others.
func keysOf(t reflect.Type) (keys []string) {
	for i := range t.NumField() {
		if !t.Field(i).IsExported() {
			break
		}
		keys = append(keys, t.Field(i).Tag.Get("toml"))
	}
	return keys
}
