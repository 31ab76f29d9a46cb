// Package browser checks the page in a real browser: Debian's chromium, headless. Screenshots are
// written to bin/browser.
package browser

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"edged/internal/edgedtest"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"go.uber.org/goleak"
)

// pictures is the folder of screenshots.
const pictures = "../../bin/browser"

// patience is how long a test waits before it gives up.
const patience = edgedtest.Patience

var browser context.Context // all tests share the process; each has a tab

func TestMain(m *testing.M) {
	if err := os.MkdirAll(pictures, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}

	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, // chromium refuses to run as root with it
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.Flag("hide-scrollbars", false),
	)
	if path, err := exec.LookPath("chromium"); err == nil {
		options = append(options, chromedp.ExecPath(path))
	}

	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	var end context.CancelFunc
	browser, end = chromedp.NewContext(allocator)
	if err := chromedp.Do(browser); err != nil {
		fmt.Fprintf(os.Stderr, "these tests need a browser: run `make tools`, or install Debian's package chromium: %v\n", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent(), goleak.Cleanup(func(code int) {
		end()
		stop()
		edgedtest.Exit(code)
	}))
}

// tab is a page in the browser. By the end of its test it must have loaded nothing from another
// host, and the browser must not have complained.
type tab struct {
	t       *testing.T
	ctx     context.Context
	address string

	mu         sync.Mutex
	complaints []string // guarded by mu
	requests   []string // guarded by mu; URLs
}

// look describes the screen and the preferences of a user.
type look struct {
	width, height int64
	dark          bool
	still         bool // the user prefers no motion
}

func (l look) String() string {
	kind, theme := "desktop", "light"
	if l.width < 500 {
		kind = "phone"
	}
	if l.dark {
		theme = "dark"
	}
	return kind + "-" + theme
}

var looks = []look{{width: 1280, height: 900}, {width: 1280, height: 900, dark: true}, {width: 360, height: 740}, {width: 360, height: 740, dark: true}}

// open opens the page at an address. If offline is set, the browser may complain that it cannot
// reach the server.
func open(t *testing.T, address string, l look, offline bool) *tab {
	t.Helper()
	ctx, end := chromedp.NewContext(browser)
	p := &tab{t: t, ctx: ctx, address: address}
	p.must(chromedp.Do(ctx)) // opens the tab
	p.must(chromedp.Listen(ctx, p.listen))
	t.Cleanup(func() {
		end()
		p.check(offline)
	})

	p.show(l)
	call(p, network.Enable, network.EnableParams{})
	call(p, log.Enable, cdp.Empty{})
	p.do(chromedp.Navigate("http://" + address + "/"))
	return p
}

func (p *tab) listen(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		p.requests = append(p.requests, e.Request.URL)
	case *log.EventEntryAdded:
		p.complaints = append(p.complaints, fmt.Sprintf("%s: %s: %s %s", e.Entry.Source, e.Entry.Level, e.Entry.Text, e.Entry.URL))
	case *runtime.EventConsoleAPICalled:
		p.complaints = append(p.complaints, fmt.Sprintf("console.%s", e.Type))
	case *runtime.EventExceptionThrown:
		p.complaints = append(p.complaints, fmt.Sprintf("exception: %+v %+v", e.ExceptionDetails, e.ExceptionDetails.Exception))
	}
}

func (p *tab) check(offline bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.complaints {
		if !offline || !strings.HasPrefix(c, "network: ") {
			p.t.Errorf("the browser complains: %s", c)
		}
	}
	for _, r := range p.requests {
		if u, err := url.Parse(r); err != nil || u.Scheme != "data" && u.Host != p.address {
			p.t.Errorf("the page asks for %.200s", r)
		}
	}
	if !slices.ContainsFunc(p.requests, func(r string) bool { return strings.HasSuffix(r, "/stats/stream") }) {
		p.t.Errorf("the requests were not seen: %q", p.requests)
	}
}

// show changes the screen and the preferences.
func (p *tab) show(l look) {
	p.t.Helper()
	theme, motion := "light", "no-preference"
	if l.dark {
		theme = "dark"
	}
	if l.still {
		motion = "reduce"
	}
	call(p, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: l.width, Height: l.height, DeviceScaleFactor: 1, Mobile: l.width < 500})
	call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: theme}, {Name: "prefers-reduced-motion", Value: motion}}})
}

func (p *tab) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	p.must(chromedp.Do(ctx, steps...))
}

// call sends the browser a command.
func call[P, R any](p *tab, command cdp.Command[P, R], params P) R {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	result, err := chromedp.Call(ctx, command, params)
	p.must(err)
	return result
}

// eval returns the value of an expression of JavaScript. If the value is a promise, it waits for
// it.
func eval[T any](p *tab, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	p.must(err)
	return value
}

// await waits until an expression is true; the page has changed its document by then.
func (p *tab) await(expression string) {
	p.t.Helper()
	const wait = `new Promise((resolve, reject) => {
		const is = () => { if (%s) { watch.disconnect(); resolve(true) } }, watch = new MutationObserver(is);
		watch.observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
		is();
	})`
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	_, err := chromedp.Run(ctx, chromedp.Evaluate[bool](fmt.Sprintf(wait, expression), chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("waiting for %s: %v; the page shows:\n%s", expression, err, p.text("body"))
	}
}

func (p *tab) text(selector string) (text string) {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf("document.querySelector(%q).innerText", selector))
}

// awaitState waits until the page shows this state of edged.
func (p *tab) awaitState(text string) {
	p.t.Helper()
	p.await(fmt.Sprintf("document.getElementById('state').textContent === %q", text))
}

// picture writes the whole page to a file.
func (p *tab) picture(name string) {
	p.t.Helper()
	whole := true
	png := call(p, page.CaptureScreenshot, page.CaptureScreenshotParams{CaptureBeyondViewport: &whole}).Data
	if err := os.WriteFile(filepath.Join(pictures, name+".png"), png, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// ending returns a context that ends with the test, and is joined by the functions that go runs.
func ending(t *testing.T) (ctx context.Context, run func(func())) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		all.Wait()
	})
	return ctx, all.Go
}
