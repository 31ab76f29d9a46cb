// Command man writes the manual pages: edged(8) from edged.8.md beside it, edged.toml(5) from the
// comments of configs/edged.toml, and edged-control(7) from docs/CONTROL.md. It runs in the
// module's root:
//
//	go run ./docs/man VERSION FOLDER
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: go run ./docs/man VERSION FOLDER")
		os.Exit(2)
	}
	if err := write(".", os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
}

// page is a manual page and its source.
type page struct {
	name    string // edged.8
	heading string // of the manual's section
	source  string // below the module's root
	convert func(string) string
}

var pages = []page{
	{"edged.8", "System Administration", "docs/man/edged.8.md", func(text string) string { return text }},
	{"edged.toml.5", "File Formats", "configs/edged.toml", keys},
	{"edged-control.7", "Miscellanea", "docs/CONTROL.md", control},
}

// write makes all pages of the module at root in folder.
func write(root, version, folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, p := range pages {
		source, err := os.ReadFile(filepath.Join(root, p.source))
		if err != nil {
			return err
		}
		roff := bytes.TrimLeft(md2man.Render([]byte(p.markdown(version, string(source)))), "\n")
		if err := os.WriteFile(filepath.Join(folder, p.name), roff, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// markdown returns the page in the form that md2man takes: the title is its first line. There is no
// date, so that the same source makes the same page.
func (p page) markdown(version, source string) string {
	dot := strings.LastIndexByte(p.name, '.')
	return fmt.Sprintf("%s %s \"\" \"edged %s\" \"%s\"\n===\n\n%s", p.name[:dot], p.name[dot+1:], version, p.heading, p.convert(source))
}

// control makes a page from docs/CONTROL.md.
func control(doc string) string {
	_, text, _ := strings.Cut(doc, "\n")
	var b strings.Builder
	b.WriteString("# NAME\n\nedged-control - the control socket of edged\n\n# DESCRIPTION\n")
	fenced, rows := false, 0
	for line := range strings.Lines(text) {
		fenced = fenced != strings.HasPrefix(line, "```")
		if fenced || !strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "|-") {
			b.WriteString(line)
			rows = 0
			continue
		}
		if rows++; rows > 2 { // after the heading and the line below it
			b.WriteString(term(line))
		}
	}

	b.WriteString("\n# SEE ALSO\n\n**edged**(8), **edged.toml**(5), **socat**(1)\n")
	return b.String()
}

// term makes a term and its explanation of a row of a table, which a terminal of
// 80 columns may have no room for.
func term(row string) string {
	row = strings.ReplaceAll(strings.TrimSpace(row), `\|`, "\x00")
	cells := strings.Split(strings.Trim(row, "|"), "|")
	var rest []string
	for _, cell := range cells[1:] {
		if cell = strings.TrimSpace(cell); cell != "" {
			rest = append(rest, cell)
		}
	}
	if rest == nil {
		rest = []string{"As above."}
	}
	return strings.ReplaceAll(fmt.Sprintf("%s\n:   %s\n\n", strings.TrimSpace(cells[0]), strings.Join(rest, "; ")), "\x00", "|")
}

const aboutKeys = `# NAME

edged.toml - configuration of edged

# SYNOPSIS

/etc/edged/edged.toml

# DESCRIPTION

A file in TOML. Here is every key with its default.

`

var (
	tableLine = regexp.MustCompile(`^#?(\[+[a-z_.]+\]+)$`)
	keyLine   = regexp.MustCompile(`^#?([a-z_]+) = (.*)$`)
	special   = strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "<", `\<`, ">", `\>`, "[", `\[`, "]", `\]`)
)

// keys makes a page of the reference configuration: a table is a section, a key
// with its default a term, the comment in front of it the explanation.
func keys(toml string) string {
	var b strings.Builder
	b.WriteString(aboutKeys)
	var comment []string
	described := map[string]bool{} // tables: a second [[list]] shows only its defaults
	shown := true
	head, rest, _ := strings.Cut(toml, "\n\n")
	_, head, _ = strings.Cut(head, "\n#\n") // the first line names the file
	writeComment(&b, strings.Split(strings.ReplaceAll("\n"+head, "\n#", "\n"), "\n"), "")
	b.WriteString("# KEYS OF NO TABLE\n\n")
	for line := range strings.Lines(rest) {
		line = strings.TrimSuffix(line, "\n")
		switch table, key := tableLine.FindStringSubmatch(line), keyLine.FindStringSubmatch(line); {
		case table != nil:
			if shown = !described[table[1]]; shown {
				described[table[1]] = true
				fmt.Fprintf(&b, "# %s\n\n", special.Replace(table[1]))
				writeComment(&b, comment, "")
			}
			comment = nil
		case key != nil:
			if shown {
				fmt.Fprintf(&b, "**%s** = %s\n:   ", special.Replace(key[1]), special.Replace(key[2]))
				if len(comment) == 0 {
					comment = []string{"As above."}
				}
				writeComment(&b, comment, "    ")
			}
			comment = nil
		case line == "" && len(comment) > 0: // it describes all of the keys below
			if shown {
				writeComment(&b, comment, "")
			}
			comment = nil
		case strings.HasPrefix(line, "#"):
			comment = append(comment, line[1:])
		}
	}

	b.WriteString("# SEE ALSO\n\n**edged**(8), **edged-control**(7)\n")
	return b.String()
}

// writeComment writes a comment, without its number signs, as paragraphs; indented lines are
// literal.
func writeComment(b *strings.Builder, lines []string, indent string) {
	verbatim := false
	for i, line := range lines {
		is := strings.HasPrefix(line, "  ")
		if i > 0 {
			if is != verbatim {
				b.WriteString("\n")
			}
			b.WriteString(indent)
		}
		if verbatim = is; is {
			b.WriteString("    " + line[2:] + "\n")
		} else {
			b.WriteString(special.Replace(strings.TrimPrefix(line, " ")) + "\n")
		}
	}

	b.WriteString("\n")
}
