package monitor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const (
	rules     = "../../deploy/prometheus/edged.rules.yml"
	rulesTest = "../../deploy/prometheus/edged.rules.test.yml"
	dashboard = "../../deploy/grafana/edged.json"
)

func TestPrometheusReadsTheMetrics(t *testing.T) {
	edged := startEdged(t)
	edged.use(t)
	body := edged.get(t, "/metrics")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range families {
		if !strings.HasPrefix(name, "edged_") {
			continue
		}
		if f.GetHelp() == "" || f.GetType().String() == "UNTYPED" {
			t.Errorf("%s has the help %q and the type %s", name, f.GetHelp(), f.GetType())
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() != "list" && l.GetName() != "consumer" && l.GetName() != "uplink" {
					t.Errorf("%s has the label %s", name, l.GetName())
				}
			}
		}
	}
	if want := "\nedged_consumer_owed_items{list=\"events\",consumer=\"worker\"} 1\n"; !bytes.Contains(body, []byte(want)) {
		t.Errorf("the metrics have no line%s", want)
	}

	own := new(bytes.Buffer)
	for line := range bytes.Lines(body) {
		if bytes.Contains(line, []byte("edged_")) {
			own.Write(line)
		}
	}
	problems, err := promlint.New(own).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestTheAlertsFireWhenTheyShould(t *testing.T) {
	t.Log(promtool(t, nil, "check", "rules", rules))
	t.Log(promtool(t, nil, "test", "rules", rulesTest))
}

func TestTheExpressionsOfTheDashboardAreValid(t *testing.T) {
	data, err := os.ReadFile(dashboard)
	if err != nil {
		t.Fatal(err)
	}

	var d struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}

	file := new(strings.Builder)
	fmt.Fprintln(file, "groups:\n- name: dashboard\n  rules:")
	n := 0
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "1m", "$instance", "box").Replace(target.Expr)
			fmt.Fprintf(file, "  - record: panel:expression:%d\n    expr: %q\n", n, expr)
			n++
		}
	}

	name := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(name, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Log(promtool(t, nil, "check", "rules", name))
}
