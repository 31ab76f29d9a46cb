package httpserver

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
)

//go:embed page/index.html
var pageText string

// page answers with the status page, a single file that loads nothing except its own script's
// stream.
type page struct {
	policy string // Content-Security-Policy
	etag   string
	packed func() []byte // gzipped when a browser first asks for it
}

// Page returns the handler of the status page, which reads a Stats at "stats/stream", relative to
// itself.
func Page() http.Handler {
	sum := sha256.Sum256([]byte(pageText))
	return &page{
		policy: policyOf(pageText),
		etag:   `"` + hex.EncodeToString(sum[:8]) + `"`,
		packed: sync.OnceValue(pack),
	}
}

// policyOf returns a policy that lets a page run its own script, use its own style and connect to
// its own server. Nothing else runs or is loaded.
func policyOf(text string) string {
	return "default-src 'none'; script-src " + source(text, "<script>", "</script>") +
		"; style-src " + source(text, "<style>", "</style>") +
		"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// source returns the hash of the text between two tags, in the form that a policy uses.
func source(text, begin, end string) string {
	_, after, _ := strings.Cut(text, begin)
	inner, _, _ := strings.Cut(after, end)
	sum := sha256.Sum256([]byte(inner))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func pack() []byte {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		panic(err) // the level is a constant
	}
	w.Write([]byte(pageText))
	w.Close()
	return b.Bytes()
}

// ServeHTTP answers 304 to a browser that has the page already: a box may be on a slow line.
func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", p.policy)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", p.etag)
	h.Add("Vary", "Accept-Encoding")

	switch {
	case r.Header.Get("If-None-Match") == p.etag:
		w.WriteHeader(http.StatusNotModified)
	case strings.Contains(r.Header.Get("Accept-Encoding"), "gzip"):
		h.Set("Content-Encoding", "gzip")
		w.Write(p.packed())
	default:
		w.Write([]byte(pageText))
	}
}
