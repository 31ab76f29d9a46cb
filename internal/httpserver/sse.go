package httpserver

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"
)

// form is the encoding of items in a stream.
type form int

const (
	formAuto   form = iota // as text, or as "event: base64" if that would change the item
	formText               // as text, even if the text does not come out as it went in
	formBase64             // as base64
	formJSON               // as an object with subject, id, number and time
	forms      = iota
)

var formNames = [forms]string{"auto", "text", "base64", "json"}

// eventBase64 is the event type of an item that is not text, in the form auto. Other items have no
// type, so that a browser's onmessage gets them.
const eventBase64 = "base64"

// item is one item of a list.
type item struct {
	number uint64
	seen   time.Time // zero: unknown
	data   []byte

	duplicate bool // no stream shows it
}

// fits reports whether an item comes out of data lines as it went in.
func fits(data []byte) bool {
	return utf8.Valid(data) && bytes.IndexByte(data, '\r') < 0 && bytes.IndexByte(data, 0) < 0
}

// appendItem appends an item as an event, without its id line.
func appendItem(to []byte, f form, subject, epoch string, it item) []byte {
	switch {
	case f == formJSON:
		to = append(append(to, "data: "...), itemJSON(subject, epoch, it)...)
		return append(to, "\n\n"...)
	case f == formBase64:
		return appendBase64(to, it.data)
	case f == formAuto && !fits(it.data):
		return appendBase64(append(to, "event: "+eventBase64+"\n"...), it.data)
	}

	rest := it.data
	if bytes.IndexByte(rest, '\r') >= 0 { // it would end the line and let the item forge a field
		rest = bytes.ReplaceAll(bytes.ReplaceAll(rest, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))
	}

	for {
		line, after, more := bytes.Cut(rest, []byte{'\n'})
		to = append(append(append(to, "data: "...), line...), '\n')
		if rest = after; !more {
			return append(to, '\n')
		}
	}
}

func appendBase64(to, data []byte) []byte {
	to = base64.StdEncoding.AppendEncode(append(to, "data: "...), data)
	return append(to, "\n\n"...)
}

// jsonItem is an item in the form json. It has Data if that is UTF-8, otherwise Base64.
type jsonItem struct {
	Subject string     `json:"subject"`
	ID      string     `json:"id,omitempty"`
	Number  uint64     `json:"number"`
	Time    *time.Time `json:"time,omitempty"`
	Data    *string    `json:"data,omitempty"`
	Base64  []byte     `json:"base64,omitempty"`
}

func itemJSON(subject, epoch string, it item) []byte {
	j := jsonItem{Subject: subject, ID: placed(epoch, it.number+1), Number: it.number}
	if !it.seen.IsZero() {
		at := it.seen.UTC().Truncate(time.Millisecond)
		j.Time = &at
	}

	if utf8.Valid(it.data) {
		text := string(it.data)
		j.Data = &text
	} else {
		j.Base64 = it.data
	}
	line, err := json.Marshal(j)
	if err != nil { // a time beyond the year 9999
		j.Time = nil
		line, _ = json.Marshal(j)
	}
	return line
}

// appendEvent appends an event of the stream itself.
func appendEvent(to []byte, name string, data any) []byte {
	text, err := json.Marshal(data)
	if err != nil {
		text = []byte("{}")
	}
	to = append(append(append(to, "event: "...), name...), "\ndata: "...)
	return append(append(to, text...), "\n\n"...)
}

func appendRetry(to []byte, wait time.Duration) []byte {
	to = append(to, "retry: "...)
	return append(strconv.AppendInt(to, wait.Milliseconds(), 10), "\n\n"...)
}

// comment keeps proxies from closing an idle stream.
const comment = ": \n\n"
