package browser

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"edged/internal/auth"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// examples are the states in which the page is checked.
var examples = map[string]*example{
	"well": {history: true},
	"new":  {},
	"bad":  {history: true, change: bad},
	"drain": {history: true, change: func(s object) {
		s["state"], s["why"] = "draining", "SIGTERM"
		s["health"] = object{"ok": false, "reasons": []string{"draining: SIGTERM"}}
	}},
}

// stateOf has the headline of each state.
var stateOf = map[string]string{"well": "Everything is well", "new": "Everything is well", "bad": "Not well", "drain": "Draining"}

func TestThePageFitsPhonesAndDesktopsInBothThemes(t *testing.T) {
	axe, err := os.ReadFile("../js/node_modules/axe-core/axe.min.js")
	if err != nil {
		t.Fatalf("run `npm ci` in test/js: %v", err)
	}

	for name, e := range examples {
		address := e.serve(t)
		for _, l := range looks {
			t.Run(name+"-"+l.String(), func(t *testing.T) {
				p := open(t, address, l, false)
				p.awaitState(stateOf[name])
				p.picture(name + "-" + l.String())
				p.wantAccessible(string(axe))
				p.wantNoOverflow()
				p.show(look{width: 320, height: 600}) // the narrowest screen that WCAG requires
				p.wantNoOverflow()
			})
		}
	}
}

// wantNoOverflow fails the test if the page scrolls sideways, or if a text does not fit.
func (p *tab) wantNoOverflow() {
	p.t.Helper()
	if wide := eval[int](p, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); wide > 0 {
		p.t.Errorf("the page is %d px too wide", wide)
	}
	const cut = `[...document.querySelectorAll('body *')].filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1 && !e.closest('svg, thead, colgroup, .unseen')).map(e => e.outerHTML.slice(0, 200))`
	for _, e := range eval[[]string](p, cut) {
		p.t.Errorf("this does not fit: %s", e)
	}

	const broken = `[...document.querySelectorAll('td')].filter(e => { const r = document.createRange(); r.selectNodeContents(e); return /^[\d.,]+[A-Z]?$/.test(e.textContent) && r.getClientRects().length > 1 }).map(e => e.outerHTML)`
	for _, e := range eval[[]string](p, broken) {
		p.t.Errorf("this number is on two lines: %s", e)
	}
}

// wantAccessible fails the test for each serious or critical finding of axe-core.
func (p *tab) wantAccessible(axe string) {
	p.t.Helper()
	eval[int](p, axe+";0")
	answer := eval[string](p, `axe.run().then(r => JSON.stringify(r.violations.map(v =>
		({id: v.id, impact: v.impact, help: v.help, at: v.nodes.map(n => n.html.slice(0, 150) + ' ' + n.failureSummary).slice(0, 3)}))))`)

	var findings []struct {
		ID, Impact, Help string
		At               []string
	}
	if err := json.Unmarshal([]byte(answer), &findings); err != nil {
		p.t.Fatal(err)
	}
	for _, f := range findings {
		report := p.t.Logf
		if f.Impact == "serious" || f.Impact == "critical" {
			report = p.t.Errorf
		}
		report("axe-core: %s (%s): %s\n%s", f.ID, f.Impact, f.Help, strings.Join(f.At, "\n"))
	}
}

func TestNothingMovesButTheNumbers(t *testing.T) {
	for _, l := range looks {
		if l.dark {
			continue
		}
		t.Run(l.String(), func(t *testing.T) {
			e := &example{history: true}
			p := open(t, e.serve(t), l, false)
			p.awaitState("Everything is well")
			eval[bool](p, `window.shift = 0, new PerformanceObserver(l => { for (const e of l.getEntries()) shift += e.value }).observe({type: 'layout-shift', buffered: false}), true`)

			taken, line := p.text("#plot-rate .v1"), eval[string](p, "document.querySelector('#plot-rate .one').getAttribute('d')")
			p.await("document.querySelector('#plot-rate .v1').textContent !== " + string(asJSON(taken)))
			p.await("document.querySelector('#plot-rate .one').getAttribute('d') !== " + string(asJSON(line)))

			seen := e.asked.Load()
			p.await("snap.pid && +snap.uptime_seconds >= " + string(asJSON(1.2e6+float64(seen)+3)))
			if shift := eval[float64](p, "shift"); shift > .001 {
				t.Errorf("the layout shifted by %v", shift)
			}
		})
	}
}

