package config

import "strings"

// maxDepth is how deep tables and arrays may be nested in a file. The TOML package takes time that
// grows with the square of the depth, 26 s for 32 KB, and so does locate.
const maxDepth = 16

// tooDeep returns the first line of text where tables and arrays are nested more than
// maxDepth deep, or a dotted key has more parts; 0 if there is none. It looks at each byte once. For text
// that is not TOML it may stop short, but never after a place that the TOML package reaches.
func tooDeep(text string) (line int) {
	line = 1
	open, dots := 0, 0 // brackets, and dots since the last byte that ends a key
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '[', '{':
			open, dots = open+1, 0
		case ']', '}':
			open, dots = max(0, open-1), 0
		case '=', ',':
			dots = 0
		case '.':
			dots++
		case '\n':
			line, dots = line+1, 0
		case '#':
			i += lengthTo(text[i:], "\n") - 1
		case '"', '\'':
			n := quotedLength(text[i:])
			line += strings.Count(text[i:i+n], "\n")
			i += n - 1
		}
		if open > maxDepth || dots >= maxDepth {
			return line
		}
	}
	return 0
}

// lengthTo returns how many bytes stand before end, or all.
func lengthTo(text, end string) int {
	if n := strings.Index(text, end); n >= 0 {
		return n
	}
	return len(text)
}

// quotedLength returns how many bytes the string at the beginning of text has, with its quotes.
func quotedLength(text string) int {
	quote := text[:1]
	end := strings.Repeat(quote, 3)
	if !strings.HasPrefix(text, end) {
		end = quote
	}
	for i := len(end); i < len(text); i++ {
		switch {
		case text[i] == '\\' && quote == `"`:
			i++
		case text[i] == '\n' && len(end) == 1: // no TOML
			return i
		case strings.HasPrefix(text[i:], end):
			return i + len(end)
		}
	}
	return len(text)
}
