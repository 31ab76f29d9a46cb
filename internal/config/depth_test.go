package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestDeepNestingIsRefusedBeforeItIsParsed(t *testing.T) {
	const deep = 1_000_000 // the TOML package would need hours, or all memory
	for name, text := range map[string]string{
		"arrays":              "a = " + strings.Repeat("[", deep),
		"closed arrays":       "a = " + strings.Repeat("[", deep) + strings.Repeat("]", deep),
		"tables":              "a = " + strings.Repeat("{a=", deep),
		"a dotted key":        strings.Repeat("a.", deep) + "a = 1",
		"a quoted dotted key": strings.Repeat(`"a]" . `, deep) + "a = 1",
		"a header":            "[" + strings.Repeat("a.", deep) + "a]",
		"arrays over lines":   "a = " + strings.Repeat("[ #]\n", deep),
	} {
		_, err := Parse("edged.toml", []byte("# ]]]\nb = \"[\\\"\"\nc = \"\"\"\n[[\n\"\"\"\n"+text))
		if err == nil || !strings.Contains(err.Error(), "more than 16 tables or arrays stand in each other here") {
			t.Fatalf("%s: %.200v", name, err)
		}
		if name != "arrays over lines" && !strings.HasPrefix(err.Error(), "edged.toml:6:") {
			t.Errorf("%s: %.200v, want line 6", name, err)
		}
	}
}

func TestDepthIsOnlyThatOfTablesAndArrays(t *testing.T) {
	many := strings.Repeat("[{.", 100)
	for _, text := range []string{
		"", "[[list]]\n" + `key = "` + many + `"`, "# " + many, "a = '" + many + "'", `a = """` + many + `"""`, "a = '''" + many + "'''",
		`a = "\"` + many + `"`, `a = """ "" ` + many + `\""""`, strings.Repeat("a = [1.5, 2.5, [3]]\n[a.b]\n", 100), "a = " + strings.Repeat("[", 16),
		strings.Repeat("a.", 15) + "a = 1", "a = [" + strings.Repeat("1.0,", 100) + "]", "\"" + many + "\" = 1",
	} {
		if line := tooDeep(text); line != 0 {
			t.Errorf("line %d of %q counts as nested too deep", line, text)
		}
	}
}

// TestManyProblemsAreToldOnceEach has a problem in each of many lists.
func TestManyProblemsAreToldOnceEach(t *testing.T) {
	const lists = 10_000
	_, err := Parse("edged.toml", []byte(strings.Repeat("[[list]]\n", lists)))
	if n := strings.Count(fmt.Sprint(err), "\n") + 1; n < lists || n > 2*lists {
		t.Errorf("%d lists without a key make %d problems", lists, n)
	}
}
