package client

import (
	"bytes"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
)

// Format is the form in which items are printed, one a line.
type Format int

const (
	Text Format = iota // the subject, the headers, quoted, and the payload, quoted as in Go unless it is printable
	Raw                // the payload, as it is
	JSON               // an object
)

// line is an item in the form of JSON. One of Data and Base64 is set, unless both are empty.
type line struct {
	Subject string      `json:"subject"`
	Reply   string      `json:"reply,omitempty"`
	Headers nats.Header `json:"headers,omitempty"`
	Data    *string     `json:"data,omitempty"`
	Base64  []byte      `json:"base64,omitempty"`
}

// write writes an item's line to out, which keeps an error until it is flushed. mu is held.
func (r *reader) write(m *nats.Msg) {
	switch r.Format {
	case Raw:
		r.out.Write(m.Data)
		r.out.WriteByte('\n')
	case JSON:
		l := line{Subject: m.Subject, Reply: m.Reply, Headers: m.Header}
		if utf8.Valid(m.Data) {
			text := string(m.Data)
			l.Data = &text
		} else {
			l.Base64 = m.Data
		}
		r.json.Encode(l)
	default:
		r.text(m)
	}
}

// text writes an item in the form Text. mu is held.
func (r *reader) text(m *nats.Msg) {
	r.out.WriteString(m.Subject)
	r.out.WriteByte(' ')
	var headers []string
	for key, values := range m.Header {
		for _, value := range values {
			headers = append(headers, key+": "+value)
		}
	}
	slices.Sort(headers)
	for _, header := range headers {
		r.out.WriteString(strconv.Quote(header))
		r.out.WriteByte(' ')
	}

	if isPrintable(m.Data) {
		r.out.Write(m.Data)
	} else {
		r.out.WriteString(strconv.Quote(string(m.Data)))
	}

	r.out.WriteByte('\n')
}

func isPrintable(text []byte) bool {
	return utf8.Valid(text) && bytes.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
