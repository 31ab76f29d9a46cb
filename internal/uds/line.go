package uds

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// request is one command of a line.
type request struct {
	name string
	args []string
	json bool   // the last word was "json"
	err  *Error // error if the line cannot be parsed; name and args are empty then
}

// parseLine splits a line, without its LF, into its commands. Blank ones are left out. A line that
// is not printable text is refused as a whole: a command that follows garbage must not be executed.
func parseLine(line []byte) []request {
	text := strings.TrimSuffix(string(line), "\r")
	if err := checkText(text); err != nil {
		words := strings.Fields(text)
		json := len(words) > 0 && words[len(words)-1] == "json"
		return []request{{json: json, err: err}}
	}

	var requests []request
	for command := range strings.SplitSeq(text, ";") {
		words := strings.Fields(command)
		if len(words) == 0 {
			continue
		}
		req := request{name: words[0], args: words[1:]}
		if last := len(req.args) - 1; last >= 0 && req.args[last] == "json" {
			req.json, req.args = true, req.args[:last]
		}
		requests = append(requests, req)
	}

	return requests
}

// checkText refuses text that is not UTF-8 or has a rune that does not print. Tabs separate words
// as spaces do.
func checkText(s string) *Error {
	for i, r := range s {
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)) {
			return Errorf(BadInput, "byte %d of the line, %q, is not UTF-8", i+1, s[i:i+1])
		}
		if r != '\t' && !unicode.IsPrint(r) {
			return Errorf(BadInput, "byte %d of the line is %q; commands are printable text", i+1, r)
		}
	}
	return nil
}
