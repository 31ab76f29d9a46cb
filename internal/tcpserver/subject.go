package tcpserver

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// maxTokens bounds the tokens of a subject with wildcards. Each of them costs a
// node of the router, so a control line of dots would cost much more than itself.
const maxTokens = 64

// validSubject tells whether s is a subject that can be subscribed to, and
// whether it has wildcards: tokens that are not empty, separated by dots;
// a token may be "*", the last one ">".
func validSubject(s []byte) (valid, wild bool) {
	if len(s) == 0 || !utf8.Valid(s) {
		return false, false
	}
	start := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			if s[i] > ' ' {
				continue // nearly all
			}
			switch s[i] {
			case ' ', '\t', '\r', '\n', '\f', 0:
				return false, false
			}
			continue
		}
		switch token := s[start:i]; {
		case len(token) == 0:
			return false, false
		case len(token) == 1 && token[0] == '*':
			wild = true
		case len(token) == 1 && token[0] == '>':
			if i < len(s) {
				return false, false
			}
			wild = true
		}
		start = i + 1
	}
	return true, wild
}

// validLiteral tells whether s is a subject that can be published to.
func validLiteral(s []byte) bool {
	valid, wild := validSubject(s)
	return valid && !wild
}

// tokens counts the tokens of a subject.
func tokens(s string) int { return strings.Count(s, ".") + 1 }

// subjectMatches tells whether pattern stands for subject: where that has wildcards
// itself, for everything that it stands for.
func subjectMatches(pattern, subject string) bool {
	for {
		p, prest, pmore := strings.Cut(pattern, ".")
		s, srest, smore := strings.Cut(subject, ".")
		if p == ">" && !pmore {
			return true
		}
		if p != "*" && p != s || s == ">" || pmore != smore {
			return false
		}
		if !pmore {
			return true
		}
		pattern, subject = prest, srest
	}
}

// subjectsOverlap tells whether some literal subject is one that both patterns
// stand for.
func subjectsOverlap(a, b string) bool {
	for {
		s, arest, amore := strings.Cut(a, ".")
		t, brest, bmore := strings.Cut(b, ".")
		if s == ">" || t == ">" {
			return true
		}
		if s != t && s != "*" && t != "*" || amore != bmore {
			return false
		}
		if !amore {
			return true
		}
		a, b = arest, brest
	}
}

// nextToken cuts the first token off s.
func nextToken(s []byte) (token, rest []byte, more bool) {
	if i := bytes.IndexByte(s, '.'); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, nil, false
}
