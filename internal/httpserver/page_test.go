package httpserver

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func getPage(h http.Handler, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestThePageIsOneSmallFile(t *testing.T) {
	plain := getPage(Page())
	packed := getPage(Page(), "Accept-Encoding", "gzip, br")
	if n, z := plain.Body.Len(), packed.Body.Len(); n > 60_000 || z > 20_000 {
		t.Errorf("the page has %d bytes, and %d by gzip", n, z)
	}

	r, err := gzip.NewReader(packed.Body)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(r); err != nil || string(text) != plain.Body.String() {
		t.Errorf("by gzip it is another page: %v", err)
	}

	const svg = "http://www.w3.org/2000/svg" // a name, which is not loaded
	text := strings.ReplaceAll(plain.Body.String(), svg, "")
	for _, outside := range []string{`(src|href)="[^d]`, `url\(`, `@import`, `https?://`, ` on[a-z]+="`, ` style="`} {
		if found := regexp.MustCompile(outside).FindString(text); found != "" {
			t.Errorf("the page has %q", found)
		}
	}
}

func TestThePolicyAllowsThePagesOwnScriptAndStyle(t *testing.T) {
	policy := getPage(Page()).Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'sha256-", "style-src 'sha256-", "connect-src 'self'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy %q has no %s", policy, want)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Errorf("the policy is %q", policy)
	}
	// The hash of "alert('Hello, world.');" in W3C's CSP 3, 8.3.
	if got := source("<script>alert('Hello, world.');</script>", "<script>", "</script>"); got != "'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='" {
		t.Errorf("the hash is %s", got)
	}
}

func TestABrowserThatHasThePageDoesNotGetItAgain(t *testing.T) {
	h := Page()
	tag := getPage(h).Header().Get("ETag")
	w := getPage(h, "If-None-Match", tag)
	if w.Code != http.StatusNotModified || w.Body.Len() > 0 {
		t.Errorf("the answer is %d with %d bytes", w.Code, w.Body.Len())
	}
}
