package daemon

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// screen is how many columns the lines of an answer have.
const screen = 80

// table is rows of cells that fit the screen, the headings first. The cells of some columns are cut for that.
type table struct {
	rows [][]string
	cuts map[int]int // the columns that are cut, and how wide they stay at least
}

// leastName is how wide a column of names stays at least.
const leastName = 6

// newTable makes a table with headings. Those of columns that are names, which are cut, begin with "~".
func newTable(headings ...string) *table {
	t := &table{cuts: make(map[int]int)}
	for i, h := range headings {
		if name, ok := strings.CutPrefix(h, "~"); ok {
			headings[i], t.cuts[i] = name, leastName
		}
	}
	t.rows = append(t.rows, headings)
	return t
}

func (t *table) add(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = fmt.Sprint(c)
	}
	t.rows = append(t.rows, row)
}

// write writes the table. No line ends with spaces.
func (t *table) write(w io.Writer) {
	const gap = 2
	widths := t.widths(gap)
	for _, row := range t.rows {
		var line strings.Builder
		for i, c := range row {
			if _, cuts := t.cuts[i]; cuts {
				c = cut(c, widths[i])
			}
			fmt.Fprintf(&line, "%-*s", widths[i]+gap, c)
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// widths are those of the columns: the widest of those that are cut give way, until all fit.
func (t *table) widths(gap int) []int {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	total := -gap
	for i := range widths {
		if _, cuts := t.cuts[i]; cuts {
			widths[i] = min(widths[i], screen)
		}
		total += widths[i] + gap
	}

	for ; total > screen; total-- {
		widest := -1
		for i, least := range t.cuts {
			if widths[i] > least && (widest < 0 || widths[i] > widths[widest] || widths[i] == widths[widest] && i < widest) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	return widths
}

// wrap writes a text after a label, in lines that fit the screen. Further lines are indented as the label is wide.
func wrap(w io.Writer, label, text string) {
	indent := utf8.RuneCountInString(label)
	if indent > screen/2 {
		label, text, indent = "", label+text, 2
	}
	for line, rest := "", text; ; label = strings.Repeat(" ", indent) {
		line, rest = firstLine(rest, screen-utf8.RuneCountInString(label))
		fmt.Fprintf(w, "%s%s\n", label, line)
		if rest == "" {
			return
		}
	}
}

// firstLine splits a text after at most so many runes, at a space if there is one.
func firstLine(text string, most int) (line, rest string) {
	if utf8.RuneCountInString(text) <= most {
		return text, ""
	}
	runes := []rune(text)
	end := len(string(runes[:most]))
	if i := strings.LastIndexByte(text[:end+1], ' '); i > 0 {
		return text[:i], text[i+1:]
	}
	return text[:end], text[end:]
}