func TestTheKeyboardReachesEverything(t *testing.T) {
	e := &example{history: true, change: bad}
	p := open(t, e.serve(t), looks[0], false)
	p.awaitState("Not well")
	want := eval[[]string](p, `[...document.querySelectorAll('a[href], button, input, summary, [tabindex]')].filter(e => e.checkVisibility()).map(e => e.id)`)
	if len(want) == 0 {
		t.Fatal("the page has nothing to reach")
	}

	for _, id := range want {
		p.do(chromedp.KeyEvent(kb.Tab))
		if at := eval[string](p, "document.activeElement.id"); at != id {
			t.Errorf("Tab leads to %q, want %q", at, id)
		}
		if width := eval[string](p, "getComputedStyle(document.activeElement).outlineWidth"); width == "0px" {
			t.Errorf("%s shows no focus", id)
		}
		rows := eval[int](p, "document.querySelectorAll('tr, li').length")
		p.do(chromedp.KeyEvent(kb.Enter))
		if open := eval[string](p, "document.activeElement.getAttribute('aria-expanded')"); open != "true" {
			t.Errorf("Enter on %s: aria-expanded is %q", id, open)
		}
		if now := eval[int](p, "document.querySelectorAll('tr, li').length"); now <= rows {
			t.Errorf("Enter on %s: %d rows, and %d before", id, now, rows)
		}
	}
}

func TestThePlotsShowTheValueUnderThePointer(t *testing.T) {
	p := open(t, (&example{history: true}).serve(t), looks[0], false)
	p.awaitState("Everything is well")
	x := eval[float64](p, "(b => b.left + b.width / 2)(document.querySelector('#plot-rate svg').getBoundingClientRect())")
	y := eval[float64](p, "(b => b.top + b.height / 2)(document.querySelector('#plot-rate svg').getBoundingClientRect())")
	call(p, input.DispatchMouseEvent, input.DispatchMouseEventParams{Type: input.DispatchMouseEventTypeMouseMoved, X: x, Y: y})
	p.await(`/^\d\d:\d\d:\d\d +[\d.]+ \/ [\d.]+$/.test(document.querySelector('#plot-rate .read').textContent)`)
}

func TestMotionStopsIfTheUserPrefersSo(t *testing.T) {
	p := open(t, (&example{}).serve(t), looks[0], false)
	const moving = "[...document.querySelectorAll('*')].filter(e => { const s = getComputedStyle(e); return s.transitionDuration !== '0s' || s.animationName !== 'none' }).length"
	if eval[int](p, moving) == 0 {
		t.Error("nothing moves even without the preference: this test sees nothing")
	}
	p.show(look{width: 1280, height: 900, still: true})
	if n := eval[int](p, moving); n > 0 {
		t.Errorf("%d elements move", n)
	}
}

// A browser gives up a refused stream, and does not tell the page why.
func TestThePageSaysThatAPasswordIsMissingAndComesBack(t *testing.T) {
	e := &example{}
	p := open(t, e.serve(t), looks[0], true)
	p.awaitState("Everything is well")
	e.gate.Set(auth.Security{Token: "secret"})
	eval[bool](p, "source.dispatchEvent(new Event('error'))") // as if the connection broke
	p.awaitState("Lost contact")
	p.await("document.getElementById('notes').textContent.includes('asks for a name and a password')")
	e.gate.Set(auth.Security{})
	p.awaitState("Everything is well")
}
